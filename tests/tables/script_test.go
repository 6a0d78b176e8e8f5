package tables_test

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// script is a list of writes that come to something else in another order.
type script struct {
	schema string
	writes func(p *program, alias *es.Table, do writer)
}

// writer makes a write of a script.
type writer func(op string, table *es.Table, where, set es.Row)

func id(v any) es.Row { return es.Row{"id": v} }

var scripts = []script{
	{"two keys", func(p *program, _ *es.Table, do writer) { // on MySQL an Upsert can pick the row of another key
		do("upsert", p.main, nil, es.Row{"id": 1, "code": 1})
		do("update", p.main, id(1), es.Row{"code": 2})
		do("upsert", p.main, nil, es.Row{"id": 2, "code": 1})
	}},
	{"text", func(p *program, _ *es.Table, do writer) { // on MySQL a and A are one row
		do("upsert", p.main, nil, es.Row{"id": "a", "n": 1})
		do("update", p.main, id("A"), es.Row{"n": 2, "note": "A"})
		do("upsert", p.main, nil, es.Row{"id": "a", "n": 3})
		do("upsert", p.main, nil, es.Row{"id": "\u00e4", "n": 1})
		do("update", p.main, id("a\u0308"), es.Row{"n": 2})
		do("upsert", p.main, nil, es.Row{"id": "a", "n": 4})
	}},
	{"text", func(p *program, _ *es.Table, do writer) { // a list of numbers and texts
		do("upsert", p.main, nil, es.Row{"id": "1", "n": 1})
		do("upsert", p.main, nil, es.Row{"id": "01", "n": 1})
		do("remove", p.main, id("1"), nil)
		do("remove", p.main, id("2"), nil)
	}},
	{"decimal", func(p *program, _ *es.Table, do writer) { // 1 and 1.0 are one row
		do("upsert", p.main, nil, es.Row{"id": "1", "n": 1})
		do("update", p.main, id("1.0"), es.Row{"n": 2})
		do("upsert", p.main, nil, es.Row{"id": "1.00", "n": 3})
		do("update", p.main, id("1"), es.Row{"n": 4})
		do("update", p.main, id("1.00"), es.Row{"n": 5})
	}},
	{"tree", func(p *program, _ *es.Table, do writer) { // the removal takes a row with it that another write is of
		do("insert", p.main, nil, es.Row{"id": 101, "code": nil})
		do("insert", p.main, nil, es.Row{"id": 102, "code": 101})
		do("update", p.main, id(102), es.Row{"n": 7})
		do("remove", p.main, id(101), nil)
		do("update", p.main, id(102), es.Row{"n": 8})
		do("upsert", p.main, nil, es.Row{"id": 102, "note": "again"})
	}},
	{"cascade", func(p *program, _ *es.Table, do writer) { // the same in two tables
		do("upsert", p.side, nil, es.Row{"id": 1, "n": 3})
		do("remove", p.main, id(3), nil)
		do("update", p.side, es.Row{"n": nil}, es.Row{"note": "left"})
		do("upsert", p.side, nil, es.Row{"id": 1, "n": 4})
	}},
	{"triggered", func(p *program, _ *es.Table, do writer) {
		do("upsert", p.main, nil, es.Row{"id": 1, "n": 1})
		do("update", p.main, id(1), es.Row{"n": 5})
		do("upsert", p.side, nil, es.Row{"id": 1, "note": "after"})
		do("update", p.main, id(1), es.Row{"n": 6})
	}},
	{"counted", func(p *program, _ *es.Table, do writer) { // the sequence shows the order
		for i := range 4 {
			do("insert", p.main, nil, es.Row{"id": 100 + i, "n": i})
			do("insert", p.main, nil, es.Row{"id": 200 + i, "note": "x"})
		}
	}},
	{"plain", func(p *program, alias *es.Table, do writer) { // one table by two names
		do("insert", p.main, nil, es.Row{"id": 1, "n": 1})
		do("upsert", alias, nil, es.Row{"id": 1, "n": 2})
		do("update", p.main, id(1), es.Row{"n": 3})
		do("upsert", alias, nil, es.Row{"id": 1, "n": 4})
	}},
	{"plain", func(p *program, _ *es.Table, do writer) { // keys that change
		do("update", p.main, id(7), es.Row{"n": 4, "note": nil})
		do("insert", p.main, nil, es.Row{"id": 1, "n": 1})
		do("update", p.main, id(1), es.Row{"id": 2})
		do("insert", p.main, nil, es.Row{"id": 1, "n": 3})
		do("update", p.main, id(2), es.Row{"n": 4, "note": nil})
		do("update", p.main, id(1), es.Row{"n": 5, "note": "x"})
		do("update", p.main, es.Row{"id": 1, "n": 5}, es.Row{"n": 6, "note": "y"})
		do("remove", p.main, es.Row{"note": nil, "n": 4}, nil)
	}},
	{"no key", func(p *program, _ *es.Table, do writer) { // rows of one key
		do("insert", p.main, nil, es.Row{"id": 1, "n": 1})
		do("insert", p.main, nil, es.Row{"id": 1, "n": 2})
		do("update", p.main, id(1), es.Row{"note": "both"})
		do("insert", p.main, nil, es.Row{"id": 1, "n": 3})
	}},
}

