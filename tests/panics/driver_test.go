package panics_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestDriverPanics has the driver panic now and then, under a projection and in goroutines that the store has
// started. Runs go on; a panic in an append is its caller's, who repeats it. It is a process of its own, since
// database/sql leaves goroutines waiting.
func TestDriverPanics(t *testing.T) {
	storetest.ForEachProcess(t, storetest.AnyKind, func(t *testing.T, l storetest.Lane) {
		const appends, panics = 150, 12
		seed := rand.Uint64()
		random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // not for secrets
		due := make(chan struct{}, 1)
		l = l.Injected(t, 10+2*panics, func(string) error { // database/sql never gets a connection back whose query has panicked
			select {
			case <-due:
				panic(errBoom)
			default:
				return nil
			}
		})
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		p := storetest.TotalsOf("p")
		p.BatchSize = 10
		end := storetest.Running(t, p, s)
		left := panics
		for i := range appends {
			if left > 0 && random.IntN(appends/panics/2) == 0 {
				select {
				case due <- struct{}{}:
					left--
				default:
				}
			}
			evs := storetest.WithIDs(storetest.Deposits(1, 1))
			for again := true; again; {
				var err error
				again = caught(func() { _, err = s.Append(t.Context(), "accounts", fmt.Sprint(i%7), es.AnyVersion, evs...) }) != nil
				if err != nil {
					t.Fatalf("seed %d: append %d: %v", seed, i, err)
				}
			}
		}
		storetest.Eventually(t, "the projection", func() bool {
			cp, err := p.Load(t.Context(), s)
			return err == nil && cp.State.Events >= appends
		})
		if err := end(); err != context.Canceled {
			t.Errorf("seed %d: Run ends with %v", seed, err)
		}
		if cp := storetest.CatchUp(t, p, s); cp.State.Events != appends {
			t.Errorf("seed %d: %d events in the state, want %d", seed, cp.State.Events, appends)
		}
	})
}

// TestParameterPanicsInQuery has a parameter of a handler's query panic within database/sql, which never lets go of the
// connection then. The handler's locks are gone all the same, and the next attempt succeeds. It is a process of its
// own like TestDriverPanics.
func TestParameterPanicsInQuery(t *testing.T) {
	storetest.ForEachProcess(t, storetest.AnyKind, func(t *testing.T, l storetest.Lane) {
		l = l.Pool(t, l.DSN, 5)
		b := &bomb{}
		s := l.Open(t, nil)
		fuses(t, s, "accounts")
		rows := storetest.NewRows(t, l)
		query := "SELECT position FROM " + rows.Name + " WHERE position = ?"
		if l.Dialect == es.Postgres {
			query = "SELECT position FROM " + rows.Name + " WHERE position = $1::bigint"
		}
		var calls atomic.Int64
		p := b.definition(storetest.Projection, "p", "accounts", nil)
		table := rows.Table()
		table.Create = "CREATE TABLE IF NOT EXISTS " + rows.Name + " (position bigint PRIMARY KEY)"
		p.ReadModel = table
		p.When = append(p.When, es.Do(func(ctx context.Context, step *es.Step[tally], _ fuse) error {
			if err := table.Insert(ctx, step, es.Row{"position": 1}); err != nil {
				return err
			}
			tx, err := step.Tx()
			if err != nil {
				return err
			}
			if calls.Add(1) > 1 {
				b.disarm()
			}
			found, err := tx.QueryContext(ctx, query, valuer{b})
			if err != nil {
				return err
			}
			return errors.Join(found.Err(), found.Close())
		}))
		b.arm("driver.Valuer")
		began := time.Now()
		if cp := storetest.CatchUp(t, p, s); cp.State != allOfFuses || calls.Load() != 2 {
			t.Errorf("the state comes to %+v after %d attempts, want %+v after two", cp.State, calls.Load(), allOfFuses)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("took %v: the lock of the attempt before was not gone", took)
		}
		if n := l.DB.Stats().InUse; n != 1 {
			t.Errorf("%d connections in use, want the one that database/sql never gets back", n)
		}
	})
}
