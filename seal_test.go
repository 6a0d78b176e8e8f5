package eventstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	es "example.com/eventstore"
)

// TestSealedUnderLoad has writers keep making new holes, and one transaction stay open: Sealed
// returns all the same, and sees what was committed before the hole that stays.
func TestSealedUnderLoad(t *testing.T) {
	forEachKind(t, func(t *testing.T, l lane) {
		s := l.open(t, nil)
		createStream(t, s, "accounts")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		errs := make(chan error, 1)
		go func() {
			for _, err := range race(8, func(w int) error {
				for ctx.Err() == nil {
					if _, err := s.Append(context.WithoutCancel(ctx), "accounts", fmt.Sprint("a", w), es.AnyVersion, events(2, 1)...); err != nil {
						return err
					}
				}
				return nil
			}) {
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
		for range 50 {
			at := mustAppend(t, s, "accounts", "mine", es.AnyVersion, events(1, 1)...)[0].Position
			limited, stop := context.WithTimeout(ctx, 5*time.Second)
			// What was still uncommitted below it when Sealed looked may hold it up once or twice.
			for tries := 1; ; tries++ {
				p, err := s.Sealed(limited)
				if err != nil || p >= at {
					if err != nil {
						t.Errorf("Sealed: %v, after %d tries", err, tries)
					}
					break
				}
			}
			stop()
		}
		tx, err := l.db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		mustAppend(t, s.WithTx(tx), "accounts", "open", es.AnyVersion, events(1, 1)...)
		limited, stop := context.WithTimeout(ctx, 10*time.Second)
		defer stop()
		for range 20 {
			if _, err := s.Sealed(limited); err != nil {
				t.Fatalf("Sealed beside an open transaction: %v", err)
			}
		}
		if err := tx.Rollback(); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-errs; err != nil {
			t.Error(err)
		}
	})
}
