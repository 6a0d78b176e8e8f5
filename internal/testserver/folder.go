package testserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
)

const (
	folderPrefix = "eventstore-testserver-"

	// ownerFile is locked by the process that uses the folder, which proves
	// that it is alive: the kernel drops the lock with the process, and
	// unlike a process id it cannot come to mean another one.
	ownerFile = "owner"

	// maxBase keeps the path of a Unix socket in the folder within the 103
	// bytes which every system allows.
	maxBase = 60

	// logTail is how much of the server's log an error holds, in bytes.
	logTail = 4 << 10
)

// folder is the temporary folder of one server.
type folder struct {
	path string
	user *syscall.Credential

	// owner is the descriptor that holds the lock, noOwner for none. As an
	// os.File it would be closed by the garbage collector when a Server is
	// dropped without Stop, and others would take the folder for abandoned.
	owner int
}

const noOwner = -1

// newFolder creates a folder whose data and work parts belong to user, or to
// the current user if that is nil. A small one is in memory, where it fits.
func newFolder(user *syscall.Credential, small bool) (*folder, error) {
	bases := tempBases(user)
	if len(bases) == 0 {
		return nil, fmt.Errorf("no folder for temporary files that a server can use: %s is too long or closed to other users", os.TempDir())
	}
	if dir, ok := memoryBase(); small && ok {
		if dir, ok := usableBase(dir, user); ok {
			bases = append([]string{dir}, bases...)
		}
	}
	path, err := os.MkdirTemp(bases[0], folderPrefix)
	if err != nil {
		return nil, fmt.Errorf("create a folder: %w", err)
	}
	f := &folder{path: path, user: user, owner: noOwner}
	if err := f.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare a folder: %w", err), f.remove())
	}
	return f, nil
}

func (f *folder) prepare() error {
	// The lock is taken before the file gets its name, so that no other
	// process finds the name without the lock.
	name := filepath.Join(f.path, ownerFile)
	owner, err := syscall.Open(name+".new", syscall.O_CREAT|syscall.O_EXCL|syscall.O_WRONLY|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create %s.new: %w", name, err)
	}
	f.owner = owner
	if err := syscall.Flock(owner, syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s.new: %w", name, err)
	}
	// For the reader only: it says whose folder this is.
	if _, err := syscall.Write(owner, fmt.Appendln(nil, os.Getpid())); err != nil {
		return fmt.Errorf("write %s.new: %w", name, err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	if err := os.Chmod(f.path, 0o711); err != nil {
		return err
	}
	for _, dir := range []string{f.data(), f.work()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if f.user == nil {
			continue
		}
		if err := os.Chown(dir, int(f.user.Uid), int(f.user.Gid)); err != nil {
			return err
		}
	}
	return nil
}

func (f *folder) data() string { return filepath.Join(f.path, "data") }

// work is where the server's processes stand and put what is not data.
func (f *folder) work() string { return filepath.Join(f.path, "work") }

func (f *folder) log() string { return filepath.Join(f.path, "log") }

// command prepares a program that runs as the folder's user, in its work part,
// and writes into its log. The returned function is called when the program
// has been started.
func (f *folder) command(args []string) (cmd *exec.Cmd, closeLog func(), err error) {
	log, err := os.OpenFile(f.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, err
	}
	cmd = exec.Command(args[0], args[1:]...)
	cmd.Dir = f.work()
	cmd.Env = f.environment()
	cmd.Stdout = log
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: f.user}
	return cmd, func() { log.Close() }, nil
}

// environment leaves out what would change the server's settings, such as
// PGDATA or MYSQL_TCP_PORT.
func (f *folder) environment() []string {
	env := []string{"LC_ALL=C", "TZ=UTC", "HOME=" + f.work(), "TMPDIR=" + f.work()}
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// run runs a program to its end. When ctx ends first the program is killed.
func (f *folder) run(ctx context.Context, args []string) error {
	cmd, closeLog, err := f.command(args)
	if err != nil {
		return err
	}
	defer closeLog()
	p, err := startProcess(cmd, syscall.SIGKILL)
	if err != nil {
		return err
	}
	select {
	case <-p.gone:
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), p.end(syscall.SIGKILL, endTimeout))
	}
	if !p.succeeded() {
		return f.explain(fmt.Errorf("%s: %s", args[0], p.state()))
	}
	return nil
}

// release frees what a server that was killed holds outside the folder.
func (f *folder) release(e engine) error {
	args := e.release(f)
	if args == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	return f.run(ctx, args)
}

// explain adds the end of the log to an error.
func (f *folder) explain(err error) error {
	log, readErr := os.ReadFile(f.log())
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	if cut := len(log) - logTail; cut > 0 {
		log = log[cut:]
		if _, rest, ok := bytes.Cut(log, []byte{'\n'}); ok {
			log = rest
		}
	}
	return fmt.Errorf("%w; the end of its log:\n%s", err, bytes.TrimSpace(log))
}

// clear empties the data part.
func (f *folder) clear() error {
	entries, err := os.ReadDir(f.data())
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(f.data(), e.Name())))
	}
	return err
}

// remove deletes the folder and gives up the lock.
func (f *folder) remove() error { return errors.Join(os.RemoveAll(f.path), f.unlock()) }

func (f *folder) unlock() error {
	if f.owner == noOwner {
		return nil
	}
	err := syscall.Close(f.owner)
	f.owner = noOwner
	if err != nil {
		return fmt.Errorf("unlock %s: %w", f.path, err)
	}
	return nil
}

// tempBases returns the places for temporary folders, the preferred one first:
// those with a short path which user may enter.
func tempBases(user *syscall.Credential) []string {
	var bases []string
	for _, dir := range []string{os.TempDir(), "/tmp"} {
		if dir, ok := usableBase(dir, user); ok && !slices.Contains(bases, dir) {
			bases = append(bases, dir)
		}
	}
	return bases
}

// usableBase returns a place for temporary folders as the servers report it,
// with links resolved, and whether they can use it.
func usableBase(dir string, user *syscall.Credential) (string, bool) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil || len(dir) > maxBase || !filepath.IsAbs(dir) {
		return "", false
	}
	return dir, user == nil || passable(dir)
}

// passable reports whether every user may pass through dir and the folders above.
func passable(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil || info.Mode()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}
