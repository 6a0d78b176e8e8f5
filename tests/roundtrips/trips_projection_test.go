package roundtrips_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestTripsOfBatches counts the round trips of a projection's batches: a page, and what makes the
// transaction. Where handlers only fold that is the checkpoint's statement by itself; for effects it
// is what begins and ends a transaction around theirs. What is sealed is looked at once for all
// batches that it covers.
func TestTripsOfBatches(t *testing.T) {
	const size = 10
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		begin, guard := 1, 2
		if l.Dialect == es.MySQL {
			// The isolation level and autocommit take statements of their own.
			begin, guard = 2, 4
		}
		if l.Driver == "mysql" {
			l = l.AtIsolation(t, sql.LevelReadCommitted, 1) // at read uncommitted each read takes four trips
		}
		l, proxy := l.Proxied(t, 1)
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "accounts")

		fold := es.On(func(n *int, _ storetest.Deposited) { *n++ })
		write := es.Do(func(ctx context.Context, step *es.Step[int], _ storetest.Deposited) error {
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
			{"one statement for each event", 1 + begin + guard + size + 2, []es.Handler[int]{write}},
			{"a fold and a statement for each event", 1 + begin + guard + size + 2, []es.Handler[int]{fold, write}},
		} {
			// Neither the lease is renewed meanwhile, nor is it time for another look.
			p := &es.Projection[int]{Name: c.name, From: es.FromAll(), When: c.when, BatchSize: size, Lease: time.Hour, Poll: time.Hour}
			trips := func(batches int) int {
				storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(batches*size, 1)...)
				proxy.ResetTrips()
				storetest.CatchUp(t, p, s)
				return proxy.Trips()
			}
			storetest.CatchUp(t, p, s)
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

// TestTripsOfParkedEvents counts the round trips of listing parked events: they do not grow with their number.
func TestTripsOfParkedEvents(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		l, proxy := l.Proxied(t, 1)
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		park := es.DoAny(func(context.Context, *es.Step[int]) error { return errors.New("no") })
		p := &es.Projection[int]{Name: "park", From: es.FromAll(), When: []es.Handler[int]{park}}
		p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Park }
		trips := func(n int) int {
			storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(n, 1)...)
			storetest.CatchUp(t, p, s)
			var got int
			for range 2 { // the statement is known the second time
				proxy.ResetTrips()
				if _, err := s.ParkedEvents(t.Context(), "park"); err != nil {
					t.Fatal(err)
				}
				got = proxy.Trips()
			}
			return got
		}
		if few, many := trips(2), trips(50); many != few {
			t.Errorf("%d trips for 2 parked events, %d for 52, want as many", few, many)
		}
	})
}
