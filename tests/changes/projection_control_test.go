package changes_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestPause has runs stand by across restarts: nothing is committed until the projection is resumed.
func TestPause(t *testing.T) {
	storetest.ForEachDefinition(t, storetest.SomeLanes, storetest.AnyLane, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		var log storetest.Log
		s := l.Open(t, &es.Options{Logger: log.Logger()})
		storetest.CreateStream(t, s, "copies")
		storetest.WantErr(t, "of none", s.PauseProjection(t.Context(), "loans"), es.ErrProjectionNotFound)
		at := add(t, s, lent{})
		wantCaughtUp(t, "before", older(k), s, at[0])
		end := storetest.Running(t, older(k), s)
		storetest.Eventually(t, "the projection to run", func() bool { return storetest.Info(t, s, "loans").Owner != "" })
		for range 2 {
			if err := s.PauseProjection(t.Context(), "loans"); err != nil {
				t.Fatal(err)
			}
		}
		for _, word := range []string{"projection controlled", "action=pause", "projection=loans"} {
			if text := log.Take(); !strings.Contains(text, word) {
				t.Errorf("the log has no %q: %s", word, text)
			}
			_ = s.PauseProjection(t.Context(), "loans")
		}
		at = append(at, add(t, s, lent{})...)
		check := func(what string) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if _, err := older(k).CatchUp(ctx, s); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: CatchUp of a paused projection: %v", what, err)
			}
			info := storetest.Info(t, s, "loans")
			if info.Status != es.StatusPaused || info.Position >= at[1] || info.Owner != "" {
				t.Errorf("%s: Projections shows %+v, want it paused before %d", what, info, at[1])
			}
		}
		check("running")
		if c := storetest.Info(t, s, "loans").LastControl; c.Action != "pause" || c.By == "" || c.At.IsZero() {
			t.Errorf("the last control is %+v, want the pause", c)
		}
		wantCancelled(t, "Run", end())
		end = storetest.Running(t, older(k), s)
		check("restarted")
		// A wider definition stands by too.
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if _, err := newer(k).CatchUp(ctx, s); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("CatchUp of a wider definition while it is paused: %v", err)
		}
		cancel()
		if err := s.ResetProjection(t.Context(), "loans"); err != nil {
			t.Fatal(err)
		}
		check("reset")
		for range 2 {
			if err := s.ResumeProjection(t.Context(), "loans"); err != nil {
				t.Fatal(err)
			}
		}
		eventuallyIn(t, older(k), s, at[1])
		wantCancelled(t, "Run", end())

		if err := s.PauseProjection(t.Context(), "loans"); err != nil {
			t.Fatal(err)
		}
		stopped := make(chan error, 1)
		go func() { stopped <- older(k).Run(t.Context(), s) }()
		storetest.Eventually(t, "a stop to end a run that stands by", func() bool {
			if err := s.StopProjection(t.Context(), "loans"); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-stopped:
				return err == nil
			case <-time.After(10 * time.Millisecond):
				return false
			}
		})
		if info := storetest.Info(t, s, "loans"); info.Status != es.StatusPaused {
			t.Errorf("stopped: Projections shows %+v, want it paused", info)
		}
		if err := older(k).Delete(t.Context(), s, false); err != nil {
			t.Fatal(err)
		}
		wantCaughtUp(t, "deleted", older(k), s, at...)
	})
}

// TestPauseHoldsBackCommits pauses a projection and a relay while their handlers run: what those do is
// not committed.
func TestPauseHoldsBackCommits(t *testing.T) {
	storetest.ForEachDefinition(t, storetest.SomeLanes, storetest.AnyLane, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		s, other := l.OpenTwice(t)
		storetest.CreateStream(t, s, "copies")
		at := add(t, s, lent{})
		for _, kind := range []string{"projection", "relay"} {
			entered, leave := make(chan struct{}, 100), make(chan struct{})
			slow := func() error { entered <- struct{}{}; <-leave; return nil }
			p := loans(k, es.Do(func(context.Context, *es.Step[seen], lent) error { return slow() }))
			p.Name = kind
			r := es.Relay{Name: kind, From: p.From, Publish: func(context.Context, []es.Event) error { return slow() }, Poll: p.Poll}
			run := func(ctx context.Context) error { return p.Run(ctx, s) }
			if kind == "relay" {
				run = func(ctx context.Context) error { return r.Run(ctx, s) }
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- run(ctx) }()
			<-entered
			if err := other.PauseProjection(t.Context(), kind); err != nil {
				t.Fatal(err)
			}
			position := storetest.Info(t, other, kind).Position
			close(leave)
			for range 5 {
				if now := storetest.Info(t, other, kind).Position; now != position {
					t.Errorf("%s: moved on from %d to %d while it was paused", kind, position, now)
				}
				if err := storetest.Pause(t.Context(), 10*time.Millisecond); err != nil {
					t.Fatal(err)
				}
			}
			if err := other.ResumeProjection(t.Context(), kind); err != nil {
				t.Fatal(err)
			}
			storetest.Eventually(t, "it to go on", func() bool { return storetest.Info(t, other, kind).Position >= at[0] })
			cancel()
			wantCancelled(t, "Run", <-done)
		}
	})
}

