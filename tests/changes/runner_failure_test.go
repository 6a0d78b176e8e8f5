package changes_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

func parkAll(context.Context, es.Event, error, int) es.ErrorAction { return es.Park }

func parkedAt(t testing.TB, s *es.Store) (out []es.Position) {
	t.Helper()
	parked, err := s.ParkedEvents(t.Context(), "loans")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parked {
		out = append(out, p.Event.Position)
	}
	return out
}

// TestOlderRetriesOnlyItsOwn asks for a retry that an older or narrowed definition is the first to carry out: it leaves
// parked what it has no handler for.
func TestOlderRetriesOnlyItsOwn(t *testing.T) {
	storetest.ForEachDefinitionsStore(t, func(t *testing.T, s *es.Store, k storetest.Kind) {
		storetest.CreateStream(t, s, "copies")
		for _, onChange := range []es.Change{es.RefuseChange, es.ContinueOnChange} {
			refuse := true
			newest := loans(k, take[lent](), es.Do(func(_ context.Context, step *es.Step[seen], _ returned) error {
				if refuse {
					return errors.New("refused")
				}
				step.State.Positions = append(step.State.Positions, step.Event.Position)
				return nil
			}))
			newest.OnError = parkAll
			at := addTo(t, s, "copies", onChange.String(), returned{})
			wantAfter(t, s, newest)
			refuse = false
			if err := s.RetryParked(t.Context(), "loans"); err != nil {
				t.Fatal(err)
			}
			p := older(k)
			p.OnChange = onChange
			wantAfter(t, s, p)
			if got := parkedAt(t, s); !slices.Equal(got, at) {
				t.Errorf("%v: parked are %v, want %v", onChange, got, at)
			}
			if err := s.RetryParked(t.Context(), "loans"); err != nil {
				t.Fatal(err)
			}
			cp, err := newest.CatchUp(t.Context(), s)
			if err != nil || !slices.Contains(cp.State.Positions, at[0]) || len(parkedAt(t, s)) != 0 {
				t.Errorf("%v: %+v, %v, want event %d in", onChange, cp, err, at[0])
			}
		}
	})
}

// TestRetryOfOneStaysOne interrupts the retry of one parked event: the others are not tried.
func TestRetryOfOneStaysOne(t *testing.T) {
	storetest.ForEachDefinitionsStore(t, func(t *testing.T, s *es.Store, k storetest.Kind) {
		storetest.CreateStream(t, s, "copies")
		var tried []es.Position
		stop := false
		p := loans(k, es.Do(func(_ context.Context, step *es.Step[seen], _ lent) error {
			tried = append(tried, step.Event.Position)
			if stop {
				step.Stop()
				return nil
			}
			return errors.New("refused")
		}))
		p.OnError = parkAll
		at := slices.Concat(addTo(t, s, "copies", "a", lent{}), addTo(t, s, "copies", "b", lent{}), addTo(t, s, "copies", "c", lent{}))
		wantAfter(t, s, p)
		tried = nil
		if err := errors.Join(s.RetryParkedEvent(t.Context(), "loans", at[0]), s.DropParked(t.Context(), "loans", at[0])); err != nil {
			t.Fatal(err)
		}
		wantAfter(t, s, p)
		wantSeen(t, "the event was dropped", tried, nil)

		if err := s.RetryParkedEvent(t.Context(), "loans", at[1]); err != nil {
			t.Fatal(err)
		}
		wantAfter(t, s, p)
		wantSeen(t, "the event fails", tried, at[1:2])
		stop, tried = true, nil
		if err := s.RetryParkedEvent(t.Context(), "loans", at[1]); err != nil {
			t.Fatal(err)
		}
		wantAfter(t, s, p)
		wantAfter(t, s, p)
		wantSeen(t, "the run was stopped", tried, at[1:2])
		if got := parkedAt(t, s); !slices.Equal(got, at[2:]) {
			t.Errorf("parked are %v, want %v", got, at[2:])
		}
	})
}

