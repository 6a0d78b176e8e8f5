package testserver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

const (
	// installLock serialises the installations of several processes. Only
	// root installs, and only root can write to /run.
	installLock = "/run/eventstore-testserver.lock"

	// createCluster is read by Debian's package of PostgreSQL, which would
	// create a server on the standard port and start it. MariaDB's package
	// without "core" in its name does so; it is not needed.
	createCluster = "/etc/postgresql-common/createcluster.conf"
)

// ensureInstalled finds the binaries of an engine, and installs them first if
// they are missing and the system and the user allow it.
func ensureInstalled(name Engine, e engine) error {
	if e.find() {
		return nil
	}
	apt, ok := aptGet()
	if !ok {
		return notInstalled(name, e)
	}
	unlock, err := lockInstall()
	if err != nil {
		return errors.Join(notInstalled(name, e), err)
	}
	defer unlock()
	// Another process may have done it while this one waited for the lock.
	if e.find() {
		return nil
	}
	if err := install(name, apt, e.packages()); err != nil {
		return errors.Join(notInstalled(name, e), err)
	}
	if !e.find() {
		return fmt.Errorf("%w (apt-get has succeeded, but the programs are not there)", notInstalled(name, e))
	}
	return nil
}

// notInstalled says how to get a server.
func notInstalled(name Engine, e engine) error {
	return fmt.Errorf("%v is not installed: run %q as root (Debian, Ubuntu) or put its server programs in PATH, "+
		"or set %s to the DSN of a server where databases may be created",
		name, "apt-get install "+strings.Join(e.packages(), " "), e.variable())
}

// aptGet returns the path of apt-get if this process may install with it.
func aptGet() (string, bool) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return "", false
	}
	if _, err := os.Stat("/etc/debian_version"); err != nil {
		return "", false
	}
	return executable("apt-get", "/usr/bin")
}

func lockInstall() (unlock func(), err error) {
	f, err := os.OpenFile(installLock, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the installation: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the installation: %w", err)
	}
	return func() { f.Close() }, nil
}

// install installs Debian packages without questions. No server is started,
// unless the machine has a rule of its own which says so.
func install(name Engine, apt string, packages []string) error {
	if name == Postgres {
		if err := createFile(createCluster, "create_main_cluster = false\n"); err != nil {
			return err
		}
	}
	fmt.Fprintf(os.Stderr, "testserver: %v is not installed; installing %s with apt-get\n", name, strings.Join(packages, " "))
	// An update may fail for one source of many, and what is needed may be
	// known already: whether the installation succeeds is what counts.
	updateErr := runApt(apt, "update")
	options := []string{"install", "--yes", "--no-install-recommends",
		"-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Options::=--force-confold"}
	if err := runApt(apt, append(options, packages...)...); err != nil {
		return errors.Join(updateErr, err)
	}
	return nil
}

// runApt runs apt-get to its end, whatever happens to the test: a killed
// installation would leave half-installed packages behind.
func runApt(apt string, args ...string) error {
	cmd := exec.Command(apt, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	cmd.Stdout = os.Stderr
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("apt-get %s: %w", args[0], err)
	}
	return nil
}

// createFile writes a file, unless it exists.
func createFile(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}