// failing returns a projection that never gets past the events at some positions.
func failing(k storetest.Kind, at ...es.Position) *definition {
	p := loans(k, es.Do(func(_ context.Context, step *es.Step[seen], _ lent) error {
		if slices.Contains(at, step.Event.Position) {
			return errors.New("poison")
		}
		step.State.Positions = append(step.State.Positions, step.Event.Position)
		return nil
	}))
	p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Retry }
	return p
}

// TestSkipEvent passes over events that the projection stands at, or comes to later.
func TestSkipEvent(t *testing.T) {
	twoStores(t, func(t *testing.T, k storetest.Kind, s, operator *es.Store) {
		at := add(t, s, lent{}, lent{}, lent{}, lent{})
		p := failing(k, at[1], at[3])
		end := storetest.Running(t, p, s)
		storetest.Eventually(t, "the poison to be met", func() bool { return strings.Contains(storetest.Info(t, s, "loans").Error, "poison") })
		for range 2 {
			if err := operator.SkipEvent(t.Context(), "loans", at[3]); err != nil {
				t.Fatal(err)
			}
		}
		if n := storetest.Info(t, s, "loans").Verdicts; n != 1 {
			t.Errorf("Projections shows %d verdicts, want 1", n)
		}
		if err := operator.SkipEvent(t.Context(), "loans", at[1]); err != nil {
			t.Fatal(err)
		}
		if c := storetest.Info(t, s, "loans").LastControl; c.Action != "skip" || c.Position != at[1] {
			t.Errorf("the last control is %+v, want the skip of %d", c, at[1])
		}
		eventuallyIn(t, p, s, at[3])
		storetest.WantInvalid(t, "an event that is in", operator.SkipEvent(t.Context(), "loans", at[0]), "in already")
		storetest.WantInvalid(t, "an event that was skipped", operator.SkipEvent(t.Context(), "loans", at[3]), "in already")
		storetest.WantInvalid(t, "an event that is in", operator.ParkEvent(t.Context(), "loans", at[2]), "in already")
		storetest.WantInvalid(t, "no position", operator.SkipEvent(t.Context(), "loans", 0), "position")
		storetest.WantErr(t, "of none", operator.SkipEvent(t.Context(), "nothing", 1), es.ErrProjectionNotFound)
		wantCancelled(t, "Run", end())

		// One that never comes: of another name, and far away.
		at = append(at, add(t, s, returned{}, lent{})...)
		for _, p := range []es.Position{at[4], at[5] + 1000} {
			if err := operator.SkipEvent(t.Context(), "loans", p); err != nil {
				t.Fatal(err)
			}
		}
		wantCaughtUp(t, "skipped", p, s, at[0], at[2], at[5])
		if info := storetest.Info(t, s, "loans"); info.Verdicts != 1 || info.Parked != 0 {
			t.Errorf("Projections shows %+v, want one verdict and nothing parked", info)
		}
		// A reset forgets them.
		if err := operator.ResetProjection(t.Context(), "loans"); err != nil {
			t.Fatal(err)
		}
		if n := storetest.Info(t, s, "loans").Verdicts; n != 0 {
			t.Errorf("after a reset there are %d verdicts", n)
		}
		wantCaughtUp(t, "reset", failing(k), s, at[0], at[1], at[2], at[3], at[5])
	})
}

// TestSkipForRelay has an operator decide on an event that a relay's consumer refuses.
func TestSkipForRelay(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "copies")
		at := add(t, s, lent{}, lent{}, lent{})
		var got []es.Position
		r := es.Relay{Name: "out", From: es.FromStream("copies"), Poll: 10 * time.Millisecond, Publish: func(_ context.Context, events []es.Event) error {
			for _, ev := range events {
				if ev.Position == at[1] {
					return errors.New("refused")
				}
			}
			for _, ev := range events {
				got = append(got, ev.Position)
			}
			return nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx, s) }()
		storetest.Eventually(t, "the refusal", func() bool { return strings.Contains(storetest.Info(t, s, "out").Error, "refused") })
		if err := s.SkipEvent(t.Context(), "out", at[1]); err != nil {
			t.Fatal(err)
		}
		storetest.Eventually(t, "the relay to get on", func() bool { return storetest.Info(t, s, "out").Position >= at[2] })
		cancel()
		wantCancelled(t, "Run", <-done)
		// At least once: the skip may have come between a call of Publish and its checkpoint.
		wantSeen(t, "the relay", slices.Compact(got), []es.Position{at[0], at[2]})
	})
}

