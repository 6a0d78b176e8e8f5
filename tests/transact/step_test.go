package transact_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// cards are the aggregates that process managers of these tests send commands to.
var cards = es.Aggregate[storetest.Account]{Stream: "cards", When: storetest.Accounts.When}

// charge records a deposit of cents more than the card has.
func charge(ctx context.Context, s *es.Store, card string, cents int64) error {
	_, err := cards.Execute(ctx, s, card, func(r *es.Root[storetest.Account]) error {
		r.Record(storetest.Deposited{Cents: cents})
		return nil
	})
	return err
}

// manager returns a projection of accounts whose handler is fn, and which fails the test when OnError is asked.
func manager(t *testing.T, name string, fn func(ctx context.Context, step *es.Step[storetest.Totals], s *es.Store, e storetest.Deposited) error) *es.Projection[storetest.Totals] {
	p := storetest.TotalsOf(name, es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
		s, err := step.Store()
		if err != nil {
			return err
		}
		return fn(ctx, step, s, e)
	}))
	p.OnError = func(_ context.Context, ev es.Event, err error, _ int) es.ErrorAction {
		t.Errorf("OnError is asked about event %d: %v", ev.Position, err)
		return es.Fail
	}
	return p
}

// wantCharges checks the events of a card: their cents, in order.
func wantCharges(t *testing.T, s *es.Store, card string, want ...int64) {
	t.Helper()
	var got []int64
	for _, ev := range storetest.Collect(t, s.ReadAggregate(t.Context(), "cards", card, 0)) {
		e, err := es.Decode[storetest.Deposited](ev)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Cents)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("card %s has %v, want %v", card, got, want)
	}
}

// TestStepStore has a process manager carry out commands in its step: they commit with state and position, or not at all,
// and each step sees what those before it have done.
func TestStepStore(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		var through atomic.Int32
		s, ctx := l.Open(t, &es.Options{Middleware: []es.Middleware{{
			Append: func(ctx context.Context, b es.Batch, next func(context.Context, es.Batch) ([]es.Event, error)) ([]es.Event, error) {
				if b.Stream == "cards" {
					through.Add(1)
				}
				return next(ctx, b)
			},
		}}}), t.Context()
		storetest.CreateStream(t, s, "accounts", "cards")
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(6, 1)...)
		failing := true
		p := manager(t, "manager", func(ctx context.Context, step *es.Step[storetest.Totals], in *es.Store, e storetest.Deposited) error {
			before := storetest.Collect(t, in.ReadAggregate(ctx, "cards", "c", 0))
			if len(before) != int(step.Event.Version-1) {
				t.Errorf("step %d sees %d charges, want %d", step.Event.Version, len(before), step.Event.Version-1)
			}
			query := es.Query[storetest.Account]{From: es.FromStream("cards"), When: storetest.Accounts.When}
			if sum, err := query.Run(ctx, in); err != nil || sum.Deposits != len(before) {
				t.Errorf("step %d: a query sees %+v (%v), want %d deposits", step.Event.Version, sum, err, len(before))
			}
			storetest.WantErr(t, "StopProjection", in.StopProjection(ctx, "manager"), errors.ErrUnsupported)
			storetest.WantErr(t, "Transact", in.Transact(ctx, func(*es.Store) error { return nil }), errors.ErrUnsupported)
			fromStep, stepErr := step.Tx()
			if fromStore, err := in.Tx(); fromStore != fromStep || (err == nil) != (stepErr == nil) {
				t.Errorf("Store.Tx: %v, Step.Tx: %v", err, stepErr)
			}
			if err := charge(ctx, in, "c", 10*e.Cents); err != nil {
				return err
			}
			if e.Cents == 4 && failing {
				return errRefused
			}
			return nil
		})
		asked := 0
		p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { asked++; return es.Fail }
		if _, err := p.CatchUp(ctx, s); !errors.Is(err, errRefused) {
			t.Fatalf("CatchUp: %v", err)
		}
		wantCharges(t, s, "c", 10, 20, 30)
		failing = false
		cp := storetest.CatchUp(t, p, s)
		wantCharges(t, s, "c", 10, 20, 30, 40, 50, 60)
		if cp.State.Events != 6 || asked != 1 {
			t.Errorf("state %+v, OnError was asked %d times, want once", cp.State, asked)
		}
		if n := through.Load(); n < 6 {
			t.Errorf("middleware has seen %d appends, want each", n)
		}
		storetest.WantIdle(t, l, "at the end")
	})
}

