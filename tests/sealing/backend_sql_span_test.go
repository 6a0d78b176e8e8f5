package sealing_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// jump moves the generator of positions on to the first one after a position.
func jump(t *testing.T, l storetest.Lane, prefix string, to int64) {
	t.Helper()
	if l.Dialect == es.Postgres {
		l.Exec(t, fmt.Sprintf("SELECT setval(pg_get_serial_sequence('%sevents', 'position'), %d)", prefix, to))
	} else {
		l.Exec(t, fmt.Sprintf("ALTER TABLE %sevents AUTO_INCREMENT = %d", prefix, to+1))
	}
}

// gapAt inserts a row by hand, behind which MySQL and MariaDB go on.
func gapAt(prefix string, at int64) string {
	return fmt.Sprintf("INSERT INTO %[1]sevents (position, stream_id, aggregate_id, version, event_id, name, data, metadata, recorded_at) VALUES (%[2]d, 0, '', -%[2]d, UNHEX(LPAD(HEX(%[2]d), 32, '0')), '', 'null', '{}', UTC_TIMESTAMP(6))", prefix, at)
}

// TestSealingPassesJumps has the generator of positions jump by 1000, by a million, and by 10^9, and
// counts what sealing makes of it: time, memory and gap rows.
func TestSealingPassesJumps(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		other := l.OpenIn(t, prefix, nil)
		storetest.CreateStream(t, s, "accounts")
		last := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(3, 1)...)[2].Position
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for i, by := range []int64{1000, 1_000_000, 1_000_000_000} {
			jump(t, l, prefix, int64(last)+by)
			last = storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)[0].Position
			if took := storetest.SealUpTo(t, s, last); took > 5*time.Second {
				t.Errorf("a jump by %d was passed in %v", by, took)
			}
			if i == 1 {
				storetest.SealUpTo(t, other, last)
			}
		}
		runtime.ReadMemStats(&after)
		if n := int64(after.TotalAlloc-before.TotalAlloc) >> 20; n > 64*int64(len(storetest.Lanes())) { // other lanes run beside it
			t.Errorf("sealing allocated %d MiB", n)
		}
		storetest.SealUpTo(t, other, last) // by the mark
		storetest.SealUpTo(t, l.OpenIn(t, prefix, nil), last)
		if n := l.Lines(t, "SELECT COUNT(*) FROM "+prefix+"events WHERE stream_id = 0")[0]; n != "0" {
			t.Errorf("there are %s gap rows", n)
		}
		l.InTx(t, s, false, nil, func(_ *sql.Tx, s *es.Store) {
			if p, err := s.Sealed(t.Context()); err != nil || p != last {
				t.Errorf("sealed is %d (%v) in a transaction, want %d", p, err, last)
			}
		})
		if got := storetest.Collect(t, other.Read(t.Context(), es.FromAll(), es.ReadOptions{Sealed: true})); len(got) != 6 {
			t.Errorf("%d events are sealed, want 6", len(got))
		}
	})
}