// TestParkEvent sets an event aside by name, and later ones of its aggregate behind it, and retries it.
func TestParkEvent(t *testing.T) {
	twoStores(t, func(t *testing.T, k storetest.Kind, s, operator *es.Store) {
		at := add(t, s, lent{}, lent{}, lent{})
		at = append(at, addTo(t, s, "copies", "c2", lent{}, lent{})...)
		p := failing(k, at[1])
		end := storetest.Running(t, p, s)
		storetest.Eventually(t, "the poison to be met", func() bool { return strings.Contains(storetest.Info(t, s, "loans").Error, "poison") })
		for _, one := range []es.Position{at[1], at[4]} {
			if err := operator.ParkEvent(t.Context(), "loans", one); err != nil {
				t.Fatal(err)
			}
		}
		eventuallyIn(t, p, s, at[4])
		wantParked := func(what string, want ...es.Position) {
			t.Helper()
			var got []es.Position
			parked, err := operator.ParkedEvents(t.Context(), "loans")
			for _, ev := range parked {
				got = append(got, ev.Event.Position)
			}
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: parked are %v, %v, want %v", what, got, err, want)
			}
		}
		wantParked("parked", at[1], at[2], at[4])
		storetest.WantInvalid(t, "one that waits", operator.RetryParkedEvent(t.Context(), "loans", at[2]), "waits")
		storetest.WantErr(t, "one that is not parked", operator.RetryParkedEvent(t.Context(), "loans", at[0]), es.ErrEventNotFound)
		storetest.WantInvalid(t, "no position", operator.RetryParkedEvent(t.Context(), "loans", 0), "position")
		storetest.WantErr(t, "of none", operator.RetryParkedEvent(t.Context(), "nothing", 1), es.ErrProjectionNotFound)

		if err := operator.RetryParkedEvent(t.Context(), "loans", at[4]); err != nil {
			t.Fatal(err)
		}
		storetest.Eventually(t, "the retry", func() bool { return storetest.Info(t, s, "loans").Parked == 2 })
		wantParked("one was retried", at[1], at[2])
		wantCancelled(t, "Run", end())

		// It fails again, and what waits for it stays.
		if err := operator.RetryParkedEvent(t.Context(), "loans", at[1]); err != nil {
			t.Fatal(err)
		}
		p.OnError = nil
		wantAfter(t, s, p)
		wantParked("it fails again", at[1], at[2])
		if err := operator.RetryParkedEvent(t.Context(), "loans", at[1]); err != nil {
			t.Fatal(err)
		}
		wantCaughtUp(t, "retried", failing(k), s, at[0], at[3], at[4], at[1], at[2])
		wantParked("all were retried")
	})
}

// TestVerdictOnBusyHandler has an operator skip an event whose handler hangs.
func TestVerdictOnBusyHandler(t *testing.T) {
	storetest.ForEachDefinition(t, storetest.SomeLanes, storetest.AnyLane, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "copies")
		at := add(t, s, lent{}, lent{})
		var hangs atomic.Int64
		p := loans(k, es.Do(func(ctx context.Context, step *es.Step[seen], _ lent) error {
			if step.Event.Position == at[0] {
				hangs.Add(1)
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}))
		end := storetest.Running(t, p, s)
		storetest.Eventually(t, "the handler to hang", func() bool { return hangs.Load() > 0 })
		if err := s.SkipEvent(t.Context(), "loans", at[0]); err != nil {
			t.Fatal(err)
		}
		eventuallyIn(t, p, s, at[1])
		wantCancelled(t, "Run", end())
		if n := hangs.Load(); n != 1 {
			t.Errorf("the event was handled %d times, want 1", n)
		}
	})
}

// TestControlBetweenTakeAndLook calls an operator's control in the instant between a runner's taking the lease and
// its look at what is stored under it.
func TestControlBetweenTakeAndLook(t *testing.T) {
	storetest.ForEachDefinition(t, storetest.SomeLanes, storetest.AnyKind, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		for _, action := range []string{"pause", "stop"} {
			s, prefix := l.OpenPrefixed(t)
			storetest.CreateStream(t, s, "copies")
			at := add(t, s, lent{})
			wantCaughtUp(t, "before", older(k), s, at[0])
			add(t, s, lent{})
			control := map[string]func(context.Context, string) error{"pause": s.PauseProjection, "stop": s.StopProjection}[action]
			var taking, called atomic.Bool
			intruded := l.Injected(t, 5, func(text string) error {
				switch {
				case strings.Contains(text, "read_model =") && strings.Contains(text, prefix+"projections"):
					taking.Store(true)
				case taking.Load() && strings.Contains(text, "SELECT position, state") && !called.Swap(true):
					if err := control(t.Context(), "loans"); err != nil {
						t.Error(err)
					}
				}
				return nil
			}).OpenIn(t, prefix, nil)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			err := older(k).Run(ctx, intruded)
			cancel()
			if action == "stop" && err != nil || action == "pause" && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: Run: %v", action, err)
			}
			if cp, err := older(k).Load(t.Context(), s); err != nil || cp.Position != at[0] || !called.Load() {
				t.Errorf("%s: the projection is at %+v, %v, want it at %d", action, cp, err, at[0])
			}
		}
	})
}
