package panics_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestPanicOfPublish has a relay's functions panic, some time after it has published: all events come again, in
// order, and none is skipped.
func TestPanicOfPublish(t *testing.T) {
	oneByOne(t, func(t *testing.T, l storetest.Lane) {
		b := &bomb{}
		s := l.Open(t, b.options())
		for i, place := range []string{"Publish", "Publish, at its end", "Middleware.Load"} {
			stream, name := fmt.Sprint("s", i), fmt.Sprint("r", i)
			fuses(t, s, stream)
			ctx, cancel := context.WithCancel(t.Context())
			var published []int64
			calls := 0
			rl := &es.Relay{Name: name, From: es.FromStream(stream), Poll: 10 * time.Millisecond, Lease: time.Second, Publish: func(_ context.Context, evs []es.Event) error {
				calls++
				b.at("Publish")
				for _, ev := range evs {
					published = append(published, ev.Version)
				}
				b.at("Publish, at its end")
				return nil
			}}
			b.arm(place)
			done := make(chan error, 1)
			go func() { done <- rl.Run(ctx, s) }()
			storetest.Eventually(t, "the error to be shown", func() bool {
				info := storetest.Info(t, s, name)
				return info.Status == es.StatusRunning && info.Owner != "" && info.Error != ""
			})
			b.disarm()
			storetest.Eventually(t, "the relay", func() bool {
				info := storetest.Info(t, s, name)
				return info.Lag == 0 && info.Error == ""
			})
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("%s: Run: %v", place, err)
			}
			if n := len(published); n < 3 || fmt.Sprint(published[n-3:]) != "[1 2 3]" {
				t.Errorf("%s: published %v in %d calls, want all three in the end", place, published, calls)
			}
			wantNothingLeft(t, l, place)
		}
	})
}