// TestStepStoreLosesRaces has another writer get in between a command's load and its save, in the middle of a batch:
// the batch is handled again, whether or not the handler passes the conflict on, and OnError is not asked.
func TestStepStoreLosesRaces(t *testing.T) {
	for what, hide := range map[string]bool{"passed on": false, "hidden": true} {
		t.Run(what, func(t *testing.T) {
			storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
				if !hasOutside(l) {
					return // there is no other writer
				}
				s := l.Open(t, nil)
				storetest.CreateStream(t, s, "accounts", "cards")
				storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(5, 1)...)
				for _, card := range []string{"b", "m", "z"} {
					storetest.MustAppend(t, s, "cards", card, es.AnyVersion, storetest.Deposits(1, 1)...)
				}
				disturbed := false
				p := manager(t, "manager", func(ctx context.Context, step *es.Step[storetest.Totals], in *es.Store, e storetest.Deposited) error {
					if err := charge(ctx, in, "b", 10*e.Cents); err != nil || e.Cents != 3 {
						return err
					}
					_, err := cards.Execute(ctx, in, "z", func(r *es.Root[storetest.Account]) error {
						if !disturbed {
							disturbed = true
							storetest.MustAppend(t, s, "cards", "z", es.AnyVersion, storetest.Deposits(1, 7)...)
						}
						r.Record(storetest.Deposited{Cents: 10 * e.Cents})
						return nil
					})
					if hide {
						return nil
					}
					return err
				})
				cp := storetest.CatchUp(t, p, s)
				if cp.State.Events != 5 || !disturbed {
					t.Errorf("state is %+v", cp.State)
				}
				wantCharges(t, s, "b", 1, 10, 20, 30, 40, 50)
				got := storetest.Collect(t, s.ReadAggregate(t.Context(), "cards", "z", 0))
				storetest.WantVersions(t, got, 3)
			})
		})
	}
}

// TestStepStoreNoRace has a command that conflicts every time: it is the event's failure in the end, on which OnError
// decides, and holds up nothing else.
func TestStepStoreNoRace(t *testing.T) {
	for what, hide := range map[string]bool{"passed on": false, "hidden": true} {
		t.Run(what, func(t *testing.T) {
			storetest.ForEach(t, storetest.SomeLanes, storetest.Usual, func(t *testing.T, l storetest.Lane) {
				s := l.Open(t, nil)
				storetest.CreateStream(t, s, "accounts", "cards")
				storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(4, 1)...)
				storetest.MustAppend(t, s, "cards", "c", es.AnyVersion, storetest.Deposits(1, 1)...)
				tries, asked := 0, 0
				p := manager(t, "manager", func(ctx context.Context, step *es.Step[storetest.Totals], in *es.Store, e storetest.Deposited) error {
					if e.Cents != 3 {
						return charge(ctx, in, "d", e.Cents)
					}
					tries++
					_, err := in.Append(ctx, "cards", "c", es.MustNotExist, storetest.Deposits(1, 1)...)
					if hide {
						return nil
					}
					return err
				})
				p.OnError = func(_ context.Context, ev es.Event, err error, _ int) es.ErrorAction {
					asked++
					if ev.Version != 3 || !errors.Is(err, es.ErrConflict) {
						t.Errorf("OnError is asked about version %d: %v", ev.Version, err)
					}
					return es.Skip
				}
				storetest.CatchUp(t, p, s)
				if asked != 1 || tries < 10 {
					t.Errorf("OnError was asked %d times after %d tries, want once after 10", asked, tries)
				}
				wantCharges(t, s, "d", 1, 2, 4)
				wantCharges(t, s, "c", 1)
			})
		})
	}
}

