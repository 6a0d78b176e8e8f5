package races_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestTxRaces has transactions and appends outside any race on one version: one wins.
func TestTxRaces(t *testing.T) {
	storetest.ForEachIsolation(t, func(t *testing.T, l storetest.Lane, opts *sql.TxOptions) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		rounds := 8
		if l.Odd {
			rounds = 3
		}
		for round := range rounds {
			id := fmt.Sprint("a", round)
			before := storetest.MustAppend(t, s, "accounts", id, es.MustNotExist, storetest.Deposits(round%3, 1)...)
			expected := es.ExpectedVersion(len(before))
			won := make([][]es.Event, 16)
			winners := 0
			for i, err := range storetest.Race(16, func(i int) error {
				add := func(s *es.Store) (err error) {
					won[i], err = s.Append(context.Background(), "accounts", id, expected, storetest.Deposits(1+i%2, int64(i))...)
					return err
				}
				if i%4 == 0 {
					return add(s)
				}
				return storetest.InOwnTx(context.Background(), l, s, opts, func(s *es.Store) error {
					// Some look first, and so have a snapshot from before the race.
					if i%4 == 1 {
						if _, err := s.HasStream(context.Background(), "accounts"); err != nil {
							return err
						}
					}
					return add(s)
				})
			}) {
				var conflict *es.ConflictError
				var commit *storetest.CommitError
				switch {
				case err == nil:
					winners++
					before = append(before, won[i]...)
				case errors.As(err, &conflict):
					if conflict.Stream != "accounts" || conflict.AggregateID != id || conflict.Expected != expected {
						t.Errorf("racer %d: conflict is %+v", i, conflict)
					}
				case errors.As(err, &commit) && opts.Isolation == sql.LevelSerializable:
				case errors.Is(err, es.ErrRetryTx) && i%4 != 0:
				default:
					t.Errorf("racer %d: %v, want a *ConflictError or ErrRetryTx", i, err)
				}
			}
			if winners > 1 || winners == 0 && opts.Isolation != sql.LevelSerializable {
				t.Errorf("round %d: %d racers won, want 1", round, winners)
			}
			storetest.SameEvents(t, "stored", storetest.Collect(t, s.ReadAggregate(t.Context(), "accounts", id, 0)), before)
		}
		storetest.WantIdle(t, l, "at the end")
	})
}
