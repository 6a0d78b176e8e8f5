package faults_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// audited has a trigger on a table of the store write to a table of the user's, which has a unique key:
// the row comes twice where the text is in the column.
func audited(t *testing.T, l storetest.Lane, prefix, table, column, text string) {
	t.Helper()
	audit := l.NewPrefix(t) + "audit"
	l.Exec(t, `CREATE TABLE `+audit+` (id BIGINT PRIMARY KEY)`)
	t.Cleanup(func() { l.Exec(t, `DROP TABLE `+audit) })
	l.Exec(t, `INSERT INTO `+audit+` VALUES (1)`)
	if l.Dialect == es.MySQL {
		l.Exec(t, `CREATE TRIGGER `+audit+`_t AFTER INSERT ON `+prefix+table+` FOR EACH ROW
BEGIN IF LOCATE('`+text+`', NEW.`+column+`) > 0 THEN INSERT INTO `+audit+` VALUES (1); END IF; END`)
		return
	}
	l.Exec(t, `CREATE FUNCTION `+audit+`_f() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF strpos(NEW.`+column+`::text, '`+text+`') > 0 THEN INSERT INTO `+audit+` VALUES (1); END IF; RETURN NEW; END $$`)
	t.Cleanup(func() { l.Exec(t, `DROP FUNCTION `+audit+`_f CASCADE`) })
	l.Exec(t, `CREATE TRIGGER audit AFTER INSERT ON `+prefix+table+` FOR EACH ROW EXECUTE FUNCTION `+audit+`_f()`)
}

// isDuplicate reports whether the database's own error of a unique violation is in err.
func isDuplicate(err error) bool {
	var m *mysql.MySQLError
	var p interface{ SQLState() string }
	return errors.As(err, &m) && m.Number == 1062 || errors.As(err, &p) && p.SQLState() == "23505"
}

// TestForeignUniqueViolation has a user's trigger violate the unique key of a user's table. The error
// comes back as itself, at once; it is no conflict, and no stream exists.
func TestForeignUniqueViolation(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "accounts")
		audited(t, l, prefix, "events", "data", "twice")
		audited(t, l, prefix, "streams", "name", "twice")
		check := func(what string, call func(ctx context.Context) error) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err := call(ctx)
			if !isDuplicate(err) || errors.Is(err, es.ErrConflict) || errors.Is(err, es.ErrStreamExists) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: error is %v, want the trigger's", what, err)
			} else if text := err.Error(); !strings.HasPrefix(text, "eventstore: ") || strings.Count(text, "eventstore: ") != 1 {
				t.Errorf("%s: error reads %q, want it to begin with \"eventstore: \", once", what, text)
			}
			storetest.WantIdle(t, l, what)
		}
		twice := es.NewEvent{Payload: storetest.Opened{Owner: "twice"}}
		for i := range 3 { // what is remembered differs from one to the next
			for _, expected := range []es.ExpectedVersion{es.AnyVersion, es.ExpectedVersion(i)} {
				check("append", func(ctx context.Context) error {
					return storetest.Second(s.Append(ctx, "accounts", "a", expected, twice))
				})
				check("append of many", func(ctx context.Context) error {
					return storetest.Second(s.Append(ctx, "accounts", "a", expected, append(storetest.Deposits(20, 1), twice)...))
				})
				check("append in a transaction", func(ctx context.Context) error {
					return storetest.InOwnTx(ctx, l, s, nil, func(s *es.Store) error { return storetest.Second(s.Append(ctx, "accounts", "a", expected, twice)) })
				})
			}
			storetest.MustAppend(t, s, "accounts", "a", es.ExpectedVersion(i), storetest.Deposits(1, 1)...)
		}
		check("CreateStream", func(ctx context.Context) error { return s.CreateStream(ctx, "twice", nil) })
		storetest.WantHas(t, s, "twice", false)
		storetest.WantErr(t, "CreateStream again", s.CreateStream(t.Context(), "accounts", nil), es.ErrStreamExists)
		if n := len(storetest.Everything(t, s)); n != 3 {
			t.Errorf("%d events are stored, want 3", n)
		}
	})
}

