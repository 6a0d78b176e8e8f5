package locks_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestDeleteHoldsAppends deletes a stream, or an aggregate, in a transaction that stays open: an
// append that comes meanwhile, at whatever isolation the connection has, waits for its end and goes
// by it. None succeeds and leaves its event behind what is deleted.
func TestDeleteHoldsAppends(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		if l.DB.Stats().MaxOpenConnections == 1 {
			return // the append would wait for the connection
		}
		for _, commit := range []bool{true, false} {
			for _, whole := range []bool{true, false} {
				for _, version := range []es.ExpectedVersion{0, 3, es.AnyVersion} {
					s, prefix := l.OpenPrefixed(t)
					storetest.CreateStream(t, s, "accounts")
					if version == 0 && !whole {
						continue // nothing to delete
					}
					if version != 0 {
						storetest.MustAppend(t, s, "accounts", "a", 0, storetest.Deposits(3, 1)...)
					} else {
						storetest.MustAppend(t, s, "accounts", "b", 0, storetest.Deposits(3, 1)...) // the stream is known by now
					}
					done := make(chan error, 1)
					l.InTx(t, s, commit, nil, func(_ *sql.Tx, in *es.Store) {
						var err error
						if whole {
							err = in.DeleteStream(t.Context(), "accounts")
						} else {
							err = in.DeleteAggregate(t.Context(), "accounts", "a")
						}
						if err != nil {
							t.Fatal(err)
						}
						go func() {
							_, err := s.Append(t.Context(), "accounts", "a", version, storetest.Deposits(1, 9)...)
							done <- err
						}()
						select {
						case err := <-done:
							t.Errorf("whole stream %v, at %v: the append returned %v before the delete was committed", whole, version, err)
							done <- err
						case <-time.After(100 * time.Millisecond):
						}
					})
					err := <-done
					switch {
					case !commit:
						if err != nil {
							t.Errorf("whole stream %v, at %v: after a rollback the append returned %v", whole, version, err)
						}
					case whole:
						storetest.WantErr(t, "append to a deleted stream", err, es.ErrStreamNotFound)
					case version == es.AnyVersion:
						if err != nil {
							t.Error(err)
						}
						storetest.WantVersions(t, storetest.Collect(t, s.ReadAggregate(t.Context(), "accounts", "a", 0)), 1)
					default:
						storetest.WantErr(t, "append to a deleted aggregate", err, es.ErrConflict)
					}
					if lost := l.Lines(t, "SELECT position FROM "+prefix+"events WHERE stream_id NOT IN (SELECT id FROM "+prefix+"streams) AND stream_id > 0"); len(lost) > 0 {
						t.Errorf("whole stream %v, at %v: %d events of the deleted stream are still in the table", whole, version, len(lost))
					}
				}
			}
		}
	})
}

// TestDeletesMeetNoDeadlock has some delete an aggregate, in transactions and outside, while others append to
// it: they wait for each other in one order. Postgres takes a second to find a deadlock, and all wait that long.
func TestDeletesMeetNoDeadlock(t *testing.T) {
	// InnoDB finds a deadlock at once, and an append's look at a key is a lock there.
	postgres := func(l storetest.Lane) bool { return l.Dialect == es.Postgres && !l.Odd }
	storetest.ForEach(t, 1, postgres, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		ctx := context.WithoutCancel(t.Context())
		readCommitted := &sql.TxOptions{Isolation: sql.LevelReadCommitted}
		began := time.Now()
		for i, err := range storetest.Race(16, func(i int) error {
			for time.Since(began) < 2*time.Second {
				inTx := func(do func(in *es.Store) error) error {
					return storetest.InOwnTx(ctx, l, s, readCommitted, func(in *es.Store) error {
						return errors.Join(do(in), storetest.Pause(ctx, time.Millisecond))
					})
				}
				remove := func(in *es.Store) error { return in.DeleteAggregate(ctx, "accounts", "a") }
				add := func(in *es.Store) error {
					return storetest.Second(in.Append(ctx, "accounts", "a", es.AnyVersion, storetest.Deposits(1+i%3, 1)...))
				}
				var err error
				switch {
				case i < 2:
					err = inTx(remove)
				case i < 4:
					err = remove(s)
				case i < 10:
					err = inTx(add)
				default:
					err = add(s)
				}
				switch {
				case err == nil, errors.Is(err, es.ErrAggregateNotFound), errors.Is(err, es.ErrConflict):
				case errors.Is(err, es.ErrRetryTx) && !strings.Contains(err.Error(), "deadlock"):
				default:
					return err
				}
			}
			return nil
		}) {
			if err != nil {
				t.Errorf("%d: %v", i, err)
			}
		}
	})
}
