package eventstore_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/testserver"
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
		// These are left for the other to see, in front of what is gone.
		mustAppend(t, s, "accounts", "a", es.AnyVersion, events(2, 4)...)
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
		l = l.pool(t, withParams(l.dsn, fmt.Sprintf("auto_increment_increment=%d", step)), 30)
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

// TestSealingWaitsForPrepared has a transaction prepared after its hole was seen, and the server
// started anew, behind which the transaction has another name there: sealing neither passes it nor
// waits for its lock.
func TestSealingWaitsForPrepared(t *testing.T) {
	if *memoryOnly {
		t.Log("there is no server, as -memory says")
		return
	}
	ctx := t.Context()
	server, err := testserver.Start(ctx, testserver.Postgres, testserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() })
	l := lane{name: "postgres", driver: "pgx", dsn: server.DSN("postgres"), dialect: es.Postgres}
	l = l.through(t, server.Addr(), 30)
	if _, err := l.db.ExecContext(ctx, "ALTER SYSTEM SET max_prepared_transactions = 10"); err != nil {
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
	l.db.SetMaxIdleConns(0) // those from before
	s := l.open(t, nil)
	createStream(t, s, "accounts")
	// What a failure leaves prepared would keep the tables from being dropped.
	t.Cleanup(func() { _, _ = l.db.Exec("ROLLBACK PREPARED 'two'") })
	sealed := func(want es.Position) {
		t.Helper()
		limited, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if got, err := s.Sealed(limited); err != nil || got != want {
			t.Fatalf("sealed is %d (%v), want %d", got, err, want)
		}
	}
	first := mustAppend(t, s, "accounts", "a", es.AnyVersion, events(1, 1)...)[0].Position
	for i := range 4 {
		tx, err := l.db.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		mustAppend(t, s.WithTx(tx), "accounts", fmt.Sprint("prepared", i), es.AnyVersion, events(1, 1)...)
		last := mustAppend(t, s, "accounts", "a", es.AnyVersion, events(1, 1)...)[0].Position
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
		if _, err := l.db.ExecContext(ctx, []string{"COMMIT", "ROLLBACK"}[i%2]+" PREPARED 'two'"); err != nil {
			t.Fatal(err)
		}
		sealed(last)
		first = last
	}
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

// logged is what a store has told its logger, but for the times of day.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *logged) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// take returns the lines since it was last called.
func (l *logged) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}

// beside returns the lane with a pool of its own, in which a transaction can stay open whatever the
// size of the lane's.
func (l lane) beside(t testing.TB) lane { return l.pool(t, l.dsn, 3) }

// appendOpen appends in a transaction and leaves it open.
func (l lane) appendOpen(t testing.TB, s *es.Store, id string, n int) (*sql.Tx, es.Position) {
	t.Helper()
	tx, err := l.db.BeginTx(context.WithoutCancel(t.Context()), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback() }) // does nothing behind the test's own end
	return tx, mustAppend(t, s.WithTx(tx), "accounts", id, es.AnyVersion, events(n, 1)...)[0].Position
}

// TestSealingStalls has transactions hold sealing up for longer and longer: the logger is told after
// five seconds, at twice that and so on, and when it is over; of a short wait it is told nothing.
func TestSealingStalls(t *testing.T) {
	writers := regexp.MustCompile(` writers="?\[[0-9]+/[0-9]+\]"?`)
	forEachDatabase(t, func(t *testing.T, l lane) {
		var log logged
		prefix := l.newPrefix(t)
		s := l.openIn(t, prefix, &es.Options{Logger: log.logger()})
		if err := s.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		createStream(t, s, "accounts")
		beside := l.beside(t)
		other := beside.openIn(t, prefix, nil)
		began := time.Now()
		now := began
		es.SetSealingClock(s, func() time.Time { return now })
		look := func(after time.Duration, want ...string) {
			t.Helper()
			now = began.Add(after)
			if _, err := s.Sealed(t.Context()); err != nil {
				t.Fatal(err)
			}
			got := log.take()
			if l.dialect == es.Postgres {
				if n := len(writers.FindAllString(got, -1)); n != strings.Count(got, "sealing waits") {
					t.Errorf("after %v the logger was told\n%swhich names the writers of %d waits", after, got, n)
				}
				got = writers.ReplaceAllString(got, "")
			}
			var lines string
			for _, text := range want {
				lines += "level=WARN msg=" + text + "\n"
			}
			if got != lines {
				t.Errorf("after %v the logger was told\n%swant\n%s", after, got, lines)
			}
		}
		waits := func(p es.Position, waited string) string {
			return fmt.Sprintf("\"sealing waits\" position=%d waited=%s", p, waited)
		}
		goesOn := func(p es.Position, waited string) string {
			return fmt.Sprintf("\"sealing goes on\" position=%d waited=%s", p, waited)
		}

		look(0)
		for _, end := range []func(*sql.Tx) error{(*sql.Tx).Commit, (*sql.Tx).Rollback} {
			began = began.Add(time.Hour)
			tx, at := beside.appendOpen(t, other, "long", 3)
			mustAppend(t, s, "accounts", "a", es.AnyVersion, events(1, 1)...)
			look(0)
			look(4900 * time.Millisecond)
			look(5*time.Second, waits(at, "5s"))
			look(6 * time.Second)
			mustAppend(t, s, "accounts", "a", es.AnyVersion, events(1, 1)...)
			look(11*time.Second, waits(at, "11s"))
			look(19 * time.Second)
			look(45*time.Second, waits(at, "45s"))
			look(79 * time.Second)
			look(80*time.Second, waits(at, "1m20s"))
			if err := end(tx); err != nil {
				t.Fatal(err)
			}
			look(81*time.Second, goesOn(at, "1m21s"))
			look(90 * time.Second)
		}

		// One that is over in time.
		tx, _ := beside.appendOpen(t, other, "short", 1)
		mustAppend(t, s, "accounts", "a", es.AnyVersion, events(1, 1)...)
		look(2 * time.Hour)
		look(2*time.Hour + 4*time.Second)
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		look(3 * time.Hour)

		// One behind the other, nearly as old.
		began = began.Add(4 * time.Hour)
		tx, first := beside.appendOpen(t, other, "first", 1)
		mustAppend(t, s, "accounts", "a", es.AnyVersion, events(1, 1)...)
		look(0)
		tx2, second := beside.appendOpen(t, other, "second", 1)
		mustAppend(t, s, "accounts", "a", es.AnyVersion, events(1, 1)...)
		look(time.Second)
		look(7*time.Second, waits(first, "7s"))
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
		look(8*time.Second, goesOn(first, "8s"), waits(second, "7s"))
		if err := tx2.Rollback(); err != nil {
			t.Fatal(err)
		}
		look(9*time.Second, goesOn(second, "8s"))
	})
}
