package deploys_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// The older definition wants lent, the newer one returned too.
type (
	lent     struct{}
	returned struct{}
)

func (lent) EventName() string     { return "lent" }
func (returned) EventName() string { return "returned" }

// counted is an event that a projection has taken in.
type counted struct {
	ID    uuid.UUID
	At    es.Position
	Newer bool // by the newer definition
}

// counts is the state of a deploy's projection: the events in the order in which they were taken in.
type counts struct{ Events []counted }

// memberVariable makes a process of the test binary a member of a deploy.
const memberVariable = "EVENTSTORE_TEST_DEPLOY"

// member is what a member of a deploy is told. A member runs one definition: in a process of its own, or in a
// goroutine if there is no database.
type member struct {
	Number                     int
	Name                       string // of the projection and its stream
	Newer                      bool
	OnChange                   es.Change
	BatchSize                  int
	Lease                      time.Duration
	Driver, DSN, Prefix, Table string
	before                     func() // optional: called by handlers
}

func (m *member) dialect() *es.Dialect {
	if m.Driver == "mysql" {
		return es.MySQL
	}
	return es.Postgres
}

// projection returns the member's definition. It counts each event in the state and, where there is a database,
// in a table without constraints.
func (m *member) projection() *es.Projection[counts] {
	p := &es.Projection[counts]{
		Name: m.Name, From: es.FromStream(m.Name), OnChange: m.OnChange,
		BatchSize: m.BatchSize, Poll: 20 * time.Millisecond, Lease: m.Lease,
	}
	var table *es.Table
	if m.Driver != "" {
		table = &es.Table{Dialect: m.dialect(), Name: m.Table, Create: "CREATE TABLE IF NOT EXISTS " + m.Table + " (position bigint, newer bigint)"}
		p.ReadModel = table
	}
	count := func(ctx context.Context, step *es.Step[counts]) error {
		if m.before != nil {
			m.before()
		}
		at := step.Event.Position
		step.State.Events = append(step.State.Events, counted{step.Event.ID, at, m.Newer})
		if table != nil {
			newer := 0
			if m.Newer {
				newer = 1
			}
			if err := table.Insert(ctx, step, es.Row{"position": int64(at), "newer": newer}); err != nil {
				return err
			}
		}
		// Some work, so that signals come in the middle of batches too.
		return storetest.Pause(ctx, time.Duration(at%3)*time.Millisecond)
	}
	p.When = []es.Handler[counts]{es.Do(func(ctx context.Context, step *es.Step[counts], _ lent) error { return count(ctx, step) })}
	if m.Newer {
		p.When = append(p.When, es.Do(func(ctx context.Context, step *es.Step[counts], _ returned) error { return count(ctx, step) }))
	}
	return p
}

// What a member writes to the journal, beside what the store logs.
const (
	memberStarts = "member starts"
	memberEnds   = "member ends"
)

func (m *member) run(ctx context.Context, s *es.Store, logger *slog.Logger) {
	logger.InfoContext(ctx, memberStarts, "projection", m.Name, "member", m.Number)
	err := m.projection().Run(ctx, s)
	if ctx.Err() == nil {
		logger.InfoContext(ctx, memberEnds, "projection", m.Name, "member", m.Number, "changed", errors.Is(err, es.ErrProjectionChanged), "error", fmt.Sprint(err))
	}
}

// memberMain is the main program of a member. It ends with its parent.
func memberMain(text string) int {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	var m member
	err := json.Unmarshal([]byte(text), &m)
	var db *sql.DB
	if err == nil {
		db, err = sql.Open(m.Driver, m.DSN)
	}
	var s *es.Store
	logger := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	if err == nil {
		s, err = es.Open(db, m.dialect(), &es.Options{TablePrefix: m.Prefix, Logger: logger})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "member:", err)
		return 1
	}
	m.run(context.Background(), s, logger)
	return 0
}

// running is a member that has been started.
type running interface {
	freeze() error
	thaw() error
	kill()           // from one moment to the next; it has ended then
	crashed() string // why it has ended without having been killed and without a word
}

// process is a member in a process of its own.
type process struct {
	cmd    *exec.Cmd
	ended  chan struct{}
	err    error // of the process, once it has ended
	killed bool
}

func (m *member) startProcess(t *testing.T, j *journal) *process {
	t.Helper()
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(self), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), memberVariable+"="+string(text))
	p.cmd.Stderr = os.Stderr
	p.cmd.Stdout = &lineWriter{to: j}
	// In a group of its own: if its parent dies, the kernel wakes it from SIGSTOP with SIGHUP.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if _, err := p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait()
	}()
	return p
}

func (p *process) signal(sig syscall.Signal) error {
	err := p.cmd.Process.Signal(sig)
	if errors.Is(err, os.ErrProcessDone) {
		return nil // it was refused, which the journal says
	}
	return err
}

func (p *process) freeze() error { return p.signal(syscall.SIGSTOP) }
func (p *process) thaw() error   { return p.signal(syscall.SIGCONT) }

func (p *process) kill() {
	select {
	case <-p.ended:
		return
	default:
		p.killed = true
		_ = p.cmd.Process.Kill() // it may end at this moment
		<-p.ended
	}
}

func (p *process) crashed() string {
	select {
	case <-p.ended:
		if p.err != nil && !p.killed {
			return p.err.Error()
		}
	default:
	}
	return ""
}

// routine is a member in a goroutine. It is killed by its context, and frozen by its next handler.
type routine struct {
	cancel context.CancelFunc
	ended  chan struct{}
	gate   sync.RWMutex
	frozen bool
	stuck  atomic.Bool
}

func (m *member) startRoutine(ctx context.Context, s *es.Store, logger *slog.Logger) *routine {
	r := &routine{ended: make(chan struct{})}
	ctx, r.cancel = context.WithCancel(ctx)
	m.before = func() {
		r.gate.RLock()
		defer r.gate.RUnlock()
	}
	go func() {
		defer close(r.ended)
		m.run(ctx, s, logger)
	}()
	return r
}

func (r *routine) freeze() error {
	r.gate.Lock()
	r.frozen = true
	return nil
}

func (r *routine) thaw() error {
	if r.frozen {
		r.frozen = false
		r.gate.Unlock()
	}
	return nil
}

func (r *routine) kill() {
	r.cancel()
	_ = r.thaw()
	select {
	case <-r.ended:
	case <-time.After(hangs):
		r.stuck.Store(true)
	}
}

func (r *routine) crashed() string {
	if r.stuck.Load() {
		return fmt.Sprintf("Run has not returned within %v after its context ended", hangs)
	}
	return ""
}