// TestRetryAfterLostRaces has a parked event lose ten races when it is retried, and be retried again.
func TestRetryAfterLostRaces(t *testing.T) {
	storetest.ForEachDefinitionsStore(t, func(t *testing.T, s *es.Store, k storetest.Kind) {
		storetest.CreateStream(t, s, "copies", "out")
		storetest.MustAppend(t, s, "out", "o", es.MustNotExist, es.NewEvent{Payload: lost{}})
		var mode, calls atomic.Int32
		p := loans(k, es.Do(func(ctx context.Context, step *es.Step[seen], _ lent) error {
			calls.Add(1)
			switch mode.Load() {
			case 0:
				return errors.New("refused")
			case 1:
				inside, err := step.Store()
				if err == nil {
					_, err = inside.Append(ctx, "out", "o", es.MustNotExist, es.NewEvent{Payload: lost{}})
				}
				return err
			}
			return nil
		}))
		p.OnError = parkAll
		add(t, s, lent{})
		end := storetest.Running(t, p, s)
		storetest.Eventually(t, "the event to be parked", func() bool { return storetest.Info(t, s, "loans").Parked == 1 })
		mode.Store(1)
		calls.Store(0)
		if err := s.RetryParked(t.Context(), "loans"); err != nil {
			t.Fatal(err)
		}
		storetest.Eventually(t, "ten lost races", func() bool {
			parked, err := s.ParkedEvents(t.Context(), "loans")
			return err == nil && calls.Load() >= 10 && len(parked) == 1 && parked[0].Error != "refused"
		})
		mode.Store(2)
		if err := s.RetryParked(t.Context(), "loans"); err != nil {
			t.Fatal(err)
		}
		storetest.Eventually(t, "the retry", func() bool { return storetest.Info(t, s, "loans").Parked == 0 })
		wantCancelled(t, "Run", end())
	})
}

// TestSkipWhileLosingRaces skips an event that OnError is asked about since it has lost its races.
func TestSkipWhileLosingRaces(t *testing.T) {
	storetest.ForEachDefinition(t, storetest.SomeLanes, storetest.AnyLane, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		s, operator := l.OpenTwice(t)
		storetest.CreateStream(t, s, "copies", "out")
		storetest.MustAppend(t, s, "out", "o", es.MustNotExist, es.NewEvent{Payload: lost{}})
		asked := 0
		p := loans(k, es.Do(func(ctx context.Context, step *es.Step[seen], _ lent) error {
			inside, err := step.Store()
			if err == nil {
				_, err = inside.Append(ctx, "out", "o", es.MustNotExist, es.NewEvent{Payload: lost{}})
			}
			return err
		}))
		p.OnError = func(_ context.Context, ev es.Event, _ error, _ int) es.ErrorAction {
			if asked++; asked > 1 {
				return es.Park
			}
			if err := operator.SkipEvent(t.Context(), "loans", ev.Position); err != nil {
				t.Error(err)
			}
			return es.Retry
		}
		add(t, s, lent{})
		wantAfter(t, s, p)
		if got := parkedAt(t, s); len(got) != 0 || asked != 1 {
			t.Errorf("parked are %v after OnError was asked %d times, want the event skipped after 1", got, asked)
		}
	})
}

// TestNothingToChange makes control calls that have nothing to change while a handler runs: its batch is not undone.
func TestNothingToChange(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, operator := l.OpenTwice(t)
		storetest.CreateStream(t, s, "copies")
		var calls atomic.Int32
		entered, leave := make(chan struct{}, 10), make(chan struct{})
		r := es.Relay{Name: "loans", From: es.FromStream("copies"), Poll: 10 * time.Millisecond, Publish: func(context.Context, []es.Event) error {
			calls.Add(1)
			entered <- struct{}{}
			<-leave
			return nil
		}}
		at := add(t, s, lent{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx, s) }()
		<-entered
		before := storetest.Info(t, s, "loans").LastControl
		if err := errors.Join(operator.ResumeProjection(t.Context(), "loans"), operator.DropParked(t.Context(), "loans", 77)); err != nil {
			t.Error(err)
		}
		storetest.WantErr(t, "of none", operator.ResumeProjection(t.Context(), "nothing"), es.ErrProjectionNotFound)
		storetest.WantErr(t, "of none", operator.DropParked(t.Context(), "nothing", 1), es.ErrProjectionNotFound)
		if after := storetest.Info(t, s, "loans").LastControl; after != before {
			t.Errorf("the last control is %+v, was %+v", after, before)
		}
		close(leave)
		storetest.Eventually(t, "the checkpoint", func() bool { return storetest.Info(t, s, "loans").Position >= at[0] })
		cancel()
		wantCancelled(t, "Run", <-done)
		if n := calls.Load(); n != 1 {
			t.Errorf("Publish was called %d times, want 1", n)
		}
	})
}

