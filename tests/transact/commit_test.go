package transact_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestTransactCancelledAtCommit has the context end just before COMMIT: what Transact says was not stored is not.
func TestTransactCancelledAtCommit(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		direct, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, direct, "accounts")
		var cancel atomic.Pointer[context.CancelFunc]
		pool := l.InjectedAfter(t, 3, func(string) error { return nil }, func(text string) {
			if strings.HasPrefix(text, "RELEASE SAVEPOINT es_batch") {
				(*cancel.Load())()
			}
		})
		s := pool.OpenIn(t, prefix, nil)
		failed := 0
		for i := range 50 {
			ctx, end := context.WithCancel(t.Context())
			cancel.Store(&end)
			id := fmt.Sprint("a", i)
			err := s.Transact(ctx, func(tx *es.Store) error {
				if _, err := tx.Tx(); err != nil {
					return err
				}
				return storetest.Second(tx.Append(ctx, "accounts", id, es.MustNotExist, storetest.Deposits(1, 1)...))
			})
			end()
			if err != nil {
				failed++
			}
			// Behind the transaction, which has the aggregate locked for as long as it lasts.
			evs := storetest.MustAppend(t, direct, "accounts", id, es.AnyVersion, storetest.Deposits(1, 1)...)
			if stored := evs[0].Version == 2; stored != (err == nil) {
				t.Fatalf("Transact returned %v, and its event is stored: %v", err, stored)
			}
		}
		if failed == 0 {
			t.Error("no transaction was cancelled")
		}
		storetest.Eventually(t, "all connections to be given back", func() bool { return pool.DB.Stats().InUse == 0 })
	})
}

// TestTransactEndedInside has fn end the transaction and then lose a race: it is not run again, since part of it is
// stored.
func TestTransactEndedInside(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts")
		prefix := l.NewPrefix(t, "ended")
		text := "COMMIT"
		if l.Dialect == es.MySQL {
			text = "CREATE TABLE IF NOT EXISTS " + prefix + "ended (id INT)"
		}
		for i, lose := range []func(tx *es.Store) error{
			func(*es.Store) error { return &es.ConflictError{Stream: "accounts"} },
			func(tx *es.Store) error {
				return storetest.Second(tx.Append(ctx, "accounts", "lost", 7, storetest.Deposits(1, 1)...))
			},
		} {
			runs, id := 0, fmt.Sprint("a", i)
			err := s.Transact(ctx, func(tx *es.Store) error {
				runs++
				own, err := tx.Tx()
				if err != nil {
					return err
				}
				if _, err := tx.Append(ctx, "accounts", id, es.AnyVersion, storetest.Deposits(1, 1)...); err != nil {
					return err
				}
				if _, err := own.ExecContext(ctx, text); err != nil {
					return err
				}
				return lose(tx)
			})
			if err == nil || !strings.Contains(err.Error(), "was ended before") {
				t.Errorf("%d: error is %v, want that the transaction was ended", i, err)
			}
			stored := storetest.Collect(t, s.ReadAggregate(ctx, "accounts", id, 0))
			if runs != 1 || len(stored) > 1 {
				t.Errorf("%d: fn was run %d times and has stored %d events", i, runs, len(stored))
			}
		}
	})
}
