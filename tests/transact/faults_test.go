package transact_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
	"example.com/eventstore/internal/testserver"
)

// TestTransactLostConnection cuts the connection in a transaction: under an append, after which fn runs again; before the
// COMMIT arrives and after it was carried out, which the client can't tell apart, so that fn does not run again.
func TestTransactLostConnection(t *testing.T) {
	storetest.ForEach(t, 2, storetest.AnyKind, func(t *testing.T, l storetest.Lane) {
		through, proxy := l.Proxied(t, 3)
		direct, prefix := l.OpenPrefixed(t)
		s, ctx := through.OpenIn(t, prefix, nil), t.Context()
		storetest.CreateStream(t, direct, "accounts")
		for i, c := range []struct {
			what, at     string
			action       testserver.Action
			again, hides bool
			stored       int
		}{
			{"append does not arrive", "cut-here", testserver.CutBefore, true, false, 2},
			{"append is not answered", "cut-here", testserver.CutAfter, true, false, 2},
			{"append is not answered, and fn hides it", "cut-here", testserver.CutAfter, true, true, 2},
			{"commit does not arrive", "commit", testserver.CutBefore, false, false, 0},
			{"commit is not answered", "commit", testserver.CutAfter, false, false, 2},
		} {
			id, runs := fmt.Sprint("lost-", i), 0
			var cut atomic.Bool
			proxy.SetHook(func(_ *testserver.Conn, dir testserver.Direction, chunk []byte) testserver.Action {
				found := bytes.Contains(bytes.ToLower(chunk), []byte(c.at))
				if c.at == "commit" {
					found = storetest.IsCommit(chunk)
				}
				if dir == testserver.ToServer && found && !cut.Swap(true) {
					return c.action
				}
				return testserver.Forward
			})
			err := s.Transact(ctx, func(tx *es.Store) error {
				runs++
				if _, err := tx.Append(ctx, "accounts", id, es.MustNotExist, storetest.Deposits(1, 1)...); err != nil {
					return err
				}
				_, err := tx.Append(ctx, "accounts", id, 1, es.NewEvent{Payload: storetest.Opened{Owner: "cut-here"}})
				if c.hides {
					return nil
				}
				return err
			})
			proxy.SetHook(nil)
			if !cut.Load() {
				t.Fatalf("%s: no connection was cut", c.what)
			}
			if c.again && (err != nil || runs != 2) {
				t.Errorf("%s: %v after %d runs, want success after 2", c.what, err, runs)
			}
			if !c.again {
				if err == nil || runs != 1 {
					t.Errorf("%s: %v after %d runs, want an error after 1", c.what, err, runs)
				} else {
					storetest.WantPlain(t, c.what, err)
				}
			}
			if n := len(storetest.Collect(t, direct.ReadAggregate(ctx, "accounts", id, 0))); n != c.stored {
				t.Errorf("%s: %d events are stored, want %d", c.what, n, c.stored)
			}
			storetest.WantIdle(t, through, c.what)
		}
	})
}

// TestTransactCommitFails has the database refuse the COMMIT: for a serialisation failure fn runs again, and for another
// reason it does not.
func TestTransactCommitFails(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		var state atomic.Pointer[error]
		l = l.Injected(t, 3, func(text string) error {
			if err := state.Load(); err != nil && text == "COMMIT" {
				state.Store(nil)
				return *err
			}
			return nil
		})
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts")
		for _, c := range []struct {
			sqlState string
			number   uint16
			runs     int
		}{{"40001", 1213, 2}, {"53100", 1021, 1}} {
			failure := l.ServerError(c.sqlState, c.number)
			state.Store(&failure)
			runs := 0
			err := s.Transact(ctx, func(tx *es.Store) error {
				runs++
				_, err := tx.Append(ctx, "accounts", c.sqlState, es.MustNotExist, storetest.Deposits(1, 1)...)
				return err
			})
			if runs != c.runs || (err == nil) != (runs == 2) || err != nil && !errors.Is(err, failure) {
				t.Errorf("%s: %v after %d runs, want %d", c.sqlState, err, runs, c.runs)
			}
			storetest.WantIdle(t, l, c.sqlState)
		}
	})
}

