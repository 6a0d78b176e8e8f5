package panics_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// fuses fills a new stream with deposits and a fuse between them.
func fuses(t *testing.T, s *es.Store, stream string) {
	t.Helper()
	storetest.CreateStream(t, s, stream)
	storetest.MustAppend(t, s, stream, "a", 0, es.NewEvent{Payload: storetest.Deposited{Cents: 1}}, es.NewEvent{Payload: fuse{1}}, es.NewEvent{Payload: storetest.Deposited{Cents: 2}})
}

var allOfFuses = tally{Deposits: 2, Fuses: 1}

// TestPanicOfOnErrorIsFail has OnError panic about an event on which a handler has panicked, too.
func TestPanicOfOnErrorIsFail(t *testing.T) {
	definitionsOneByOne(t, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		b := &bomb{}
		s := l.Open(t, b.options())
		fuses(t, s, "accounts")
		p := b.definition(k, "p", "accounts", nil)
		calls, other := 0, errors.New("the handler's")
		p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction {
			calls++
			b.arm("OnError")
			b.at("OnError")
			return es.Retry
		}
		b.armWith("On", func() { panic(other) })
		_, err := p.CatchUp(t.Context(), s)
		b.disarm()
		var failed *es.ProjectionError
		if !errors.As(err, &failed) || failed.Event.Version != 2 || !errors.Is(err, other) || !errors.Is(err, errBoom) || calls != 1 {
			t.Errorf("CatchUp: error is %v after %d calls of OnError, want a *ProjectionError of both panics after one", err, calls)
		}
		info := storetest.Info(t, s, "p")
		if info.Status != es.StatusFailed || info.Owner != "" || !strings.Contains(info.Error, "the handler's") || !strings.Contains(info.Error, "; OnError: panic in ") {
			t.Errorf("Projections shows %+v", info)
		}
		wantNothingLeft(t, l, "after the panics")
		p.OnError = nil
		if cp := storetest.CatchUp(t, p, s); cp.State != allOfFuses {
			t.Errorf("the state comes to %+v, want %+v", cp.State, allOfFuses)
		}
	})
}

// TestPanicEndsRun has functions panic that a projection calls for no event: the run ends with the panic as its error,
// and the next goes on. Documents call them for an event, whose failure it is.
func TestPanicEndsRun(t *testing.T) {
	definitionsOneByOne(t, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		b := &bomb{}
		s := l.Open(t, b.options())
		for i, place := range []string{"Init", "Codec.Unmarshal of the state"} {
			t.Run(place, func(t *testing.T) {
				stream := fmt.Sprint("s", i)
				fuses(t, s, stream)
				p := b.definition(k, fmt.Sprint("p", i), stream, nil)
				want := allOfFuses
				if place != "Init" {
					storetest.CatchUp(t, p, s)
					storetest.MustAppend(t, s, stream, "b", 0, es.NewEvent{Payload: fuse{2}})
					want.Fuses++
				}
				b.arm(place)
				_, err := p.CatchUp(t.Context(), s)
				b.disarm()
				wantPanic(t, "CatchUp", err)
				if info := storetest.Info(t, s, p.Name); info.Status != es.StatusFailed || info.Owner != "" || !strings.Contains(info.Error, "boom") {
					t.Errorf("Projections shows %+v, want a failed one that nobody runs", info)
				}
				wantNothingLeft(t, l, "after the panic")
				if cp := storetest.CatchUp(t, p, s); cp.State != want {
					t.Errorf("the state comes to %+v, want %+v", cp.State, want)
				}
			})
		}
	})
}

// bombTable is a table with a bomb in it.
type bombTable struct {
	*es.Table
	b *bomb
}

func (m bombTable) Init(ctx context.Context, tx *sql.Tx) error {
	m.b.at("ReadModel.Init")
	return m.Table.Init(ctx, tx)
}

func (m bombTable) Reset(ctx context.Context, tx *sql.Tx) error {
	err := m.Table.Reset(ctx, tx)
	m.b.at("ReadModel.Reset")
	return err
}

func (m bombTable) Delete(ctx context.Context, tx *sql.Tx) error {
	m.b.at("ReadModel.Delete")
	return m.Table.Delete(ctx, tx)
}