// TestRetryWhileStandingBy has an older definition that stands by carry out what it is asked for: a retry, and a reset,
// after which it says again why it stands by.
func TestRetryWhileStandingBy(t *testing.T) {
	storetest.ForEachDefinitionsStore(t, func(t *testing.T, s *es.Store, k storetest.Kind) {
		storetest.CreateStream(t, s, "copies")
		var refuse atomic.Bool
		refuse.Store(true)
		handler := es.Do(func(context.Context, *es.Step[seen], lent) error {
			if refuse.Load() {
				return errors.New("refused")
			}
			return nil
		})
		newest := loans(k, handler, take[returned]())
		newest.OnError = parkAll
		p := loans(k, handler)
		p.OnError = parkAll
		addTo(t, s, "copies", "a", lent{})
		wantAfter(t, s, newest)
		addTo(t, s, "copies", "b", returned{})
		end := storetest.Running(t, p, s)
		standsBy := func() bool { return storetest.Info(t, s, "loans").Error != "" }
		storetest.Eventually(t, "the older definition to stand by", standsBy)
		refuse.Store(false)
		if err := s.RetryParked(t.Context(), "loans"); err != nil {
			t.Fatal(err)
		}
		storetest.Eventually(t, "the retry", func() bool { return storetest.Info(t, s, "loans").Parked == 0 })
		storetest.Eventually(t, "the older definition to stand by again", standsBy)
		if err := s.DeleteAggregate(t.Context(), "copies", "a"); err != nil {
			t.Fatal(err)
		}
		if err := s.ResetProjection(t.Context(), "loans"); err != nil {
			t.Fatal(err)
		}
		storetest.Eventually(t, "the older definition to stand by after a reset", standsBy)
		wantCancelled(t, "Run", end())
	})
}

// TestRebuildForgetsVerdicts skips an event by name, and has the projection rebuilt: the event is taken in.
func TestRebuildForgetsVerdicts(t *testing.T) {
	storetest.ForEachDefinitionsStore(t, func(t *testing.T, s *es.Store, k storetest.Kind) {
		storetest.CreateStream(t, s, "copies")
		at := add(t, s, returned{}, lent{})
		wantAfter(t, s, older(k))
		if err := s.SkipEvent(t.Context(), "loans", at[1]+1); err != nil {
			t.Fatal(err)
		}
		at = append(at, add(t, s, lent{})...)
		p := newer(k)
		p.OnChange = es.RebuildOnChange
		wantCaughtUp(t, "rebuilt", p, s, at...)
	})
}

// TestSkipLeaksNoConnection has OnError skip an event while an older verdict is carried out and the lease is lost.
func TestSkipLeaksNoConnection(t *testing.T) {
	storetest.ForEachDefinition(t, storetest.SomeLanes, storetest.AnyKind, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		operator, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, operator, "copies")
		pool := l.Pool(t, l.DSN, 5)
		s := pool.OpenIn(t, prefix, nil)
		at := add(t, operator, returned{}, lent{})
		p := loans(k, es.Do(func(context.Context, *es.Step[seen], lent) error { return errors.New("refused") }))
		p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Fail }
		if _, err := p.CatchUp(t.Context(), s); err == nil {
			t.Fatal("the handler did not fail")
		}
		if err := operator.SkipEvent(t.Context(), "loans", at[0]); err != nil {
			t.Fatal(err)
		}
		calls := 0
		p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction {
			if calls++; calls < 10 {
				if err := operator.SkipEvent(t.Context(), "loans", at[1]+100); err != nil {
					t.Error(err)
				}
			}
			return es.Skip
		}
		wantAfter(t, s, p)
		storetest.Eventually(t, "all connections to be given back", func() bool { return pool.DB.Stats().InUse == 0 })
	})
}
