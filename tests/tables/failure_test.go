package tables_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// writing returns a projection whose handler is called with each deposit.
func writing(p *program, handle func(ctx context.Context, step *es.Step[storetest.Totals], cents int64) error) *es.Projection[storetest.Totals] {
	return storetest.TotalsOf(p.name, es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
		return handle(ctx, step, e.Cents)
	}))
}

func opened(t *testing.T, l storetest.Lane, events int) *es.Store {
	t.Helper()
	s := l.Open(t, nil)
	storetest.CreateStream(t, s, "accounts")
	storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(events, 1)...)
	return s
}

// TestGatheredFailure has a write fail in the middle of a batch: the event to blame is that of the write, its handler
// gets the database's error, and the events before it are stored.
func TestGatheredFailure(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		s := opened(t, l, 40)
		p := newProgram(t, l, schemas[0])
		told := 0
		projection := writing(p, func(ctx context.Context, step *es.Step[storetest.Totals], cents int64) error {
			if cents != 23 {
				return p.main.Insert(ctx, step, id(cents))
			}
			err := p.main.Insert(ctx, step, id(5))
			if err != nil {
				told++
				err = fmt.Errorf("the handler's own words: %w", err)
			}
			return err
		})
		projection.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Fail }
		_, err := projection.CatchUp(t.Context(), s)
		failed := (*es.ProjectionError)(nil)
		if !errors.As(err, &failed) || failed.Event.Version != 23 || told != 1 || !strings.Contains(err.Error(), "own words") {
			t.Fatalf("%v, after %d errors to the handler; want a ProjectionError of version 23 after one", err, told)
		}
		if rows := p.rows(t, p.main, p.columns, ""); len(rows) != 22 {
			t.Errorf("%d rows, want those of the 22 events before", len(rows))
		}
	})
}

// TestGatheredErrorIsTold has handlers that get over an error of their writes, as they can on MySQL and MariaDB, in
// every batch.
func TestGatheredErrorIsTold(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s := opened(t, l, 400)
		p := newProgram(t, l, schemas[0])
		calls := 0
		projection := writing(p, func(ctx context.Context, step *es.Step[storetest.Totals], cents int64) error {
			calls++
			if l.Dialect == es.Postgres { // where an error ends the transaction
				if found, err := p.main.Exists(ctx, step, id(cents/2)); err != nil || found {
					step.State.Names = append(step.State.Names, "there")
					return err
				}
			}
			if p.main.Insert(ctx, step, id(cents/2)) != nil {
				step.State.Names = append(step.State.Names, "there")
			}
			return nil
		})
		projection.BatchSize = 10
		cp := storetest.CatchUp(t, projection, s)
		if n := len(p.rows(t, p.main, p.columns, "")); n != 201 || len(cp.State.Names) != 199 || cp.State.Events != 400 {
			t.Errorf("%d rows, and %d times told of an error, after %d events; want 201, 199 and 400", n, len(cp.State.Names), cp.State.Events)
		}
		if calls > 500 {
			t.Errorf("handlers were called %d times for 400 events, want at most 500", calls)
		}
	})
}

// TestGatheredValues changes values after the call, as their owner may, and has some that must not wait.
func TestGatheredValues(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		s := opened(t, l, 30)
		p := newProgram(t, l, schemas[0])
		type note string
		projection := writing(p, func(ctx context.Context, step *es.Step[storetest.Totals], cents int64) error {
			n, text, owner := cents, []byte(fmt.Sprint("b", cents)), &mutable{fmt.Sprint("v", cents)}
			row := es.Row{"id": cents, "n": &n}
			switch cents % 4 {
			case 0:
				row["note"] = string(text)
			case 1:
				row["note"] = string(text)
				row["n"] = n
			case 2:
				row["note"] = owner
			default:
				row["note"] = note(text)
			}
			if err := p.main.Insert(ctx, step, row); err != nil {
				return err
			}
			n, text[0], owner.text = 99, '?', "?"
			row["id"], row["note"] = 99, "?"
			return nil
		})
		storetest.CatchUp(t, projection, s)
		for i, row := range p.rows(t, p.main, p.columns, "id") {
			prefix := "b"
			if (i+1)%4 == 2 {
				prefix = "v"
			}
			if want := fmt.Sprintf("%d/%d/%s%d/~", i+1, i+1, prefix, i+1); row != want {
				t.Errorf("row %s, want %s", row, want)
			}
		}
	})
}

