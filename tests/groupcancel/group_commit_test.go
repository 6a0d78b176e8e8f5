package groupcancel_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestSharedAppendsCancelled ends the contexts of some appends at random moments: these return at
// once, stored or not; those that they arrived with are all stored.
func TestSharedAppendsCancelled(t *testing.T) {
	storetest.ForEachProcess(t, storetest.AnyLane, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		for i := range 16 { // what the pool keeps running is there by now
			storetest.MustAppend(t, s, "accounts", fmt.Sprint("warm ", i), 0, storetest.Deposits(1, 1)...)
		}
		before := runtime.NumGoroutine()
		errs := storetest.Race(16, func(i int) error {
			id, hasty := fmt.Sprint(i), i%2 == 0
			version := 0
			for n := range 60 {
				ctx, cancel := context.WithCancel(t.Context())
				if hasty {
					time.AfterFunc(rand.N(3*time.Millisecond), cancel)
				}
				began := time.Now()
				_, err := s.Append(ctx, "accounts", id, es.ExpectedVersion(version), storetest.Deposits(2, int64(n))...)
				if took := time.Since(began); hasty && took > 5*time.Second {
					t.Errorf("returned after %v", took)
				}
				cancel()
				switch {
				case err == nil:
					version += 2
				case !hasty || !errors.Is(err, context.Canceled):
					return err
				default:
					// It may be stored, or be on its way: what is in the way of the next one decides.
					for {
						evs := storetest.Collect(t, s.ReadAggregate(t.Context(), "accounts", id, 0))
						storetest.WantVersions(t, evs, len(evs))
						if len(evs)%2 != 0 {
							return fmt.Errorf("half of an append is stored")
						}
						version = len(evs)
						if _, err := s.Append(t.Context(), "accounts", id, es.ExpectedVersion(version), storetest.Deposits(2, int64(n))...); err == nil {
							version += 2
							break
						} else if !errors.Is(err, es.ErrConflict) {
							return err
						}
					}
				}
			}
			return nil
		})
		for i, err := range errs {
			if err != nil {
				t.Errorf("writer %d: %v", i, err)
			}
			if evs := storetest.Collect(t, s.ReadAggregate(t.Context(), "accounts", fmt.Sprint(i), 0)); i%2 == 1 {
				storetest.WantVersions(t, evs, 120)
			}
		}
		storetest.Eventually(t, "connections to be free", func() bool { return l.DB == nil || l.DB.Stats().InUse == 0 })
		most := before
		if l.DB != nil {
			most += 2 * l.DB.Stats().OpenConnections
		}
		storetest.Eventually(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= most })
	})
}
