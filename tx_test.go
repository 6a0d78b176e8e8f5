package eventstore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	es "example.com/eventstore"
)

var isolations = []sql.IsolationLevel{sql.LevelReadUncommitted, sql.LevelReadCommitted, sql.LevelRepeatableRead, sql.LevelSerializable}

func forEachIsolation(t *testing.T, test func(t *testing.T, l lane, opts *sql.TxOptions)) {
	t.Helper()
	forEachDatabase(t, func(t *testing.T, l lane) {
		for _, level := range isolations {
			t.Run(level.String(), func(t *testing.T) { test(t, l, &sql.TxOptions{Isolation: level}) })
		}
	})
}

// inOwnTx appends in a transaction and commits it if that succeeded.
func inOwnTx(ctx context.Context, l lane, s *es.Store, opts *sql.TxOptions, fn func(*es.Store) error) error {
	tx, err := l.db.BeginTx(ctx, opts)
	if err != nil {
		return err
	}
	if err := fn(s.WithTx(tx)); err != nil {
		if rerr := tx.Rollback(); rerr != nil {
			return fmt.Errorf("the transaction has ended: %w", rerr)
		}
		return err
	}
	if err := tx.Commit(); err != nil {
		return &commitError{err}
	}
	return nil
}

// commitError is an error of the caller's own commit, which the store has no part in.
type commitError struct{ err error }

func (e *commitError) Error() string { return "commit: " + e.err.Error() }
func (e *commitError) Unwrap() error { return e.err }

// TestTxRaces has transactions and appends outside any race on one version: one wins.
func TestTxRaces(t *testing.T) {
	forEachIsolation(t, func(t *testing.T, l lane, opts *sql.TxOptions) {
		s := l.open(t, nil)
		createStream(t, s, "accounts")
		rounds := 8
		if l.odd {
			rounds = 3
		}
		for round := range rounds {
			id := fmt.Sprint("a", round)
			before := mustAppend(t, s, "accounts", id, es.MustNotExist, events(round%3, 1)...)
			expected := es.ExpectedVersion(len(before))
			won := make([][]es.Event, 16)
			winners := 0
			for i, err := range race(16, func(i int) error {
				add := func(s *es.Store) (err error) {
					won[i], err = s.Append(context.Background(), "accounts", id, expected, events(1+i%2, int64(i))...)
					return err
				}
				if i%4 == 0 {
					return add(s)
				}
				return inOwnTx(context.Background(), l, s, opts, func(s *es.Store) error {
					// Some look first, and so have a snapshot from before the race.
					if i%4 == 1 {
						if _, err := s.HasStream(context.Background(), "accounts"); err != nil {
							return err
						}
					}
					return add(s)
				})
			}) {
				var conflict *es.ConflictError
				var commit *commitError
				switch {
				case err == nil:
					winners++
					before = append(before, won[i]...)
				case errors.As(err, &conflict):
					if conflict.Stream != "accounts" || conflict.AggregateID != id || conflict.Expected != expected {
						t.Errorf("racer %d: conflict is %+v", i, conflict)
					}
				case errors.As(err, &commit) && opts.Isolation == sql.LevelSerializable:
				case errors.Is(err, es.ErrRetryTx) && i%4 != 0:
				default:
					t.Errorf("racer %d: %v, want a *ConflictError or ErrRetryTx", i, err)
				}
			}
			if winners > 1 || winners == 0 && opts.Isolation != sql.LevelSerializable {
				t.Errorf("round %d: %d racers won, want 1", round, winners)
			}
			sameEvents(t, "stored", collect(t, s.ReadAggregate(t.Context(), "accounts", id, 0)), before)
		}
		wantIdle(t, l, "at the end")
	})
}

// TestAppendRaces is the same without transactions.
func TestAppendRaces(t *testing.T) {
	forEachLane(t, func(t *testing.T, l lane) {
		s := l.open(t, nil)
		createStream(t, s, "accounts")
		for round := range 10 {
			for _, expected := range []es.ExpectedVersion{es.MustNotExist, 2} {
				id := fmt.Sprint(round, "-", expected)
				stored := mustAppend(t, s, "accounts", id, es.MustNotExist, events(int(expected), 1)...)
				won := make([][]es.Event, 16)
				winners := 0
				for i, err := range race(16, func(i int) (err error) {
					won[i], err = s.Append(context.Background(), "accounts", id, expected, events(1+i%2, int64(i))...)
					return err
				}) {
					if err == nil {
						winners++
						stored = append(stored, won[i]...)
						continue
					}
					var c *es.ConflictError
					if !errors.As(err, &c) || c.Actual <= int64(expected) || c.Expected != expected {
						t.Errorf("racer %d: %v, want a *ConflictError with a version above %d", i, err, expected)
					}
				}
				if winners != 1 {
					t.Errorf("%d racers won, want 1", winners)
				}
				sameEvents(t, "stored", collect(t, s.ReadAggregate(t.Context(), "accounts", id, 0)), stored)
			}
		}
		wantIdle(t, l, "at the end")
	})
}

