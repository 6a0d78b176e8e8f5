package deletes_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

func TestDeleteAggregate(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, other := l.OpenTwice(t)
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts", "cards")
		storetest.WantErr(t, "without events", s.DeleteAggregate(ctx, "accounts", "a"), es.ErrAggregateNotFound)
		storetest.WantErr(t, "without the stream", s.DeleteAggregate(ctx, "none", "a"), es.ErrStreamNotFound)
		storetest.WantInvalid(t, "without an ID", s.DeleteAggregate(ctx, "accounts", ""), "aggregate ID")
		storetest.WantInvalid(t, "without a stream's name", s.DeleteAggregate(ctx, "", "a"), "stream name")

		p := storetest.TotalsOf("totals")
		var kept []es.Event
		for round := range 3 {
			storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(3, 1)...)
			kept = append(kept, storetest.MustAppend(t, s, "accounts", "b", es.AnyVersion, storetest.Deposits(2, 1)...)...)
			kept = append(kept, storetest.MustAppend(t, s, "cards", "a", es.AnyVersion, storetest.Deposits(1, 1)...)...)
			if round == 1 {
				storetest.CatchUp(t, p, s) // which seals what is there
			}
		}
		ids := storetest.Collect(t, s.ReadAggregate(ctx, "accounts", "a", 0))
		if err := s.DeleteAggregate(ctx, "accounts", "a"); err != nil {
			t.Fatal(err)
		}
		storetest.WantErr(t, "again", s.DeleteAggregate(ctx, "accounts", "a"), es.ErrAggregateNotFound)
		storetest.SameEvents(t, "what is left", storetest.Everything(t, s), kept)
		storetest.SameEvents(t, "what is left and sealed", storetest.Collect(t, other.Read(ctx, es.FromAll(), es.ReadOptions{Sealed: true})), kept)
		if got := storetest.Collect(t, s.ReadAggregate(ctx, "accounts", "a", 0)); len(got) != 0 {
			t.Errorf("%d events of the deleted aggregate", len(got))
		}
		// The projection had seen six of the deleted events, and sees none of the other three.
		if cp := storetest.CatchUp(t, p, s); cp.State.Accounts["a"] != 12 || cp.State.Accounts["b"] != 9 {
			t.Errorf("the projection has %v", cp.State.Accounts)
		}

		// It begins again at 1, also for who remembers another version, and with the same event IDs.
		again := storetest.Deposits(1, 1)
		again[0].ID = ids[0].ID
		for i, s := range []*es.Store{other, s} {
			stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, again...)
			if stored[0].Version != int64(i+1) || stored[0].Position <= kept[len(kept)-1].Position {
				t.Errorf("appended again as %s", storetest.Describe(stored[0]))
			}
			again = storetest.Deposits(1, 1)
		}
		_, err := s.Append(ctx, "accounts", "a", 9, storetest.Deposits(1, 1)...)
		storetest.WantConflict(t, "at its old version", err, es.ConflictError{Stream: "accounts", AggregateID: "a", Expected: 9, Actual: 2})
		storetest.WantIdle(t, l, "at the end")
	})
}

// TestDeleteAggregateInTx shows that a delete is the transaction's.
func TestDeleteAggregateInTx(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(3, 1)...)
		for _, commit := range []bool{false, true} {
			l.InTx(t, s, commit, nil, func(_ *sql.Tx, in *es.Store) {
				if err := in.DeleteAggregate(t.Context(), "accounts", "a"); err != nil {
					t.Error(err)
				}
				storetest.MustAppend(t, in, "accounts", "a", es.MustNotExist, storetest.Deposits(1, 7)...)
			})
			want := stored
			if commit {
				want = nil
			}
			got := storetest.Everything(t, s)
			if commit && len(got) == 1 && got[0].Version == 1 {
				continue
			}
			storetest.SameEvents(t, fmt.Sprint("committed: ", commit), got, want)
		}
	})
}