// TestTransactOwnStatements has fn write a table of its own too: both or neither. Its deadlocks run it again.
func TestTransactOwnStatements(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts")
		table := l.NewPrefix(t) + "stock"
		l.Exec(t, "CREATE TABLE "+table+" (id int PRIMARY KEY, n int NOT NULL)")
		t.Cleanup(func() { l.Exec(t, "DROP TABLE "+table) })
		l.Exec(t, "INSERT INTO "+table+" VALUES (1, 0), (2, 0)")
		update := func(tx *es.Store, id int) error {
			own, err := tx.Tx()
			if err == nil {
				_, err = own.ExecContext(ctx, fmt.Sprintf("UPDATE %s SET n = n + 1 WHERE id = %d", table, id))
			}
			return err
		}
		var runs atomic.Int32
		meet := make(chan struct{})
		for i, err := range storetest.Race(2, func(i int) error {
			return s.Transact(ctx, func(tx *es.Store) error {
				if err := update(tx, 1+i); err != nil {
					return err
				}
				// Both have a row before either asks for the other's.
				switch runs.Add(1) {
				case 1:
					<-meet
				case 2:
					close(meet)
				}
				if err := update(tx, 2-i); err != nil {
					return err
				}
				_, err := tx.Append(ctx, "accounts", fmt.Sprint("a", i), es.AnyVersion, storetest.Deposits(1, 1)...)
				return err
			})
		}) {
			if err != nil {
				t.Errorf("transaction %d: %v", i, err)
			}
		}
		if got := l.Lines(t, "SELECT n FROM "+table+" ORDER BY id"); fmt.Sprint(got) != "[2 2]" || runs.Load() != 3 {
			t.Errorf("the table holds %v after %d runs, want [2 2] after 3", got, runs.Load())
		}
		if n := len(storetest.Everything(t, s)); n != 2 {
			t.Errorf("%d events are stored, want 2", n)
		}
		// What fn has ended itself is an error, and not run again.
		before := runs.Load()
		err := s.Transact(ctx, func(tx *es.Store) error {
			runs.Add(1)
			own, err := tx.Tx()
			if err != nil {
				return err
			}
			return own.Rollback()
		})
		storetest.WantErr(t, "a transaction that fn has ended", err, sql.ErrTxDone)
		err = s.Transact(ctx, func(tx *es.Store) error {
			runs.Add(1)
			own, err := tx.Tx()
			if err == nil {
				_, err = own.ExecContext(ctx, "COMMIT")
			}
			return err
		})
		if err == nil || runs.Load() != before+2 {
			t.Errorf("a COMMIT of fn's own: %v, after %d runs", err, runs.Load()-before)
		}
		// A statement that fails and is hidden: what the database refuses to commit for it is an error in the end.
		err = s.Transact(ctx, func(tx *es.Store) error {
			own, err := tx.Tx()
			if err != nil {
				return err
			}
			_, _ = own.ExecContext(ctx, "INSERT INTO "+table+" VALUES (1, 7)")
			return nil
		})
		if l.Dialect == es.Postgres {
			storetest.WantErr(t, "a hidden failure", err, es.ErrRetryTx)
		} else if err != nil {
			t.Errorf("a hidden failure, which undoes nothing else: %v", err)
		}
		storetest.WantIdle(t, l, "at the end")
	})
}

