package transact_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

var errRefused = errors.New("refused")

// hasOutside reports whether calls outside a transaction find a connection while it is open.
func hasOutside(l storetest.Lane) bool {
	return l.DB == nil || l.DB.Stats().MaxOpenConnections > 1
}

// TestTransact stores events of several aggregates and streams, all or none, and sees them inside at once
// and outside after the commit.
func TestTransact(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts", "cards")
		stored := storetest.MustAppend(t, s, "accounts", "a", es.MustNotExist, storetest.Deposits(2, 1)...)
		for _, end := range []error{errRefused, nil} {
			var inside []es.Event
			err := s.Transact(ctx, func(tx *es.Store) error {
				inside = slices.Clone(stored)
				inside = append(inside, storetest.MustAppend(t, tx, "accounts", "a", 2, storetest.Deposits(2, 3)...)...)
				inside = append(inside, storetest.MustAppend(t, tx, "cards", "c", es.MustNotExist, storetest.Deposits(20, 1)...)...)
				if err := tx.CreateStream(ctx, "made", es.Metadata{"n": 1}); err != nil {
					return err
				}
				inside = append(inside, storetest.MustAppend(t, tx, "made", "m", es.AnyVersion, storetest.Deposits(1, 1)...)...)
				inside = append(inside, storetest.MustAppend(t, tx, "accounts", "a", es.MustExist, storetest.Deposits(1, 5)...)...)
				storetest.SameEvents(t, "inside", storetest.Everything(t, tx), inside)
				backward := storetest.Collect(t, tx.Read(ctx, es.FromAll(), es.ReadOptions{Backward: true}))
				slices.Reverse(backward)
				storetest.SameEvents(t, "backward inside", backward, inside)
				storetest.SameEvents(t, "one stream inside", storetest.Collect(t, tx.Read(ctx, es.FromStream("cards"), es.ReadOptions{})), inside[4:24])
				r, err := storetest.Accounts.Load(ctx, tx, "a")
				if err != nil || r.Version() != 5 || r.State().Cents != 15 || r.Position() != inside[25].Position {
					t.Errorf("Load inside: %+v, %v", r, err)
				}
				total, err := (&es.Query[storetest.Account]{From: es.FromStream("accounts"), When: storetest.Accounts.When}).Run(ctx, tx)
				if err != nil || total.Cents != 15 {
					t.Errorf("Query inside: %+v, %v", total, err)
				}
				again, err := tx.Append(ctx, "accounts", "a", 2, es.NewEvent{ID: inside[2].ID, Payload: storetest.Deposited{}}, es.NewEvent{ID: inside[3].ID, Payload: storetest.Deposited{}})
				if err != nil {
					t.Errorf("retried inside: %v", err)
				}
				storetest.SameEvents(t, "retried inside", again, inside[2:4])
				if hasOutside(l) && l.Name != "mariadb-odd" && l.Name != "mysql9-odd" { // serializable readers wait there
					storetest.SameEvents(t, "outside", storetest.Everything(t, s), stored)
					storetest.WantHas(t, s, "made", false)
				}
				storetest.WantHas(t, tx, "made", true)
				if names := storetest.StreamNames(t, tx, ""); !slices.Equal(names, []string{"accounts", "cards", "made"}) {
					t.Errorf("streams inside are %q", names)
				}
				return end
			})
			if !errors.Is(err, end) {
				t.Fatalf("Transact: %v, want %v", err, end)
			}
			want := stored
			if end == nil {
				want = inside
			}
			storetest.SameEvents(t, fmt.Sprint("after ", end), storetest.Everything(t, s), want)
			storetest.WantHas(t, s, "made", end == nil)
			storetest.WantIdle(t, l, "after the transaction")
		}
		storetest.SealUpTo(t, s, stored[1].Position+24)
		storetest.MustAppend(t, s, "accounts", "a", 5, storetest.Deposits(1, 1)...)
	})
}