// TestSealingWaitsInJumps has the generator jump while appends are in flight: one that has stored its
// event, one whose statement waits for a lock with numbers that no row tells of, one to a stream that is
// made by the same transaction, and a row that is inserted by hand. Sealing doesn't pass them, however long they take.
func TestSealingWaitsInJumps(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		prefix := l.NewPrefix(t)
		s := l.OpenIn(t, prefix, nil)
		if err := s.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		storetest.CreateStream(t, s, "accounts", "others")
		beside := l.Beside(t)
		slow := beside.OpenIn(t, prefix, nil)
		last := storetest.MustAppend(t, s, "others", "a", es.AnyVersion, storetest.Deposits(1, 1)...)[0].Position
		for _, inFlight := range []func(t *testing.T) (finish func()){
			func(t *testing.T) func() {
				tx, _ := beside.AppendOpen(t, slow, fmt.Sprint("a", last), 2)
				return func() { finish(t, tx.Commit) }
			},
			func(t *testing.T) func() {
				id := fmt.Sprint("b", last)
				first, at := beside.AppendOpen(t, slow, id, 1)
				done := make(chan error, 1)
				go func() {
					if l.Dialect == es.MySQL {
						done <- insertLate(context.WithoutCancel(t.Context()), beside, prefix, id)
						return
					}
					_, err := slow.Append(context.WithoutCancel(t.Context()), "accounts", id, es.MustNotExist, storetest.Deposits(3, 1)...)
					done <- err
				}()
				waitForLock(t, l, prefix, at)
				return func() {
					finish(t, first.Rollback)
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
			},
			func(t *testing.T) func() {
				tx, err := beside.DB.BeginTx(context.WithoutCancel(t.Context()), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = tx.Rollback() })
				name := fmt.Sprint("made", last)
				storetest.CreateStream(t, slow.WithTx(tx), name)
				storetest.MustAppend(t, slow.WithTx(tx), name, "a", es.AnyVersion, storetest.Deposits(1, 1)...)
				return func() { finish(t, tx.Commit) }
			},
			func(t *testing.T) func() {
				tx, err := beside.DB.BeginTx(context.WithoutCancel(t.Context()), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = tx.Rollback() })
				id := fmt.Sprintf("'%032x'", last)
				if l.Dialect == es.MySQL {
					id = "UNHEX(" + id + ")"
				}
				if _, err := tx.Exec(fmt.Sprintf("INSERT INTO %sevents (stream_id, aggregate_id, version, event_id, name, data, metadata, recorded_at) VALUES (1, 'by hand', 1, %s, 'by hand', '{}', '{}', CURRENT_TIMESTAMP)", prefix, id)); err != nil {
					t.Fatal(err)
				}
				return func() { finish(t, tx.Commit) }
			},
		} {
			end := inFlight(t)
			from, err := s.Sealed(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if l.Dialect == es.Postgres {
				jump(t, l, prefix, int64(last)+1_000_000)
			} else {
				// ALTER TABLE would wait for what is in flight.
				l.Exec(t, gapAt(prefix, int64(last)+1_000_000))
			}
			last = storetest.MustAppend(t, s, "others", "a", es.AnyVersion, storetest.Deposits(1, 1)...)[0].Position
			for range 5 {
				if p, err := s.Sealed(t.Context()); err != nil || p != from {
					t.Fatalf("sealed is %d (%v) while an append is in flight, want %d", p, err, from)
				}
			}
			// What is sealed from here on is not below what a reader has seen.
			end()
			storetest.SealUpTo(t, s, last)
			stored := storetest.Collect(t, s.Read(t.Context(), es.FromAll(), es.ReadOptions{After: from}))
			sealed := storetest.Collect(t, s.Read(t.Context(), es.FromAll(), es.ReadOptions{After: from, Sealed: true}))
			storetest.SameEvents(t, "sealed", sealed, stored)
			// On Postgres a statement that waits draws its other numbers later.
			if len(stored) < 2 || l.Dialect == es.MySQL && stored[len(stored)-2].Position > from+1_000_000 {
				t.Errorf("what was in flight is not in the span: %d events", len(stored))
			}
		}
	})
}

func finish(t *testing.T, end func() error) {
	t.Helper()
	if err := end(); err != nil {
		t.Fatal(err)
	}
}

// insertLate inserts three events as appends on MySQL and MariaDB do: with the stream's row locked, and by one
// statement, which is given its numbers at once. An aggregate that another begins keeps it waiting for the lock of
// its first row, also where appends avoid that.
func insertLate(ctx context.Context, l storetest.Lane, prefix, id string) error {
	tx, err := l.DB.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after the commit
	if _, err := tx.ExecContext(ctx, "SELECT id FROM "+prefix+"streams WHERE id = 1 LOCK IN SHARE MODE"); err != nil {
		return err
	}
	rows := ""
	for v := 1; v <= 3; v++ {
		rows += fmt.Sprintf(", (1, '%[1]s', %[2]d, UNHEX(LEFT(SHA2('%[1]s %[2]d', 256), 32)), 'late', '{}', '{}', UTC_TIMESTAMP(6))", id, v)
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO "+prefix+"events (stream_id, aggregate_id, version, event_id, name, data, metadata, recorded_at) VALUES "+rows[2:]); err != nil {
		return err
	}
	return tx.Commit()
}