// TestRetriedErrors has the same failure come back until the context ends: the error tells both.
func TestRetriedErrors(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		dsn := l.DSN
		if l.Dialect == es.MySQL {
			dsn = storetest.WithParams(dsn, "innodb_lock_wait_timeout=1")
		} else {
			dsn += map[bool]string{true: "&", false: "?"}[strings.Contains(dsn, "?")] + "lock_timeout=100"
		}
		l = l.Pool(t, dsn, 3)
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
		open, _ := l.AppendOpen(t, s, "a", 1)
		defer func() { _ = open.Rollback() }()
		for name, call := range map[string]func(ctx context.Context, s *es.Store) error{
			"append": func(ctx context.Context, s *es.Store) error {
				return storetest.Second(s.Append(ctx, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...))
			},
			"delete": func(ctx context.Context, s *es.Store) error { return s.DeleteAggregate(ctx, "accounts", "a") },
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
			err := call(ctx, s)
			cancel()
			storetest.WantErr(t, name, err, context.DeadlineExceeded)
			var m *mysql.MySQLError
			var p interface{ SQLState() string }
			if !errors.As(err, &m) && !errors.As(err, &p) {
				t.Errorf("%s: error is %v, want also what the database said before", name, err)
			}
			tx, err := l.DB.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
			if err != nil {
				t.Fatal(err)
			}
			err = call(t.Context(), s.WithTx(tx))
			_ = tx.Rollback()
			storetest.WantErr(t, name+" in a transaction", err, es.ErrRetryTx)
			if !errors.As(err, &m) && !errors.As(err, &p) {
				t.Errorf("%s in a transaction: error is %v, want also the database's", name, err)
			}
		}
	})
}

// TestLongPrefixRaces has appends race under the longest prefix, which the names of keys hold in part: a
// lost race is known for what it is.
func TestLongPrefixRaces(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		prefix := l.NewPrefix(t)
		prefix += strings.Repeat("X", 32-len(prefix))
		t.Cleanup(func() {
			for _, table := range []string{"meta", "streams", "events", "snapshots", "projections", "parked"} {
				l.Exec(t, "DROP TABLE IF EXISTS "+prefix+table)
			}
		})
		s := l.OpenIn(t, prefix, nil)
		if err := s.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		storetest.CreateStream(t, s, "accounts")
		const n = 8
		for range 5 {
			for _, err := range storetest.Race(n, func(int) error {
				return storetest.Second(s.Append(context.Background(), "accounts", "a", es.AnyVersion, storetest.Deposits(20, 1)...))
			}) {
				if err != nil {
					t.Error(err)
				}
			}
		}
		storetest.WantVersions(t, storetest.Everything(t, s), 5*n*20)
	})
}

// TestRenamedTablesRaces has appends race in tables that were renamed, so that their keys have names of another
// prefix: a lost race is known for what it is.
func TestRenamedTablesRaces(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		_, before := l.OpenPrefixed(t)
		prefix := l.NewPrefix(t)
		for _, table := range []string{"meta", "streams", "events", "snapshots", "projections", "parked"} {
			l.Exec(t, "ALTER TABLE "+before+table+" RENAME TO "+prefix+table)
		}
		s := l.OpenIn(t, prefix, nil)
		storetest.CreateStream(t, s, "accounts")
		const n = 16
		for i := range 20 {
			won := 0
			for _, err := range storetest.Race(n, func(int) error {
				return storetest.Second(s.Append(context.Background(), "accounts", "a", es.ExpectedVersion(i), storetest.Deposits(1, 1)...))
			}) {
				if err == nil {
					won++
				} else if !errors.Is(err, es.ErrConflict) {
					t.Error(err)
				}
			}
			if won != 1 {
				t.Errorf("%d of %d appends at version %d have won, want 1", won, n, i)
			}
		}
		for range 5 {
			for _, err := range storetest.Race(n, func(int) error {
				return storetest.Second(s.Append(context.Background(), "accounts", "b", es.AnyVersion, storetest.Deposits(20, 1)...))
			}) {
				if err != nil {
					t.Error(err)
				}
			}
		}
	})
}