// TestPanicOfReadModel has each method of a read model panic: Init in a run, Reset and Delete in the call that asks
// for them and in the run that carries out what was asked for by name.
func TestPanicOfReadModel(t *testing.T) {
	storetest.ForEach(t, 1, storetest.AnyDatabase, func(t *testing.T, l storetest.Lane) {
		b := &bomb{}
		s := l.Open(t, b.options())
		fuses(t, s, "accounts")
		rows := storetest.NewRows(t, l)
		p := b.definition(storetest.Projection, "p", "accounts", rows)
		p.ReadModel = bombTable{rows.Table(), b}
		ctx := t.Context()
		catchUp := func() error { _, err := p.CatchUp(ctx, s); return err }
		steps := []struct {
			place  string
			before func() error
			call   func() error
			after  es.ProjectionStatus
		}{
			{"ReadModel.Init", nil, catchUp, es.StatusFailed},
			{"ReadModel.Reset", nil, func() error { return p.Reset(ctx, s) }, es.StatusResetting},
			{"ReadModel.Reset", func() error { return s.ResetProjection(ctx, "p") }, catchUp, es.StatusResetting},
			{"ReadModel.Delete", nil, func() error { return p.Delete(ctx, s, true) }, es.StatusDeleting},
			{"ReadModel.Delete", func() error { return s.DeleteProjection(ctx, "p", true) }, func() error { return p.Delete(ctx, s, true) }, es.StatusDeleting},
		}
		for i, step := range steps {
			if step.before != nil {
				if err := step.before(); err != nil {
					t.Fatal(err)
				}
			}
			b.arm(step.place)
			err := step.call()
			b.disarm()
			what := fmt.Sprintf("%d: %s", i, step.place)
			wantPanic(t, what, err)
			wantNothingLeft(t, l, what)
			if info := storetest.Info(t, s, "p"); info.Owner != "" || info.Status != step.after && info.Status != es.StatusFailed {
				t.Errorf("%s: Projections shows %+v, want one that nobody runs", what, info)
			}
			if step.after == es.StatusDeleting {
				if err := p.Delete(ctx, s, true); err != nil {
					t.Errorf("%s: Delete without a panic: %v", what, err)
				}
			}
			if cp := storetest.CatchUp(t, p, s); cp.State != allOfFuses || len(rows.Positions(t)) != 1 {
				t.Errorf("%s: afterwards the state comes to %+v, and rows to %v", what, cp.State, rows.Positions(t))
			}
		}
	})
}

// TestGoexitEndsRun has functions call runtime.Goexit, as the FailNow of a test does: the goroutine ends, and
// nothing else is left of the run.
func TestGoexitEndsRun(t *testing.T) {
	definitionsOneByOne(t, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		b := &bomb{}
		s := l.Open(t, b.options())
		for i, place := range []string{"On", "Do", "OnError", "Init", "Upcast", "Codec.Marshal of the state"} {
			t.Run(place, func(t *testing.T) {
				stream := fmt.Sprint("s", i)
				storetest.CreateStream(t, s, stream)
				storetest.MustAppend(t, s, stream, "a", 0, es.NewEvent{Payload: storetest.Deposited{Cents: 1}}, es.NewEvent{Payload: fuseV1{1}}, es.NewEvent{Payload: storetest.Deposited{Cents: 2}})
				p := b.definition(k, fmt.Sprint("p", i), stream, nil)
				p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction {
					runtime.Goexit()
					return es.Skip
				}
				b.armWith(place, runtime.Goexit)
				if place == "OnError" {
					b.arm("On")
				}
				returned, ended := false, make(chan struct{})
				go func() {
					defer close(ended)
					_ = p.Run(t.Context(), s)
					returned = true
				}()
				select {
				case <-ended:
				case <-time.After(20 * time.Second):
					t.Fatal("the goroutine of the run has not ended within 20 s")
				}
				b.disarm()
				if returned {
					t.Error("Run has returned, want its goroutine to end")
				}
				wantNothingLeft(t, l, "after the end of the goroutine")
				if info := storetest.Info(t, s, p.Name); info.Status != es.StatusFailed || info.Owner != "" || !strings.Contains(info.Error, "Goexit") {
					t.Errorf("Projections shows %+v, want a failed one that nobody runs", info)
				}
				if cp := storetest.CatchUp(t, p, s); cp.State != allOfFuses {
					t.Errorf("the state comes to %+v, want %+v", cp.State, allOfFuses)
				}
			})
		}
	})
}