// TestTransactDeletes deletes in a transaction, and begins anew what it has deleted.
func TestTransactDeletes(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts", "cards", "old")
		storetest.MustAppend(t, s, "accounts", "a", es.MustNotExist, storetest.Deposits(2, 1)...)
		kept := storetest.MustAppend(t, s, "accounts", "b", es.MustNotExist, storetest.Deposits(1, 1)...)
		storetest.MustAppend(t, s, "cards", "c", es.MustNotExist, storetest.Deposits(3, 1)...)
		before := storetest.Everything(t, s)
		for _, end := range []error{errRefused, nil} {
			var inside []es.Event
			err := s.Transact(ctx, func(tx *es.Store) error {
				if err := errors.Join(tx.DeleteAggregate(ctx, "accounts", "a"), tx.DeleteStream(ctx, "cards"), tx.DeleteStream(ctx, "old"), tx.SetStreamMetadata(ctx, "accounts", es.Metadata{"n": 7})); err != nil {
					return err
				}
				storetest.WantErr(t, "a deleted aggregate", tx.DeleteAggregate(ctx, "accounts", "a"), es.ErrAggregateNotFound)
				storetest.WantErr(t, "a deleted stream", tx.DeleteStream(ctx, "cards"), es.ErrStreamNotFound)
				_, err := tx.Append(ctx, "cards", "c", es.AnyVersion, storetest.Deposits(1, 1)...)
				storetest.WantErr(t, "append to a deleted stream", err, es.ErrStreamNotFound)
				storetest.SameEvents(t, "what is left", storetest.Everything(t, tx), kept)
				inside = append(slices.Clone(kept), storetest.MustAppend(t, tx, "accounts", "a", es.MustNotExist, storetest.Deposits(1, 9)...)...)
				storetest.CreateStream(t, tx, "cards")
				inside = append(inside, storetest.MustAppend(t, tx, "cards", "c", es.MustNotExist, storetest.Deposits(1, 9)...)...)
				storetest.SameEvents(t, "begun anew", storetest.Everything(t, tx), inside)
				storetest.SameEvents(t, "its aggregate", storetest.Collect(t, tx.ReadAggregate(ctx, "accounts", "a", 0)), inside[1:2])
				return end
			})
			if !errors.Is(err, end) {
				t.Fatalf("Transact: %v, want %v", err, end)
			}
			want, streams := before, []string{"accounts", "cards", "old"}
			if end == nil {
				want, streams = inside, streams[:2]
			}
			storetest.SameEvents(t, fmt.Sprint("after ", end), storetest.Everything(t, s), want)
			if names := storetest.StreamNames(t, s, ""); !slices.Equal(names, streams) {
				t.Errorf("after %v the streams are %q, want %q", end, names, streams)
			}
			infos, err := s.Streams(ctx, "accounts")
			if err != nil || (infos[0].Metadata["n"] == int64(7)) != (end == nil) {
				t.Errorf("after %v: metadata %v (%v)", end, infos, err)
			}
		}
	})
}

