package eventstore_test

import (
	"context"
	"testing"
	"time"

	es "example.com/eventstore"
)

// TestTripsOfBatches counts the round trips of a projection's batches: a page, and what makes the
// transaction. Where handlers only fold that is the checkpoint's statement by itself; for effects it
// is what begins and ends a transaction around theirs. What is sealed is looked at once for all
// batches that it covers.
func TestTripsOfBatches(t *testing.T) {
	const size = 10
	forEachDatabase(t, func(t *testing.T, l lane) {
		begin := 1
		if l.dialect == es.MySQL {
			begin = 2 // which takes the isolation level in a statement of its own
		}
		l, proxy := l.proxied(t, 1)
		s, prefix := l.openPrefixed(t)
		createStream(t, s, "accounts")

		fold := es.On(func(n *int, _ deposited) { *n++ })
		write := es.Do(func(ctx context.Context, step *es.Step[int], _ deposited) error {
			tx, err := step.Tx()
			if err == nil {
				_, err = tx.ExecContext(ctx, "UPDATE "+prefix+"streams SET name = name")
			}
			return err
		})
		for _, c := range []struct {
			name string
			want int // of a batch
			when []es.Handler[int]
		}{
			{"folds", 2, []es.Handler[int]{fold}},
			{"nothing", 2, []es.Handler[int]{es.DoAny(func(context.Context, *es.Step[int]) error { return nil })}},
			{"one statement for each event", 1 + begin + size + 2, []es.Handler[int]{write}},
			{"a fold and a statement for each event", 1 + begin + size + 2, []es.Handler[int]{fold, write}},
		} {
			// Neither the lease is renewed meanwhile, nor is it time for another look.
			p := &es.Projection[int]{Name: c.name, From: es.FromAll(), When: c.when, BatchSize: size, Lease: time.Hour, Poll: time.Hour}
			trips := func(batches int) int {
				mustAppend(t, s, "accounts", "a", es.AnyVersion, events(batches*size, 1)...)
				proxy.ResetTrips()
				catchUp(t, p, s)
				return proxy.Trips()
			}
			catchUp(t, p, s)
			trips(2) // and all statements are known
			few := trips(1)
			if got := trips(6) - few; got != 5*c.want {
				t.Errorf("%s: %d trips for 5 batches, want %d", c.name, got, 5*c.want)
			}
			// The target, the row, the lease, the row under it, parked events, what is sealed; the
			// lease given back.
			if want := 7 + c.want; few != want {
				t.Errorf("%s: %d trips for a catch-up of one batch, want %d", c.name, few, want)
			}
			if got := trips(0); got != 2 {
				t.Errorf("%s: %d trips for a catch-up of nothing, want 2", c.name, got)
			}
		}
	})
}