// TestStandbyBacksOffFromPanics has a handler panic for as long as OnError retries, in one process and then in the
// standby that takes over from it. Each pauses longer and longer between its attempts.
func TestStandbyBacksOffFromPanics(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, other := l.OpenTwice(t)
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", 0, storetest.Deposits(1, 1)...)
		const attempts = 6
		run := func(s *es.Store) (*es.Projection[storetest.Totals], chan time.Time) {
			times := make(chan time.Time, 1000)
			p := storetest.TotalsOf("p", es.Do(func(context.Context, *es.Step[storetest.Totals], storetest.Deposited) error {
				times <- time.Now()
				panic(errBoom)
			}))
			p.OnError = func(_ context.Context, _ es.Event, err error, _ int) es.ErrorAction {
				if !errors.As(err, new(*es.PanicError)) {
					t.Errorf("OnError is asked about %v, want a *PanicError", err)
				}
				return es.Retry
			}
			return p, times
		}
		wantPauses := func(who string, times chan time.Time) {
			last := <-times
			for n := 1; n < attempts; n++ {
				next := <-times
				if pause, least := next.Sub(last), 5*time.Millisecond<<n; pause < least {
					t.Errorf("%s: %v between attempts %d and %d, want at least %v", who, pause, n, n+1, least)
				}
				last = next
			}
		}
		p, times := run(s)
		end := storetest.Running(t, p, s)
		wantPauses("the first runner", times)
		standby, standbyTimes := run(other)
		endStandby := storetest.Running(t, standby, other)
		if err := end(); !errors.Is(err, context.Canceled) {
			t.Errorf("the first runner ends with %v", err)
		}
		wantPauses("the standby", standbyTimes)
		if err := endStandby(); !errors.Is(err, context.Canceled) {
			t.Errorf("the standby ends with %v", err)
		}
		storetest.Eventually(t, "the connections", func() bool { return l.DB == nil || l.DB.Stats().InUse == 0 })
		if info := storetest.Info(t, s, "p"); info.Owner != "" {
			t.Errorf("%q still has the lease", info.Owner)
		}
	})
}

// panickingHandler is a logger's handler that always panics.
type panickingHandler struct{ calls *atomic.Int64 }

func (h panickingHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h panickingHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h panickingHandler) WithGroup(string) slog.Handler            { return h }
func (h panickingHandler) Handle(context.Context, slog.Record) error {
	h.calls.Add(1)
	panic("logger")
}

// TestPanicOfLoggerIsDropped runs a projection that fails and an append that conflicts with a logger that panics.
func TestPanicOfLoggerIsDropped(t *testing.T) {
	storetest.ForEachDefinition(t, storetest.SomeLanes, storetest.AnyLane, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		var calls atomic.Int64
		s := l.Open(t, &es.Options{Logger: slog.New(panickingHandler{&calls})})
		fuses(t, s, "accounts")
		b := &bomb{}
		p := b.definition(k, "p", "accounts", nil)
		p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Skip }
		b.arm("Do")
		if cp, want := storetest.CatchUp(t, p, s), (tally{Deposits: 2}); cp.State != want {
			t.Errorf("the state comes to %+v, want %+v", cp.State, want)
		}
		_, err := s.Append(t.Context(), "accounts", "a", 7, storetest.Deposits(1, 1)...)
		storetest.WantConflict(t, "Append", err, es.ConflictError{Stream: "accounts", AggregateID: "a", Expected: 7, Actual: 3})
		if calls.Load() < 3 {
			t.Errorf("the logger was called %d times, want the lease, the failure and the conflict", calls.Load())
		}
	})
}

// TestPanicIsLoggedWithStack finds in the log where a handler has panicked.
func TestPanicIsLoggedWithStack(t *testing.T) {
	storetest.ForEachDefinition(t, storetest.SomeLanes, storetest.AnyLane, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		var log storetest.Log
		s := l.Open(t, &es.Options{Logger: log.Logger()})
		fuses(t, s, "accounts")
		b := &bomb{}
		p := b.definition(k, "p", "accounts", nil)
		p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Skip }
		b.arm("Do")
		storetest.CatchUp(t, p, s)
		if text := log.Take(); !strings.Contains(text, "panics_test.(*bomb).at(") {
			t.Errorf("the log has no stack:\n%s", text)
		}
	})
}