// TestTransactErrors calls it where it can't be called, and uses what it has given after its end.
func TestTransactErrors(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts")
		nothing := func(*es.Store) error { return nil }
		storetest.WantInvalid(t, "no function", s.Transact(ctx, nil), "fn")
		storetest.WantInvalid(t, "Tx in no transaction", storetest.Second(s.Tx()), "transaction")
		var kept *es.Store
		runs := 0
		if err := s.Transact(ctx, func(tx *es.Store) error {
			kept = tx
			runs++
			storetest.WantErr(t, "Transact inside", tx.Transact(ctx, nothing), errors.ErrUnsupported)
			storetest.WantErr(t, "Install inside", tx.Install(ctx), errors.ErrUnsupported)
			storetest.WantErr(t, "StopProjection inside", tx.StopProjection(ctx, "p"), errors.ErrUnsupported)
			storetest.WantErr(t, "a projection inside", storetest.TotalsOf("p").Run(ctx, tx), errors.ErrUnsupported)
			storetest.WantErr(t, "Subscribe inside", storetest.FirstError(tx.Subscribe(ctx, es.FromAll(), 0)), errors.ErrUnsupported)
			for _, err := range []error{storetest.Second(tx.Sealed(ctx)), storetest.Second(tx.Stats(ctx)), storetest.Second(tx.Projections(ctx))} {
				if err != nil {
					t.Errorf("a call inside: %v", err)
				}
			}
			_, err := storetest.TotalsOf("p").Load(ctx, tx)
			storetest.WantErr(t, "Load of a projection", err, es.ErrProjectionNotFound)
			own, err := tx.Tx()
			switch {
			case l.DB == nil:
				storetest.WantErr(t, "Tx", err, errors.ErrUnsupported)
			case err != nil || own == nil:
				t.Errorf("Tx: %v", err)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for _, c := range storetest.EveryCall {
			storetest.WantErr(t, c.Name+" after the end", c.Call(ctx, kept), sql.ErrTxDone)
		}
		err := s.Transact(ctx, func(*es.Store) error { runs++; return errRefused })
		if err != errRefused || runs != 2 { //nolint:errorlint // as it is
			t.Errorf("an error of fn comes back as %v after %d runs", err, runs-1)
		}
		ended, cancel := context.WithCancel(ctx)
		err = s.Transact(ended, func(tx *es.Store) error {
			storetest.MustAppend(t, tx, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
			cancel()
			return nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a context that ends in fn: %v", err)
		}
		err = s.Transact(ended, func(*es.Store) error { t.Error("fn is called with a context that has ended"); return nil })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a context that has ended: %v", err)
		}
		if n := len(storetest.Everything(t, s)); n != 0 {
			t.Errorf("%d events are stored", n)
		}
		if l.DB != nil {
			storetest.Eventually(t, "idle connections", func() bool { return l.DB.Stats().InUse == 0 })
		}
	})
}

// TestTransactPanics has fn panic, and end its goroutine: the transaction is rolled back, and that goes on.
func TestTransactPanics(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts")
		for what, leave := range map[string]func(){"panic": func() { panic(errRefused) }, "Goexit": runtime.Goexit} {
			left := make(chan any)
			go func() {
				defer func() { left <- recover() }()
				_ = s.Transact(ctx, func(tx *es.Store) error {
					storetest.MustAppend(t, tx, "accounts", "a", es.MustNotExist, storetest.Deposits(1, 1)...)
					leave()
					return nil
				})
				t.Errorf("%s: Transact has returned", what)
			}()
			if got := <-left; (got == errRefused) != (what == "panic") { //nolint:errorlint // what was panicked with
				t.Errorf("%s: recovered %v", what, got)
			}
			storetest.WantIdle(t, l, what)
			if n := len(storetest.Everything(t, s)); n != 0 {
				t.Errorf("%s: %d events are stored", what, n)
			}
		}
		after := storetest.MustAppend(t, s, "accounts", "a", es.MustNotExist, storetest.Deposits(1, 1)...)
		storetest.SealUpTo(t, s, after[0].Position)
	})
}

// TestTransactRaces has 16 goroutines move money between four accounts, while others pay in by plain commands: no cent
// is lost or made, and no account is overdrawn.
func TestTransactRaces(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, other := l.OpenTwice(t)
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts")
		ids := []string{"a", "b", "c", "d"}
		for _, id := range ids {
			storetest.MustAppend(t, s, "accounts", id, es.MustNotExist, es.NewEvent{Payload: storetest.Deposited{Cents: 100}})
		}
		var paid atomic.Int64
		for i, err := range storetest.Race(16, func(i int) error {
			s := []*es.Store{s, other}[i%2]
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for range 5 {
				if i%4 == 3 {
					if _, err := storetest.Accounts.Execute(ctx, s, ids[r.IntN(4)], func(r *es.Root[storetest.Account]) error {
						r.Record(storetest.Deposited{Cents: 1})
						return nil
					}); err != nil {
						return err
					}
					paid.Add(1)
					continue
				}
				from := r.IntN(4)
				to := (from + 1 + r.IntN(3)) % 4
				err := s.Transact(ctx, func(tx *es.Store) error { return move(ctx, tx, ids[from], ids[to], int64(1+r.IntN(150))) })
				if err != nil && !errors.Is(err, errRefused) && !errors.Is(err, es.ErrConflict) && !errors.Is(err, es.ErrRetryTx) {
					return err
				}
			}
			return nil
		}) {
			if err != nil {
				t.Errorf("goroutine %d: %v", i, err)
			}
		}
		var sum int64
		for _, id := range ids {
			r, err := storetest.Accounts.Load(ctx, s, id)
			if err != nil {
				t.Fatal(err)
			}
			if r.State().Cents < 0 {
				t.Errorf("account %s has %d cents", id, r.State().Cents)
			}
			sum += r.State().Cents
			storetest.WantVersions(t, storetest.Collect(t, s.ReadAggregate(ctx, "accounts", id, 0)), int(r.Version()))
		}
		if want := 400 + paid.Load(); sum != want {
			t.Errorf("there are %d cents in all, want %d", sum, want)
		}
		storetest.WantIdle(t, l, "after the race")
	})
}