func TestTx(t *testing.T) {
	forEachIsolation(t, func(t *testing.T, l lane, opts *sql.TxOptions) {
		s, ctx := l.open(t, nil), t.Context()
		table := l.newPrefix(t) + "orders"
		l.exec(t, "CREATE TABLE "+table+" (id VARCHAR(20) PRIMARY KEY)")
		t.Cleanup(func() { l.exec(t, "DROP TABLE "+table) })
		createStream(t, s, "accounts")
		stored := mustAppend(t, s, "accounts", "a", es.MustNotExist, events(2, 1)...)
		for _, commit := range []bool{false, true} {
			var inside []es.Event
			l.inTx(t, s, commit, opts, func(tx *sql.Tx, in *es.Store) {
				if _, err := tx.Exec("INSERT INTO " + table + " VALUES ('o')"); err != nil {
					t.Fatal(err)
				}
				inside = append(slices.Clone(stored), mustAppend(t, in, "accounts", "a", 2, events(1, 3)...)...)
				inside = append(inside, mustAppend(t, in, "accounts", "a", es.AnyVersion, events(20, 4)...)...)
				inside = append(inside, mustAppend(t, in, "accounts", "a", es.MustExist, events(2, 24)...)...)
				wantVersions(t, inside, 25)
				sameEvents(t, "inside", everything(t, in), inside)
				sameEvents(t, "aggregate inside", collect(t, in.ReadAggregate(ctx, "accounts", "a", 0)), inside)
				r, err := accounts.Load(ctx, in, "a")
				if err != nil || r.Version() != 25 {
					t.Errorf("Load inside: %v", err)
				}
				// Outside nobody sees it; a pool of one has no outside.
				if l.db.Stats().MaxOpenConnections > 1 && opts.Isolation != sql.LevelSerializable {
					sameEvents(t, "outside", everything(t, s), stored)
				}
				// A repetition is known inside too.
				again, err := in.Append(ctx, "accounts", "a", 2, es.NewEvent{ID: inside[2].ID, Payload: deposited{}})
				if err != nil {
					t.Fatal(err)
				}
				sameEvents(t, "repeated inside", again, inside[2:3])
				// The transaction is the caller's: it goes on.
				if _, err := tx.Exec("INSERT INTO " + table + " VALUES ('p')"); err != nil {
					t.Errorf("the transaction has ended: %v", err)
				}
			})
			want, rows := stored, 0
			if commit {
				want, rows = inside, 2
			}
			sameEvents(t, fmt.Sprint("committed: ", commit), everything(t, s), want)
			if n := len(l.lines(t, "SELECT id FROM "+table)); n != rows {
				t.Errorf("committed: %v: the caller's table has %d rows, want %d", commit, n, rows)
			}
			wantIdle(t, l, "after the transaction")
		}
		if r, err := accounts.Load(ctx, s, "a"); err != nil || r.Version() != 25 {
			t.Errorf("Load after the commit: %v", err)
		}
		mustAppend(t, s, "accounts", "a", 25, events(1, 1)...)
	})
}

// TestTxConflict meets conflicts in a transaction: nothing of the append is left, and the
// connection comes back.
func TestTxConflict(t *testing.T) {
	forEachIsolation(t, func(t *testing.T, l lane, opts *sql.TxOptions) {
		s := l.open(t, nil)
		createStream(t, s, "accounts")
		stored := mustAppend(t, s, "accounts", "a", es.MustNotExist, withIDs(events(2, 1))...)
		for _, n := range []int{1, 20, 5500} {
			if n > 20 && (l.odd || opts.Isolation != sql.LevelReadCommitted) {
				continue // enough once
			}
			for _, c := range []struct {
				expected es.ExpectedVersion
				last     bool // the last ID is in use
				id       string
				actual   int64
			}{
				{es.MustNotExist, false, "a", 2}, {1, false, "a", 2}, {3, false, "a", 2}, {es.MustExist, false, "b", 0}, {7, false, "b", 0},
				{2, true, "a", 2}, {es.AnyVersion, true, "b", 0}, {es.MustNotExist, true, "b", 0},
			} {
				if c.last && n == 1 && c.id == "a" {
					continue // a repetition
				}
				what := fmt.Sprintf("%d events to %s, expected %d", n, c.id, int64(c.expected))
				l.inTx(t, s, false, opts, func(_ *sql.Tx, s *es.Store) {
					evs := withIDs(events(n, 1))
					if c.last {
						evs[n-1].ID = stored[1].ID
					}
					_, err := s.Append(t.Context(), "accounts", c.id, c.expected, evs...)
					wantConflict(t, what, err, es.ConflictError{Stream: "accounts", AggregateID: c.id, Expected: c.expected, Actual: c.actual})
					sameEvents(t, what+", inside", everything(t, s), stored)
				})
				wantIdle(t, l, what)
				sameEvents(t, what, everything(t, s), stored)
			}
		}
	})
}

