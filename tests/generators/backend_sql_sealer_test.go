package generators_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestEmptiedTables has the tables emptied, made anew or restored to an earlier state while a store is in
// use, and new events stored at positions that it has sealed. It says so instead of skipping them, also where
// there are more of them than there were, and a store that is opened anew goes on.
func TestEmptiedTables(t *testing.T) {
	empty := func(t *testing.T, l storetest.Lane, prefix string) {
		if l.Dialect == es.Postgres {
			l.Exec(t, fmt.Sprintf("TRUNCATE %[1]sevents, %[1]sprojections RESTART IDENTITY", prefix))
		} else {
			l.Exec(t, "TRUNCATE TABLE "+prefix+"events")
			l.Exec(t, "TRUNCATE TABLE "+prefix+"projections")
		}
		l.Exec(t, "DELETE FROM "+prefix+"meta WHERE name = 'sealed'")
	}
	again := func(t *testing.T, l storetest.Lane, prefix string) {
		for _, table := range []string{"events", "streams", "projections", "meta", "snapshots", "parked"} {
			l.Exec(t, "DROP TABLE "+prefix+table)
		}
		s := l.OpenIn(t, prefix, nil)
		if err := s.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		storetest.CreateStream(t, s, "accounts")
	}
	restore := func(t *testing.T, l storetest.Lane, prefix string) {
		l.Exec(t, "DELETE FROM "+prefix+"events WHERE position > 2")
		l.Exec(t, "UPDATE "+prefix+"meta SET value = 1 WHERE name = 'sealed'")
		l.Exec(t, "DELETE FROM "+prefix+"projections")
		if l.Dialect == es.Postgres {
			l.Exec(t, fmt.Sprintf("SELECT setval(pg_get_serial_sequence('%sevents', 'position'), 2)", prefix))
		} else {
			l.Exec(t, "ALTER TABLE "+prefix+"events AUTO_INCREMENT = 3")
		}
	}
	for _, c := range []struct {
		name string
		do   func(t *testing.T, l storetest.Lane, prefix string)
		then int // events
	}{
		{"emptied", empty, 0}, {"emptied and used", empty, 3}, {"emptied and used more", empty, 12},
		{"made anew", again, 0}, {"made anew and used more", again, 12},
		{"restored", restore, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
				s, prefix := l.OpenPrefixed(t)
				storetest.CreateStream(t, s, "accounts")
				last := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(9, 1)...)[8].Position
				storetest.SealUpTo(t, s, last)
				c.do(t, l, prefix)
				other := l.OpenIn(t, prefix, nil)
				if c.then > 0 {
					storetest.MustAppend(t, other, "accounts", "new", es.AnyVersion, storetest.Deposits(c.then, 1)...)
				}
				for range 2 {
					_, err := s.Sealed(t.Context())
					storetest.WantErr(t, "Sealed", err, es.ErrInconsistent)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				storetest.WantErr(t, "Subscribe", storetest.FirstError(s.Subscribe(ctx, es.FromAll(), last)), es.ErrInconsistent)
				storetest.WantErr(t, "Read", storetest.FirstError(s.Read(ctx, es.FromAll(), es.ReadOptions{Sealed: true})), es.ErrInconsistent)
				_, err := s.Stats(ctx)
				storetest.WantErr(t, "Stats", err, es.ErrInconsistent)
				storetest.WantErr(t, "Run", storetest.TotalsOf("totals").Run(ctx, s), es.ErrInconsistent)

				if got := storetest.Everything(t, other); len(got) != len(storetest.Collect(t, other.Read(ctx, es.FromAll(), es.ReadOptions{Sealed: true}))) {
					t.Errorf("a store opened anew seals less than %d events", len(got))
				}
			})
		})
	}
}
