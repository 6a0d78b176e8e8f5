package batches_test

import (
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestAppendMany stores 20,000 events with one call, or none of them.
func TestAppendMany(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		n := 20000
		if l.Odd {
			n = 5500 // more than one statement on MySQL
		}
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		refused := storetest.WithIDs(storetest.Deposits(n, 1))
		for _, expected := range []es.ExpectedVersion{1, es.MustExist} {
			_, err := s.Append(t.Context(), "accounts", "big", expected, refused...)
			storetest.WantConflict(t, "to a missing aggregate", err, es.ConflictError{Stream: "accounts", AggregateID: "big", Expected: expected})
		}
		one := storetest.MustAppend(t, s, "accounts", "one", es.MustNotExist, storetest.Deposits(1, 1)...)
		refused[n-10].ID = one[0].ID
		_, err := s.Append(t.Context(), "accounts", "big", es.MustNotExist, refused...)
		storetest.WantConflict(t, "with an ID in use near the end", err, es.ConflictError{Stream: "accounts", AggregateID: "big", Expected: es.MustNotExist})
		storetest.SameEvents(t, "after refusals", storetest.Everything(t, s), one)
		storetest.WantIdle(t, l, "after refusals")

		stored := storetest.MustAppend(t, s, "accounts", "big", es.MustNotExist, storetest.Deposits(n, 1)...)
		storetest.WantVersions(t, stored, n)
		storetest.SameEvents(t, "stored", storetest.Collect(t, s.ReadAggregate(t.Context(), "accounts", "big", 0)), stored)
		storetest.WantIdle(t, l, "at the end")
	})
}
