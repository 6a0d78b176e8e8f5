package transactions_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
	"example.com/eventstore/internal/testserver"
)

// large is a payload of which two don't go into one statement.
func large(owner string) storetest.Opened {
	return storetest.Opened{Owner: owner + strings.Repeat("x", 3<<20)}
}

// TestTxFailedAppend has appends of several statements fail behind the first of these, in every way. The
// caller commits all the same: nothing of the append is stored.
func TestTxFailedAppend(t *testing.T) {
	for name, fail := range map[string]func(t *testing.T, l storetest.Lane, s, in *es.Store, tx *sql.Tx, evs []es.NewEvent) error{
		"ID in use": func(t *testing.T, _ storetest.Lane, _, in *es.Store, _ *sql.Tx, evs []es.NewEvent) error {
			evs[1].ID = storetest.Everything(t, in)[0].ID
			_, err := in.Append(t.Context(), "accounts", "b", es.AnyVersion, evs...)
			storetest.WantErr(t, "append", err, es.ErrConflict)
			return err
		},
		"a trigger": func(t *testing.T, _ storetest.Lane, _, in *es.Store, _ *sql.Tx, evs []es.NewEvent) error {
			evs[1].Payload = large("refused")
			_, err := in.Append(t.Context(), "accounts", "b", es.AnyVersion, evs...)
			return err
		},
		"a lock": func(t *testing.T, l storetest.Lane, s, in *es.Store, tx *sql.Tx, evs []es.NewEvent) error {
			other, err := l.DB.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = other.Rollback() }()
			evs[1].ID = uuid.New()
			storetest.MustAppend(t, s.WithTx(other), "accounts", "c", es.AnyVersion, es.NewEvent{ID: evs[1].ID, Payload: storetest.Deposited{}})
			wait := "SET LOCAL lock_timeout = '200ms'"
			if l.Dialect == es.MySQL {
				wait = "SET SESSION innodb_lock_wait_timeout = 1"
			}
			if _, err := tx.Exec(wait); err != nil {
				t.Fatal(err)
			}
			_, err = in.Append(t.Context(), "accounts", "b", es.AnyVersion, evs...)
			storetest.WantErr(t, "append", err, es.ErrRetryTx)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
				l = l.Pool(t, l.DSN, 2)
				s, prefix := l.OpenPrefixed(t)
				refuse(t, l, prefix)
				storetest.CreateStream(t, s, "accounts")
				stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
				tx, err := l.DB.BeginTx(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = tx.Rollback() }()
				in := s.WithTx(tx)
				own := storetest.MustAppend(t, in, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 2)...)
				if err := fail(t, l, s, in, tx, []es.NewEvent{{Payload: large("b")}, {Payload: large("b")}}); err == nil {
					t.Error("the append has succeeded")
				}
				if err := tx.Commit(); err == nil && l.Dialect == es.MySQL || err == nil && len(storetest.Everything(t, s)) > 1 {
					stored = append(stored, own...)
				}
				storetest.SameEvents(t, "committed", storetest.Everything(t, s), stored)
				storetest.WantIdle(t, l, "at the end")
			})
		})
	}
}

// refuse has the database refuse events that hold "refused".
func refuse(t *testing.T, l storetest.Lane, prefix string) {
	t.Helper()
	if l.Dialect == es.MySQL {
		l.Exec(t, `CREATE TRIGGER `+prefix+`refuse BEFORE INSERT ON `+prefix+`events FOR EACH ROW
BEGIN IF LOCATE('refused', NEW.data) > 0 THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'refused'; END IF; END`)
		return
	}
	l.Exec(t, `CREATE FUNCTION `+prefix+`refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF strpos(NEW.data::text, 'refused') > 0 THEN RAISE EXCEPTION 'refused'; END IF; RETURN NEW; END $$`)
	l = l.Beside(t)
	t.Cleanup(func() { l.Exec(t, `DROP FUNCTION `+prefix+`refuse CASCADE`) })
	l.Exec(t, `CREATE TRIGGER refuse BEFORE INSERT ON `+prefix+`events FOR EACH ROW EXECUTE FUNCTION `+prefix+`refuse()`)
}

// TestTxCancelledAppend ends the context of an append of several statements between two of them. The
// caller's transaction has another context, and may be committed.
func TestTxCancelledAppend(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		direct, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, direct, "accounts")
		through, proxy := l.Proxied(t, 2)
		s := through.OpenIn(t, prefix, nil)
		for i := range 10 {
			id := fmt.Sprint("cancelled-", i)
			tx, err := through.DB.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			sent := false
			proxy.SetHook(func(_ *testserver.Conn, dir testserver.Direction, chunk []byte) testserver.Action {
				if dir == testserver.ToServer && bytes.Contains(chunk, []byte(id)) {
					sent = true
				} else if dir != testserver.ToServer && sent {
					time.AfterFunc(time.Duration(i)*time.Millisecond, cancel)
				}
				return testserver.Forward
			})
			_, err = s.WithTx(tx).Append(ctx, "accounts", id, es.AnyVersion, es.NewEvent{Payload: large("a")}, es.NewEvent{Payload: large("b")}, es.NewEvent{Payload: large("c")})
			proxy.SetHook(nil)
			committed := tx.Commit()
			cancel()
			n, want := len(storetest.Collect(t, direct.ReadAggregate(t.Context(), "accounts", id, 0))), 0
			if err == nil && committed == nil {
				want = 3
			}
			if n != want {
				t.Errorf("append: %v, commit: %v: %d events are stored, want %d", err, committed, n, want)
			}
		}
	})
}
