package testserver

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// creationTime is longer than it takes to create a folder and lock it.
const creationTime = time.Minute

// sweep removes the folders of processes that are gone, and ends the servers
// that still run in them. What cannot be removed is left to the next sweep.
func sweep(user *syscall.Credential) {
	bases := tempBases(user)
	if dir, _ := memoryBase(); dir != "" { // whether it has room or not
		bases = append(bases, dir)
	}
	for _, base := range bases {
		entries, err := os.ReadDir(base)
		if err != nil {
			continue
		}
		sweepTemplates(base, entries)
		for _, entry := range entries {
			if !strings.HasPrefix(entry.Name(), folderPrefix) {
				continue
			}
			path := filepath.Join(base, entry.Name())
			if owner, ok := abandoned(path); ok {
				f := &folder{path: path, owner: owner, user: user}
				for _, e := range []engine{&postgres{}, &mariadb{}} {
					endLeftover(f, e)
				}
				_ = f.remove()
			}
		}
	}
}

// abandoned reports whether path is a folder of the current user whose process
// is gone. It holds the lock then, if the folder has one.
func abandoned(path string) (owner int, ok bool) {
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() {
		return noOwner, false
	}
	// In a place that everybody can write to, a folder of somebody else
	// proves nothing about the processes it names.
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != os.Geteuid() {
		return noOwner, false
	}
	owner, err = syscall.Open(filepath.Join(path, ownerFile), syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		// Its process is about to create it, or another sweep has it, or
		// the process has ended before it came so far.
		return noOwner, time.Since(info.ModTime()) > creationTime
	}
	if err != nil {
		return noOwner, false
	}
	if err := syscall.Flock(owner, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = syscall.Close(owner)
		return noOwner, false
	}
	return owner, true
}

// endLeftover ends the server that runs in a folder, if one does, and frees
// what a killed one has left.
func endLeftover(f *folder, e engine) {
	if pid, ok := readPID(e.pidFile(f)); ok {
		endNamed(pid, f.path, e.deathSignal())
	}
	// A server removes the file when it ends, unless it is killed.
	if _, err := os.Stat(e.pidFile(f)); err == nil && e.find() {
		_ = f.release(e)
	}
}

// endNamed ends a process if its command line names the folder: the id may
// have come to mean another process.
func endNamed(pid int, path string, sig syscall.Signal) {
	// Found first and looked at afterwards, the handle cannot mean a later
	// process with the same id, on systems that have handles.
	p, err := os.FindProcess(pid)
	if err != nil {
		return
	}
	defer func() { _ = p.Release() }()
	// The separator tells the folder from one whose name is longer.
	running := func() bool {
		return strings.Contains(commandLine(pid), path+string(filepath.Separator))
	}
	if !running() || p.Signal(sig) != nil {
		return
	}
	for deadline := time.Now().Add(endTimeout); running() && time.Now().Before(deadline); {
		time.Sleep(pollInterval)
	}
}

// readPID reads the process id in the first line of a file.
func readPID(path string) (pid int, ok bool) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	pid, err = strconv.Atoi(strings.TrimSpace(line))
	return pid, err == nil && pid > 1
}