// TestTxExecute shows that Execute tries once in a transaction, and joins it.
func TestTxExecute(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, l lane) {
		s, ctx := l.open(t, nil), t.Context()
		createStream(t, s, "accounts")
		for _, commit := range []bool{false, true} {
			l.inTx(t, s, commit, nil, func(_ *sql.Tx, s *es.Store) {
				r, err := accounts.Execute(ctx, s, "a", func(r *es.Root[account]) error {
					r.Record(opened{"ann"})
					return nil
				})
				if err != nil || r.Version() != 1 {
					t.Fatalf("Execute: %v", err)
				}
			})
			if n := len(everything(t, s)); n == 1 != commit {
				t.Errorf("committed: %v: %d events are stored", commit, n)
			}
		}
		tries := 0
		l.inTx(t, s, false, nil, func(_ *sql.Tx, s *es.Store) {
			_, err := accounts.Execute(ctx, s, "a", func(r *es.Root[account]) error {
				tries++
				// What another would do meanwhile; with a pool of one there is only the transaction.
				mustAppend(t, s, "accounts", "a", es.AnyVersion, events(1, 1)...)
				r.Record(deposited{1})
				return nil
			})
			wantConflict(t, "Execute", err, es.ConflictError{Stream: "accounts", AggregateID: "a", Expected: 1, Actual: 2})
		})
		if tries != 1 {
			t.Errorf("Execute tried %d times in a transaction, want once", tries)
		}
	})
}

// TestTxDeadlock has two transactions append to two aggregates in opposite order.
func TestTxDeadlock(t *testing.T) {
	forEachKind(t, func(t *testing.T, l lane) {
		s := l.open(t, nil)
		createStream(t, s, "accounts")
		mustAppend(t, s, "accounts", "a", es.MustNotExist, events(1, 1)...)
		mustAppend(t, s, "accounts", "b", es.MustNotExist, events(1, 1)...)
		// One after the other and then both at once, so that nothing but the deadlock can hold them up.
		first, second := make(chan struct{}), make(chan struct{})
		errs := race(2, func(i int) error {
			return inOwnTx(context.Background(), l, s, nil, func(s *es.Store) error {
				if i == 1 {
					<-first
				}
				_, err := s.Append(context.Background(), "accounts", "ab"[i:i+1], 1, events(1, 1)...)
				if i == 0 {
					close(first)
					<-second
				} else {
					close(second)
				}
				if err != nil {
					return err
				}
				_, err = s.Append(context.Background(), "accounts", "ba"[i:i+1], 1, events(1, 1)...)
				return err
			})
		})
		retried := 0
		for i, err := range errs {
			switch {
			case errors.Is(err, es.ErrRetryTx):
				retried++
				wantErr(t, "the loser", err, es.ErrRetryTx)
			case err != nil:
				t.Errorf("transaction %d: %v", i, err)
			}
		}
		if retried != 1 {
			t.Errorf("errors are %v, want one ErrRetryTx", errs)
		}
		if n := len(everything(t, s)); n != 4 {
			t.Errorf("%d events are stored, want 4", n)
		}
		wantIdle(t, l, "at the end")
	})
}

// TestTxMemory calls everything on a memory store's WithTx.
func TestTxMemory(t *testing.T) {
	s := es.NewMemStore(nil)
	createStream(t, s, "accounts")
	for _, tx := range []*sql.Tx{nil, {}} {
		in := s.WithTx(tx)
		for _, c := range everyCall {
			wantErr(t, c.name, c.call(t.Context(), in), errors.ErrUnsupported)
		}
		wantErr(t, "Install", in.Install(t.Context()), errors.ErrUnsupported)
	}
	wantHas(t, s, "accounts", true)
}

