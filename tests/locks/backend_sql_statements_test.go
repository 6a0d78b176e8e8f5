package locks_test

import (
	"database/sql"
	"errors"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestStatementsGoWhileBlocked uses up more statements than a store keeps, while one that all
// connections know is waiting for a lock: nobody waits with it.
func TestStatementsGoWhileBlocked(t *testing.T) {
	const shapes = 150 // each number of rows is a statement of its own
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		l = l.Pool(t, l.DSN, 4)
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "held", 0, storetest.Deposits(1, 1)...)
		errs := storetest.Race(3, func(i int) error {
			for n := range shapes / 3 {
				if _, err := s.Append(t.Context(), "accounts", string(rune('a'+i)), es.AnyVersion, storetest.Deposits(1+n, 1)...); err != nil {
					return err
				}
			}
			return nil
		})
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		blocked, free := make(chan error, 2), make(chan error, 1)
		l.InTx(t, s, true, &sql.TxOptions{Isolation: sql.LevelReadCommitted}, func(_ *sql.Tx, in *es.Store) {
			storetest.MustAppend(t, in, "accounts", "held", 1, storetest.Deposits(1, 1)...)
			for range cap(blocked) {
				go func() {
					_, err := s.Append(t.Context(), "accounts", "held", es.AnyVersion, storetest.Deposits(1, 1)...)
					blocked <- err
				}()
			}
			storetest.Eventually(t, "appends to wait for the transaction", func() bool { return l.DB.Stats().InUse == 3 })
			go func() {
				for n := range shapes {
					if _, err := s.Append(t.Context(), "accounts", "free", es.AnyVersion, storetest.Deposits(1+n, 1)...); err != nil {
						free <- err
						return
					}
				}
				free <- nil
			}()
			select {
			case err := <-free:
				free <- err
			case <-time.After(20 * time.Second):
				t.Error("appends to another aggregate wait for the transaction")
			}
		})
		if err := <-free; err != nil {
			t.Error(err)
		}
		for range cap(blocked) {
			if err := <-blocked; err != nil {
				t.Error(err)
			}
		}
		storetest.WantVersions(t, storetest.Collect(t, s.ReadAggregate(t.Context(), "accounts", "held", 0)), 4)
		storetest.Eventually(t, "connections to be free", func() bool { return l.DB.Stats().InUse == 0 })
	})
}
