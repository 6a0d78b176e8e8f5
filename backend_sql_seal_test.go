package eventstore_test

import (
	"database/sql"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestSealingStalls has transactions hold sealing up for longer and longer: the logger is told after
// five seconds, at twice that and so on, and when it is over; of a short wait it is told nothing.
func TestSealingStalls(t *testing.T) {
	writers := regexp.MustCompile(` writers="?\[[0-9]+/[0-9]+\]"?`)
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		var log storetest.Log
		prefix := l.NewPrefix(t)
		s := l.OpenIn(t, prefix, &es.Options{Logger: log.Logger()})
		if err := s.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		storetest.CreateStream(t, s, "accounts")
		beside := l.Beside(t)
		other := beside.OpenIn(t, prefix, nil)
		began := time.Now()
		now := began
		es.SetSealingClock(s, func() time.Time { return now })
		look := func(after time.Duration, want ...string) {
			t.Helper()
			now = began.Add(after)
			if _, err := s.Sealed(t.Context()); err != nil {
				t.Fatal(err)
			}
			got := log.Take()
			if l.Dialect == es.Postgres {
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
			tx, at := beside.AppendOpen(t, other, "long", 3)
			storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
			look(0)
			look(4900 * time.Millisecond)
			look(5*time.Second, waits(at, "5s"))
			look(6 * time.Second)
			storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
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
		tx, _ := beside.AppendOpen(t, other, "short", 1)
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
		look(2 * time.Hour)
		look(2*time.Hour + 4*time.Second)
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		look(3 * time.Hour)

		// One behind the other, nearly as old.
		began = began.Add(4 * time.Hour)
		tx, first := beside.AppendOpen(t, other, "first", 1)
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
		look(0)
		tx2, second := beside.AppendOpen(t, other, "second", 1)
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
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
