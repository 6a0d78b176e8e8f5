package generators_test

import (
	"database/sql"
	"database/sql/driver"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// setBack sets the generator of a table's numbers back to a last one, as a copy of the table or a replica that
// is promoted may have it. On MySQL and MariaDB it can't be behind what is stored.
func setBack(t *testing.T, l storetest.Lane, prefix, table string, last int64) {
	t.Helper()
	if l.Dialect == es.Postgres {
		column := map[string]string{"events": "position", "streams": "id"}[table]
		l.Exec(t, fmt.Sprintf("SELECT setval(pg_get_serial_sequence('%s%s', '%s'), %d, %t)", prefix, table, column, max(1, last), last > 0))
	} else {
		l.Exec(t, fmt.Sprintf("ALTER TABLE %s%s AUTO_INCREMENT = %d", prefix, table, last+1))
	}
}

// TestGeneratorBehind has the generator of positions fall behind what is sealed: where rows are in the way, and
// where they were deleted. No append succeeds, alone, together with others, of many events and in a
// transaction; nothing of it is stored; and after Install all goes on.
func TestGeneratorBehind(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		for _, deleted := range []bool{true, false} {
			if !deleted && l.Dialect == es.MySQL {
				continue // it can't be behind rows that are there
			}
			for _, known := range []bool{false, true} {
				t.Run(fmt.Sprintf("deleted %t, known %t", deleted, known), func(t *testing.T) {
					s, prefix := l.OpenPrefixed(t)
					storetest.CreateStream(t, s, "accounts", "gone")
					first := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(2, 1)...)
					last := storetest.MustAppend(t, s, "gone", "a", es.AnyVersion, storetest.Deposits(1500, 1)...)[1499].Position
					storetest.SealUpTo(t, s, last)
					if deleted {
						if err := s.DeleteStream(t.Context(), "gone"); err != nil {
							t.Fatal(err)
						}
						l.Exec(t, "DELETE FROM "+prefix+"events WHERE stream_id = 0")
					}
					setBack(t, l, prefix, "events", int64(first[1].Position))
					if !known {
						s = l.OpenIn(t, prefix, nil)
					}
					began := time.Now()
					for what, fn := range map[string]func(s *es.Store) error{
						"an append": func(s *es.Store) error {
							return storetest.Second(s.Append(t.Context(), "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...))
						},
						"one at a version": func(s *es.Store) error {
							return storetest.Second(s.Append(t.Context(), "accounts", "a", 2, storetest.Deposits(1, 1)...))
						},
						"one of many events": func(s *es.Store) error {
							return storetest.Second(s.Append(t.Context(), "accounts", "b", es.MustNotExist, storetest.Deposits(100, 1)...))
						},
						"appends together": func(s *es.Store) error {
							for _, err := range storetest.Race(8, func(i int) error {
								return storetest.Second(s.Append(t.Context(), "accounts", fmt.Sprint("c", i), es.MustNotExist, storetest.Deposits(1, 1)...))
							}) {
								storetest.WantErr(t, "one of several", err, es.ErrInconsistent)
							}
							return es.ErrInconsistent
						},
					} {
						storetest.WantErr(t, what, fn(s), es.ErrInconsistent)
						l.InTx(t, s, false, nil, func(_ *sql.Tx, s *es.Store) {
							if what != "appends together" {
								storetest.WantErr(t, what+" in a transaction", fn(s), es.ErrInconsistent)
							}
						})
					}
					if took := time.Since(began); took > 5*time.Second {
						t.Errorf("it took %v to say so", took)
					}
					want := 2
					if !deleted {
						want += 1500
					}
					if got := storetest.Everything(t, s); len(got) != want {
						t.Errorf("%d events are stored, want %d", len(got), want)
					}
					if err := s.Install(t.Context()); err != nil {
						t.Fatal(err)
					}
					at := storetest.MustAppend(t, s, "accounts", "a", 2, storetest.Deposits(1, 1)...)[0].Position
					if at <= last {
						t.Errorf("position %d was given after %d", at, last)
					}
					storetest.SealUpTo(t, s, at)
					if got := storetest.CatchUp(t, storetest.TotalsOf("totals"), s); got.Position < at {
						t.Errorf("a projection is at %d, want %d", got.Position, at)
					}
				})
			}
		}
	})
}

