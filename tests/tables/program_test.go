package tables_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// schema is a pair of tables that a program writes.
type schema struct {
	name    string
	create  func(l storetest.Lane, main, side string) []string
	key     []string
	keyed   func(r *rand.Rand) es.Row // values of the key, which come again often
	related bool                      // main's code, or side's n, has to be one of main's keys
	columns []string                  // what shows of the main table, in order
	orderBy string                    // where the order of rows shows, but not this column's values
}

// sideTable is the second table of most schemas, whose rows can be told apart.
func sideTable(side string) string {
	return "CREATE TABLE " + side + " (id bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 3, note varchar(8))"
}

// number returns a key that comes again often.
func number(r *rand.Rand) es.Row { return es.Row{"id": r.IntN(12)} }

func oneTable(columns string) func(storetest.Lane, string, string) []string {
	return func(_ storetest.Lane, main, side string) []string {
		return []string{"CREATE TABLE " + main + " (" + columns + ")", sideTable(side)}
	}
}

var usualColumns = []string{"id", "n", "note", "code"}

// schemas are tables on which writes that change places could come to something else, and some on which not.
var schemas = []schema{
	{
		name: "plain", key: []string{"id"}, keyed: number, columns: usualColumns,
		create: oneTable("id bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 3 CHECK (n >= 0), note varchar(8), code bigint"),
	},
	{
		name: "text", key: []string{"id"}, columns: usualColumns,
		create: oneTable("id varchar(8) PRIMARY KEY, n bigint NOT NULL DEFAULT 3, note varchar(8), code bigint"),
		keyed: func(r *rand.Rand) es.Row {
			return es.Row{"id": []string{"a", "A", "b", "B", "b ", "b-", "-b", "\u00e4", "\u00c4", "a\u0308", "x1", "x2", "X2", ""}[r.IntN(14)]}
		},
	},
	{
		name: "decimal", key: []string{"id"}, columns: usualColumns,
		create: oneTable("id decimal(9, 2) PRIMARY KEY, n bigint NOT NULL DEFAULT 3, note varchar(8), code bigint"),
		keyed: func(r *rand.Rand) es.Row {
			return es.Row{"id": []string{"1", "1.0", "1.00", "2", "2.001", "2.00", "3", "4", "5"}[r.IntN(9)]}
		},
	},
	{
		name: "two keys", key: []string{"id"}, keyed: number, columns: usualColumns,
		create: oneTable("id bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 3, note varchar(8), code bigint UNIQUE"),
	},
	{
		name: "composite", key: []string{"region", "id"}, columns: append([]string{"region"}, usualColumns...),
		create: oneTable("region varchar(4), id bigint, n bigint NOT NULL DEFAULT 3, note varchar(8), code bigint, PRIMARY KEY (id, region)"),
		keyed:  func(r *rand.Rand) es.Row { return es.Row{"region": []string{"eu", "us"}[r.IntN(2)], "id": r.IntN(6)} },
	},
	{
		name: "no key", key: []string{"id"}, keyed: number, columns: usualColumns,
		create: oneTable("id bigint, n bigint NOT NULL DEFAULT 3, note varchar(8), code bigint"),
	},
	{
		name: "tree", related: true, key: []string{"id"}, keyed: number, columns: usualColumns,
		create: func(_ storetest.Lane, main, side string) []string {
			return []string{"CREATE TABLE " + main + " (id bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 3, note varchar(8), code bigint, FOREIGN KEY (code) REFERENCES " + main + " (id) ON DELETE CASCADE)", sideTable(side)}
		},
	},
	{
		name: "cascade", related: true, key: []string{"id"}, keyed: number, columns: usualColumns,
		create: func(_ storetest.Lane, main, side string) []string {
			return []string{
				"CREATE TABLE " + main + " (id bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 3, note varchar(8), code bigint)",
				"CREATE TABLE " + side + " (id bigint PRIMARY KEY, n bigint DEFAULT 3, note varchar(8), FOREIGN KEY (n) REFERENCES " + main + " (id) ON DELETE SET NULL)",
			}
		},
	},
	{
		name: "counted", key: []string{"id"}, keyed: number, columns: usualColumns, orderBy: "seq",
		create: func(l storetest.Lane, main, side string) []string {
			seq := "bigint GENERATED ALWAYS AS IDENTITY"
			if l.Dialect == es.MySQL {
				seq = "bigint AUTO_INCREMENT, KEY (seq)"
			}
			return []string{"CREATE TABLE " + main + " (id bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 3, note varchar(8), code bigint, seq " + seq + ")", sideTable(side)}
		},
	},
	{
		name: "triggered", key: []string{"id"}, keyed: number, columns: usualColumns,
		create: func(l storetest.Lane, main, side string) []string {
			texts := []string{"CREATE TABLE " + main + " (id bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 3, note varchar(8), code bigint)", sideTable(side)}
			if l.Dialect == es.MySQL {
				return append(texts, "CREATE TRIGGER "+main+"_t AFTER UPDATE ON "+main+" FOR EACH ROW UPDATE "+side+" SET n = n * 2 + NEW.n WHERE id = NEW.id")
			}
			return append(texts,
				"CREATE FUNCTION "+main+"_f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE "+side+" SET n = (n * 2 + NEW.n) % 1000 WHERE id = NEW.id; RETURN NEW; END'",
				"CREATE TRIGGER "+main+"_t AFTER UPDATE ON "+main+" FOR EACH ROW EXECUTE FUNCTION "+main+"_f()")
		},
	},
}

