// ReadModel, and Table: a ready one for a single table.

package eventstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"maps"
	"slices"
	"strings"
)

// ReadModel are the tables, or whatever else a transaction reaches, that a [Projection] writes. Its
// functions must not end the transaction; on MySQL statements that create or drop tables do so by
// themselves, which is why each must do no harm if it is called again.
type ReadModel interface {
	// Init creates what is missing. It is called whenever a run begins.
	Init(ctx context.Context, tx *sql.Tx) error
	// Reset empties it, in the transaction that sets the projection back.
	Reset(ctx context.Context, tx *sql.Tx) error
	// Delete drops it.
	Delete(ctx context.Context, tx *sql.Tx) error
}

// Table is a ready [ReadModel] of one table. It is a literal, and safe for concurrent use:
//
//	var balances = &eventstore.Table{
//		Dialect: eventstore.Postgres,
//		Name:    "balances",
//		Create:  "CREATE TABLE IF NOT EXISTS balances (account text PRIMARY KEY, cents bigint NOT NULL)",
//		Key:     []string{"account"},
//	}
//
// Names of tables and columns are letters, digits and underscores, no digit first, at most 63, and
// written into statements without quotes, so that words which the database reserves won't do;
// another name is [ErrInvalid]. That of the table may have its schema, or on MySQL its database, and a
// dot before it. Values are always parameters.
//
// Its methods run inside the transaction of a projection's [Step]; their errors are the database's.
type Table struct {
	Dialect *Dialect
	Name    string
	Create  string   // the statement that creates the table unless it is there, run as it stands
	Key     []string // the columns of its primary key, for Upsert
}

// Row are values by the names of columns. In a condition all of them have to be met, and nil is
// met by NULL.
type Row map[string]any

// Transactor has a transaction: a [Step].
type Transactor interface{ Tx() (*sql.Tx, error) }

// Init creates the table unless it is there.
func (t *Table) Init(ctx context.Context, tx *sql.Tx) error {
	if err := t.check(); err != nil {
		return err
	}
	if strings.TrimSpace(t.Create) == "" {
		return invalid("Table.Create is empty")
	}
	_, err := tx.ExecContext(ctx, t.Create)
	return err
}

// Reset deletes all rows.
func (t *Table) Reset(ctx context.Context, tx *sql.Tx) error {
	if err := t.check(); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, "DELETE FROM "+t.Name)
	return err
}

// Delete drops the table.
func (t *Table) Delete(ctx context.Context, tx *sql.Tx) error {
	if err := t.check(); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, "DROP TABLE IF EXISTS "+t.Name)
	return err
}

// Insert adds a row.
func (t *Table) Insert(ctx context.Context, in Transactor, row Row) error {
	text, args, err := t.insert(row)
	if err != nil {
		return err
	}
	_, err = t.exec(ctx, in, text, args)
	return err
}

// Upsert adds a row, which must have all columns of Key, or, if there is one of its key, sets that
// one's other columns. On MySQL a row that is equal in any other unique key counts as well.
func (t *Table) Upsert(ctx context.Context, in Transactor, row Row) error {
	text, args, err := t.insert(row)
	if err != nil {
		return err
	}
	if len(t.Key) == 0 {
		return invalid("Table.Key is empty")
	}
	for _, column := range t.Key {
		if err := checkIdentifier("Table.Key", column); err != nil {
			return err
		}
		if _, ok := row[column]; !ok {
			return invalid("row of table %s lacks %s, a column of its key", t.Name, column)
		}
	}
	var sets []string
	for _, column := range slices.Sorted(maps.Keys(row)) {
		if !slices.Contains(t.Key, column) {
			sets = append(sets, column+" = "+strings.ReplaceAll(t.Dialect.statements.readModel.upsertValue, "{column}", column))
		}
	}
	if len(sets) == 0 {
		sets = []string{t.Key[0] + " = " + t.Name + "." + t.Key[0]}
	}
	head := strings.ReplaceAll(t.Dialect.statements.readModel.upsert, "{key}", strings.Join(t.Key, ", "))
	_, err = t.exec(ctx, in, text+head+strings.Join(sets, ", "), args)
	return err
}

