package deliveries_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestRelay publishes with a publisher that fails now and then: everything comes, in order, and
// what failed comes again.
func TestRelay(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts", "cards")
		var mu sync.Mutex
		var published []es.Event
		calls := 0
		relay := &es.Relay{
			Name: "relay", From: es.FromStream("accounts", es.Meta("secret").NotEquals(true)), BatchSize: 4, Poll: 20 * time.Millisecond, Lease: time.Second,
			Publish: func(_ context.Context, evs []es.Event) error {
				mu.Lock()
				defer mu.Unlock()
				if len(evs) == 0 || len(evs) > 4 {
					t.Errorf("published %d events at a time, want 1 to 4", len(evs))
				}
				if calls++; calls%3 == 0 {
					return errors.New("the broker is away")
				}
				published = append(published, evs...)
				return nil
			},
		}
		done := make(chan error, 1)
		run := func() (cancel func()) {
			running, cancel := context.WithCancel(ctx)
			go func() { done <- relay.Run(running, s) }()
			return cancel
		}
		var want []es.Event
		end := run()
		defer func() { end() }()
		for i := range 12 {
			evs := storetest.Deposits(3, int64(i))
			for k := range evs {
				evs[k].Metadata = es.Metadata{"secret": k == 1}
			}
			stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, evs...)
			want = append(want, stored[0], stored[2])
			storetest.MustAppend(t, s, "cards", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
			if i == 6 {
				end()
				if err := <-done; !errors.Is(err, context.Canceled) {
					t.Errorf("Run returned %v, want context.Canceled", err)
				}
				end = run()
			}
		}
		last := want[len(want)-1].Position
		storetest.Eventually(t, "the relay", func() bool { return storetest.Info(t, s, "relay").Position >= last })
		if err := s.StopProjection(ctx, "relay"); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Errorf("Run returned %v after a stop, want nil", err)
		}
		// The run that was ended may have published what it could not note any more.
		var once []es.Event
		for _, ev := range published {
			if len(once) == 0 || ev.Position > once[len(once)-1].Position {
				once = append(once, ev)
			}
		}
		storetest.SameEvents(t, "published", once, want)
		storetest.WantIdle(t, l, "at the end")
	})
}

// TestFailingSeen has a relay and a projection try an event again and again: where they are, why they
// don't get on and how often they have tried can be seen from elsewhere, until they do.
func TestFailingSeen(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		var log storetest.Log
		s := l.Open(t, &es.Options{Logger: log.Logger()})
		storetest.CreateStream(t, s, "accounts")
		var problem atomic.Pointer[string]
		try := func() error {
			if text := problem.Load(); text != nil {
				return errors.New(*text)
			}
			return nil
		}
		relay := &es.Relay{
			Name: "seen", From: es.FromAll(), Poll: 20 * time.Millisecond, Lease: time.Second,
			Publish: func(context.Context, []es.Event) error { return try() },
		}
		projection := storetest.TotalsOf("seen", es.Do(func(context.Context, *es.Step[storetest.Totals], storetest.Deposited) error { return try() }))
		projection.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Retry }
		for kind, run := range map[string]func(context.Context, *es.Store) error{"relay": relay.Run, "projection": projection.Run} {
			problem.Store(nil)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- run(ctx, s) }()
			before := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)[0].Position
			storetest.Eventually(t, kind+" to get on", func() bool { return storetest.Info(t, s, "seen").Position == before })
			log.Take()
			var failing es.Position
			for _, text := range []string{"the broker is away", "the broker refuses \x00\xff"} {
				problem.Store(&text)
				if stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...); failing == 0 {
					failing = stored[0].Position
				}
				want := strings.NewReplacer("\x00", "\uFFFD", "\xff", "\uFFFD").Replace(text)
				storetest.Eventually(t, kind+" to say why it fails", func() bool {
					got := storetest.Info(t, s, "seen")
					return got.Error == want && got.Status == es.StatusRunning && got.Owner != "" && got.Position == before
				})
			}
			if st, err := s.Stats(ctx); err != nil || len(st.Projections) != 1 || st.Projections[0].Error == "" {
				t.Errorf("%s: stats tell of %+v (%v), want an error", kind, st.Projections, err)
			}
			told := ""
			third := fmt.Sprintf("level=WARN msg=\"projection failed on an event\" projection=seen position=%d attempt=3 action=retry error=\"the broker ", failing)
			storetest.Eventually(t, kind+"'s third try in the log", func() bool { told += log.Take(); return strings.Contains(told, third) })
			problem.Store(nil)
			storetest.Eventually(t, kind+" to get on again", func() bool {
				got := storetest.Info(t, s, "seen")
				return got.Error == "" && got.Status == es.StatusRunning && got.Position > failing
			})
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("%s: Run returned %v", kind, err)
			}
			if err := s.DeleteProjection(t.Context(), "seen", false); err != nil {
				t.Fatal(err)
			}
		}
		storetest.WantIdle(t, l, "at the end")
	})
}

