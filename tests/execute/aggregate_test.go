package execute_test

import (
	"context"
	"sync"
	"testing"

	"errors"
	"fmt"
	"strings"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
	"github.com/google/uuid"
)

func TestExecuteRaces(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		times := 20
		if l.Odd {
			times = 5
		}
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range times {
					_, err := storetest.Accounts.Execute(context.Background(), s, "shared", func(r *es.Root[storetest.Account]) error {
						r.Record(storetest.Deposited{Cents: 1})
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		r, err := storetest.Accounts.Load(t.Context(), s, "shared")
		if err != nil {
			t.Fatal(err)
		}
		if want := int64(16 * times); r.State().Cents != want || r.Version() != want {
			t.Errorf("%d cents at version %d, want %d", r.State().Cents, r.Version(), want)
		}
	})
}

func TestExecute(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts")
		// An error of the domain comes back as it is, with nothing stored.
		refused := errors.New("not enough money")
		tries := 0
		r, err := storetest.Accounts.Execute(ctx, s, "a", func(r *es.Root[storetest.Account]) error {
			tries++
			r.Record(storetest.Opened{Owner: "ann"})
			return refused
		})
		if err != refused || r != nil || tries != 1 {
			t.Errorf("Execute: %v, %v after %d tries, want the error as it is at once", r, err, tries)
		}
		if n := len(storetest.Everything(t, s)); n != 0 {
			t.Errorf("%d events are stored, want none", n)
		}
		// A decision for nothing stores nothing.
		if r, err := storetest.Accounts.Execute(ctx, s, "a", func(*es.Root[storetest.Account]) error { return nil }); err != nil || r.Version() != 0 {
			t.Errorf("Execute of nothing: %v, %v", r, err)
		}
		// Others get in first: it decides again, on their state, as often as Attempts says.
		for attempts, meddle := range map[int]int{0: 9, 1: 0, 3: 2} {
			agg, id := storetest.Accounts, fmt.Sprint("m", attempts)
			agg.Attempts = attempts
			for _, more := range []int{0, 1} {
				tries := 0
				base := len(storetest.Collect(t, s.ReadAggregate(ctx, "accounts", id, 0)))
				r, err := agg.Execute(ctx, s, id, func(r *es.Root[storetest.Account]) error {
					if int(r.Version()) != base+tries {
						t.Errorf("try %d decides on version %d, want %d", tries, r.Version(), base+tries)
					}
					if tries < meddle+more {
						storetest.MustAppend(t, s, "accounts", id, es.AnyVersion, storetest.Deposits(1, 1)...)
					}
					tries++
					r.Record(storetest.Deposited{Cents: 100})
					return nil
				})
				if tries != meddle+1 {
					t.Errorf("Attempts %d: %d tries, want %d", attempts, tries, meddle+1)
				}
				if more == 0 && (err != nil || int(r.Version()) != base+meddle+1 || len(r.Uncommitted()) != 0) {
					t.Errorf("Attempts %d: %v, %v, want it to succeed in the last try", attempts, r, err)
				}
				if more == 1 {
					storetest.WantConflict(t, fmt.Sprint("Attempts ", attempts), err, es.ConflictError{Stream: "accounts", AggregateID: id, Expected: es.ExpectedVersion(base + meddle), Actual: int64(base + meddle + 1)})
				}
			}
		}
		// The back-off ends with the context.
		agg := storetest.Accounts
		agg.Attempts = 1 << 30
		timed, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		_, err = agg.Execute(timed, s, "never", func(r *es.Root[storetest.Account]) error {
			storetest.MustAppend(t, s, "accounts", "never", es.AnyVersion, storetest.Deposits(1, 1)...)
			r.Record(storetest.Deposited{Cents: 1})
			return nil
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Execute that never wins: %v, want the context's error", err)
		}
		storetest.WantIdle(t, l, "at the end")
	})
}