// program is a projection whose handlers write at random, each event as its seed says.
type program struct {
	schema
	l          storetest.Lane
	prefix     string
	main, side *es.Table
	odd        int  // of how many writes one breaks a rule; 0: none
	reads      bool // in between
	salt       uint64
	atOnce     bool // a statement for each write
	failed     []es.Position
	runs       int
	name       string // of the projection
}

func newProgram(t testing.TB, l storetest.Lane, s schema) *program {
	t.Helper()
	p := &program{schema: s, l: l, prefix: l.NewPrefix(t)}
	p.main = &es.Table{Dialect: l.Dialect, Name: p.prefix + "main", Key: s.key}
	p.side = &es.Table{Dialect: l.Dialect, Name: p.prefix + "side", Key: []string{"id"}}
	for _, text := range s.create(l, p.main.Name, p.side.Name) {
		l.Exec(t, text)
	}
	p.empty(t)
	t.Cleanup(func() {
		l.Exec(t, "DROP TABLE IF EXISTS "+p.side.Name)
		l.Exec(t, "DROP TABLE IF EXISTS "+p.main.Name)
		if l.Dialect == es.Postgres {
			l.Exec(t, "DROP FUNCTION IF EXISTS "+p.main.Name+"_f()")
		}
	})
	return p
}

// empty takes the tables back to how they begin, and the program with them.
func (p *program) empty(t testing.TB) {
	t.Helper()
	p.failed, p.name = nil, fmt.Sprint(p.prefix, "program_", p.runs)
	p.runs++
	p.l.Exec(t, "DELETE FROM "+p.side.Name)
	p.l.Exec(t, "DELETE FROM "+p.main.Name)
	for id := range 12 {
		if p.related {
			p.l.Exec(t, fmt.Sprintf("INSERT INTO %s (id) VALUES (%d)", p.main.Name, id))
		}
	}
}

// seen is what a program's handlers have read.
type seen struct{ Sum int64 }

func (p *program) projection(onError es.ErrorAction, batch int) *es.Projection[seen] {
	return &es.Projection[seen]{
		Name: p.name, From: es.FromStream("accounts"), BatchSize: batch,
		OnError: func(_ context.Context, ev es.Event, _ error, _ int) es.ErrorAction {
			p.failed = append(p.failed, ev.Position)
			return onError
		},
		When: []es.Handler[seen]{es.Do(func(ctx context.Context, step *es.Step[seen], e storetest.Deposited) error {
			r := rand.New(rand.NewPCG(uint64(e.Cents), p.salt)) //nolint:gosec // a test
			if p.atOnce {
				if _, err := step.Tx(); err != nil {
					return err
				}
			}
			for range r.IntN(5) {
				if err := p.write(ctx, step, r); err != nil {
					return err
				}
			}
			return nil
		})},
	}
}

