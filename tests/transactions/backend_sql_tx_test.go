package transactions_test

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
	"example.com/eventstore/internal/storetest"
)

func TestTx(t *testing.T) {
	storetest.ForEachIsolation(t, func(t *testing.T, l storetest.Lane, opts *sql.TxOptions) {
		s, ctx := l.Open(t, nil), t.Context()
		table := l.NewPrefix(t) + "orders"
		l.Exec(t, "CREATE TABLE "+table+" (id VARCHAR(20) PRIMARY KEY)")
		t.Cleanup(func() { l.Exec(t, "DROP TABLE "+table) })
		storetest.CreateStream(t, s, "accounts")
		stored := storetest.MustAppend(t, s, "accounts", "a", es.MustNotExist, storetest.Deposits(2, 1)...)
		for _, commit := range []bool{false, true} {
			var inside []es.Event
			l.InTx(t, s, commit, opts, func(tx *sql.Tx, in *es.Store) {
				if _, err := tx.Exec("INSERT INTO " + table + " VALUES ('o')"); err != nil {
					t.Fatal(err)
				}
				inside = append(slices.Clone(stored), storetest.MustAppend(t, in, "accounts", "a", 2, storetest.Deposits(1, 3)...)...)
				inside = append(inside, storetest.MustAppend(t, in, "accounts", "a", es.AnyVersion, storetest.Deposits(20, 4)...)...)
				inside = append(inside, storetest.MustAppend(t, in, "accounts", "a", es.MustExist, storetest.Deposits(2, 24)...)...)
				storetest.WantVersions(t, inside, 25)
				storetest.SameEvents(t, "inside", storetest.Everything(t, in), inside)
				storetest.SameEvents(t, "aggregate inside", storetest.Collect(t, in.ReadAggregate(ctx, "accounts", "a", 0)), inside)
				r, err := storetest.Accounts.Load(ctx, in, "a")
				if err != nil || r.Version() != 25 {
					t.Errorf("Load inside: %v", err)
				}
				// Outside nobody sees it; a pool of one has no outside.
				if l.DB.Stats().MaxOpenConnections > 1 && opts.Isolation != sql.LevelSerializable {
					storetest.SameEvents(t, "outside", storetest.Everything(t, s), stored)
				}
				// A repetition is known inside too.
				again, err := in.Append(ctx, "accounts", "a", 2, es.NewEvent{ID: inside[2].ID, Payload: storetest.Deposited{}})
				if err != nil {
					t.Fatal(err)
				}
				storetest.SameEvents(t, "repeated inside", again, inside[2:3])
				// The transaction is the caller's: it goes on.
				if _, err := tx.Exec("INSERT INTO " + table + " VALUES ('p')"); err != nil {
					t.Errorf("the transaction has ended: %v", err)
				}
			})
			want, rows := stored, 0
			if commit {
				want, rows = inside, 2
			}
			storetest.SameEvents(t, fmt.Sprint("committed: ", commit), storetest.Everything(t, s), want)
			if n := len(l.Lines(t, "SELECT id FROM "+table)); n != rows {
				t.Errorf("committed: %v: the caller's table has %d rows, want %d", commit, n, rows)
			}
			storetest.WantIdle(t, l, "after the transaction")
		}
		if r, err := storetest.Accounts.Load(ctx, s, "a"); err != nil || r.Version() != 25 {
			t.Errorf("Load after the commit: %v", err)
		}
		storetest.MustAppend(t, s, "accounts", "a", 25, storetest.Deposits(1, 1)...)
	})
}

// TestTxConflict meets conflicts in a transaction: nothing of the append is left, and the
// connection comes back.
func TestTxConflict(t *testing.T) {
	storetest.ForEachIsolation(t, func(t *testing.T, l storetest.Lane, opts *sql.TxOptions) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		stored := storetest.MustAppend(t, s, "accounts", "a", es.MustNotExist, storetest.WithIDs(storetest.Deposits(2, 1))...)
		for _, n := range []int{1, 20, 5500} {
			if n > 20 && (l.Odd || opts.Isolation != sql.LevelReadCommitted) {
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
				l.InTx(t, s, false, opts, func(_ *sql.Tx, s *es.Store) {
					evs := storetest.WithIDs(storetest.Deposits(n, 1))
					if c.last {
						evs[n-1].ID = stored[1].ID
					}
					_, err := s.Append(t.Context(), "accounts", c.id, c.expected, evs...)
					storetest.WantConflict(t, what, err, es.ConflictError{Stream: "accounts", AggregateID: c.id, Expected: c.expected, Actual: c.actual})
					storetest.SameEvents(t, what+", inside", storetest.Everything(t, s), stored)
				})
				storetest.WantIdle(t, l, what)
				storetest.SameEvents(t, what, storetest.Everything(t, s), stored)
			}
		}
	})
}