func TestTxInstall(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, l lane) {
		prefix := l.newPrefix(t)
		s := l.openIn(t, prefix, nil)
		l.inTx(t, s, true, nil, func(_ *sql.Tx, s *es.Store) {
			wantErr(t, "Install in a transaction", s.Install(t.Context()), errors.ErrUnsupported)
		})
		if got := l.schema(t, prefix); got != "" {
			t.Errorf("there is\n%s", got)
		}
		for _, c := range everyCall {
			wantInvalid(t, c.name+" in no transaction", c.call(t.Context(), s.WithTx(nil)), "tx")
		}
	})
}

// TestTxSealed reads sealed events in a transaction that began before some of them were committed: a
// transaction with a snapshot can't see those, and so must not be given what comes behind them.
func TestTxSealed(t *testing.T) {
	forEachIsolation(t, func(t *testing.T, l lane, opts *sql.TxOptions) {
		ctx := t.Context()
		prefix := l.newPrefix(t)
		l = l.beside(t)
		s := l.openIn(t, prefix, nil)
		if err := s.Install(ctx); err != nil {
			t.Fatal(err)
		}
		createStream(t, s, "accounts")
		mustAppend(t, s, "accounts", "before", es.AnyVersion, events(3, 1)...)
		open, first := l.appendOpen(t, s, "open", 1)
		mustAppend(t, s, "accounts", "behind", es.AnyVersion, events(2, 1)...)
		l.inTx(t, s, false, opts, func(_ *sql.Tx, in *es.Store) {
			wantHas(t, in, "accounts", true) // the snapshot is taken
			if err := open.Commit(); err != nil {
				t.Fatal(err)
			}
			var sealed es.Position
			eventually(t, "all to be sealed", func() (done bool) {
				var err error
				if sealed, err = s.Sealed(ctx); err != nil {
					t.Fatal(err)
				}
				return sealed >= first+2
			})
			log := everything(t, s)
			got := collect(t, in.Read(ctx, es.FromAll(), es.ReadOptions{Sealed: true}))
			if len(got) < 3 || len(got) > len(log) {
				t.Fatalf("%d sealed events inside, want 3 to %d", len(got), len(log))
			}
			sameEvents(t, "sealed inside", got, log[:len(got)])
			at, err := in.Sealed(ctx)
			if err != nil || at < got[len(got)-1].Position || at > sealed {
				t.Errorf("Sealed inside is %d (%v), want %d to %d", at, err, got[len(got)-1].Position, sealed)
			}
			// It sees its own appends, which are not sealed.
			mustAppend(t, in, "accounts", "own", es.AnyVersion, events(1, 1)...)
			sameEvents(t, "sealed behind its own", collect(t, in.Read(ctx, es.FromAll(), es.ReadOptions{Sealed: true})), got)
			wantErr(t, "Subscribe", firstError(in.Subscribe(ctx, es.FromAll(), 0)), errors.ErrUnsupported)
		})
	})
}

// TestTxOver uses a transaction that has ended.
func TestTxOver(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, l lane) {
		s := l.open(t, nil)
		createStream(t, s, "accounts")
		var in *es.Store
		l.inTx(t, s, true, nil, func(_ *sql.Tx, s *es.Store) { in = s })
		for _, c := range everyCall {
			wantErr(t, c.name, c.call(t.Context(), in), sql.ErrTxDone)
		}
		wantIdle(t, l, "at the end")
		wantHas(t, s, "accounts", true)
	})
}

// TestTxNeighbours has transactions, held open, append to aggregates that are neighbours in the
// index: none waits for another.
func TestTxNeighbours(t *testing.T) {
	forEachKind(t, func(t *testing.T, l lane) {
		s := l.open(t, nil)
		createStream(t, s, "accounts")
		const n = 6
		for i := range n {
			mustAppend(t, s, "accounts", fmt.Sprint("a", i), es.MustNotExist, events(1, 1)...)
		}
		for _, expected := range []es.ExpectedVersion{1, es.AnyVersion, es.MustExist} {
			var all sync.WaitGroup
			all.Add(n)
			for i, err := range race(n, func(i int) error {
				return inOwnTx(context.Background(), l, s, nil, func(s *es.Store) error {
					ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
					defer cancel()
					_, err := s.Append(ctx, "accounts", fmt.Sprint("a", i), expected, events(2, 1)...)
					all.Done()
					all.Wait() // no transaction ends before all have appended
					if err == nil && expected == 1 {
						err = errRollback
					}
					return err
				})
			}) {
				if err != nil && !errors.Is(err, errRollback) {
					t.Errorf("expected %d: transaction %d: %v", int64(expected), i, err)
				}
			}
		}
	})
}

var errRollback = errors.New("roll back")
