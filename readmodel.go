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
// Its methods run inside the transaction of a projection's [Step]. Their errors are the database's.
//
// With a [Step], writes wait for others of their batch. They go out together, as statements of many rows, before anything
// reads: at [Table.Exists], at [Step.Tx], when 1000 of them or 1 MB wait, and before the batch is committed. The
// rows that come of it are those that a statement for each write makes. Writes change places only in tables where that
// can't show. Such a table has no trigger, no foreign key from or to it, no unique key but Key, and no sequence or
// other function among its defaults. The columns of its key are integers, UUIDs, bytes, or text of a common collation.
// In other tables, and between them, the order is kept, and a statement takes only neighbours: writes of the same
// method with the same columns. On MySQL and MariaDB a foreign key or trigger counts only if the user may see it there,
// and a foreign key of another database does not.
//
// If one of several writes in a statement fails, it is not known whose it is. The batch is then undone and its events are
// handled once more, with a statement for each write: the handler of the write gets the error, and its event has failed.
// After [Step.Tx] a handler's writes are made at once, each with its error. So are those with a value that
// could change while it waits: a pointer, or a driver.Valuer that the package does not know.
type Table struct {
	Dialect *Dialect
	Name    string
	Create  string   // the statement that creates the table unless it is there, run as it stands
	Key     []string // the columns of its primary key, for Upsert, and to tell rows apart
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

// Insert adds a row. With a [Step] its errors may come later, as those of all writes: see [Table].
func (t *Table) Insert(ctx context.Context, in Transactor, row Row) error {
	if len(row) == 0 {
		return invalid("row of table %s is empty", t.Name)
	}
	set, err := columnsOf(row)
	if err != nil {
		return err
	}
	_, err = t.write(ctx, in, &tableWrite{op: insertRow, set: set})
	return err
}

// Upsert adds a row, which must have all columns of Key, or, if there is one of its key, sets that
// one's other columns. On MySQL a row that is equal in any other unique key counts as well.
func (t *Table) Upsert(ctx context.Context, in Transactor, row Row) error {
	if len(row) == 0 {
		return invalid("row of table %s is empty", t.Name)
	}
	set, err := columnsOf(row)
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
	_, err = t.write(ctx, in, &tableWrite{op: upsertRow, set: set})
	return err
}

// Update sets columns of the rows that meet a condition, which must not be empty. It returns how many there were; MySQL
// does not count those that had these values already, unless the driver is told clientFoundRows. For a write that waits
// for others it returns -1, as that is not known yet. To learn it, call [Step.Tx] first.
func (t *Table) Update(ctx context.Context, in Transactor, where, set Row) (int64, error) {
	if len(set) == 0 {
		return 0, invalid("nothing to set in table %s", t.Name)
	}
	values, err := columnsOf(set)
	if err != nil {
		return 0, err
	}
	condition, err := t.condition(where)
	if err != nil {
		return 0, err
	}
	return t.write(ctx, in, &tableWrite{op: updateRows, set: values, where: condition})
}

// Remove deletes the rows that meet a condition, which must not be empty. It returns how many there were, as Update does.
func (t *Table) Remove(ctx context.Context, in Transactor, where Row) (int64, error) {
	condition, err := t.condition(where)
	if err != nil {
		return 0, err
	}
	return t.write(ctx, in, &tableWrite{op: removeRows, where: condition})
}

// Exists reports whether a row meets a condition, which must not be empty. It sees the writes before it.
func (t *Table) Exists(ctx context.Context, in Transactor, where Row) (bool, error) {
	condition, err := t.condition(where)
	if err != nil {
		return false, err
	}
	if err := t.check(); err != nil {
		return false, err
	}
	tx, err := transaction(in)
	if err != nil {
		return false, err
	}
	args := condition.parameters()
	for _, v := range args {
		if v, ok := v.(driver.Valuer); ok {
			// If it panics it does so here. In a query that would cost the pool the connection.
			_, _ = driver.DefaultParameterConverter.ConvertValue(v)
		}
	}
	found := false
	rows, err := tx.QueryContext(ctx, t.Dialect.bind("", "SELECT 1 FROM "+t.Name+" WHERE "+condition.test()+" LIMIT 1"), args...)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	for rows.Next() {
		found = true
	}
	return found, rows.Err()
}

func (t *Table) condition(where Row) (tableColumns, error) {
	if len(where) == 0 {
		return tableColumns{}, invalid("the condition on table %s is empty", t.Name)
	}
	return columnsOf(where)
}

// columnsOf lists a row's columns in the order of their names.
func columnsOf(row Row) (tableColumns, error) {
	c := tableColumns{names: slices.Sorted(maps.Keys(row)), values: make([]any, len(row))}
	for i, name := range c.names {
		if err := checkIdentifier("column", name); err != nil {
			return tableColumns{}, err
		}
		c.values[i] = row[name]
	}
	return c, nil
}

// write has the transaction keep w until others can go with it, or makes it at once. It returns how many rows it
// changed, or -1 if it is kept.
func (t *Table) write(ctx context.Context, in Transactor, w *tableWrite) (int64, error) {
	if err := t.check(); err != nil {
		return 0, err
	}
	w.dialect, w.table, w.key = t.Dialect, t.Name, t.Key
	if g, ok := in.(gatherer); ok {
		switch kept, err := g.gather(ctx, w); {
		case err != nil:
			return 0, err
		case kept:
			return -1, nil
		}
	}
	tx, err := transaction(in)
	if err != nil {
		return 0, err
	}
	res, err := w.statement().exec(ctx, tx)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// gatherer is a Transactor that keeps writes until others can go with them.
type gatherer interface {
	gather(ctx context.Context, w *tableWrite) (kept bool, err error)
	flushed() (*sql.Tx, error) // in which all writes are made that it has kept
}

// transaction returns a Transactor's transaction, with all writes made.
func transaction(in Transactor) (*sql.Tx, error) {
	if g, ok := in.(gatherer); ok {
		return g.flushed()
	}
	return in.Tx()
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
