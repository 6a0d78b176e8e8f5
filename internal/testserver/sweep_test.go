package testserver

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

// helperEnv tells a run of this test binary how to end. The value is the name
// of an engine and a way to end it.
const helperEnv = "EVENTSTORE_TESTSERVER_HELPER"

// TestHelper is no test: it starts a server for the test below and then ends
// without stopping it.
func TestHelper(t *testing.T) {
	mode := os.Getenv(helperEnv)
	if mode == "" {
		t.Skip("runs as a part of TestProcessEndsWithoutStop")
	}
	name := Postgres
	if strings.HasPrefix(mode, MariaDB.String()) {
		name = MariaDB
	}
	s, err := Start(context.Background(), name, Options{Small: true})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("started %d %s\n", s.process.cmd.Process.Pid, s.folder.path)
	if strings.HasSuffix(mode, "panic") {
		go panic("as asked")
	}
	select {}
}

func TestProcessEndsWithoutStop(t *testing.T) {
	forEachEngine(t, func(t *testing.T, name Engine) {
		for _, way := range []string{"sigkill", "panic", "timeout"} {
			t.Run(way, func(t *testing.T) {
				t.Parallel()
				// Nothing ends the helper before it has told what it started.
				cmd := exec.Command(os.Args[0], "-test.run=^TestHelper$", "-test.timeout=10m")
				if way == "timeout" {
					cmd.Args[2] = "-test.timeout=10s"
				}
				cmd.Env = append(os.Environ(), helperEnv+"="+name.String()+" "+way)
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				var (
					pid  int
					path string
				)
				_, scanErr := fmt.Fscanf(out, "started %d %s\n", &pid, &path)
				if way == "sigkill" || scanErr != nil {
					if err := cmd.Process.Kill(); err != nil {
						t.Error(err)
					}
				}
				// Its exit status and what else it prints is that of its end.
				_ = cmd.Wait()
				if scanErr != nil {
					t.Fatalf("%s: %v", way, scanErr)
				}

				user, err := serverUser()
				if err != nil {
					t.Fatal(err)
				}
				if runtime.GOOS == "linux" {
					eventually(t, way+": the server ends", func() bool { return !running(pid, path) })
				}
				sweep(user)
				eventually(t, way+": the server ends", func() bool { return !running(pid, path) })
				eventually(t, way+": the folder is removed", func() bool { return !exists(path) })
			})
		}
	})
}

// A folder whose owner is gone, with the server still running in it: that is
// what is left where the kernel does not end the server.
func TestSweepEndsServer(t *testing.T) {
	forEachEngine(t, func(t *testing.T, name Engine) {
		s := start(t, name, Options{Small: true})
		sweep(s.folder.user)
		if err := openDB(t, s, "").PingContext(t.Context()); err != nil || !exists(s.folder.path) {
			t.Fatalf("sweep has touched a server in use: %v", err)
		}

		pid := s.process.cmd.Process.Pid
		if err := s.folder.unlock(); err != nil {
			t.Fatal(err)
		}
		sweep(s.folder.user)
		eventually(t, "the server ends", func() bool { return !running(pid, s.folder.path) })
		eventually(t, "the folder is removed", func() bool { return !exists(s.folder.path) })
	})
}

// A process id file that names a process of somebody else.
func TestSweepSparesOtherProcesses(t *testing.T) {
	t.Parallel()
	bystander := exec.Command("sleep", "600")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = bystander.Process.Kill()
		_ = bystander.Wait()
	}()
	asleep := func() bool { return strings.HasPrefix(commandLine(bystander.Process.Pid), "sleep") }
	eventually(t, "the command line is there", asleep)
	f, err := newFolder(nil, true)
	if err != nil {
		t.Fatal(err)
	}
	pidFile := (&mariadb{}).pidFile(f)
	if err := os.WriteFile(pidFile, fmt.Appendln(nil, bystander.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.unlock(); err != nil {
		t.Fatal(err)
	}
	sweep(nil)
	eventually(t, "the folder is removed", func() bool { return !exists(f.path) })
	if !asleep() {
		t.Error("sweep has ended a process that is no server")
	}
}

// Of a Server that was dropped without Stop, the lock is all that keeps others
// from sweeping it away.
func TestSweepSparesDroppedServer(t *testing.T) {
	t.Parallel()
	f, err := newFolder(nil, true)
	if err != nil {
		t.Fatal(err)
	}
	path, owner := f.path, f.owner
	f = nil //nolint:wastedassign // nothing holds it any more when the garbage is collected
	runtime.GC()
	runtime.GC()
	sweep(nil)
	if !exists(path) {
		t.Error("the folder is removed")
	}
	if err := (&folder{path: path, owner: owner}).remove(); err != nil {
		t.Error(err)
	}
}