func move(ctx context.Context, tx *es.Store, from, to string, cents int64) error {
	if _, err := storetest.Accounts.Execute(ctx, tx, from, func(r *es.Root[storetest.Account]) error {
		if r.State().Cents < cents {
			return errRefused
		}
		r.Record(storetest.Deposited{Cents: -cents})
		return nil
	}); err != nil {
		return err
	}
	_, err := storetest.Accounts.Execute(ctx, tx, to, func(r *es.Root[storetest.Account]) error {
		r.Record(storetest.Deposited{Cents: cents})
		return nil
	})
	return err
}

// TestTransactCounter has goroutines count up one aggregate, each until it has succeeded: no update is lost.
func TestTransactCounter(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts")
		const racers, rounds = 4, 5
		for i, err := range storetest.Race(racers, func(int) error {
			for n := 0; n < rounds; {
				err := s.Transact(ctx, func(tx *es.Store) error {
					r, err := storetest.Accounts.Load(ctx, tx, "a")
					if errors.Is(err, es.ErrAggregateNotFound) {
						r, err = storetest.Accounts.New("a"), nil
					}
					if err != nil {
						return err
					}
					r.Record(storetest.Deposited{Cents: r.State().Cents + 1})
					_, err = storetest.Accounts.Save(ctx, tx, r)
					return err
				})
				if err == nil {
					n++
				} else if !errors.Is(err, es.ErrConflict) && !errors.Is(err, es.ErrRetryTx) {
					return err
				}
			}
			return nil
		}) {
			if err != nil {
				t.Errorf("racer %d: %v", i, err)
			}
		}
		// Each event doubles the sum and adds one.
		if r, err := storetest.Accounts.Load(ctx, s, "a"); err != nil || r.State().Cents != 1<<(racers*rounds)-1 {
			t.Errorf("%+v, %v", r.State(), err)
		}
	})
}

// TestTransactRunsAgain has fn lose to another writer once, in each way that it can be told, and then win.
func TestTransactRunsAgain(t *testing.T) {
	for what, wrap := range map[string]func(error) error{
		"passed on": func(err error) error { return err },
		"wrapped":   func(err error) error { return fmt.Errorf("order 7: %w", err) },
		"joined":    func(err error) error { return errors.Join(errRefused, err) },
	} {
		t.Run(what, func(t *testing.T) {
			storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
				s, ctx := l.Open(t, nil), t.Context()
				storetest.CreateStream(t, s, "accounts")
				storetest.MustAppend(t, s, "accounts", "a", es.MustNotExist, storetest.Deposits(1, 1)...)
				known, runs := es.ExpectedVersion(0), 0
				err := s.Transact(ctx, func(tx *es.Store) error {
					runs++
					_, err := tx.Append(ctx, "accounts", "a", known, storetest.Deposits(1, 1)...)
					var conflict *es.ConflictError
					if errors.As(err, &conflict) {
						known = es.ExpectedVersion(conflict.Actual)
						return wrap(err)
					}
					return err
				})
				if err != nil || runs != 2 {
					t.Errorf("%v after %d runs, want success after 2", err, runs)
				}
				err = s.Transact(ctx, func(tx *es.Store) error {
					runs++
					_, err := tx.Append(ctx, "accounts", "a", es.MustNotExist, storetest.Deposits(1, 1)...)
					return wrap(err)
				})
				if !errors.Is(err, es.ErrConflict) || runs != 12 {
					t.Errorf("%v after %d runs, want a conflict after 10", err, runs-2)
				}
				if n := len(storetest.Everything(t, s)); n != 2 {
					t.Errorf("%d events, want 2", n)
				}
			})
		})
	}
}

