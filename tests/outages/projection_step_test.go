package outages_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestHandlersEndTransaction has handlers that end the transaction of their step, and hide it, in a
// batch with others. That event fails, and those after it count once. What a statement that defines
// data has committed is out of reach, so that it comes first here.
func TestHandlersEndTransaction(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		mysql := l.Driver == "mysql"
		for what, c := range map[string]struct {
			text    string
			version int64
			fails   bool
		}{
			"data defined": {"CREATE TABLE {table}_more (id int)", 1, mysql},
			"COMMIT":       {"COMMIT", 1, true},
			"ROLLBACK":     {"ROLLBACK", 3, true},
			"BEGIN":        {"BEGIN", 1, mysql},
			"nothing":      {"SELECT 1", 3, false},
		} {
			if strings.Contains(l.Name, "simple") && what == "BEGIN" {
				continue
			}
			s := l.Open(t, nil)
			storetest.CreateStream(t, s, "accounts")
			stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(6, 1)...)
			rows := storetest.NewRows(t, l)
			t.Cleanup(func() { l.Exec(t, "DROP TABLE IF EXISTS "+rows.Name+"_more") })
			ends := es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], _ storetest.Deposited) error {
				tx, err := step.Tx()
				if err == nil && step.Event.Version == c.version {
					_, _ = tx.ExecContext(ctx, strings.ReplaceAll(c.text, "{table}", rows.Name))
				}
				return err
			})
			p := storetest.TotalsOf("ends", ends, rows.Insert())
			p.ReadModel = rows.Table()
			var blamed []int64
			p.OnError = func(_ context.Context, ev es.Event, err error, _ int) es.ErrorAction {
				blamed = append(blamed, ev.Version)
				if !strings.Contains(err.Error(), "transaction was ended") {
					t.Errorf("%s: %v", what, err)
				}
				return es.Skip
			}
			storetest.CatchUp(t, p, s)
			var want, wantBlamed []int64
			for _, ev := range stored {
				if c.fails && ev.Version == c.version {
					wantBlamed = append(wantBlamed, ev.Version)
				} else {
					want = append(want, int64(ev.Position))
				}
			}
			if !slices.Equal(blamed, wantBlamed) {
				t.Errorf("%s: blamed are %v, want %v", what, blamed, wantBlamed)
			}
			got := rows.Positions(t)
			if c.fails && !mysql {
				// Postgres commits what follows statement by statement, and it comes again: see Step.Tx.
				got = slices.DeleteFunc(slices.Compact(got), func(p int64) bool { return p == int64(stored[c.version-1].Position) })
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: rows of %v, want %v", what, got, want)
			}
			// Connections go back as they were.
			for range 4 {
				var autocommit string
				if mysql {
					if err := l.DB.QueryRow("SELECT @@autocommit").Scan(&autocommit); err != nil || autocommit != "1" {
						t.Errorf("%s: autocommit %q (%v)", what, autocommit, err)
					}
				}
			}
		}
	})
}

// TestHandlersHideDeadlocks has a handler hide that its own statement met a deadlock, which on MySQL
// and MariaDB has undone what the handlers before it did.
func TestHandlersHideDeadlocks(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(4, 1)...)
		rows := storetest.NewRows(t, l)
		locks := rows.Name + "_locks"
		l.Exec(t, "CREATE TABLE "+locks+" (id int PRIMARY KEY, n int)")
		t.Cleanup(func() { l.Exec(t, "DROP TABLE "+locks) })
		l.Exec(t, "INSERT INTO "+locks+" VALUES (1, 0), (2, 0)")
		update := func(tx *sql.Tx, id int) error {
			_, err := tx.Exec(fmt.Sprintf("UPDATE %s SET n = n + 1 WHERE id = %d", locks, id))
			return err
		}
		deadlocks := 0
		p := storetest.TotalsOf("hides", es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], _ storetest.Deposited) error {
			tx, err := step.Tx()
			if err != nil || step.Event.Version != 3 || deadlocks > 0 {
				return err
			}
			others, err := l.DB.Begin()
			if err != nil {
				return err
			}
			defer func() { _ = others.Rollback() }()
			// The other transaction has done more, so that it is not the one to be undone.
			for range 300 {
				if _, err := others.Exec("INSERT INTO " + rows.Name + " VALUES (0, 'other', 0)"); err != nil {
					return err
				}
			}
			if err := errors.Join(update(others, 2), update(tx, 1)); err != nil {
				return err
			}
			done := make(chan error, 1)
			go func() {
				_ = storetest.Pause(ctx, 100*time.Millisecond) // until the other waits
				done <- update(others, 1)
			}()
			if err := update(tx, 2); err != nil {
				deadlocks++ // and nobody hears of it
			}
			_ = <-done
			return nil
		}), rows.Insert())
		p.ReadModel = rows.Table()
		cp := storetest.CatchUp(t, p, s)
		var want []int64
		for _, ev := range stored {
			want = append(want, int64(ev.Position))
		}
		if got := rows.Positions(t); !slices.Equal(got, want) || cp.State.Events != len(want) || deadlocks != 1 {
			t.Errorf("rows of %v and %d events with %d deadlocks, want %v", got, cp.State.Events, deadlocks, want)
		}
	})
}
