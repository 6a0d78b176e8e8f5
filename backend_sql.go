// The one execution path over database/sql: connections, transactions, retries, and what an error
// of the driver means.

package eventstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
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
	db          *sql.DB
	dialect     *Dialect
	prefix      string
	text        *statements
	cache       *statementCache
	hints       appendHints
	groupCommit *groupCommit
	sealer      *sealer
	isolation   isolation
	log         *slog.Logger
}

func newSQLBackend(db *sql.DB, dialect *Dialect, prefix string, log *slog.Logger) *sqlBackend {
	shared := &sqlShared{db: db, dialect: dialect, prefix: prefix, text: &dialect.statements, sealer: newSealer(), log: log}
	shared.cache = newStatementCache(db, dialect, prefix)
	// A store needs no closing, but the server should not keep its prepared statements for as
	// long as the caller keeps the pool.
	runtime.AddCleanup(shared, func(c *statementCache) { c.close() }, shared.cache)
	b := &sqlBackend{sqlShared: shared}
	shared.groupCommit = &groupCommit{insertAlone: b.appendAlone, insertGroup: b.insertGroup, twoGroups: b.dialect.twoGroups}
	return b
}

func (b *sqlBackend) withTx(tx *sql.Tx) backend {
	if tx == nil {
		return &brokenBackend{err: invalid("tx is nil")}
	}
	return &sqlBackend{sqlShared: b.sqlShared, tx: tx}
}

// run calls fn, which must not have effects when it fails, again for as long as the database asks
// for that, and says in its error which operation it was.
func (b *sqlBackend) run(ctx context.Context, op string, fn func(conn) error) error {
	for attempt := 1; ; attempt++ {
		err := b.failed(op, fn(b.conn()))
		if !errors.Is(err, errRetry) || attempt == maxRetries {
			return err
		}
		if err := backOff(ctx, attempt); err != nil {
			return err
		}
	}
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
			return ended(ctx, err)
		}
		return ended(ctx, tx.Commit())
	})
}

var readCommitted = &sql.TxOptions{Isolation: sql.LevelReadCommitted}

// failed turns an error of the driver into one of the store's. Those that ask for a repetition
// become errRetry, or, in the caller's transaction, ErrRetryTx.
func (b *sqlBackend) failed(op string, err error) error {
	if err == nil {
		return nil
	}
	switch b.dialect.classify(err) {
	case faultNoTable:
		return fmt.Errorf("%w (%w)", ErrNotInstalled, err)
	case faultRetry:
		if b.tx != nil {
			return fmt.Errorf("%w: %s: %w", ErrRetryTx, op, err)
		}
		return &transientError{op, err, errRetry}
	case faultLost:
		return &transientError{op, err, errLost}
	case faultForeign:
		return invalid("dialect %s: this is another kind of database: %s: %w", b.dialect.name, op, err)
	}
	if errors.Is(err, errVersion) || errors.Is(err, errRetry) || errors.Is(err, ErrRetryTx) || errors.Is(err, ErrInvalid) {
		return err
	}
	return fmt.Errorf("eventstore: %s: %w", op, err)
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

// query runs a SELECT and calls scan for each of its rows. The rows are closed when it returns, and what
// ended them early is its error. It sees only what is committed, but in a caller's transaction that sees
// more.
func (c conn) query(ctx context.Context, scan func(*sql.Rows) error, text string, args ...any) error {
	if c.tx != nil || c.one != nil || c.b.text.read.uncommitted == "" {
		return c.returning(ctx, scan, text, args...)
	}
	dirty, err := c.b.readsUncommitted(ctx)
	if err != nil || !dirty {
		if err == nil {
			err = c.returning(ctx, scan, text, args...)
		}
		return err
	}
	// Prepared before the transaction has the connection: a pool of one could not do it then.
	st, err := c.b.cache.get(ctx, text, len(args) > 0)
	if err != nil {
		return err
	}
	defer st.release()
	for range 3 { // as the pool does: connections that are gone are found out by their use
		if err = c.b.readCommitted(ctx, func(c conn) error { return c.returning(ctx, scan, text, args...) }); !errors.Is(err, driver.ErrBadConn) {
			break
		}
	}
	return err
}

// readCommitted calls fn with a transaction at this isolation. It holds the connection, so that it has
// been given back when it returns: a transaction whose context ends gives it back at some time.
func (b *sqlBackend) readCommitted(ctx context.Context, fn func(conn) error) error {
	one, err := b.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = one.Close() }()
	tx, err := one.BeginTx(ctx, readCommitted)
	if err != nil {
		return err
	}
	if err = fn(conn{b: b, tx: tx}); err != nil {
		_ = tx.Rollback()
	} else {
		err = tx.Commit()
	}
	return ended(ctx, err)
}

// ended returns the error of a context that has ended, where it is that which has ended a transaction.
func ended(ctx context.Context, err error) error {
	if errors.Is(err, sql.ErrTxDone) && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// returning is query for any statement that returns rows, at the isolation that the connection has.
func (c conn) returning(ctx context.Context, scan func(*sql.Rows) error, text string, args ...any) error {
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

// changes is exec for a statement of which it matters whether it found its row. Outside a transaction
// it holds the connection until it knows, or asks aside: see async.
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
		case n := <-async(res.RowsAffected):
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

// asyncResult is what a result has told.
type asyncResult struct {
	value int64
	err   error
}

// async asks a result from beside the caller, who may have better things to do than wait: outside a
// transaction database/sql has given the connection back by now, and lets the result wait for the
// statement of whoever has got it, however long that takes.
func async(result func() (int64, error)) <-chan asyncResult {
	answer := make(chan asyncResult, 1)
	go func() {
		n, err := result()
		answer <- asyncResult{n, err}
	}()
	return answer
}

// isolation is what is known of the default isolation of the pool's connections.
type isolation struct {
	mu          sync.Mutex
	asked       time.Time
	uncommitted bool
}

// isolationAge is for how long the answer counts: the server's default can be changed under a running
// process, for the connections that come then.
const isolationAge = time.Minute

// readsUncommitted reports whether connections read what is not committed, unless a transaction says
// otherwise.
func (b *sqlBackend) readsUncommitted(ctx context.Context) (bool, error) {
	i := &b.isolation
	i.mu.Lock()
	uncommitted, known := i.uncommitted, !i.asked.IsZero() && time.Since(i.asked) < isolationAge
	i.mu.Unlock()
	if known {
		return uncommitted, nil
	}
	err := b.conn().returning(ctx, func(r *sql.Rows) error { return r.Scan(&uncommitted) }, b.text.read.uncommitted)
	if err == nil {
		i.mu.Lock()
		i.uncommitted, i.asked = uncommitted, time.Now()
		i.mu.Unlock()
	}
	return uncommitted, err
}

// timeArg returns a time as a parameter; the zero time is NULL.
func (b *sqlBackend) timeArg(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(b.dialect.timeLayout)
}
