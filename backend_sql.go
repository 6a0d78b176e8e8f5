package eventstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"
)

// sqlBackend is the one execution path for all databases: what to run, when, and what to make of
// the outcome. The texts are the dialect's.
type sqlBackend struct {
	*sqlShared
	tx *sql.Tx // the caller's, or nil
}

// sqlShared is what the backends of a store and of its WithTx copies have in common.
type sqlShared struct {
	db      *sql.DB
	dialect *Dialect
	prefix  string
	text    *statements
	cache   *statementCache
	hints   appendHints
	groups  *appendGroups
	sealer  *sealer
	log     *slog.Logger
}

func newSQLBackend(db *sql.DB, dialect *Dialect, prefix string, log *slog.Logger) *sqlBackend {
	shared := &sqlShared{db: db, dialect: dialect, prefix: prefix, text: &dialect.statements, sealer: newSealer(), log: log}
	shared.cache = newStatementCache(db, dialect, prefix)
	// A store needs no closing, but the server should not keep its prepared statements for as
	// long as the caller keeps the pool.
	runtime.AddCleanup(shared, func(c *statementCache) { c.close() }, shared.cache)
	b := &sqlBackend{sqlShared: shared}
	shared.groups = &appendGroups{alone: b.appendAlone, together: b.insertGroup, inTurns: b.dialect.returning}
	return b
}

func (b *sqlBackend) withTx(tx *sql.Tx) backend {
	if tx == nil {
		return &brokenBackend{err: invalid("tx is nil")}
	}
	return &sqlBackend{sqlShared: b.sqlShared, tx: tx}
}

// conn is where statements run: a transaction, one connection, or (both nil) the pool.
type conn struct {
	b   *sqlBackend
	tx  *sql.Tx
	one *sql.Conn
}

func (b *sqlBackend) conn() conn { return conn{b: b, tx: b.tx} }

// executor is what can run a statement: *sql.DB, *sql.Conn and *sql.Tx, and *sql.Stmt with its text
// left out.
type executor interface {
	ExecContext(ctx context.Context, text string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error)
}

type prepared struct{ *sql.Stmt }

func (p prepared) ExecContext(ctx context.Context, _ string, args ...any) (sql.Result, error) {
	return p.Stmt.ExecContext(ctx, args...)
}

func (p prepared) QueryContext(ctx context.Context, _ string, args ...any) (*sql.Rows, error) {
	return p.Stmt.QueryContext(ctx, args...)
}

// executor returns what runs st here.
func (c conn) executor(ctx context.Context, st *statement) executor {
	switch {
	case c.one != nil:
		return c.one
	case c.tx != nil && st.stmt != nil:
		return prepared{c.tx.StmtContext(ctx, st.stmt)}
	case c.tx != nil:
		return c.tx
	case st.stmt != nil:
		return prepared{st.stmt}
	}
	return c.b.db
}

// exec runs a statement that returns no rows.
func (c conn) exec(ctx context.Context, text string, args ...any) (sql.Result, error) {
	st, err := c.b.cache.get(ctx, text, c.tx == nil && c.one == nil && len(args) > 0)
	if err != nil {
		return nil, err
	}
	defer st.release()
	return c.executor(ctx, st).ExecContext(ctx, st.text, args...)
}

