// What a database tells of a Table's columns and keys: whether its writes can change places.

package eventstore

import (
	"context"
	"database/sql"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tableFacts are what is known of a table; nil: nothing.
type tableFacts struct {
	id      string // the same whatever name the table goes by
	plain   bool   // a write touches only rows that it finds, in no other table, and no other order shows in them
	strict  bool   // a value that a column can't have is an error, also in one row of several
	classes map[string]keyClass
}

// factsAge is for how long facts count: tables can be changed under a running process.
const factsAge = time.Minute

// worthFacts is for how many writes of a table it is asked.
const worthFacts = 8

// factsOfTables remembers what is known, for as long as a runner holds its lease.
type factsOfTables struct {
	known map[string]*tableFacts
	asked time.Time
}

// of returns what is known of a write's table.
func (k *factsOfTables) of(w *tableWrite) *tableFacts { return k.known[w.keyed()] }

// keyed names a table together with its key: what is known of rows depends on it.
func (w *tableWrite) keyed() string { return w.table + " " + strings.Join(w.key, ",") }

// ask has the database tell of the writes' tables, unless they are few, or it has.
func (k *factsOfTables) ask(ctx context.Context, tx *sql.Tx, writes []*tableWrite) error {
	if time.Since(k.asked) > factsAge {
		k.known, k.asked = map[string]*tableFacts{}, time.Now()
	}
	if len(writes) < worthFacts {
		return nil
	}
	for _, w := range writes {
		if k.of(w) != nil {
			continue
		}
		f, err := w.ask(ctx, tx)
		if err != nil {
			return err
		}
		k.known[w.keyed()] = f
	}
	return nil
}

func (w *tableWrite) ask(ctx context.Context, tx *sql.Tx) (*tableFacts, error) {
	text := w.dialect.statements.readModel.facts
	schema, name, qualified := strings.Cut(w.table, ".")
	if !qualified {
		schema, name = "", w.table
	}
	var args []any
	for range strings.Count(text, "?") / 2 {
		args = append(args, schema, name)
	}
	rows, err := tx.QueryContext(ctx, w.dialect.bind("", text), args...)
	if err != nil {
		return nil, err
	}
	f := &tableFacts{classes: map[string]keyClass{}}
	others := false // unique keys
	err = scanAll(rows, func(r *sql.Rows) error {
		var what, of string
		if err := r.Scan(&what, &of); err != nil {
			return err
		}
		switch what {
		case "plain":
			f.plain, f.id = true, of
		case "strict":
			f.strict = true
		case "unique":
			others = others || !w.isKey(of)
		default:
			f.classes[strings.ToLower(of)] = keyClass(what)
		}
		return nil
	})
	f.plain = f.plain && !others
	return f, err
}

// isKey reports whether the columns, with commas between, are those of the key.
func (w *tableWrite) isKey(columns string) bool {
	a, b := strings.Split(strings.ToLower(columns), ","), strings.Split(strings.ToLower(strings.Join(w.key, ",")), ",")
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// row returns what tells the one row that a write touches from others, and whether it is known.
func (f *tableFacts) row(w *tableWrite) (string, bool) {
	if f == nil || len(w.key) == 0 {
		return "", false
	}
	from := w.set
	if w.op == updateRows || w.op == removeRows {
		from = w.where
	}
	if w.op == updateRows && slices.ContainsFunc(w.key, func(column string) bool { _, sets := w.set.value(column); return sets }) {
		return "", false // it touches two rows
	}
	var b strings.Builder
	b.WriteString(f.id)
	for _, column := range w.key {
		v, ok := from.value(column)
		if !ok {
			return "", false
		}
		text, ok := f.classes[strings.ToLower(column)].identify(v)
		if !ok {
			return "", false
		}
		b.WriteByte(0)
		b.WriteString(strconv.Itoa(len(text)))
		b.WriteByte(0)
		b.WriteString(text)
	}
	return b.String(), true
}

// shares reports whether a write needs a statement of its own, and whether no other one there may be of its row.
// known says that row is the write's.
func (f *tableFacts) shares(w *tableWrite, known bool) (alone, unique bool) {
	switch w.op {
	case removeRows:
		return len(w.where.parameters()) == 0, false
	case updateRows:
		// It picks the values of each row by its key, once. MySQL may write a float otherwise there.
		return !known || !f.plain || len(w.where.names) != len(w.key) || slices.ContainsFunc(w.set.values, func(v any) bool { return typeOf(v) == "f" }), true
	}
	once := w.dialect.statements.readModel.upsertsOnce
	if w.op == upsertRow && once && !known {
		return true, true
	}
	// Without strict mode MySQL takes a NULL for another value in one row of several, and not in a row by itself.
	lenient := w.dialect.statements.readModel.lenient && (f == nil || !f.strict)
	return lenient && slices.Contains(w.set.values, nil), w.op == upsertRow && once
}
