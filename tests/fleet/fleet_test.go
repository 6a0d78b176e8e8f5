package fleet_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestMain runs the tests, or a member of their fleet.
func TestMain(m *testing.M) {
	if os.Getenv(memberVariable) != "" {
		os.Exit(fleetMember())
	}
	storetest.Main(m)
}

// memberVariable makes a process of the test binary a member of TestProjectionFleet's fleet.
const memberVariable = "EVENTSTORE_TEST_MEMBER"

// member is what a member is told.
type member struct {
	Driver, DSN, Prefix, Table string
	Freeze                     string // a file: whoever puts its process ID behind the name stops itself with SIGSTOP within a handler
}

// frozen is the event on which a member may stop itself.
type frozen struct{}

func (frozen) EventName() string { return "fleet.frozen" }

func (m *member) dialect() *es.Dialect {
	if m.Driver == "mysql" {
		return es.MySQL
	}
	return es.Postgres
}

// projection writes each event's position and the process that handled it into a table without
// constraints.
func (m *member) projection() *es.Projection[int] {
	table := &es.Table{Dialect: m.dialect(), Name: m.Table, Create: "CREATE TABLE IF NOT EXISTS " + m.Table + " (position bigint, process bigint)"}
	insert := func(ctx context.Context, step *es.Step[int]) error {
		*step.State++
		return table.Insert(ctx, step, es.Row{"position": int64(step.Event.Position), "process": os.Getpid()})
	}
	return &es.Projection[int]{
		Name: "fleet", From: es.FromStream("accounts"), ReadModel: table, BatchSize: 20, Poll: 20 * time.Millisecond, Lease: time.Second,
		When: []es.Handler[int]{
			es.DoAny(insert),
			es.Do(func(ctx context.Context, step *es.Step[int], _ frozen) error {
				if err := insert(ctx, step); err != nil {
					return err
				}
				if os.Rename(m.Freeze, fmt.Sprintf("%s-%d", m.Freeze, os.Getpid())) == nil {
					return syscall.Kill(os.Getpid(), syscall.SIGSTOP)
				}
				return nil
			}),
		},
	}
}

// fleetMember is the main program of a member. It ends with its parent.
func fleetMember() int {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	var m member
	err := json.Unmarshal([]byte(os.Getenv(memberVariable)), &m)
	if err == nil {
		var db *sql.DB
		var s *es.Store
		db, err = sql.Open(m.Driver, m.DSN)
		if err == nil {
			s, err = es.Open(db, m.dialect(), &es.Options{TablePrefix: m.Prefix})
		}
		if err == nil {
			err = m.projection().Run(context.Background(), s)
		}
	}
	fmt.Fprintln(os.Stderr, "member:", err)
	return 1
}

func (m *member) start(t *testing.T) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), memberVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// TestProjectionFleet runs one projection in three processes under load, kills the lease holder
// several times, and stops one within a handler beyond its lease.
func TestProjectionFleet(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "accounts")
		table := storetest.NewRows(t, l)
		m := &member{Driver: l.Driver, DSN: l.DSN, Prefix: prefix, Table: table.Name, Freeze: t.TempDir() + "/freeze"}

		fleet := map[int]*exec.Cmd{}
		start := func() {
			cmd := m.start(t)
			fleet[cmd.Process.Pid] = cmd
		}
		kill := func(pid int) {
			_ = fleet[pid].Process.Kill()
			_ = fleet[pid].Wait() // which says that it was killed
			delete(fleet, pid)
		}
		defer func() {
			for pid := range fleet {
				kill(pid)
			}
		}()
		for range 3 {
			start()
		}

		// The load goes on until the end.
		var appended atomic.Int64
		loading, stop := context.WithCancel(t.Context())
		defer stop()
		done := make(chan error, 1)
		go func() {
			for i := 0; loading.Err() == nil; i++ {
				if _, err := s.Append(t.Context(), "accounts", fmt.Sprint("a", i%5), es.AnyVersion, storetest.Deposits(3, 1)...); err != nil {
					done <- err
					return
				}
				appended.Add(3)
				_ = storetest.Pause(loading, 2*time.Millisecond)
			}
			done <- nil
		}()

		holder := func(not int) (pid int) {
			storetest.Eventually(t, "a member to hold the lease", func() bool {
				parts := strings.Split(storetest.Info(t, s, "fleet").Owner, "/")
				if len(parts) == 3 {
					pid, _ = strconv.Atoi(parts[1])
				}
				return pid != 0 && pid != not && fleet[pid] != nil
			})
			return pid
		}
		progress := func() {
			at := storetest.Info(t, s, "fleet").Position
			storetest.Eventually(t, "progress", func() bool { return storetest.Info(t, s, "fleet").Position > at+30 })
		}
		last := 0
		for range 4 {
			last = holder(last)
			progress()
			kill(last)
			start()
		}
		holder(last)
		progress()
		// A member that stops itself in the middle of a transaction, after it has written a row.
		if err := os.WriteFile(m.Freeze, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		storetest.MustAppend(t, s, "accounts", "freeze", es.AnyVersion, es.NewEvent{Payload: frozen{}})
		// Most likely the last one, but leases can be lost at any time.
		zombie := 0
		storetest.Eventually(t, "a member to stop itself", func() bool {
			names, _ := filepath.Glob(m.Freeze + "-*") // the pattern is none of the malformed ones
			for _, name := range names {
				zombie, _ = strconv.Atoi(strings.TrimPrefix(name, m.Freeze+"-"))
			}
			return fleet[zombie] != nil
		})
		successor := holder(zombie)
		progress()
		count := func() int {
			var n int
			if err := l.DB.QueryRow("SELECT COUNT(*) FROM " + table.Name + " WHERE process = " + strconv.Itoa(zombie)).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		before := count()
		if err := fleet[zombie].Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		progress()
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		end := storetest.MustAppend(t, s, "accounts", "end", es.AnyVersion, storetest.Deposits(1, 1)...)
		if err := m.projection().Wait(t.Context(), s, end[0].Position); err != nil {
			t.Fatal(err)
		}
		if after := count(); after != before {
			t.Errorf("the zombie wrote %d rows after %d took over", after-before, successor)
		}
		var want []int64
		for ev, err := range s.Read(t.Context(), es.FromStream("accounts"), es.ReadOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, int64(ev.Position))
		}
		if len(want) != int(appended.Load())+2 {
			t.Errorf("%d events are stored, want %d", len(want), appended.Load()+2)
		}
		if got := table.Positions(t); !slices.Equal(got, want) {
			t.Errorf("the table has %d rows, want those of the %d events, each once", len(got), len(want))
		}
		if cp, err := m.projection().Load(t.Context(), s); err != nil || cp.State != len(want) {
			t.Errorf("the state has counted %d events (%v), want %d", cp.State, err, len(want))
		}
	})
}
