// One write of a Table, and the statements that make one or several of them.

package eventstore

import (
	"context"
	"database/sql"
	"slices"
	"strings"
)

// tableOp is which method of a Table has been called.
type tableOp string

const (
	insertRow  tableOp = "insert"
	upsertRow  tableOp = "upsert"
	updateRows tableOp = "update"
	removeRows tableOp = "remove"
)

// tableWrite is one call of a Table's method.
type tableWrite struct {
	op      tableOp
	dialect *Dialect
	table   string
	key     []string     // of the table
	set     tableColumns // but for a removal
	where   tableColumns // of an update or a removal
}

// tableColumns are columns in the order of their names, with a value for each.
type tableColumns struct {
	names  []string
	values []any
}

func (c tableColumns) value(column string) (any, bool) {
	i := slices.Index(c.names, column)
	if i < 0 {
		return nil, false
	}
	return c.values[i], true
}

// test is the condition that all of them are met.
func (c tableColumns) test() string {
	var tests []string
	for i, name := range c.names {
		if c.values[i] == nil {
			tests = append(tests, name+" IS NULL")
		} else {
			tests = append(tests, name+" = ?")
		}
	}
	return strings.Join(tests, " AND ")
}

// parameters are the values that test has parameters for.
func (c tableColumns) parameters() []any {
	return slices.DeleteFunc(slices.Clone(c.values), func(v any) bool { return v == nil })
}

// tableStatement is a statement that makes one or several writes.
type tableStatement struct {
	dialect *Dialect
	text    string
	args    []any
}

func (s tableStatement) exec(ctx context.Context, tx *sql.Tx) (sql.Result, error) {
	return tx.ExecContext(ctx, s.dialect.bind("", s.text), s.args...)
}

// statement returns the statement that makes only this write.
func (w *tableWrite) statement() tableStatement {
	s := tableStatement{dialect: w.dialect}
	switch w.op {
	case updateRows:
		s.text = "UPDATE " + w.table + " SET " + strings.Join(w.set.names, " = ?, ") + " = ? WHERE " + w.where.test()
		s.args = append(slices.Clone(w.set.values), w.where.parameters()...)
	case removeRows:
		s.text = "DELETE FROM " + w.table + " WHERE " + w.where.test()
		s.args = w.where.parameters()
	default:
		return insertsOf([]*tableWrite{w})
	}
	return s
}

// statementOf returns one statement that makes several writes of one shape.
func statementOf(writes []*tableWrite) tableStatement {
	switch w := writes[0]; {
	case len(writes) == 1:
		return w.statement()
	case w.op == updateRows:
		return updatesOf(writes)
	case w.op == removeRows:
		test, args := anyOf(writes)
		return tableStatement{w.dialect, "DELETE FROM " + w.table + " WHERE " + test, args}
	}
	return insertsOf(writes)
}

// insertsOf returns a statement of which each write is a row, in order.
func insertsOf(writes []*tableWrite) tableStatement {
	w := writes[0]
	row := "(" + placeholders(len(w.set.names)) + ")"
	text := "INSERT INTO " + w.table + " (" + strings.Join(w.set.names, ", ") + ") VALUES " + row + strings.Repeat(", "+row, len(writes)-1)
	if w.op == upsertRow {
		text += w.upsertTail()
	}
	s := tableStatement{dialect: w.dialect, text: text}
	for _, w := range writes {
		s.args = append(s.args, w.set.values...)
	}
	return s
}

// upsertTail is what makes an INSERT set the columns of rows that are there.
func (w *tableWrite) upsertTail() string {
	texts := &w.dialect.statements.readModel
	var sets []string
	for _, column := range w.set.names {
		if !slices.Contains(w.key, column) {
			sets = append(sets, column+" = "+strings.ReplaceAll(texts.upsertValue, "{column}", column))
		}
	}
	if len(sets) == 0 {
		sets = []string{w.key[0] + " = " + w.table + "." + w.key[0]}
	}
	return strings.ReplaceAll(texts.upsert, "{key}", strings.Join(w.key, ", ")) + strings.Join(sets, ", ")
}

// updatesOf returns a statement that looks up for each row which of the writes is its own. No two of them may
// be of one row. The type of a parameter is the column's, which ELSE says.
func updatesOf(writes []*tableWrite) tableStatement {
	w := writes[0]
	s := tableStatement{dialect: w.dialect}
	var sets []string
	for i, column := range w.set.names {
		sets = append(sets, column+" = CASE"+strings.Repeat(" WHEN "+w.where.test()+" THEN ?", len(writes))+" ELSE "+column+" END")
		for _, w := range writes {
			s.args = append(append(s.args, w.where.values...), w.set.values[i])
		}
	}
	test, args := anyOf(writes)
	s.text = "UPDATE " + w.table + " SET " + strings.Join(sets, ", ") + " WHERE " + test
	s.args = append(s.args, args...)
	return s
}

// anyOf is the condition that one of the writes' conditions is met.
func anyOf(writes []*tableWrite) (string, []any) {
	var args []any
	for _, w := range writes {
		args = append(args, w.where.parameters()...)
	}
	where := writes[0].where
	if len(where.names) == 1 {
		return where.names[0] + " IN (" + placeholders(len(args)) + ")", args
	}
	test := "(" + where.test() + ")"
	return test + strings.Repeat(" OR "+test, len(writes)-1), args
}

// shape says which writes can be made by one statement: it is the same for those that differ only in values. In
// conditions the values' types count too. MySQL compares all of a list in one way, which depends on them.
func (w *tableWrite) shape() string {
	var b strings.Builder
	for _, part := range [][]string{{string(w.op), w.dialect.name, w.table}, w.key, w.set.names, w.where.names} {
		b.WriteString(strings.Join(part, ","))
		b.WriteByte(';')
	}
	for _, v := range w.where.values {
		b.WriteString(typeOf(v))
	}
	if w.op == updateRows {
		b.WriteByte(';')
		for _, v := range w.set.values {
			b.WriteString(typeOf(v))
		}
	}
	return b.String()
}