// TestStreamIDsBehind has the generator of stream ids fall behind what is in use: CreateStream doesn't say that
// the stream exists, and works again after Install.
func TestStreamIDsBehind(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "accounts", "orders", "bills")
		storetest.MustAppend(t, s, "bills", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
		if l.Dialect == es.Postgres {
			setBack(t, l, prefix, "streams", 0)
			storetest.WantErr(t, "CreateStream", s.CreateStream(t.Context(), "new", nil), es.ErrInconsistent)
			setBack(t, l, prefix, "streams", 0)
			l.InTx(t, s, false, nil, func(_ *sql.Tx, s *es.Store) {
				storetest.WantErr(t, "CreateStream in a transaction", s.CreateStream(t.Context(), "new", nil), es.ErrInconsistent)
			})
		} else {
			// A restore of part: the stream is gone, its events are not.
			l.Exec(t, "DELETE FROM "+prefix+"streams WHERE name = 'bills'")
			setBack(t, l, prefix, "streams", 2)
		}
		storetest.WantErr(t, "CreateStream", s.CreateStream(t.Context(), "orders", nil), es.ErrStreamExists)
		if l.Dialect == es.Postgres {
			setBack(t, l, prefix, "streams", 0)
		}
		if err := s.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		storetest.CreateStream(t, s, "new")
		if got := storetest.Collect(t, s.Read(t.Context(), es.FromStream("new"), es.ReadOptions{})); len(got) != 0 {
			t.Errorf("a new stream has %d events", len(got))
		}
	})
}

// TestPositionsCached has the sequence of positions handed out in blocks to each session, so that an aggregate's
// positions are not in the order of its versions: appends and sealing refuse, until Install has mended it.
func TestPositionsCached(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		if l.Dialect != es.Postgres {
			return // there is no such setting
		}
		prefix := l.NewPrefix(t)
		if err := l.OpenIn(t, prefix, nil).Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		beside := l.Beside(t)
		s, other := l.OpenIn(t, prefix, nil), beside.OpenIn(t, prefix, nil)
		storetest.CreateStream(t, s, "accounts")
		l.Exec(t, "ALTER TABLE "+prefix+"events ALTER COLUMN position SET CACHE 20")
		for _, s := range []*es.Store{s, other} {
			_, err := s.Append(t.Context(), "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
			storetest.WantErr(t, "Append", err, es.ErrInconsistent)
			if err == nil || !strings.Contains(err.Error(), "CACHE 20") {
				t.Errorf("the error doesn't name the setting: %v", err)
			}
		}
		// Sessions have numbers left from before.
		for _, l := range []storetest.Lane{l, beside} {
			l.Exec(t, "INSERT INTO "+prefix+"events (stream_id, aggregate_id, version, event_id, name, data, metadata, recorded_at) VALUES (0, '', -nextval(pg_get_serial_sequence('"+prefix+"events', 'position')), gen_random_uuid(), '', 'null', '{}', now())")
		}
		if err := s.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		var last es.Position
		for i := range 10 {
			at := storetest.MustAppend(t, []*es.Store{s, other}[i%2], "accounts", "a", es.ExpectedVersion(i), storetest.Deposits(1, 1)...)[0].Position
			if at <= last {
				t.Errorf("version %d is at position %d, the one before at %d", i+1, at, last)
			}
			last = at
		}
		storetest.SealUpTo(t, s, last)
	})
}

// TestSpareConnectionGone has an append in a transaction ask for the mark on a connection that is gone, as the driver
// leaves one which it has opened in the moment when the time for that ran out. The transaction is none the worse.
func TestSpareConnectionGone(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		var gone atomic.Bool
		l = l.Injected(t, 5, func(text string) error {
			if strings.Contains(text, "'sealed'") && gone.Swap(false) {
				return driver.ErrBadConn
			}
			return nil
		})
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "accounts")
		fresh := l.OpenIn(t, prefix, nil) // which has not asked yet
		tx, err := l.DB.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback() }() // does nothing after the commit
		gone.Store(true)
		if _, err := fresh.WithTx(tx).Append(t.Context(), "accounts", "a", es.MustNotExist, storetest.Deposits(2, 1)...); err != nil {
			t.Fatal(err)
		}
		if gone.Load() {
			t.Error("the mark was not asked for")
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		if n := len(storetest.Everything(t, s)); n != 2 {
			t.Errorf("%d events are stored, want 2", n)
		}
	})
}