// mutable is a driver.Valuer that can change.
type mutable struct{ text string }

func (m *mutable) Value() (driver.Value, error) { return m.text, nil }

// TestGatheredLosses has the database undo a batch while its writes go out, and while it is committed: each event
// counts once.
func TestGatheredLosses(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		p := newProgram(t, l, schemas[0])
		var writes, undone atomic.Int64
		s := opened(t, l.Injected(t, 3, func(text string) error {
			if strings.Contains(text, "INTO "+p.main.Name) && writes.Add(1)%3 == 1 && undone.Add(1) < 5 {
				return l.ServerError("40P01", 1213)
			}
			return nil
		}), 60)
		projection := writing(p, func(ctx context.Context, step *es.Step[storetest.Totals], cents int64) error {
			return p.main.Insert(ctx, step, id(cents))
		})
		projection.BatchSize = 20
		cp := storetest.CatchUp(t, projection, s)
		if n := len(p.rows(t, p.main, p.columns, "")); n != 60 || cp.State.Events != 60 || undone.Load() < 5 {
			t.Errorf("%d rows and %d events after %d deadlocks, want 60 of both", n, cp.State.Events, undone.Load())
		}
	})
}

// TestGatheredMuch has one event write more than waits at once, and rows that are too large to share a statement.
func TestGatheredMuch(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s := opened(t, l, 1)
		table := &es.Table{
			Dialect: l.Dialect, Name: l.NewPrefix(t) + "much", Key: []string{"id"},
			Create: "CREATE TABLE IF NOT EXISTS %s (id bigint PRIMARY KEY, body text NOT NULL)",
		}
		table.Create = fmt.Sprintf(table.Create, table.Name)
		t.Cleanup(func() { l.Exec(t, "DROP TABLE IF EXISTS "+table.Name) })
		projection := storetest.TotalsOf("much", es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], _ storetest.Deposited) error {
			for i := range 5000 {
				if err := table.Upsert(ctx, step, es.Row{"id": i, "body": strings.Repeat("x", i%1000)}); err != nil {
					return err
				}
			}
			for i := range 40 {
				if _, err := table.Update(ctx, step, id(i), es.Row{"body": strings.Repeat("y", 40_000+i)}); err != nil {
					return err
				}
			}
			return nil
		}))
		projection.ReadModel = table
		storetest.CatchUp(t, projection, s)
		want := 40*40_000 + 39*40/2
		for i := 40; i < 5000; i++ {
			want += i % 1000
		}
		if got := l.Lines(t, "SELECT SUM(LENGTH(body)) FROM "+table.Name)[0]; got != fmt.Sprint(want) {
			t.Errorf("%s bytes, want %d", got, want)
		}
	})
}

// TestGatheredCounts asks how many rows a write has changed: it is not known while the write waits.
func TestGatheredCounts(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s := opened(t, l, 20)
		p := newProgram(t, l, schemas[0])
		var got []int64
		projection := writing(p, func(ctx context.Context, step *es.Step[storetest.Totals], cents int64) error {
			if err := p.main.Insert(ctx, step, id(cents)); err != nil {
				return err
			}
			if cents%2 == 0 {
				if _, err := step.Tx(); err != nil {
					return err
				}
			}
			updated, err := p.main.Update(ctx, step, id(cents), es.Row{"note": "updated"})
			if err != nil {
				return err
			}
			removed, err := p.main.Remove(ctx, step, id(cents+100))
			if err != nil {
				return err
			}
			got = append(got, updated, removed)
			return nil
		})
		storetest.CatchUp(t, projection, s)
		for i := 0; i < len(got); i += 4 {
			if want := []int64{-1, -1, 1, 0}; !slices.Equal(got[i:i+4], want) {
				t.Fatalf("got %d, want %d again and again", got, want)
			}
		}
		if n := len(p.rows(t, p.main, p.columns, "")); n != 20 || len(got) != 40 {
			t.Errorf("%d rows after %d writes, want 20 and 40", n, len(got))
		}
	})
}
