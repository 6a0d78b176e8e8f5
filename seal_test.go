package eventstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	es "example.com/eventstore"
)

// TestSealedByAnother has one process seal and delete events that another has never looked at: its
// sealed position is theirs all the same, or whoever waits there for one of them would wait on.
func TestSealedByAnother(t *testing.T) {
	forEachLane(t, func(t *testing.T, l lane) {
		s, other := l.openTwice(t)
		createStream(t, s, "accounts", "gone")
		mustAppend(t, s, "accounts", "a", es.AnyVersion, events(3, 1)...)
		if _, err := other.Sealed(t.Context()); err != nil {
			t.Fatal(err)
		}
		gone := mustAppend(t, s, "gone", "a", es.AnyVersion, events(1500, 1)...)
		sealed, err := s.Sealed(t.Context())
		if err != nil || sealed != gone[len(gone)-1].Position {
			t.Fatalf("sealed is %d (%v), want %d", sealed, err, gone[len(gone)-1].Position)
		}
		if err := s.DeleteStream(t.Context(), "gone"); err != nil {
			t.Fatal(err)
		}
		if got, err := other.Sealed(t.Context()); err != nil || got != sealed {
			t.Errorf("sealed is %d (%v) in the other process, want %d", got, err, sealed)
		}
	})
}

// TestSealingSteps seals positions that are handed out in steps, as in a cluster of several writers,
// so that there are more holes than events. It has to keep up with appending.
func TestSealingSteps(t *testing.T) {
	forEachKind(t, func(t *testing.T, l lane) {
		if l.driver != "mysql" {
			return // sequences have no steps here
		}
		const step, appends = 7, 400
		l.dsn = withParams(l.dsn, fmt.Sprintf("auto_increment_increment=%d", step))
		l = l.through(t, l.addr(t))
		s := l.open(t, nil)
		createStream(t, s, "accounts")
		began := time.Now()
		var last es.Position
		for i := range appends {
			stored := mustAppend(t, s, "accounts", fmt.Sprint("a", i%10), es.AnyVersion, events(5, 1)...)
			if at := stored[4].Position; at != stored[0].Position+4*step {
				t.Fatalf("five events at %d to %d: positions are not in steps of %d", stored[0].Position, at, step)
			}
			last = stored[4].Position
		}
		appending := time.Since(began)
		began = time.Now()
		if p, err := s.Sealed(t.Context()); err != nil || p != last {
			t.Errorf("sealed is %d (%v), want %d", p, err, last)
		}
		if sealing := time.Since(began); sealing > 2*appending {
			t.Errorf("sealing took %v, appending only %v", sealing, appending)
		}
		if got := collect(t, s.Read(t.Context(), es.FromAll(), es.ReadOptions{Sealed: true})); len(got) != 5*appends {
			t.Errorf("%d events are sealed, want %d", len(got), 5*appends)
		}
	})
}

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