func TestRelayInvalid(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		publish := func(context.Context, []es.Event) error { return nil }
		storetest.WantInvalid(t, "without a name", (&es.Relay{From: es.FromAll(), Publish: publish}).Run(t.Context(), s), "Relay.Name")
		storetest.WantInvalid(t, "without a selection", (&es.Relay{Name: "r", Publish: publish}).Run(t.Context(), s), "Relay.From")
		storetest.WantInvalid(t, "without Publish", (&es.Relay{Name: "r", From: es.FromAll()}).Run(t.Context(), s), "Relay.Publish")
		storetest.WantInvalid(t, "with a short lease", (&es.Relay{Name: "r", From: es.FromAll(), Publish: publish, Lease: 1}).Run(t.Context(), s), "Relay.Lease")
	})
}

// TestRunnerPace lets a runner follow appends that come all the time: it takes them in batches, no
// more than one every 10 ms unless there are more sealed events than fit into one. Whoever waits for
// a projection is not kept waiting for that.
func TestRunnerPace(t *testing.T) {
	const pace = 10 * time.Millisecond
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		var batches, seen atomic.Int64
		relay := es.Relay{Name: "relay", From: es.FromAll(), Publish: func(_ context.Context, evs []es.Event) error {
			if len(evs) > 1 && len(evs) < 50 { // a larger one may not have been the last of its look
				batches.Add(1)
			}
			seen.Add(int64(len(evs)))
			return nil
		}}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		began := time.Now()
		go func() { ended <- relay.Run(ctx, s) }()
		var stored atomic.Int64
		for _, err := range storetest.Race(4, func(i int) error {
			for v := es.ExpectedVersion(0); time.Since(began) < 400*time.Millisecond; v++ {
				if _, err := s.Append(ctx, "accounts", fmt.Sprint(i), v, storetest.Deposits(1, 1)...); err != nil {
					return err
				}
				stored.Add(1)
			}
			return nil
		}) {
			if err != nil {
				t.Fatal(err)
			}
		}
		storetest.Eventually(t, "all to be published", func() bool { return seen.Load() == stored.Load() })
		if n, most := batches.Load(), int64(time.Since(began)/pace)+2; n > most {
			t.Errorf("%d batches of several events, want %d at most", n, most)
		}
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}

		p := storetest.TotalsOf("totals")
		end := storetest.Running(t, p, s)
		defer func() { _ = end() }()
		fastest, last := time.Hour, time.Now()
		for range 200 {
			evs := storetest.MustAppend(t, s, "accounts", "waited for", es.AnyVersion, storetest.Deposits(2, 1)...)
			if err := p.Wait(t.Context(), s, evs[1].Position); err != nil {
				t.Fatal(err)
			}
			now := time.Now()
			fastest, last = min(fastest, now.Sub(last)), now
			if fastest < pace*3/4 {
				return
			}
		}
		t.Errorf("from one Wait to the next it took %v at least, want less than %v", fastest, pace*3/4)
	})
}
