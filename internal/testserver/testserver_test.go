package testserver

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// The tests wait for servers more than they work.
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// The driver would report each connection that a killed server has lost.
	if err := mysql.SetLogger(&mysql.NopLogger{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// driver is the database/sql driver of each engine.
var driver = map[Engine]string{Postgres: "pgx", MariaDB: "mysql"}

func forEachEngine(t *testing.T, test func(t *testing.T, name Engine)) {
	for _, name := range []Engine{Postgres, MariaDB} {
		t.Run(name.String(), func(t *testing.T) {
			t.Parallel()
			test(t, name)
		})
	}
}

func start(t *testing.T, name Engine, opts Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), name, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func openDB(t *testing.T, s *Server, database string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver[s.name], s.DSN(database))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func mustExec(t *testing.T, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func query[T any](t *testing.T, db *sql.DB, statement string) (value T) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), statement).Scan(&value); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return value
}

// eventually waits for what another process does.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(pollInterval) {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting: %s", what)
		}
	}
}

// running reports whether a process with the folder in its command line has
// the given id.
func running(pid int, path string) bool {
	return strings.Contains(commandLine(pid), path+string(filepath.Separator))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestKillKeepsWhatIsCommitted(t *testing.T) {
	forEachEngine(t, func(t *testing.T, name Engine) {
		s := start(t, name, Options{})
		admin := openDB(t, s, "")
		mustExec(t, admin, "CREATE DATABASE bank")
		db := openDB(t, s, "bank")
		mustExec(t, db, "CREATE TABLE entry (id BIGINT PRIMARY KEY)")
		addr := s.Addr()

		for round := range 3 {
			committed := writeUntilKilled(t, s, db, round)
			if conn, err := net.Dial("tcp", addr); err == nil {
				conn.Close()
				t.Fatal("the port is open after Kill")
			}
			if err := s.Kill(); err != nil {
				t.Fatalf("second Kill: %v", err)
			}
			if err := s.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s.Addr() != addr {
				t.Fatalf("address = %s after Restart, was %s", s.Addr(), addr)
			}
			// A fresh pool: the old one may hold connections of the dead server.
			fresh := openDB(t, s, "bank")
			for _, id := range committed {
				if n := query[int](t, fresh, fmt.Sprintf("SELECT count(*) FROM entry WHERE id = %d", id)); n != 1 {
					t.Fatalf("entry %d of round %d is lost", id, round)
				}
			}
		}
	})
}

// writeUntilKilled writes from several connections, kills the server in the
// midst of it and returns a sample of the ids whose commit was answered, with
// the latest ones.
func writeUntilKilled(t *testing.T, s *Server, db *sql.DB, round int) []int64 {
	t.Helper()
	const writers = 4
	var (
		next    atomic.Int64
		enough  = make(chan struct{})
		reached sync.Once
		wait    sync.WaitGroup
		written [writers][]int64
	)
	next.Store(int64(round) * 1_000_000)
	for w := range writers {
		wait.Go(func() {
			for {
				id := next.Add(1)
				if _, err := db.Exec(fmt.Sprintf("INSERT INTO entry VALUES (%d)", id)); err != nil {
					reached.Do(func() { close(enough) })
					return
				}
				written[w] = append(written[w], id)
				if id%1_000_000 >= 200 {
					reached.Do(func() { close(enough) })
				}
			}
		})
	}
	<-enough
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	wait.Wait()
	committed := slices.Concat(written[:]...)
	if len(committed) < 100 {
		t.Fatalf("only %d inserts before the kill", len(committed))
	}
	slices.Sort(committed)
	return committed[len(committed)-100:]
}

func TestRestartOfRunningServer(t *testing.T) {
	forEachEngine(t, func(t *testing.T, name Engine) {
		s := start(t, name, Options{Small: true})
		mustExec(t, openDB(t, s, ""), "CREATE DATABASE bank")
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := openDB(t, s, "bank").PingContext(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestStopLeavesNothing(t *testing.T) {
	forEachEngine(t, func(t *testing.T, name Engine) {
		for _, kill := range []bool{false, true} {
			s := start(t, name, Options{Small: true})
			// A client that stays does not hold up Stop.
			db := openDB(t, s, "")
			if err := db.PingContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			pid := s.process.cmd.Process.Pid
			if !running(pid, s.folder.path) {
				t.Fatalf("command line of the server = %q, want %s in it", commandLine(pid), s.folder.path)
			}
			segment := sharedMemory(t, s)
			if kill {
				if err := s.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Stop(); err != nil {
				t.Fatal(err)
			}
			if running(pid, s.folder.path) {
				t.Errorf("kill %t: process %d is left", kill, pid)
			}
			if exists(s.folder.path) {
				t.Errorf("kill %t: folder %s is left", kill, s.folder.path)
			}
			if segment != "" && slices.Contains(systemSegments(), segment) {
				t.Errorf("kill %t: shared memory %s is left", kill, segment)
			}
			if err := s.Stop(); err != nil {
				t.Errorf("kill %t: second Stop: %v", kill, err)
			}
			if err := s.Kill(); err != nil {
				t.Errorf("kill %t: Kill after Stop: %v", kill, err)
			}
			if err := s.Restart(t.Context()); err == nil {
				t.Errorf("kill %t: Restart after Stop succeeds", kill)
			}
		}
	})
}

// sharedMemory returns the id of the System V segment which PostgreSQL notes
// as the last word of its process id file, "" where there is none to check.
func sharedMemory(t *testing.T, s *Server) string {
	t.Helper()
	if s.name != Postgres || len(systemSegments()) == 0 {
		return ""
	}
	raw, err := os.ReadFile(s.engine.pidFile(s.folder))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(raw), "\n")
	if len(lines) < 7 {
		t.Fatalf("process id file of %d lines", len(lines))
	}
	words := strings.Fields(lines[6])
	if len(words) != 2 || !slices.Contains(systemSegments(), words[1]) {
		t.Fatalf("shared memory %q is not in %v", lines[6], systemSegments())
	}
	return words[1]
}

// systemSegments returns the ids of all System V shared memory on Linux.
func systemSegments() (ids []string) {
	raw, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(raw)) {
		if words := strings.Fields(line); len(words) > 1 {
			ids = append(ids, words[1])
		}
	}
	return ids
}

func TestDurable(t *testing.T) {
	setting := map[Engine]string{
		Postgres: "SELECT current_setting('fsync') || ' ' || current_setting('full_page_writes')",
		MariaDB:  "SELECT @@innodb_flush_log_at_trx_commit",
	}
	fast := map[Engine]string{Postgres: "off off", MariaDB: "2"}
	durable := map[Engine]string{Postgres: "on on", MariaDB: "1"}
	forEachEngine(t, func(t *testing.T, name Engine) {
		for want, opts := range map[string]Options{fast[name]: {Small: true}, durable[name]: {Durable: true}} {
			s := start(t, name, opts)
			if got := query[string](t, openDB(t, s, ""), setting[name]); got != want {
				t.Errorf("%+v: settings = %q, want %q", opts, got, want)
			}
		}
	})
}

func TestConcurrentStarts(t *testing.T) {
	forEachEngine(t, func(t *testing.T, name Engine) {
		var wait sync.WaitGroup
		for range 3 {
			wait.Go(func() {
				s, err := Start(t.Context(), name, Options{Small: true})
				if err != nil {
					t.Error(err)
					return
				}
				if err := s.Stop(); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
	})
}

// The port of another server of the same kind: it answers as it should, but is
// not the one that was started.
func TestPortTaken(t *testing.T) {
	forEachEngine(t, func(t *testing.T, name Engine) {
		other, s := start(t, name, Options{Small: true}), start(t, name, Options{Small: true})
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		own := s.port
		s.port = other.port
		err := s.Restart(t.Context())
		if !errors.Is(err, errEnded) {
			t.Fatalf("error = %v, want errEnded", err)
		}
		if !strings.Contains(err.Error(), "ddress already in use") {
			t.Errorf("error = %v, want the log of the server in it", err)
		}
		s.port = own
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestStartWithEndedContext(t *testing.T) {
	forEachEngine(t, func(t *testing.T, name Engine) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if s, err := Start(ctx, name, Options{Small: true}); !errors.Is(err, context.Canceled) {
			t.Errorf("Start = %v, %v, want context.Canceled", s, err)
		}
	})
}

func TestUnknownEngine(t *testing.T) {
	if s, err := Start(t.Context(), 0, Options{Small: true}); err == nil {
		t.Errorf("Start = %v, want an error", s)
	}
}

func TestDSN(t *testing.T) {
	for _, test := range []struct {
		engine   engine
		database string
		want     string
	}{
		{&postgres{}, "bank", "postgres://postgres@127.0.0.1:1234/bank?sslmode=disable"},
		{&postgres{}, "a b", "postgres://postgres@127.0.0.1:1234/a%20b?sslmode=disable"},
		{&mariadb{}, "bank", "root@tcp(127.0.0.1:1234)/bank"},
		{&mariadb{}, "a/b", "root@tcp(127.0.0.1:1234)/a%2Fb"},
	} {
		if got := test.engine.dsn("127.0.0.1:1234", test.database); got != test.want {
			t.Errorf("DSN = %q, want %q", got, test.want)
		}
	}
}

func TestNotInstalledSaysWhatToDo(t *testing.T) {
	for name, want := range map[Engine][]string{
		Postgres: {"PostgreSQL is not installed", "apt-get install postgresql", "EVENTSTORE_TEST_POSTGRES"},
		MariaDB:  {"MariaDB is not installed", "apt-get install mariadb-server-core", "EVENTSTORE_TEST_MYSQL"},
	} {
		e, err := newEngine(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range want {
			if got := notInstalled(name, e).Error(); !strings.Contains(got, part) {
				t.Errorf("error = %q, want %q in it", got, part)
			}
		}
	}
}