// Update sets columns of the rows that meet a condition, which must not be empty, and returns how
// many there were; MySQL does not count those that had these values already, unless the driver is
// told clientFoundRows.
func (t *Table) Update(ctx context.Context, in Transactor, where, set Row) (int64, error) {
	if len(set) == 0 {
		return 0, invalid("nothing to set in table %s", t.Name)
	}
	sets, args, err := t.columns(set, " = ?", ", ")
	if err != nil {
		return 0, err
	}
	condition, more, err := t.where(where)
	if err != nil {
		return 0, err
	}
	return t.exec(ctx, in, "UPDATE "+t.Name+" SET "+sets+condition, append(args, more...))
}

// Remove deletes the rows that meet a condition, which must not be empty, and returns how many.
func (t *Table) Remove(ctx context.Context, in Transactor, where Row) (int64, error) {
	condition, args, err := t.where(where)
	if err != nil {
		return 0, err
	}
	return t.exec(ctx, in, "DELETE FROM "+t.Name+condition, args)
}

// Exists reports whether a row meets a condition, which must not be empty.
func (t *Table) Exists(ctx context.Context, in Transactor, where Row) (bool, error) {
	condition, args, err := t.where(where)
	if err != nil {
		return false, err
	}
	if err := t.check(); err != nil {
		return false, err
	}
	tx, err := in.Tx()
	if err != nil {
		return false, err
	}
	for _, v := range args {
		if v, ok := v.(driver.Valuer); ok {
			// If it panics it does so here. In a query that would cost the pool the connection.
			_, _ = driver.DefaultParameterConverter.ConvertValue(v)
		}
	}
	found := false
	rows, err := tx.QueryContext(ctx, t.Dialect.bind("", "SELECT 1 FROM "+t.Name+condition+" LIMIT 1"), args...)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	for rows.Next() {
		found = true
	}
	return found, rows.Err()
}

func (t *Table) insert(row Row) (string, []any, error) {
	if len(row) == 0 {
		return "", nil, invalid("row of table %s is empty", t.Name)
	}
	columns, args, err := t.columns(row, "", ", ")
	return "INSERT INTO " + t.Name + " (" + columns + ") VALUES (" + placeholders(len(args)) + ")", args, err
}

func (t *Table) where(row Row) (string, []any, error) {
	if len(row) == 0 {
		return "", nil, invalid("the condition on table %s is empty", t.Name)
	}
	values := maps.Clone(row)
	maps.DeleteFunc(values, func(_ string, v any) bool { return v == nil })
	text, args, err := t.columns(values, " = ?", " AND ")
	for _, column := range slices.Sorted(maps.Keys(row)) {
		if row[column] != nil || err != nil {
			continue
		}
		err = checkIdentifier("column", column)
		if text != "" {
			text += " AND "
		}
		text += column + " IS NULL"
	}
	return " WHERE " + text, args, err
}

// columns lists a row's columns in order, each with a tail, and their values.
func (t *Table) columns(row Row, tail, separator string) (string, []any, error) {
	names := slices.Sorted(maps.Keys(row))
	args := make([]any, len(names))
	for i, name := range names {
		if err := checkIdentifier("column", name); err != nil {
			return "", nil, err
		}
		args[i] = row[name]
		names[i] += tail
	}
	return strings.Join(names, separator), args, nil
}

func (t *Table) exec(ctx context.Context, in Transactor, text string, args []any) (int64, error) {
	if err := t.check(); err != nil {
		return 0, err
	}
	tx, err := in.Tx()
	if err != nil {
		return 0, err
	}
	res, err := tx.ExecContext(ctx, t.Dialect.bind("", text), args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (t *Table) check() error {
	if t.Dialect == nil {
		return invalid("Table.Dialect is nil: want Postgres or MySQL")
	}
	schema, name, qualified := strings.Cut(t.Name, ".")
	if !qualified {
		return checkIdentifier("Table.Name", t.Name)
	}
	if err := checkIdentifier("the schema of Table.Name", schema); err != nil {
		return err
	}
	return checkIdentifier("Table.Name", name)
}