// write makes one write, or a read and what comes of it.
func (p *program) write(ctx context.Context, step *es.Step[seen], r *rand.Rand) error {
	table, key := p.main, p.keyed(r)
	if r.IntN(3) == 0 {
		table, key = p.side, number(r)
	}
	n := 12
	if !p.reads {
		n = 10
	}
	switch r.IntN(n) {
	case 0, 1:
		if p.odd == 0 || r.IntN(p.odd) > 0 {
			key = p.fresh(key, r)
		}
		return table.Insert(ctx, step, with(key, p.values(table, r)))
	case 2, 3, 4:
		return table.Upsert(ctx, step, with(key, p.values(table, r)))
	case 5, 6:
		return storetest.Second(table.Update(ctx, step, key, with(es.Row{"note": "set"}, p.values(table, r))))
	case 7:
		return storetest.Second(table.Update(ctx, step, es.Row{"n": r.IntN(5), "note": nil}, es.Row{"note": "of " + fmt.Sprint(r.IntN(5))}))
	case 8:
		if r.IntN(3) == 0 {
			return storetest.Second(table.Update(ctx, step, p.fresh(key, r), with(p.fresh(key, r), es.Row{"note": "moved"})))
		}
		return storetest.Second(table.Remove(ctx, step, key))
	case 9:
		if r.IntN(3) > 0 {
			return table.Upsert(ctx, step, with(key, es.Row{"note": "z"}))
		}
		return storetest.Second(table.Remove(ctx, step, es.Row{"n": r.IntN(5), "note": []any{nil, "x", "y"}[r.IntN(3)]}))
	case 10:
		found, err := table.Exists(ctx, step, key)
		if err != nil || found {
			step.State.Sum++
			return err
		}
		return table.Insert(ctx, step, with(key, es.Row{"n": 2}))
	}
	tx, err := step.Tx()
	if err != nil {
		return err
	}
	var sum int64
	err = tx.QueryRowContext(ctx, "SELECT COALESCE(SUM(n), 0) + COUNT(*) FROM "+table.Name).Scan(&sum)
	step.State.Sum = (step.State.Sum*31 + sum) % 1_000_003
	return err
}

// fresh returns a key like the other that hardly comes again.
func (p *program) fresh(key es.Row, r *rand.Rand) es.Row {
	key = with(key, nil)
	if _, text := key["id"].(string); text && p.schema.name == "text" {
		key["id"] = fmt.Sprint("k", r.IntN(1_000_000))
	} else {
		key["id"] = 100 + r.IntN(1_000_000)
	}
	return key
}

// values are some of a row's columns beside its key.
func (p *program) values(table *es.Table, r *rand.Rand) es.Row {
	row := es.Row{}
	if r.IntN(2) == 0 {
		row["n"] = int64(r.IntN(5))
		if p.schema.name == "cascade" && table == p.side && r.IntN(2) == 0 {
			row["n"] = r.IntN(12)
		}
	}
	if r.IntN(2) == 0 {
		row["note"] = []any{nil, "x", "y", "\u00fcber"}[r.IntN(4)]
	}
	if table == p.main && r.IntN(3) == 0 {
		row["code"] = r.IntN(5000)
		if r.IntN(20) == 0 || p.related {
			row["code"] = r.IntN(12)
		}
	}
	if p.odd > 0 && r.IntN(p.odd) == 0 {
		odd := []es.Row{{"n": nil}, {"n": -1}, {"note": "far too long for its column"}, {"n": "no number"}}[r.IntN(4)]
		row = with(row, odd)
	}
	return row
}

func with(row, more es.Row) es.Row {
	out := es.Row{}
	for _, r := range []es.Row{row, more} {
		maps.Copy(out, r)
	}
	return out
}

// result is what a program has come to: its rows, what it has read, and which events it has failed on.
func (p *program) result(t testing.TB, s *es.Store) string {
	t.Helper()
	var b strings.Builder
	parked, err := s.ParkedEvents(t.Context(), p.name)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&b, "main:", p.rows(t, p.main, p.columns, p.orderBy))
	fmt.Fprintln(&b, "side:", p.rows(t, p.side, []string{"id", "n", "note"}, ""))
	fmt.Fprintln(&b, "failed:", p.failed)
	for _, e := range parked {
		fmt.Fprintln(&b, "parked:", e.Event.Position, e.Error != "")
	}
	return b.String()
}

func (p *program) rows(t testing.TB, table *es.Table, columns []string, orderBy string) []string {
	t.Helper()
	cast := "CAST(%s AS char)"
	if p.l.Dialect == es.Postgres {
		cast = "CAST(%s AS text)"
	}
	var texts []string
	for _, c := range columns {
		texts = append(texts, "COALESCE("+fmt.Sprintf(cast, c)+", '~')")
	}
	if orderBy == "" {
		orderBy = "1"
	}
	return p.l.Lines(t, "SELECT CONCAT("+strings.Join(texts, ", '/', ")+") FROM "+table.Name+" ORDER BY "+orderBy)
}
