package erasing_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestDeleteLeavesSealingAlone deletes in a transaction that stays open: sealing passes the events that
// are deleted, and those appended since, and projections go on.
func TestDeleteLeavesSealingAlone(t *testing.T) {
	storetest.ForEachIsolation(t, func(t *testing.T, l storetest.Lane, opts *sql.TxOptions) {
		if l.Odd {
			return // enough once for each kind of database
		}
		prefix := l.NewPrefix(t)
		pool := l.Beside(t)
		s, other := pool.OpenIn(t, prefix, nil), pool.OpenIn(t, prefix, nil)
		if err := s.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		storetest.CreateStream(t, s, "accounts", "gone")
		p := storetest.TotalsOf("totals")
		for name, remove := range map[string]func(*es.Store) error{
			"DeleteAggregate": func(in *es.Store) error { return in.DeleteAggregate(t.Context(), "accounts", "gone") },
			"DeleteStream":    func(in *es.Store) error { return in.DeleteStream(t.Context(), "gone") },
		} {
			// Enough for the database to be told of the sealed position, and some that nobody has looked at.
			storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1100, 1)...)
			storetest.MustAppend(t, s, "gone", "a", es.AnyVersion, storetest.Deposits(5, 1)...)
			storetest.MustAppend(t, s, "accounts", "gone", es.AnyVersion, storetest.Deposits(5, 1)...)
			storetest.CatchUp(t, p, s)
			storetest.MustAppend(t, s, "gone", "a", es.AnyVersion, storetest.Deposits(5, 1)...)
			storetest.MustAppend(t, s, "accounts", "gone", es.AnyVersion, storetest.Deposits(5, 1)...)
			last := storetest.MustAppend(t, s, "accounts", "b", es.AnyVersion, storetest.Deposits(1100, 1)...)[1099].Position
			pool.InTx(t, s, false, opts, func(_ *sql.Tx, in *es.Store) {
				if err := remove(in); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if l.Dialect == es.Postgres || opts.Isolation != sql.LevelSerializable { // or the transaction has locked what it has read
					stored, err := s.Append(ctx, "accounts", "b", es.AnyVersion, storetest.Deposits(1100, 1)...)
					if err != nil {
						t.Fatalf("append beside %s: %v", name, err)
					}
					last = stored[len(stored)-1].Position
				}
				for i, s := range []*es.Store{s, other} {
					for at := es.Position(0); at < last; {
						var err error
						if at, err = s.Sealed(ctx); err != nil {
							t.Fatalf("beside %s, in process %d: sealed up to %d, want %d: %v", name, i, at, last, err)
						}
					}
				}
				if _, err := p.CatchUp(ctx, other); err != nil {
					t.Fatalf("projection beside %s: %v", name, err)
				}
			})
		}
	})
}

// TestDeleteLongStream deletes a long stream while a projection follows another: what is appended there
// is sealed without waiting for the delete, an append to the deleted stream finds none, and nothing is
// left in the end.
func TestDeleteLongStream(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		events := 300_000
		s, prefix := l.OpenPrefixed(t)
		other := l.OpenIn(t, prefix, nil)
		storetest.CreateStream(t, s, "accounts", "cards")
		l.Fill(t, prefix, events, events)
		if p, err := s.Sealed(t.Context()); err != nil || p != es.Position(events) {
			t.Fatalf("sealed is %d (%v), want %d", p, err, events)
		}
		deleted := make(chan error, 1)
		began := time.Now()
		go func() { deleted <- s.DeleteStream(t.Context(), "accounts") }()
		var longest time.Duration
		n := 0
		for done := false; !done; n += 200 { // enough for the mark to move every few appends
			select {
			case err := <-deleted:
				if err != nil {
					t.Fatal(err)
				}
				done = true
			default:
			}
			if has, err := other.HasStream(t.Context(), "accounts"); err != nil {
				t.Fatal(err)
			} else if !has {
				_, err := other.Append(t.Context(), "accounts", "big", es.AnyVersion, storetest.Deposits(1, 1)...)
				storetest.WantErr(t, "append to the deleted stream", err, es.ErrStreamNotFound)
				if got := storetest.Collect(t, other.ReadAggregate(t.Context(), "accounts", "big", 0)); len(got) > 0 {
					t.Fatalf("%d events are found in the deleted stream", len(got))
				}
			}
			stored := storetest.MustAppend(t, other, "cards", fmt.Sprint("c", n%7), es.AnyVersion, storetest.Deposits(200, 1)...)
			appended := time.Now()
			for at := es.Position(0); at < stored[199].Position; {
				var err error
				if at, err = other.Sealed(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			longest = max(longest, time.Since(appended))
			_ = storetest.Pause(t.Context(), 5*time.Millisecond) // the delete has work to do
		}
		t.Logf("%d events deleted in %v; %d events appended beside that, sealed within %v", events, time.Since(began), n, longest)
		if longest > 2*time.Second {
			t.Errorf("sealing took %v beside the delete, want 2 s at most", longest)
		}
		if left := l.Lines(t, "SELECT COUNT(*) FROM "+prefix+"events WHERE stream_id NOT IN (SELECT id FROM "+prefix+"streams) AND stream_id > 0"); left[0] != "0" {
			t.Errorf("%s events of the deleted stream are left", left[0])
		}
		if got := storetest.Everything(t, s); len(got) != n {
			t.Errorf("%d events are left, want %d", len(got), n)
		}
	})
}

// TestDeleteCutShort has the context of a delete end while events are erased: the stream is gone all the
// same, with all its events, and the next call that makes or deletes a stream erases what is left.
func TestDeleteCutShort(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "accounts", "cards")
		l.Fill(t, prefix, 50_000, 50_000)
		kept := storetest.MustAppend(t, s, "cards", "a", 0, storetest.Deposits(1, 1)...)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		deleted := make(chan error, 1)
		go func() { deleted <- s.DeleteStream(ctx, "accounts") }()
		storetest.Eventually(t, "the stream to be gone", func() bool {
			has, err := s.HasStream(t.Context(), "accounts")
			if err != nil {
				t.Fatal(err)
			}
			return !has
		})
		cancel()
		storetest.WantErr(t, "delete that is cut short", <-deleted, context.Canceled)
		lost := "SELECT COUNT(*) FROM " + prefix + "events WHERE stream_id NOT IN (SELECT id FROM " + prefix + "streams) AND stream_id > 0"
		if left := l.Lines(t, lost); left[0] == "0" {
			t.Error("no event is left: nothing is tested")
		}
		storetest.SameEvents(t, "what is found", storetest.Everything(t, s), kept)
		storetest.WantErr(t, "delete again", s.DeleteStream(t.Context(), "accounts"), es.ErrStreamNotFound)
		if left := l.Lines(t, lost); left[0] != "0" {
			t.Errorf("%s events of the deleted stream are left", left[0])
		}
		storetest.SameEvents(t, "what is left", storetest.Everything(t, s), kept)
	})
}