// TestGatheredOrder makes writes that depend on each other, with others around, and with a statement for each.
func TestGatheredOrder(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
		schemaOf := "SELECT current_schema()"
		if l.Dialect == es.MySQL {
			schemaOf = "SELECT DATABASE()"
		}
		in := l.Lines(t, schemaOf)[0]
		for i, script := range scripts {
			var results []string
			for _, atOnce := range []bool{true, false} {
				at := slices.IndexFunc(schemas, func(s schema) bool { return s.name == script.schema })
				p := newProgram(t, l, schemas[at])
				alias := &es.Table{Dialect: l.Dialect, Name: in + "." + p.main.Name, Key: p.main.Key}
				projection := storetest.TotalsOf(p.name, es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], _ storetest.Deposited) (err error) {
					if atOnce {
						_, err = step.Tx()
					}
					do := func(op string, table *es.Table, where, set es.Row) {
						if err == nil {
							err = call(ctx, step, op, table, where, set)
						}
					}
					others := &es.Table{Dialect: l.Dialect, Name: p.side.Name, Key: p.side.Key}
					for i := range 10 {
						do("upsert", others, nil, es.Row{"id": 1000 + i, "note": "others"})
					}
					script.writes(p, alias, do)
					return err
				}))
				storetest.CatchUp(t, projection, s)
				results = append(results, p.result(t, s))
			}
			if results[0] != results[1] || !strings.Contains(results[0], "/") {
				t.Errorf("script %d, of %s\na statement for each write:\n%s\ngathered:\n%s", i, script.schema, results[0], results[1])
			}
		}
	})
}

// call calls a method of a table.
func call(ctx context.Context, in es.Transactor, op string, table *es.Table, where, set es.Row) error {
	switch op {
	case "insert":
		return table.Insert(ctx, in, set)
	case "upsert":
		return table.Upsert(ctx, in, set)
	case "update":
		return storetest.Second(table.Update(ctx, in, where, set))
	case "remove":
		return storetest.Second(table.Remove(ctx, in, where))
	}
	return fmt.Errorf("no operation %q", op)
}

// TestGatheredReads reads what the batch has written: by Exists, through Step.Tx, through a transaction that the
// handler has kept, and through Step.Store's.
func TestGatheredReads(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(20, 1)...)
		p := newProgram(t, l, schemas[0])
		event := int64(0)
		count := func(in es.Transactor) (n int64, err error) {
			tx, err := in.Tx()
			if err != nil {
				return 0, err
			}
			return n, tx.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM "+p.main.Name).Scan(&n)
		}
		check := func(want int64) func(int64, error) error {
			return func(n int64, err error) error {
				if err == nil && n != want {
					err = fmt.Errorf("%d rows, want %d", n, want)
				}
				return err
			}
		}
		projection := storetest.TotalsOf(p.name, es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], _ storetest.Deposited) error {
			insert := func(id int64) error { return p.main.Insert(ctx, step, es.Row{"id": id}) }
			event++
			if err := insert(event * 10); err != nil {
				return err
			}
			switch event {
			case 5:
				if ok, err := p.main.Exists(ctx, step, id(20)); !ok || err != nil {
					return fmt.Errorf("row 20 is missing: %w", err)
				}
			case 10:
				if err := check(10)(count(step)); err != nil {
					return err
				}
			case 15:
				tx, err := step.Tx()
				if err != nil {
					return err
				}
				if err := insert(event*10 + 1); err != nil {
					return err
				}
				return check(16)(count(kept{tx}))
			case 18:
				inside, err := step.Store()
				if err != nil {
					return err
				}
				return check(19)(count(inside))
			}
			return nil
		}))
		storetest.CatchUp(t, projection, s)
		if n := len(p.rows(t, p.main, p.columns, "")); n != 21 {
			t.Errorf("%d rows, want 21", n)
		}
	})
}

// kept is a transaction that a handler has kept.
type kept struct{ tx *sql.Tx }

func (k kept) Tx() (*sql.Tx, error) { return k.tx, nil }