// waitForLock waits until an append waits for a lock. On MySQL and MariaDB it has inserted its first row by
// then, after a position.
func waitForLock(t *testing.T, l storetest.Lane, prefix string, at es.Position) {
	t.Helper()
	storetest.Eventually(t, "the append waits for a lock", func() bool {
		if l.Dialect == es.Postgres {
			return l.Lines(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%INSERT INTO "+prefix+"events%'")[0] != "0"
		}
		var n int
		return l.DB.QueryRow(fmt.Sprintf("SELECT COUNT(*) FROM %sevents WHERE position > %d FOR UPDATE NOWAIT", prefix, at)).Scan(&n) != nil
	})
}

// TestSealingPassesJumpsUnderLoad has the generator jump while a stream is appended to without a pause,
// so that there is no moment at which no append is in flight.
func TestSealingPassesJumpsUnderLoad(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "accounts")
		other := l.OpenIn(t, prefix, nil)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		errs := make(chan error, 1)
		go func() {
			for _, err := range storetest.Race(8, func(w int) error {
				for ctx.Err() == nil {
					if _, err := s.Append(context.WithoutCancel(ctx), "accounts", fmt.Sprint("a", w), es.AnyVersion, storetest.Deposits(20, 1)...); err != nil {
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
		last := storetest.MustAppend(t, s, "accounts", "mine", es.AnyVersion, storetest.Deposits(1, 1)...)[0].Position
		jump(t, l, prefix, int64(last)+1_000_000_000)
		last = storetest.MustAppend(t, s, "accounts", "mine", es.AnyVersion, storetest.Deposits(1, 1)...)[0].Position
		if took := storetest.SealUpTo(t, other, last); took > 10*time.Second {
			t.Errorf("the jump was passed in %v", took)
		} else {
			t.Logf("the jump was passed in %v", took)
		}
		cancel()
		if err := <-errs; err != nil {
			t.Error(err)
		}
	})
}

// TestJumpsUnderStorm has the generator jump again and again, by short and by long spans, under writers whose
// transactions are committed and rolled back, and two processes that seal. A reader in sealed order sees every
// event once, in order.
func TestJumpsUnderStorm(t *testing.T) {
	storetest.ForEach(t, 2, storetest.AnyKind, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "accounts", "others")
		began := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		seen := make(chan []es.Event, 2)
		for range 2 {
			reader := l.OpenIn(t, prefix, nil)
			go func() {
				var got []es.Event
				for ev, err := range reader.Subscribe(ctx, es.FromAll(), 0) {
					if err != nil {
						if ctx.Err() == nil {
							t.Error(err)
						}
						break
					}
					got = append(got, ev)
					if ev.AggregateID == "last" {
						break
					}
				}
				seen <- got
			}()
		}
		write := func(w int) error {
			ctx := context.WithoutCancel(t.Context())
			events := storetest.Deposits(1+rand.N(200), 1)
			if rand.N(2) == 0 {
				return storetest.Second(s.Append(ctx, "others", fmt.Sprint("a", w), es.AnyVersion, events...))
			}
			tx, err := l.DB.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback() }() // does nothing after the commit
			if _, err := s.WithTx(tx).Append(ctx, "accounts", fmt.Sprint("a", w), es.AnyVersion, events...); err != nil {
				return err
			}
			_ = storetest.Pause(ctx, rand.N(30*time.Millisecond))
			if rand.N(2) == 0 {
				return nil
			}
			return tx.Commit()
		}
		for i, err := range storetest.Race(9, func(w int) error {
			for time.Since(began) < 2*time.Second {
				if w > 0 {
					if err := write(w); err != nil {
						return err
					}
					continue
				}
				_ = storetest.Pause(ctx, 50*time.Millisecond)
				by := 1000 + rand.Int64N(1_000_000)
				text := fmt.Sprintf("SELECT setval(s, nextval(s) + %d) FROM pg_get_serial_sequence('%sevents', 'position') s", by, prefix)
				if l.Dialect == es.MySQL {
					var to int64
					if err := l.DB.QueryRow("SELECT COALESCE(MAX(position), 0) FROM " + prefix + "events").Scan(&to); err != nil {
						return err
					}
					text = gapAt(prefix, to+by)
				}
				if _, err := l.DB.Exec(text); err != nil {
					return err
				}
			}
			return nil
		}) {
			if err != nil {
				t.Errorf("writer %d: %v", i, err)
			}
		}
		last := storetest.MustAppend(t, s, "others", "last", es.AnyVersion, storetest.Deposits(1, 1)...)[0].Position
		storetest.SealUpTo(t, s, last)
		want := storetest.Everything(t, s)
		for range 2 {
			storetest.SameEvents(t, "seen by a reader", <-seen, want)
		}
		t.Logf("%d events up to position %d", len(want), last)
	})
}