// TestTxExecute shows that Execute tries once in a transaction, and joins it.
func TestTxExecute(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts")
		for _, commit := range []bool{false, true} {
			l.InTx(t, s, commit, nil, func(_ *sql.Tx, s *es.Store) {
				r, err := storetest.Accounts.Execute(ctx, s, "a", func(r *es.Root[storetest.Account]) error {
					r.Record(storetest.Opened{Owner: "ann"})
					return nil
				})
				if err != nil || r.Version() != 1 {
					t.Fatalf("Execute: %v", err)
				}
			})
			if n := len(storetest.Everything(t, s)); n == 1 != commit {
				t.Errorf("committed: %v: %d events are stored", commit, n)
			}
		}
		tries := 0
		l.InTx(t, s, false, nil, func(_ *sql.Tx, s *es.Store) {
			_, err := storetest.Accounts.Execute(ctx, s, "a", func(r *es.Root[storetest.Account]) error {
				tries++
				// What another would do meanwhile; with a pool of one there is only the transaction.
				storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
				r.Record(storetest.Deposited{Cents: 1})
				return nil
			})
			storetest.WantConflict(t, "Execute", err, es.ConflictError{Stream: "accounts", AggregateID: "a", Expected: 1, Actual: 2})
		})
		if tries != 1 {
			t.Errorf("Execute tried %d times in a transaction, want once", tries)
		}
	})
}

// TestTxDeadlock has two transactions append to two aggregates in opposite order.
func TestTxDeadlock(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", es.MustNotExist, storetest.Deposits(1, 1)...)
		storetest.MustAppend(t, s, "accounts", "b", es.MustNotExist, storetest.Deposits(1, 1)...)
		// One after the other and then both at once, so that nothing but the deadlock can hold them up.
		first, second := make(chan struct{}), make(chan struct{})
		errs := storetest.Race(2, func(i int) error {
			return storetest.InOwnTx(context.Background(), l, s, nil, func(s *es.Store) error {
				if i == 1 {
					<-first
				}
				_, err := s.Append(context.Background(), "accounts", "ab"[i:i+1], 1, storetest.Deposits(1, 1)...)
				if i == 0 {
					close(first)
					<-second
				} else {
					close(second)
				}
				if err != nil {
					return err
				}
				_, err = s.Append(context.Background(), "accounts", "ba"[i:i+1], 1, storetest.Deposits(1, 1)...)
				return err
			})
		})
		retried := 0
		for i, err := range errs {
			switch {
			case errors.Is(err, es.ErrRetryTx):
				retried++
				storetest.WantErr(t, "the loser", err, es.ErrRetryTx)
			case err != nil:
				t.Errorf("transaction %d: %v", i, err)
			}
		}
		if retried != 1 {
			t.Errorf("errors are %v, want one ErrRetryTx", errs)
		}
		if n := len(storetest.Everything(t, s)); n != 4 {
			t.Errorf("%d events are stored, want 4", n)
		}
		storetest.WantIdle(t, l, "at the end")
	})
}

// TestTxMemory calls everything on a memory store's WithTx.
func TestTxMemory(t *testing.T) {
	s := es.NewMemStore(nil)
	storetest.CreateStream(t, s, "accounts")
	for _, tx := range []*sql.Tx{nil, {}} {
		in := s.WithTx(tx)
		for _, c := range storetest.EveryCall {
			storetest.WantErr(t, c.Name, c.Call(t.Context(), in), errors.ErrUnsupported)
		}
		storetest.WantErr(t, "Install", in.Install(t.Context()), errors.ErrUnsupported)
	}
	storetest.WantHas(t, s, "accounts", true)
}

