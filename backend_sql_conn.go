// Where statements run: the pool, a connection or a transaction; how one is made ready, and what its end
// tells.

package eventstore

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"sync"
	"time"
)

// conn is where statements run: a transaction, one connection, or (both nil) the pool.
type conn struct {
	b   *sqlBackend
	tx  *sql.Tx
	one *sql.Conn

	checked bool // the settings of one are known
}

// executor returns what runs st here.
func (c conn) executor(ctx context.Context, st *statement) executor {
	switch {
	case c.one != nil || st.stmt == nil:
		return c.plain()
	case c.tx != nil:
		return prepared{c.tx.StmtContext(ctx, st.stmt)}
	}
	return prepared{st.stmt}
}

// plain returns what runs a text here.
func (c conn) plain() executor {
	switch {
	case c.one != nil:
		return c.one
	case c.tx != nil:
		return c.tx
	}
	return c.b.db
}

// running is a statement between its start and its end.
type running struct {
	executor
	text string
	size int
	kept *statement
	once *sql.Stmt
	one  *sql.Conn // of once, outside a transaction
}

// start gets a statement ready to run. The caller calls end.
//
// A large one is prepared for this once, on one connection. One that is kept would poison its
// connection if it failed: go-sql-driver sends a large parameter ahead, in packets of its own. The
// server keeps that, or an error that it was too large, with the prepared statement, and the next to
// execute the statement there gets the error, or has its own parameter added to the one before.
// Closing the statement is what clears it. It goes prepared in any case, since with interpolateParams
// the driver would write the values into a text of up to twice their size.
func (c conn) start(ctx context.Context, text string, args []any) (running, error) {
	if c.checked || c.tx != nil && (c.b.tx == nil || c.b.ours) {
		// It was checked before it began, and a handler's has settings of its own by now.
	} else if err := c.b.settings.check(ctx, c.plain(), &c.b.text.install); err != nil {
		return running{}, err
	}
	size := statementSize(args)
	if size > smallStatement {
		if err := c.fits(ctx, size); err != nil {
			return running{}, err
		}
		if c.b.dialect.prepares && size > min(keptStatement, c.b.limit.cut(keptStatement*4)/4) {
			return c.startOnce(ctx, text, size)
		}
	}
	st, err := c.b.cache.get(ctx, text, c.tx == nil && c.one == nil && len(args) > 0)
	if err != nil {
		return running{}, err
	}
	return running{executor: c.executor(ctx, st), text: st.text, size: size, kept: st}, nil
}

func (c conn) startOnce(ctx context.Context, text string, size int) (r running, err error) {
	r.text, r.size = c.b.dialect.bind(c.b.prefix, text), size
	switch {
	case c.tx != nil:
		r.once, err = c.tx.PrepareContext(ctx, r.text)
	case c.one != nil:
		r.once, err = c.one.PrepareContext(ctx, r.text)
	default:
		err = c.b.onOne(ctx, func(one *sql.Conn) (err error) {
			if r.once, err = one.PrepareContext(ctx, r.text); err == nil {
				r.one = one
			}
			return err
		})
	}
	r.executor = prepared{r.once}
	return r, err
}

// end gives back what a statement has held, and returns its error: as a packetError if that says that
// it was too large.
func (c conn) end(r *running, err error) error {
	tooLarge := err != nil && c.b.dialect.classify(err) == faultPacket
	switch {
	case r.kept != nil:
		if tooLarge {
			c.b.cache.drop(r.kept)
		}
		r.kept.release()
	default:
		_ = r.once.Close() // one that can't be closed goes with its connection
		if r.one != nil {
			_ = r.one.Close() // gives it back
		}
	}
	if tooLarge {
		limit := cmp.Or(c.b.limit.fixed, int(c.b.limit.server.Load()))
		c.b.limit.refused(r.size)
		return &packetError{size: r.size, limit: limit, setting: c.b.dialect.packetSetting, err: err}
	}
	if r.size > smallStatement && err != nil && c.b.dialect.classify(err) == faultLost {
		c.b.limit.server.Store(0) // servers hang up on a packet that is too large
	}
	return err
}

// exec runs a statement that returns no rows.
func (c conn) exec(ctx context.Context, text string, args ...any) (sql.Result, error) {
	r, err := c.start(ctx, text, args)
	if err != nil {
		return nil, err
	}
	res, err := r.ExecContext(ctx, r.text, args...)
	return res, c.end(&r, err)
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
	r, err := c.start(ctx, text, args)
	if err != nil {
		return err
	}
	rows, err := r.QueryContext(ctx, r.text, args...)
	if err == nil {
		err = scanAll(rows, scan)
	}
	return c.end(&r, err)
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
		answer := async(res.RowsAffected)
		select {
		case <-answer.ended:
			n := answer.wait()
			return n.value > 0, n.err
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	err = c.b.onOne(ctx, func(one *sql.Conn) (err error) {
		if changed, err = (conn{b: c.b, one: one}).changesHere(ctx, text, args); err == nil {
			_ = one.Close() // gives it back
		}
		return err
	})
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

// onOne runs fn with a connection, which fn has taken over if it returns nil. As the pool does, it tries
// another one where fn finds that a connection is gone.
func (b *sqlBackend) onOne(ctx context.Context, fn func(*sql.Conn) error) error {
	var err error
	for range 3 {
		var one *sql.Conn
		if one, err = b.db.Conn(ctx); err != nil {
			return err
		}
		if err = fn(one); err == nil {
			return nil
		}
		_ = one.Close() // gives it back
		if !errors.Is(err, driver.ErrBadConn) {
			return err
		}
	}
	return err
}

// asyncResult is what a result has told.
type asyncResult struct {
	value int64
	err   error
}

// async asks a result from beside the caller, who may have better things to do than wait: outside a
// transaction database/sql has given the connection back by now, and lets the result wait for the
// statement of whoever has got it, however long that takes.
func async(result func() (int64, error)) *background[asyncResult] {
	return inBackground(func() asyncResult {
		n, err := result()
		return asyncResult{n, err}
	})
}

// maxPacket returns how many bytes the server takes in one statement.
func (c conn) maxPacket(ctx context.Context) (int, error) {
	if n := cmp.Or(c.b.limit.fixed, int(c.b.limit.server.Load())); n > 0 {
		return n, nil
	}
	return c.askMaxPacket(ctx)
}

func (c conn) askMaxPacket(ctx context.Context) (int, error) {
	var n int64
	_, err := c.row(ctx, []any{&n}, c.b.text.install.packet)
	if err == nil {
		c.b.limit.server.Store(n)
	}
	return int(n), err
}

// fits returns a packetError if a statement can't hold so many bytes. What is known of the server
// may be out of date, so that it is asked again before anything is refused.
func (c conn) fits(ctx context.Context, size int) error {
	limit, err := c.maxPacket(ctx)
	if err == nil && size > room(limit) && c.b.limit.fixed == 0 {
		limit, err = c.askMaxPacket(ctx)
	}
	if err == nil && size > room(limit) {
		err = &packetError{size: size, limit: limit, setting: c.b.dialect.packetSetting}
	}
	return err
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