// TestTransactCommitRace has a plain append get in between on memory after fn has appended, where databases make it
// wait: the transaction loses at its commit, and fn runs again.
func TestTransactCommitRace(t *testing.T) {
	s, ctx := es.NewMemStore(nil), t.Context()
	storetest.CreateStream(t, s, "accounts")
	storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
	lose := map[string]func() error{
		"an append": func() error {
			_, err := s.Append(ctx, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
			return err
		},
		"a delete": func() error { return s.DeleteAggregate(ctx, "accounts", "a") },
		"a delete of stream": func() error {
			return errors.Join(s.DeleteStream(ctx, "accounts"), s.CreateStream(ctx, "accounts", nil))
		},
	}
	for _, what := range []string{"an append", "a delete", "a delete of stream"} {
		runs := 0
		var position es.Position
		err := s.Transact(ctx, func(tx *es.Store) error {
			runs++
			position = storetest.MustAppend(t, tx, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)[0].Position
			if runs == 1 {
				if err := lose[what](); err != nil {
					return err
				}
				// It is lost, and says so at once, whatever it asks for.
				_, err := storetest.Accounts.Load(ctx, tx, "a")
				storetest.WantErr(t, what+": load", err, es.ErrRetryTx)
				err = storetest.FirstError(tx.Read(ctx, es.FromAll(), es.ReadOptions{}))
				storetest.WantErr(t, what+": read", err, es.ErrRetryTx)
				return nil // which hides it
			}
			return nil
		})
		if err != nil || runs != 2 {
			t.Errorf("%s: %v after %d runs, want success after 2", what, err, runs)
		}
		evs := storetest.Everything(t, s)
		storetest.WantVersions(t, evs, len(evs))
		if last := evs[len(evs)-1].Position; last != position {
			t.Errorf("%s: the last position is %d, want %d", what, last, position)
		}
		storetest.SealUpTo(t, s, position)
	}
	always := 0
	err := s.Transact(ctx, func(tx *es.Store) error {
		always++
		storetest.MustAppend(t, tx, "accounts", "a", es.MustExist, storetest.Deposits(1, 1)...)
		storetest.MustAppend(t, s, "accounts", "a", es.MustExist, storetest.Deposits(1, 1)...)
		return nil
	})
	storetest.WantErr(t, "who always loses", err, es.ErrRetryTx)
	storetest.WantErr(t, "who always loses", err, es.ErrConflict)
	if always != 10 {
		t.Errorf("fn ran %d times, want 10", always)
	}
}

// TestTransactHoldsUpNobody has a transaction stay open on memory while others append to everything that it has
// touched, read, and subscribe: none waits, and what comes before its first event is sealed.
func TestTransactHoldsUpNobody(t *testing.T) {
	s := es.NewMemStore(nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	storetest.CreateStream(t, s, "accounts")
	before := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(2, 1)...)
	runs := 0
	err := s.Transact(ctx, func(tx *es.Store) error {
		if runs++; runs > 1 {
			return errRefused
		}
		inside := storetest.MustAppend(t, tx, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
		for i, err := range storetest.Race(4, func(i int) error {
			_, err := s.Append(ctx, "accounts", "a", es.AnyVersion, storetest.Deposits(1, int64(i))...)
			return err
		}) {
			if err != nil {
				t.Errorf("append %d: %v", i, err)
			}
		}
		st, err := s.Stats(ctx)
		if err != nil || st.Sealed != before[1].Position || st.Hole != inside[0].Position || st.Last != inside[0].Position+4 || st.Waited <= 0 {
			t.Errorf("statistics %+v (%v)", st, err)
		}
		storetest.SameEvents(t, "sealed", storetest.Collect(t, s.Read(ctx, es.FromAll(), es.ReadOptions{Sealed: true})), before)
		if n := len(storetest.Everything(t, s)); n != 6 {
			t.Errorf("%d events are seen outside, want 6", n)
		}
		return nil
	})
	if !errors.Is(err, errRefused) {
		t.Error(err)
	}
	if p, err := s.Sealed(ctx); err != nil || p != before[1].Position+5 {
		t.Errorf("sealed up to %d (%v), want %d", p, err, before[1].Position+5)
	}
}