// TestDeleteAggregateRaces has appends, some in transactions held open, race with deletes: versions
// never have a hole, and no reader in sealed order misses what is left.
func TestDeleteAggregateRaces(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, other := l.OpenTwice(t)
		storetest.CreateStream(t, s, "accounts")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		rounds := 40
		deleted := make(chan struct{})
		errs := storetest.Race(7, func(i int) error {
			s := []*es.Store{s, other}[i%2]
			if i == 0 {
				defer close(deleted)
				for i := range rounds {
					var err error
					if l.DB == nil || i%2 == 0 {
						err = s.DeleteAggregate(ctx, "accounts", "a")
					} else {
						err = deleteInTx(ctx, l, s, &sql.TxOptions{Isolation: []sql.IsolationLevel{sql.LevelReadCommitted, sql.LevelRepeatableRead}[i/2%2]})
					}
					if err != nil && !errors.Is(err, es.ErrAggregateNotFound) && !errors.Is(err, es.ErrRetryTx) {
						return err
					}
					_ = storetest.Pause(ctx, rand.N(6*time.Millisecond))
				}
				return nil
			}
			for {
				select {
				case <-deleted:
					return nil
				default:
				}
				if i == 1 {
					got := []es.Event{}
					for ev, err := range s.ReadAggregate(ctx, "accounts", "a", 0) {
						if err != nil {
							return err
						}
						got = append(got, ev)
					}
					// A page can end before a delete and the next begin behind it, but pages here
					// are longer than the aggregate grows.
					if len(got) < 200 {
						storetest.WantVersions(t, got, len(got))
					}
					continue
				}
				append := func(s *es.Store) error {
					_, err := s.Append(ctx, "accounts", "a", es.AnyVersion, storetest.Deposits(1+i%2, 1)...)
					return err
				}
				if l.DB == nil || i%3 > 0 {
					if err := append(s); err != nil {
						return err
					}
					continue
				}
				tx, err := l.DB.BeginTx(ctx, &sql.TxOptions{Isolation: []sql.IsolationLevel{sql.LevelDefault, sql.LevelReadCommitted, sql.LevelRepeatableRead}[rand.IntN(3)]})
				if err != nil {
					return err
				}
				if err = append(s.WithTx(tx)); err == nil {
					_ = storetest.Pause(ctx, rand.N(5*time.Millisecond))
					err = tx.Commit()
				} else if rerr := tx.Rollback(); rerr != nil {
					return rerr
				}
				var state interface{ SQLState() string } // of a commit that could not be serialised
				if err != nil && !errors.Is(err, es.ErrRetryTx) && !errors.Is(err, es.ErrConflict) && !(errors.As(err, &state) && state.SQLState() == "40001") {
					return err
				}
			}
		})
		for i, err := range errs {
			if err != nil {
				t.Errorf("racer %d: %v", i, err)
			}
		}
		got := storetest.Collect(t, s.ReadAggregate(ctx, "accounts", "a", 0))
		storetest.WantVersions(t, got, len(got))
		last := storetest.MustAppend(t, s, "accounts", "b", es.AnyVersion, storetest.Deposits(1, 1)...)
		if p, err := other.Sealed(ctx); err != nil || p < last[0].Position {
			t.Errorf("sealed up to %d (%v), want %d", p, err, last[0].Position)
		}
	})
}

// deleteInTx deletes the aggregate in a transaction that has read before, and so has its snapshot.
func deleteInTx(ctx context.Context, l storetest.Lane, s *es.Store, opts *sql.TxOptions) error {
	tx, err := l.DB.BeginTx(ctx, opts)
	if err != nil {
		return err
	}
	in := s.WithTx(tx)
	if _, err = in.HasStream(ctx, "accounts"); err == nil {
		_ = storetest.Pause(ctx, time.Millisecond)
		err = in.DeleteAggregate(ctx, "accounts", "a")
	}
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// TestDeleteAggregateErasesSnapshots has no snapshot outlive its aggregate, which it may hold a
// person's data of: one that is being stored when the delete comes, and one that the delete's
// transaction can't see.
func TestDeleteAggregateErasesSnapshots(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts")
		a := storetest.Ledgers(100, 1)
		none := func(what string) {
			t.Helper()
			var n int
			if err := l.DB.QueryRow("SELECT COUNT(*) FROM " + prefix + "snapshots").Scan(&n); err != nil {
				t.Fatal(err)
			}
			if n > 0 {
				t.Errorf("%s: %d snapshots are left", what, n)
			}
			if _, err := l.DB.Exec("DELETE FROM " + prefix + "snapshots"); err != nil {
				t.Fatal(err)
			}
		}
		for _, level := range []sql.IsolationLevel{sql.LevelDefault, sql.LevelReadCommitted, sql.LevelRepeatableRead, sql.LevelSerializable} {
			// A snapshot that begins while the delete is open waits, and finds nothing.
			what := fmt.Sprintf("stored during a delete at %v", level)
			storetest.MustAppend(t, s, "accounts", what, 0, storetest.Deposits(3, 1)...)
			taken := make(chan error, 1)
			l.InTx(t, s, true, &sql.TxOptions{Isolation: level}, func(_ *sql.Tx, in *es.Store) {
				if err := in.DeleteAggregate(ctx, "accounts", what); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				go func() { taken <- a.SaveSnapshot(ctx, s, what) }()
				select {
				case err := <-taken: // too early, unless it says why
					taken <- err
				case <-time.After(50 * time.Millisecond):
				}
			})
			if err := <-taken; err != nil && !errors.Is(err, es.ErrAggregateNotFound) {
				t.Errorf("%s: %v", what, err)
			}
			none(what)

			// A snapshot from after the delete's transaction has begun.
			if level == sql.LevelSerializable && l.Dialect == es.MySQL {
				continue // it has no snapshots, but locks what it reads
			}
			what = fmt.Sprintf("unseen by a delete at %v", level)
			storetest.MustAppend(t, s, "accounts", what, 0, storetest.Deposits(3, 1)...)
			tx, err := l.DB.BeginTx(ctx, &sql.TxOptions{Isolation: level})
			if err != nil {
				t.Fatal(err)
			}
			in := s.WithTx(tx)
			storetest.Everything(t, in)
			if err := a.SaveSnapshot(ctx, s, what); err != nil {
				t.Fatal(err)
			}
			if err = in.DeleteAggregate(ctx, "accounts", what); err == nil {
				err = tx.Commit()
			} else {
				_ = tx.Rollback()
			}
			if errors.Is(err, es.ErrRetryTx) {
				err = s.DeleteAggregate(ctx, "accounts", what)
			}
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			none(what)
		}
	})
}