// TestTransactConflictHidden has fn take a conflict for an answer: what it does then is stored, as if the append had
// not been tried.
func TestTransactConflictHidden(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts")
		first := storetest.MustAppend(t, s, "accounts", "a", es.MustNotExist, storetest.Deposits(1, 1)...)
		runs := 0
		err := s.Transact(ctx, func(tx *es.Store) error {
			runs++
			if runs == 1 {
				_, err := tx.Append(ctx, "accounts", "b", es.MustNotExist, es.NewEvent{ID: first[0].ID, Payload: storetest.Deposited{}})
				storetest.WantErr(t, "an ID that is taken", err, es.ErrConflict)
			}
			_, _ = tx.Append(ctx, "accounts", "c", es.AnyVersion, storetest.Deposits(1, 1)...)
			return nil
		})
		if err != nil || runs > 2 {
			t.Errorf("%v after %d runs", err, runs)
		}
		if n := len(storetest.Everything(t, s)); n != 2 {
			t.Errorf("%d events are stored, want 2", n)
		}
	})
}

// TestTransactOuterStore calls the outer store within fn: what that stores is seen at once and stays. On a pool of one
// connection, where the call could never return, it says so.
func TestTransactOuterStore(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts")
		// A serializable transaction of MySQL's locks gaps next to its aggregate: these are no neighbours.
		for _, id := range []string{"a", "d", "m", "p", "z"} {
			storetest.MustAppend(t, s, "accounts", id, es.AnyVersion, storetest.Deposits(1, 1)...)
		}
		err := s.Transact(ctx, func(tx *es.Store) error {
			storetest.MustAppend(t, tx, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
			outer, err := s.Append(ctx, "accounts", "z", es.AnyVersion, storetest.Deposits(1, 1)...)
			if !hasOutside(l) {
				storetest.WantInvalid(t, "a call outside", err, "SetMaxOpenConns")
				storetest.WantInvalid(t, "a transaction outside", s.Transact(ctx, func(*es.Store) error { return nil }), "SetMaxOpenConns")
				return errRefused
			}
			if err != nil {
				return err
			}
			// Sealed order waits for the transaction.
			if p, err := s.Sealed(ctx); err != nil || p >= outer[0].Position {
				t.Errorf("sealed up to %d (%v), want less than %d", p, err, outer[0].Position)
			}
			if err := s.Transact(ctx, func(nested *es.Store) error {
				_, err := nested.Append(ctx, "accounts", "m", es.AnyVersion, storetest.Deposits(1, 1)...)
				return err
			}); err != nil {
				return err
			}
			return errRefused
		})
		if !errors.Is(err, errRefused) {
			t.Fatal(err)
		}
		want := 7
		if !hasOutside(l) {
			want = 5
		}
		evs := storetest.Everything(t, s)
		if len(evs) != want {
			t.Errorf("%d events are stored, want %d", len(evs), want)
		}
		storetest.SealUpTo(t, s, evs[want-1].Position)
		storetest.MustAppend(t, s, "accounts", "after", es.AnyVersion, storetest.Deposits(1, 1)...)
		storetest.WantIdle(t, l, "at the end")
	})
}

// TestTransactWakesReaders has a subscription, whose next look would come much later, see what a transaction has stored.
func TestTransactWakesReaders(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		storetest.CreateStream(t, s, "accounts")
		seen := make(chan es.Event)
		go func() {
			defer close(seen)
			for ev, err := range s.Subscribe(ctx, es.FromStream("accounts"), 0) {
				if err != nil {
					return
				}
				seen <- ev
			}
		}()
		for n := range int64(3) {
			if err := s.Transact(ctx, func(tx *es.Store) error {
				_, err := tx.Append(ctx, "accounts", "a", es.ExpectedVersion(n), storetest.Deposits(1, 1)...)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if ev := <-seen; ev.Version != n+1 {
				t.Errorf("saw version %d, want %d", ev.Version, n+1)
			}
		}
		cancel()
		<-seen
	})
}
