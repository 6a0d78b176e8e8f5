package panics_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestPanicAmongSharedAppends has some of the appends that arrive together panic in the codec, and some behind the
// statement that they share with others: all others are stored.
func TestPanicAmongSharedAppends(t *testing.T) {
	const writers, rounds = 16, 12
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		b := &bomb{}
		var late atomic.Int64
		opts := b.options()
		opts.Middleware = []es.Middleware{{Append: func(ctx context.Context, batch es.Batch, next func(context.Context, es.Batch) ([]es.Event, error)) ([]es.Event, error) {
			stored, err := next(ctx, batch)
			if _, ok := batch.Events[0].Payload.(spark); ok && err == nil {
				late.Add(1)
				panic(errBoom)
			}
			return stored, err
		}}}
		s := l.Open(t, opts)
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "first", 0, storetest.Deposits(1, 1)...)
		b.arm("Codec.Marshal")
		errs := storetest.Race(writers, func(i int) error {
			for n := range rounds {
				payload, panics := es.Payload(storetest.Deposited{Cents: 1}), false
				switch i % 4 {
				case 1:
					payload, panics = fuse{n}, true
				case 3:
					payload, panics = spark{}, true
				}
				var err error
				v := caught(func() {
					_, err = s.Append(t.Context(), "accounts", fmt.Sprint(i), es.AnyVersion, es.NewEvent{Payload: payload})
				})
				if err != nil || panics != (v == errBoom) {
					return fmt.Errorf("append %d of %d: %w, and panic %v", n, i, err, v)
				}
			}
			return nil
		})
		if err := errors.Join(errs...); err != nil {
			t.Error(err)
		}
		if n, want := len(storetest.Everything(t, s)), 1+writers/2*rounds+int(late.Load()); n != want || late.Load() != writers/4*rounds {
			t.Errorf("%d events stored, want %d", n, want)
		}
		storetest.Eventually(t, "the connections", func() bool { return l.DB == nil || l.DB.Stats().InUse == 0 })
	})
}