// TestStepStoreTakenOver has two runners of a process manager take the lease from each other, at every moment:
// each command is carried out once.
func TestStepStoreTakenOver(t *testing.T) {
	storetest.ForEach(t, storetest.SomeLanes, storetest.Usual, func(t *testing.T, l storetest.Lane) {
		s, other := l.OpenTwice(t)
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		defer cancel()
		storetest.CreateStream(t, s, "accounts", "cards")
		const n = 300
		define := func() *es.Projection[storetest.Totals] {
			p := manager(t, "manager", func(ctx context.Context, step *es.Step[storetest.Totals], in *es.Store, e storetest.Deposited) error {
				return charge(ctx, in, fmt.Sprint("c", e.Cents%3), e.Cents)
			})
			p.BatchSize = 7
			return p
		}
		over := make(chan struct{})
		runs := make(chan []error, 1)
		go func() {
			runs <- storetest.Race(2, func(i int) error {
				for {
					select {
					case <-over:
						return nil
					default:
					}
					// A run that is stopped ends with nil.
					if err := define().Run(ctx, []*es.Store{s, other}[i]); err != nil {
						return err
					}
				}
			})
		}()
		var last es.Position
		for i := range n {
			last = storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, int64(i))...)[0].Position
			if i%10 == 0 {
				if err := s.StopProjection(ctx, "manager"); err != nil && !errors.Is(err, es.ErrProjectionNotFound) {
					t.Fatal(err)
				}
			}
		}
		if err := define().Wait(ctx, s, last); err != nil {
			t.Fatal(err)
		}
		close(over)
		storetest.Eventually(t, "the runs to end", func() bool {
			if err := s.StopProjection(ctx, "manager"); err != nil {
				t.Fatal(err)
			}
			select {
			case errs := <-runs:
				if err := errors.Join(errs...); err != nil {
					t.Error(err)
				}
				return true
			default:
				return false
			}
		})
		want := map[string][]int64{}
		for i := range int64(n) {
			card := fmt.Sprint("c", i%3)
			want[card] = append(want[card], i)
		}
		for card, cents := range want {
			wantCharges(t, s, card, cents...)
		}
	})
}

// TestStepStorePositions has a handler append while others do: sealed order holds, and a subscription misses
// nothing and sees everything once.
func TestStepStorePositions(t *testing.T) {
	storetest.ForEach(t, storetest.SomeLanes, storetest.Usual, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		defer cancel()
		storetest.CreateStream(t, s, "accounts", "cards")
		p := manager(t, "manager", func(ctx context.Context, step *es.Step[storetest.Totals], in *es.Store, e storetest.Deposited) error {
			return charge(ctx, in, step.Event.AggregateID, e.Cents)
		})
		end := storetest.Running(t, p, s)
		const writers, each = 4, 60
		seen := make(chan []es.Event, 1)
		go func() {
			var evs []es.Event
			for ev, err := range s.Subscribe(ctx, es.FromAll(), 0) {
				if err != nil {
					break
				}
				if evs = append(evs, ev); len(evs) == 2*writers*each {
					break
				}
			}
			seen <- evs
		}()
		for i, err := range storetest.Race(writers, func(i int) error {
			for n := range each {
				err := s.Transact(ctx, func(tx *es.Store) error {
					_, err := tx.Append(ctx, "accounts", fmt.Sprint("a", i), es.ExpectedVersion(n), storetest.Deposits(1, int64(n))...)
					return err
				})
				if err != nil {
					return err
				}
			}
			return nil
		}) {
			if err != nil {
				t.Errorf("writer %d: %v", i, err)
			}
		}
		got := <-seen
		cancel()
		if err := end(); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		storetest.SameEvents(t, "subscription", got, storetest.Everything(t, s))
	})
}