// TestExecuteTakenIDs has IDs in the way, which no repetition gets past unless the decision sees them:
// it is made once more, and not as often as Attempts says.
func TestExecuteTakenIDs(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", es.MustNotExist, storetest.Deposits(2, 1)...)
		store := func(aggregate string) uuid.UUID {
			return storetest.MustAppend(t, s, "accounts", aggregate, es.AnyVersion, storetest.WithIDs(storetest.Deposits(1, 1))...)[0].ID
		}
		elsewhere, mine := store("b"), store("a")
		execute := func(attempts int, decide func(try int, r *es.Root[storetest.Account]) error) (tries int, err error) {
			agg := storetest.Accounts
			agg.Attempts = attempts
			_, err = agg.Execute(ctx, s, "a", func(r *es.Root[storetest.Account]) error {
				tries++
				return decide(tries, r)
			})
			return tries, err
		}
		record := func(r *es.Root[storetest.Account], ids ...uuid.UUID) {
			for _, id := range ids {
				r.RecordEvent(es.NewEvent{ID: id, Payload: storetest.Deposited{Cents: 1}})
			}
		}
		for what, ids := range map[string][]uuid.UUID{
			"stored elsewhere":         {elsewhere},
			"stored with others":       {mine, uuid.New()},
			"stored, then a fresh one": {mine, uuid.Nil},
		} {
			for attempts, want := range map[int]int{0: 2, 1: 1, 2: 2, 1000: 2} {
				tries, err := execute(attempts, func(_ int, r *es.Root[storetest.Account]) error { record(r, ids...); return nil })
				storetest.WantConflict(t, what, err, es.ConflictError{Stream: "accounts", AggregateID: "a", Expected: 3, Actual: 3})
				if tries != want {
					t.Errorf("%s, Attempts %d: %d tries, want %d", what, attempts, tries, want)
				}
				if err != nil && !strings.Contains(err.Error(), "ID") {
					t.Errorf("%s: error reads %q, want it to speak of IDs", what, err)
				}
			}
		}
		// The one in the way was stored while the decision was made: the next one finds it.
		next := uuid.New()
		tries, err := execute(0, func(try int, r *es.Root[storetest.Account]) error {
			for ev, err := range s.Read(ctx, es.FromAll(es.ByEventID.Equals(next)), es.ReadOptions{}) {
				if err != nil || ev.AggregateID == "c" {
					return err
				}
			}
			storetest.MustAppend(t, s, "accounts", "c", es.AnyVersion, es.NewEvent{ID: next, Payload: storetest.Deposited{Cents: 1}})
			record(r, next)
			return nil
		})
		if tries != 2 || err != nil {
			t.Errorf("%d tries, %v, want the second to succeed", tries, err)
		}
		// Versions that were in the way are another matter, also in between.
		tries, err = execute(0, func(try int, r *es.Root[storetest.Account]) error {
			if try%2 == 0 {
				storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
			}
			if try < 5 {
				record(r, elsewhere)
			} else {
				record(r, uuid.New())
			}
			return nil
		})
		if tries != 5 || err != nil {
			t.Errorf("%d tries, %v, want the fifth to succeed", tries, err)
		}
		storetest.WantIdle(t, l, "at the end")
	})
}

// TestExecuteStoredEarlier records an event that another call has stored meanwhile, with another payload: the root is
// the aggregate as it is stored.
func TestExecuteStoredEarlier(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, other := l.OpenTwice(t)
		storetest.CreateStream(t, s, "accounts")
		for i, before := range []int{0, 3} {
			id, event := fmt.Sprint("a", i), uuid.New()
			if before > 0 {
				storetest.MustAppend(t, s, "accounts", id, 0, storetest.Deposits(before, 0)...)
			}
			calls := 0
			r, err := storetest.Accounts.Execute(t.Context(), s, id, func(r *es.Root[storetest.Account]) error {
				if calls++; calls == 1 {
					storetest.MustAppend(t, other, "accounts", id, es.ExpectedVersion(before), es.NewEvent{ID: event, Payload: storetest.Deposited{Cents: 5}})
				}
				r.RecordEvent(es.NewEvent{ID: event, Payload: storetest.Deposited{Cents: 700}})
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			loaded, err := storetest.Accounts.Load(t.Context(), s, id)
			if err != nil {
				t.Fatal(err)
			}
			if r.State() != loaded.State() || r.Version() != loaded.Version() || r.Position() != loaded.Position() || len(r.Uncommitted()) > 0 {
				t.Errorf("Execute returns %+v at version %d, stored is %+v at %d", r.State(), r.Version(), loaded.State(), loaded.Version())
			}
		}
	})
}
