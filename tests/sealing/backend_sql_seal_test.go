package sealing_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
	"example.com/eventstore/internal/testserver"
)

// TestSealedByAnother has one process seal and delete events that another has never looked at: its
// sealed position is theirs all the same, or whoever waits there for one of them would wait on.
func TestSealedByAnother(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, other := l.OpenTwice(t)
		storetest.CreateStream(t, s, "accounts", "gone")
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(3, 1)...)
		if _, err := other.Sealed(t.Context()); err != nil {
			t.Fatal(err)
		}
		// These are left for the other to see, in front of what is gone.
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(2, 4)...)
		gone := storetest.MustAppend(t, s, "gone", "a", es.AnyVersion, storetest.Deposits(1500, 1)...)
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
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		if l.Driver != "mysql" {
			return // sequences have no steps here
		}
		for _, step := range []int64{7, 1000} {
			sealSteps(t, l.Pool(t, storetest.WithParams(l.DSN, fmt.Sprintf("auto_increment_increment=%d", step)), 30), step)
		}
	})
}

func sealSteps(t *testing.T, l storetest.Lane, step int64) {
	const appends = 400
	s := l.Open(t, nil)
	storetest.CreateStream(t, s, "accounts")
	began := time.Now()
	var last es.Position
	for i := range appends {
		stored := storetest.MustAppend(t, s, "accounts", fmt.Sprint("a", i%10), es.AnyVersion, storetest.Deposits(5, 1)...)
		if at := stored[4].Position; at != stored[0].Position+es.Position(4*step) {
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
		t.Errorf("steps of %d: sealing took %v, appending only %v", step, sealing, appending)
	}
	if got := storetest.Collect(t, s.Read(t.Context(), es.FromAll(), es.ReadOptions{Sealed: true})); len(got) != 5*appends {
		t.Errorf("%d events are sealed, want %d", len(got), 5*appends)
	}
}

// TestSealingWaitsForPrepared has a transaction prepared after its hole was seen, and the server
// started anew, behind which the transaction has another name there: sealing neither passes it nor
// waits for its lock.
func TestSealingWaitsForPrepared(t *testing.T) {
	if storetest.MemoryOnly() {
		t.Log("there is no server, as -memory says")
		return
	}
	ctx := t.Context()
	server, err := testserver.Start(ctx, testserver.Postgres, testserver.Options{Small: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() })
	l := storetest.Lane{Name: "postgres", Driver: "pgx", DSN: server.DSN("postgres"), Dialect: es.Postgres}
	l = l.Through(t, server.Addr(), 30)
	if _, err := l.DB.ExecContext(ctx, "ALTER SYSTEM SET max_prepared_transactions = 10"); err != nil {
		t.Fatal(err)
	}
	restart := func() {
		t.Helper()
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := server.Restart(ctx); err != nil {
			t.Fatal(err)
		}
	}
	restart()
	l.DB.SetMaxIdleConns(0) // those from before
	s := l.Open(t, nil)
	storetest.CreateStream(t, s, "accounts")
	// What a failure leaves prepared would keep the tables from being dropped.
	t.Cleanup(func() { _, _ = l.DB.Exec("ROLLBACK PREPARED 'two'") })
	sealed := func(want es.Position) {
		t.Helper()
		limited, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if got, err := s.Sealed(limited); err != nil || got != want {
			t.Fatalf("sealed is %d (%v), want %d", got, err, want)
		}
	}
	first := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)[0].Position
	for i := range 4 {
		tx, err := l.DB.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		storetest.MustAppend(t, s.WithTx(tx), "accounts", fmt.Sprint("prepared", i), es.AnyVersion, storetest.Deposits(1, 1)...)
		last := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)[0].Position
		sealed(first)
		if _, err := tx.ExecContext(ctx, "PREPARE TRANSACTION 'two'"); err != nil {
			t.Fatal(err)
		}
		_ = tx.Rollback() // to which there is nothing any more
		if i >= 2 {
			restart()
		}
		for range 3 {
			sealed(first)
		}
		if _, err := l.DB.ExecContext(ctx, []string{"COMMIT", "ROLLBACK"}[i%2]+" PREPARED 'two'"); err != nil {
			t.Fatal(err)
		}
		sealed(last)
		first = last
	}
}

// TestSealedUnderLoad has writers keep making new holes, and one transaction stay open: Sealed
// returns all the same, and sees what was committed before the hole that stays.
func TestSealedUnderLoad(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		errs := make(chan error, 1)
		go func() {
			for _, err := range storetest.Race(8, func(w int) error {
				for ctx.Err() == nil {
					if _, err := s.Append(context.WithoutCancel(ctx), "accounts", fmt.Sprint("a", w), es.AnyVersion, storetest.Deposits(2, 1)...); err != nil {
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
			at := storetest.MustAppend(t, s, "accounts", "mine", es.AnyVersion, storetest.Deposits(1, 1)...)[0].Position
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
		tx, err := l.DB.Begin()
		if err != nil {
			t.Fatal(err)
		}
		storetest.MustAppend(t, s.WithTx(tx), "accounts", "open", es.AnyVersion, storetest.Deposits(1, 1)...)
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