func TestTxInstall(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		prefix := l.NewPrefix(t)
		s := l.OpenIn(t, prefix, nil)
		l.InTx(t, s, true, nil, func(_ *sql.Tx, s *es.Store) {
			storetest.WantErr(t, "Install in a transaction", s.Install(t.Context()), errors.ErrUnsupported)
		})
		if got := l.Schema(t, prefix); got != "" {
			t.Errorf("there is\n%s", got)
		}
		for _, c := range storetest.EveryCall {
			storetest.WantInvalid(t, c.Name+" in no transaction", c.Call(t.Context(), s.WithTx(nil)), "tx")
		}
	})
}

// TestTxSealed reads sealed events in a transaction that began before some of them were committed: a
// transaction with a snapshot can't see those, and so must not be given what comes behind them.
func TestTxSealed(t *testing.T) {
	storetest.ForEachIsolation(t, func(t *testing.T, l storetest.Lane, opts *sql.TxOptions) {
		ctx := t.Context()
		prefix := l.NewPrefix(t)
		l = l.Beside(t)
		s := l.OpenIn(t, prefix, nil)
		if err := s.Install(ctx); err != nil {
			t.Fatal(err)
		}
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "before", es.AnyVersion, storetest.Deposits(3, 1)...)
		// The mark is written for the first time, which would be a conflict for a serialisable transaction.
		if _, err := s.Sealed(ctx); err != nil {
			t.Fatal(err)
		}
		open, first := l.AppendOpen(t, s, "open", 1)
		storetest.MustAppend(t, s, "accounts", "behind", es.AnyVersion, storetest.Deposits(2, 1)...)
		l.InTx(t, s, false, opts, func(_ *sql.Tx, in *es.Store) {
			storetest.WantHas(t, in, "accounts", true) // the snapshot is taken
			if err := open.Commit(); err != nil {
				t.Fatal(err)
			}
			var sealed es.Position
			storetest.Eventually(t, "all to be sealed", func() (done bool) {
				var err error
				if sealed, err = s.Sealed(ctx); err != nil {
					t.Fatal(err)
				}
				return sealed >= first+2
			})
			log := storetest.Everything(t, s)
			got := storetest.Collect(t, in.Read(ctx, es.FromAll(), es.ReadOptions{Sealed: true}))
			if len(got) < 3 || len(got) > len(log) {
				t.Fatalf("%d sealed events inside, want 3 to %d", len(got), len(log))
			}
			storetest.SameEvents(t, "sealed inside", got, log[:len(got)])
			at, err := in.Sealed(ctx)
			if err != nil || at < got[len(got)-1].Position || at > sealed {
				t.Errorf("Sealed inside is %d (%v), want %d to %d", at, err, got[len(got)-1].Position, sealed)
			}
			// It sees its own appends, which are not sealed.
			storetest.MustAppend(t, in, "accounts", "own", es.AnyVersion, storetest.Deposits(1, 1)...)
			storetest.SameEvents(t, "sealed behind its own", storetest.Collect(t, in.Read(ctx, es.FromAll(), es.ReadOptions{Sealed: true})), got)
			storetest.WantErr(t, "Subscribe", storetest.FirstError(in.Subscribe(ctx, es.FromAll(), 0)), errors.ErrUnsupported)
		})
	})
}

// TestTxOver uses a transaction that has ended.
func TestTxOver(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		var in *es.Store
		l.InTx(t, s, true, nil, func(_ *sql.Tx, s *es.Store) { in = s })
		for _, c := range storetest.EveryCall {
			storetest.WantErr(t, c.Name, c.Call(t.Context(), in), sql.ErrTxDone)
		}
		storetest.WantIdle(t, l, "at the end")
		storetest.WantHas(t, s, "accounts", true)
	})
}

// TestTxNeighbours has transactions, held open, append to aggregates that are neighbours in the
// index: none waits for another.
func TestTxNeighbours(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		const n = 6
		for i := range n {
			storetest.MustAppend(t, s, "accounts", fmt.Sprint("a", i), es.MustNotExist, storetest.Deposits(1, 1)...)
		}
		for _, expected := range []es.ExpectedVersion{1, es.AnyVersion, es.MustExist} {
			var all sync.WaitGroup
			all.Add(n)
			for i, err := range storetest.Race(n, func(i int) error {
				return storetest.InOwnTx(context.Background(), l, s, nil, func(s *es.Store) error {
					ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
					defer cancel()
					_, err := s.Append(ctx, "accounts", fmt.Sprint("a", i), expected, storetest.Deposits(2, 1)...)
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
