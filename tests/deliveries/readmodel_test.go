package deliveries_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// inTransaction is a Transactor beside projections.
type inTransaction struct{ tx *sql.Tx }

func (t inTransaction) Tx() (*sql.Tx, error) { return t.tx, nil }

func TestTable(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) { useTable(t, l, storetest.NewRows(t, l).Name) })
}

// TestTableQualified does the same with a table whose name has its schema, or its database.
func TestTableQualified(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		schema := "SELECT current_schema()"
		if l.Dialect == es.MySQL {
			schema = "SELECT DATABASE()"
		}
		useTable(t, l, l.Lines(t, schema)[0]+"."+storetest.NewRows(t, l).Name)
	})
}

// useTable calls every method of a Table.
func useTable(t *testing.T, l storetest.Lane, name string) {
	t.Helper()
	ctx := t.Context()
	table := &es.Table{
		Dialect: l.Dialect, Name: name, Key: []string{"region", "id"},
		Create: "CREATE TABLE IF NOT EXISTS " + name + " (region varchar(20) NOT NULL, id bigint NOT NULL, cents bigint, note varchar(100), PRIMARY KEY (region, id))",
	}
	tx, err := l.DB.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	in := inTransaction{tx}
	do := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	affected := func(what string, want int64) func(int64, error) {
		return func(n int64, err error) {
			t.Helper()
			if n != want || err != nil {
				t.Errorf("%s: %d rows (%v), want %d", what, n, err, want)
			}
		}
	}
	exists := func(where es.Row, want bool) {
		t.Helper()
		if got, err := table.Exists(ctx, in, where); got != want || err != nil {
			t.Errorf("exists %v: %v (%v), want %v", where, got, err, want)
		}
	}
	do("init", table.Init(ctx, tx))
	do("init again", table.Init(ctx, tx))
	const nasty = `'; DROP TABLE x; -- "` + "`\\"
	do("insert", table.Insert(ctx, in, es.Row{"region": "eu", "id": 1, "cents": int64(1<<53 + 1), "note": nasty}))
	do("insert", table.Insert(ctx, in, es.Row{"region": "eu", "id": 2}))
	exists(es.Row{"region": "eu", "id": 1, "cents": int64(1<<53 + 1), "note": nasty}, true)
	exists(es.Row{"note": nil, "cents": nil}, true)
	exists(es.Row{"note": nil, "region": "us"}, false)
	exists(es.Row{"note": nil}, true)
	do("upsert a new row", table.Upsert(ctx, in, es.Row{"region": "us", "id": 1, "cents": 5}))
	do("upsert an old row", table.Upsert(ctx, in, es.Row{"region": "us", "id": 1, "cents": 6, "note": "x"}))
	do("upsert only the key", table.Upsert(ctx, in, es.Row{"region": "us", "id": 1}))
	exists(es.Row{"region": "us", "id": 1, "cents": 6, "note": "x"}, true)
	exists(es.Row{"cents": 5}, false)
	affected("update", 2)(table.Update(ctx, in, es.Row{"region": "eu"}, es.Row{"cents": 7, "note": nil}))
	affected("update of nothing", 0)(table.Update(ctx, in, es.Row{"region": "asia"}, es.Row{"cents": 7}))
	exists(es.Row{"cents": 7, "id": 1, "note": nil}, true)
	affected("remove", 1)(table.Remove(ctx, in, es.Row{"id": 2}))
	affected("remove of nothing", 0)(table.Remove(ctx, in, es.Row{"id": 2}))
	exists(es.Row{"id": 2}, false)

	for what, err := range map[string]error{
		"insert of nothing":          table.Insert(ctx, in, nil),
		"insert into a bad column":   table.Insert(ctx, in, es.Row{"cents = 1; --": 1}),
		"upsert without the key":     table.Upsert(ctx, in, es.Row{"region": "eu"}),
		"upsert without Key":         (&es.Table{Dialect: l.Dialect, Name: name}).Upsert(ctx, in, es.Row{"id": 1}),
		"update without a condition": storetest.Second(table.Update(ctx, in, nil, es.Row{"cents": 1})),
		"update of nothing":          storetest.Second(table.Update(ctx, in, es.Row{"id": 1}, nil)),
		"update of a bad column":     storetest.Second(table.Update(ctx, in, es.Row{"id": 1}, es.Row{"a b": 1})),
		"remove by a bad column":     storetest.Second(table.Remove(ctx, in, es.Row{"1 = 1 OR id": nil})),
		"remove without a condition": storetest.Second(table.Remove(ctx, in, es.Row{})),
		"exists without a condition": storetest.Second(table.Exists(ctx, in, es.Row{})),
		"a bad name":                 (&es.Table{Dialect: l.Dialect, Name: "a b", Create: "x"}).Init(ctx, tx),
		"a bad schema":               (&es.Table{Dialect: l.Dialect, Name: "a b.c", Create: "x"}).Init(ctx, tx),
		"no schema":                  (&es.Table{Dialect: l.Dialect, Name: ".c", Create: "x"}).Init(ctx, tx),
		"a name of three":            (&es.Table{Dialect: l.Dialect, Name: "a.b.c", Create: "x"}).Init(ctx, tx),
		"no dialect":                 (&es.Table{Name: "a", Create: "x"}).Init(ctx, tx),
		"no Create":                  (&es.Table{Name: "a", Dialect: l.Dialect}).Init(ctx, tx),
	} {
		storetest.WantErr(t, what, err, es.ErrInvalid)
	}
	exists(es.Row{"region": "us", "id": 1, "cents": 6}, true)
	do("reset", table.Reset(ctx, tx))
	exists(es.Row{"region": "us"}, false)
	do("delete", table.Delete(ctx, tx))
	do("delete again", table.Delete(ctx, tx))
}

