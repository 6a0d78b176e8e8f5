package cancel_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestCancel ends everything that waits or runs at random moments: it returns promptly with the
// context's error, and leaves neither a goroutine nor a connection in use.
func TestCancel(t *testing.T) {
	storetest.ForEachProcess(t, storetest.AnyLane, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(3000, 1)...)
		p := storetest.TotalsOf("totals", es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
			if e.Cents%500 == 0 {
				return step.Emit(ctx, es.NewEvent{Payload: e})
			}
			return nil
		}))
		p.BatchSize = 100
		relay := es.Relay{Name: "relay", From: es.FromAll(), BatchSize: 100, Publish: func(context.Context, []es.Event) error { return nil }}
		calls := map[string]func(ctx context.Context) error{
			"Run":       func(ctx context.Context) error { return p.Run(ctx, s) },
			"Relay.Run": func(ctx context.Context) error { return relay.Run(ctx, s) },
			"Wait":      func(ctx context.Context) error { return p.Wait(ctx, s, 1<<40) },
			"CatchUp": func(ctx context.Context) error {
				for {
					if _, err := p.CatchUp(ctx, s); err != nil {
						return err
					}
				}
			},
			"Query": func(ctx context.Context) error {
				q := es.Query[int]{From: es.FromAll(), When: []es.Fold[int]{es.On(func(n *int, _ storetest.Deposited) { *n++ })}}
				for {
					if _, err := q.Run(ctx, s); err != nil {
						return err
					}
				}
			},
			"Load": func(ctx context.Context) error {
				for {
					if _, err := storetest.Accounts.Load(ctx, s, "a"); err != nil {
						return err
					}
				}
			},
			"Subscribe": func(ctx context.Context) error {
				for _, err := range s.Subscribe(ctx, es.FromAll(), 0) {
					if err != nil {
						return err
					}
				}
				return nil
			},
		}
		// What the drivers and the pool keep running is there by now.
		for name, call := range calls {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			_ = call(ctx)
			cancel()
			_ = name
		}
		idle := func() int { time.Sleep(5 * time.Millisecond); return runtime.NumGoroutine() }
		for name, call := range calls {
			for range 8 {
				before := idle()
				ctx, cancel := context.WithCancel(t.Context())
				var cancelled time.Time
				time.AfterFunc(rand.N(25*time.Millisecond), func() { cancelled = time.Now(); cancel() })
				err := call(ctx)
				if !errors.Is(err, context.Canceled) {
					t.Errorf("%s returned %v, want context.Canceled", name, err)
				}
				<-ctx.Done()
				if took := time.Since(cancelled); took > 3*time.Second {
					t.Errorf("%s returned %v after its context ended", name, took)
				}
				storetest.Eventually(t, "connections to be free after "+name, func() bool { return l.DB == nil || l.DB.Stats().InUse == 0 })
				storetest.Eventually(t, "goroutines to end after "+name, func() bool { return runtime.NumGoroutine() <= before+2 })
			}
		}
		if cp := storetest.CatchUp(t, p, s); cp.State.Events != 3000 {
			t.Errorf("in the end %d events, want 3000", cp.State.Events)
		}
		if got := storetest.Collect(t, s.Read(t.Context(), es.FromStream("totals"), es.ReadOptions{})); len(got) != 6 {
			t.Errorf("%d events emitted, want 6", len(got))
		}
	})
}
