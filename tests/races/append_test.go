package races_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestAppendRaces is the same without transactions.
func TestAppendRaces(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		for round := range 10 {
			for _, expected := range []es.ExpectedVersion{es.MustNotExist, 2} {
				id := fmt.Sprint(round, "-", expected)
				stored := storetest.MustAppend(t, s, "accounts", id, es.MustNotExist, storetest.Deposits(int(expected), 1)...)
				won := make([][]es.Event, 16)
				winners := 0
				for i, err := range storetest.Race(16, func(i int) (err error) {
					won[i], err = s.Append(context.Background(), "accounts", id, expected, storetest.Deposits(1+i%2, int64(i))...)
					return err
				}) {
					if err == nil {
						winners++
						stored = append(stored, won[i]...)
						continue
					}
					var c *es.ConflictError
					if !errors.As(err, &c) || c.Actual <= int64(expected) || c.Expected != expected {
						t.Errorf("racer %d: %v, want a *ConflictError with a version above %d", i, err, expected)
					}
				}
				if winners != 1 {
					t.Errorf("%d racers won, want 1", winners)
				}
				storetest.SameEvents(t, "stored", storetest.Collect(t, s.ReadAggregate(t.Context(), "accounts", id, 0)), stored)
			}
		}
		storetest.WantIdle(t, l, "at the end")
	})
}