// TestReadModelFailing has a read model's own functions fail: nothing is lost by it.
func TestReadModelFailing(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(5, 1)...)
		table := storetest.NewRows(t, l)
		p := storetest.TotalsOf("totals", table.Insert())
		model := &failingModel{Table: table.Table()}
		p.ReadModel = model
		for _, op := range []string{"Init", "Reset", "Delete"} {
			model.fails = op
			var err error
			switch op {
			case "Init":
				_, err = p.CatchUp(t.Context(), s)
			case "Reset":
				err = p.Reset(t.Context(), s)
			case "Delete":
				err = p.Delete(t.Context(), s, false)
			}
			if !errors.Is(err, errModel) {
				t.Errorf("%s fails: %v, want its error", op, err)
			}
			model.fails = ""
			storetest.Eventually(t, "the lease of the failed call to end", func() bool { return storetest.Info(t, s, "totals").Owner == "" })
			if cp := storetest.CatchUp(t, p, s); cp.State.Events != 5 || len(table.Positions(t)) != 5 {
				t.Errorf("after a failed %s: %d events, %d rows, want 5", op, cp.State.Events, len(table.Positions(t)))
			}
		}
	})
}

var errModel = errors.New("the model fails")

type failingModel struct {
	*es.Table
	fails string
}

func (m *failingModel) fail(op string) error {
	if m.fails == op {
		return fmt.Errorf("%s: %w", op, errModel)
	}
	return nil
}

func (m *failingModel) Init(ctx context.Context, tx *sql.Tx) error {
	return errors.Join(m.fail("Init"), m.Table.Init(ctx, tx))
}

func (m *failingModel) Reset(ctx context.Context, tx *sql.Tx) error {
	return errors.Join(m.Table.Reset(ctx, tx), m.fail("Reset"))
}

func (m *failingModel) Delete(ctx context.Context, tx *sql.Tx) error {
	return errors.Join(m.fail("Delete"), m.Table.Delete(ctx, tx))
}