// changes is exec for a statement of which it matters whether it found its row. Outside a transaction
// it holds the connection until it knows, or asks aside: see ask.
func (c conn) changes(ctx context.Context, text string, args ...any) (changed bool, err error) {
	switch {
	case c.tx != nil || c.one != nil:
		return c.changesHere(ctx, text, args)
	case c.b.dialect.prepares:
		// On a connection that is held a statement is not prepared, and takes several trips.
		res, err := c.exec(ctx, text, args...)
		if err != nil {
			return false, err
		}
		select {
		case n := <-ask(res.RowsAffected):
			return n.value > 0, n.err
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	for range 3 { // as the pool does: connections that are gone are found out by their use
		var one *sql.Conn
		if one, err = c.b.db.Conn(ctx); err != nil {
			return false, err
		}
		changed, err = conn{b: c.b, one: one}.changesHere(ctx, text, args)
		_ = one.Close() // gives it back
		if !errors.Is(err, driver.ErrBadConn) {
			break
		}
	}
	return changed, err
}

func (c conn) changesHere(ctx context.Context, text string, args []any) (bool, error) {
	res, err := c.exec(ctx, text, args...)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// told is what a result has told.
type told struct {
	value int64
	err   error
}

// ask asks a result from beside the caller, who may have better things to do than wait: outside a
// transaction database/sql has given the connection back by now, and lets the result wait for the
// statement of whoever has got it, however long that takes.
func ask(result func() (int64, error)) <-chan told {
	answer := make(chan told, 1)
	go func() {
		n, err := result()
		answer <- told{n, err}
	}()
	return answer
}

// query runs a statement and calls scan for each of its rows. The rows are closed when it
// returns, and what ended them early is its error.
func (c conn) query(ctx context.Context, scan func(*sql.Rows) error, text string, args ...any) error {
	st, err := c.b.cache.get(ctx, text, c.tx == nil && c.one == nil && len(args) > 0)
	if err != nil {
		return err
	}
	defer st.release()
	rows, err := c.executor(ctx, st).QueryContext(ctx, st.text, args...)
	if err != nil {
		return err
	}
	for rows.Next() {
		if err := scan(rows); err != nil {
			return errors.Join(err, rows.Close())
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

// row is query for a statement that returns one row or none.
func (c conn) row(ctx context.Context, dest []any, text string, args ...any) (found bool, err error) {
	err = c.query(ctx, func(rows *sql.Rows) error {
		found = true
		return rows.Scan(dest...)
	}, text, args...)
	return found, err
}

// transact runs fn in the caller's transaction, or else in one of its own, which it repeats when
// the database asks for that. What it is used for rests on locks and keys and not on the isolation,
// so its own is read committed, whatever the default: that has the least to repeat.
func (b *sqlBackend) transact(ctx context.Context, op string, fn func(conn) error) error {
	return b.run(ctx, op, func(c conn) error {
		if c.tx != nil {
			return fn(c)
		}
		tx, err := b.db.BeginTx(ctx, readCommitted)
		if err != nil {
			return err
		}
		if err := fn(conn{b: b, tx: tx}); err != nil {
			// The error that matters is fn's: a rollback fails only with a connection that is gone.
			_ = tx.Rollback()
			return err
		}
		return tx.Commit()
	})
}

var readCommitted = &sql.TxOptions{Isolation: sql.LevelReadCommitted}

// run calls fn, which must not have effects when it fails, again for as long as the database asks
// for that, and says in its error which operation it was.
func (b *sqlBackend) run(ctx context.Context, op string, fn func(conn) error) error {
	for attempt := 1; ; attempt++ {
		err := b.failed(op, fn(b.conn()))
		if !errors.Is(err, errRepeat) || attempt == maxRepeats {
			return err
		}
		if err := backOff(ctx, attempt); err != nil {
			return err
		}
	}
}

// failed turns an error of the driver into one of the store's. Those that ask for a repetition
// become errRepeat, or, in the caller's transaction, ErrRetryTx.
func (b *sqlBackend) failed(op string, err error) error {
	if err == nil {
		return nil
	}
	switch b.dialect.classify(err) {
	case faultNoTable:
		return fmt.Errorf("%w (%w)", ErrNotInstalled, err)
	case faultRepeat:
		if b.tx != nil {
			return fmt.Errorf("%w: %s: %w", ErrRetryTx, op, err)
		}
		return &passingError{op, err, errRepeat}
	case faultLost:
		return &passingError{op, err, errLost}
	case faultForeign:
		return invalid("dialect %s: this is another kind of database: %s: %w", b.dialect.name, op, err)
	}
	if errors.Is(err, errVersion) || errors.Is(err, errRepeat) || errors.Is(err, ErrInvalid) {
		return err
	}
	return fmt.Errorf("eventstore: %s: %w", op, err)
}

func (b *sqlBackend) createStream(ctx context.Context, name string, metadata []byte, at time.Time) (bool, error) {
	var created bool
	err := b.run(ctx, "create stream", func(c conn) error {
		err := b.eraseOwed(ctx, c)
		if err != nil {
			return err
		}
		created, err = c.changes(ctx, b.text.createStream, name, string(metadata), b.timeArg(at))
		if b.dialect.classify(err) == faultTaken {
			return nil
		}
		return err
	})
	return created, err
}

func (b *sqlBackend) deleteStream(ctx context.Context, name string) (bool, error) {
	var found bool
	err := b.transact(ctx, "delete stream", func(c conn) error {
		var id int64
		err := b.eraseOwed(ctx, c)
		if err != nil {
			return err
		}
		if found, err = c.row(ctx, []any{&id}, b.text.lockStream, name); err != nil || !found {
			return err
		}
		for _, text := range []string{b.text.deleteStream, b.text.deleteSealed, b.text.eraseStream, b.text.deleteSnapshots} {
			if _, err := c.exec(ctx, text, id); err != nil {
				return err
			}
		}
		if b.tx != nil && b.text.oweErase != "" {
			_, err = c.exec(ctx, b.text.oweErase, id, id)
		}
		return err
	})
	return found, err
}

// eraseOwed erases what is left of streams that were deleted in transactions which could not see all
// of it. A caller's transaction leaves that to others.
func (b *sqlBackend) eraseOwed(ctx context.Context, c conn) error {
	if b.tx != nil || b.text.oweErase == "" {
		return nil
	}
	var owed []int64
	if err := c.query(ctx, func(r *sql.Rows) error {
		owed = append(owed, 0)
		return r.Scan(&owed[len(owed)-1])
	}, b.text.owedErases); err != nil {
		return err
	}
	for _, id := range owed {
		for _, text := range []string{b.text.deleteSealed, b.text.eraseStream, b.text.deleteSnapshots, b.text.eraseDone} {
			if _, err := c.exec(ctx, text, id); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *sqlBackend) hasStream(ctx context.Context, name string) (bool, error) {
	var found bool
	err := b.run(ctx, "look for stream", func(c conn) (err error) {
		found, err = c.row(ctx, []any{new(int64)}, b.text.hasStream, name)
		return err
	})
	return found, err
}

func (b *sqlBackend) streams(ctx context.Context, prefix string) ([]streamRow, error) {
	var out []streamRow
	err := b.run(ctx, "list streams", func(c conn) error {
		out = nil
		return c.query(ctx, func(rows *sql.Rows) error {
			var row streamRow
			if err := rows.Scan(&row.name, &row.metadata, (*dbTime)(&row.createdAt)); err != nil {
				return err
			}
			out = append(out, row)
			return nil
		}, b.text.listStreams, prefix, prefix)
	})
	return out, err
}

func (b *sqlBackend) setStreamMetadata(ctx context.Context, name string, metadata []byte) (bool, error) {
	var found bool
	err := b.run(ctx, "set stream metadata", func(c conn) error {
		var err error
		if found, err = c.changes(ctx, b.text.setStreamMetadata, string(metadata), name); found || err != nil {
			return err
		}
		// MySQL counts no row when the new value is the old one.
		found, err = c.row(ctx, []any{new(int64)}, b.text.hasStream, name)
		return err
	})
	return found, err
}

// timeArg returns a time as a parameter; the zero time is NULL.
func (b *sqlBackend) timeArg(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(b.dialect.timeLayout)
}

// dbTime scans a time: time.Time of a column that knows its zone, or text in UTC. DATETIME columns
// of MySQL are selected as text, because the driver's parseTime and loc would make of them what
// the caller likes.
type dbTime time.Time

func (t *dbTime) Scan(src any) error {
	switch src := src.(type) {
	case time.Time:
		*t = dbTime(src.UTC())
		return nil
	case []byte:
		return t.Scan(string(src))
	case string:
		parsed, err := time.Parse("2006-01-02 15:04:05.999999", src)
		*t = dbTime(parsed)
		return err
	}
	return fmt.Errorf("a time came as %T", src)
}
