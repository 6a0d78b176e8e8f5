package isolation_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

var levels = []sql.IsolationLevel{sql.LevelReadUncommitted, sql.LevelReadCommitted, sql.LevelRepeatableRead, sql.LevelSerializable}

// TestUncommittedIsNotRead has a transaction append, create a stream and delete, and then be rolled back,
// while others read, at each default isolation that a pool can have: none sees any of it, and no projection
// counts it.
func TestUncommittedIsNotRead(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		for _, level := range levels {
			for _, conns := range []int{1, 10} {
				prefix := l.NewPrefix(t)
				mine := l.AtIsolation(t, level, conns)
				s := mine.OpenIn(t, prefix, nil)
				if err := s.Install(t.Context()); err != nil {
					t.Fatal(err)
				}
				storetest.CreateStream(t, s, "accounts", "cards")
				want := storetest.MustAppend(t, s, "accounts", "a", 0, storetest.Deposits(3, 1)...)
				want = append(want, storetest.MustAppend(t, s, "accounts", "b", 0, storetest.Deposits(3, 1)...)...)
				p := storetest.TotalsOf("totals")
				storetest.CatchUp(t, p, s)
				look := func(when string) {
					t.Helper()
					what := fmt.Sprintf("default isolation %v, %d connections, %s", level, conns, when)
					storetest.SameEvents(t, what+": read", storetest.Everything(t, s), want)
					storetest.SameEvents(t, what+": read sealed", storetest.Collect(t, s.Read(t.Context(), es.FromAll(), es.ReadOptions{Sealed: true})), want)
					storetest.SameEvents(t, what+": read of an aggregate", storetest.Collect(t, s.ReadAggregate(t.Context(), "accounts", "a", 0)), want[:3])
					if r, err := storetest.Accounts.Load(t.Context(), s, "b"); err != nil || r.Version() != 3 {
						t.Errorf("%s: Load finds version %d (%v), want 3", what, r.Version(), err)
					}
					if names := storetest.StreamNames(t, s, ""); len(names) != 2 {
						t.Errorf("%s: streams are %q", what, names)
					}
					storetest.WantHas(t, s, "new", false)
					ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
					defer cancel()
					_, _ = p.CatchUp(ctx, s) // which waits for the transaction
					cp, err := p.Load(t.Context(), s)
					if err != nil || cp.State.Accounts["a"] != 6 || cp.State.Accounts["b"] != 6 {
						t.Errorf("%s: the projection has %v (%v)", what, cp.State.Accounts, err)
					}
				}
				beside := l.Beside(t)
				beside.InTx(t, beside.OpenIn(t, prefix, nil), false, &sql.TxOptions{Isolation: sql.LevelReadCommitted}, func(_ *sql.Tx, in *es.Store) {
					storetest.CreateStream(t, in, "new")
					storetest.MustAppend(t, in, "accounts", "a", 3, storetest.Deposits(2, 10)...)
					storetest.MustAppend(t, in, "accounts", "c", 0, storetest.Deposits(2, 10)...)
					storetest.MustAppend(t, in, "new", "a", 0, storetest.Deposits(2, 10)...)
					look("beside appends")
				})
				look("after appends were rolled back")
				beside.InTx(t, beside.OpenIn(t, prefix, nil), false, &sql.TxOptions{Isolation: sql.LevelReadCommitted}, func(_ *sql.Tx, in *es.Store) {
					if err := in.DeleteAggregate(t.Context(), "accounts", "a"); err != nil {
						t.Fatal(err)
					}
					if err := in.DeleteStream(t.Context(), "cards"); err != nil {
						t.Fatal(err)
					}
					look("beside deletes")
				})
				more := storetest.MustAppend(t, s, "accounts", "b", 3, storetest.Deposits(1, 1)...)
				if cp := storetest.CatchUp(t, p, s); cp.State.Accounts["a"] != 6 || cp.State.Accounts["b"] != 7 || len(cp.State.Accounts) != 2 {
					t.Errorf("default isolation %v: in the end the projection has %v", level, cp.State.Accounts)
				}
				if at, err := s.Sealed(t.Context()); err != nil || at != more[0].Position {
					t.Errorf("default isolation %v: sealed is %d (%v), want %d", level, at, err, more[0].Position)
				}
			}
		}
	})
}

// TestUncommittedAppendIsNoRepeat repeats an append that another transaction has not committed yet, and
// rolls back then: the repeated one waits, and is stored.
func TestUncommittedAppendIsNoRepeat(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		for _, level := range levels {
			for _, inTx := range []bool{false, true} {
				for _, expected := range []es.ExpectedVersion{2, es.AnyVersion} {
					what := fmt.Sprintf("%v, in a transaction: %v, expected %d", level, inTx, int64(expected))
					prefix := l.NewPrefix(t)
					mine := l.AtIsolation(t, level, 5)
					s := mine.OpenIn(t, prefix, nil)
					if err := s.Install(t.Context()); err != nil {
						t.Fatal(err)
					}
					storetest.CreateStream(t, s, "accounts")
					storetest.MustAppend(t, s, "accounts", "a", 0, storetest.Deposits(2, 1)...)
					evs := storetest.WithIDs(storetest.Deposits(2, 3))
					done := make(chan error, 1)
					beside := l.Beside(t)
					beside.InTx(t, beside.OpenIn(t, prefix, nil), false, &sql.TxOptions{Isolation: sql.LevelReadCommitted}, func(_ *sql.Tx, in *es.Store) {
						storetest.MustAppend(t, in, "accounts", "a", 2, evs...)
						go func() {
							if !inTx {
								done <- storetest.Second(s.Append(context.WithoutCancel(t.Context()), "accounts", "a", expected, evs...))
								return
							}
							done <- storetest.InOwnTx(context.WithoutCancel(t.Context()), mine, s, nil, func(in *es.Store) error {
								return storetest.Second(in.Append(context.WithoutCancel(t.Context()), "accounts", "a", expected, evs...))
							})
						}()
						select {
						case err := <-done: // it may say that it has to be retried
							done <- err
						case <-time.After(100 * time.Millisecond):
						}
					})
					err := <-done
					n := len(storetest.Everything(t, s))
					if err != nil && !errors.Is(err, es.ErrRetryTx) && !errors.Is(err, es.ErrConflict) || err == nil && n != 4 || err != nil && n != 2 {
						t.Errorf("%s: the repeated append returned %v, and %d events are stored", what, err, n)
					}
				}
			}
		}
	})
}
