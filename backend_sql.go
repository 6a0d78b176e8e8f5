// The one execution path over database/sql: connections, transactions, retries, and what an error
// of the driver means.

package eventstore

import (
	"cmp"
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
	tx   *sql.Tx // the caller's, or nil
	ours bool    // tx is a batch's
}

// sqlShared is what the backends of a store and of its WithTx copies have in common.
type sqlShared struct {
	db          *sql.DB
	dialect     *Dialect
	prefix      string
	text        *statements
	cache       *statementCache
	hints       appendHints
	limit       packetLimit
	settings    settingsCheck
	groupCommit *groupCommit
	sealer      *sealer
	waiting     waitingHandlers
	log         *slog.Logger
}

func newSQLBackend(db *sql.DB, dialect *Dialect, prefix string, log *slog.Logger) *sqlBackend {
	shared := &sqlShared{db: db, dialect: dialect, prefix: prefix, text: &dialect.statements, sealer: newSealer(), log: log}
	shared.limit.fixed = dialect.maxPacket
	shared.cache = newStatementCache(db, dialect, prefix)
	// A store needs no closing, but the server should not keep its prepared statements for as
	// long as the caller keeps the pool.
	runtime.AddCleanup(shared, func(c *statementCache) { c.close() }, shared.cache)
	b := &sqlBackend{sqlShared: shared}
	shared.groupCommit = &groupCommit{
		insertAlone: b.appendAlone, insertGroup: b.insertGroup, twoGroups: b.dialect.twoGroups,
		maxBytes: func() int { return shared.limit.cut(2*maxGroupBytes) / 2 },
	}
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
	leave, err := b.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	var past retries
	for attempt := 1; ; attempt++ {
		err := b.failed(op, fn(b.conn()))
		if !errors.Is(err, errRetry) || attempt == maxRetries {
			return past.ended(ctx, err)
		}
		past.last = err
		if err := backOff(ctx, attempt); err != nil {
			return past.ended(ctx, err)
		}
	}
}

// enter is called before a call waits for a connection: see waitingHandlers.
func (b *sqlBackend) enter(ctx context.Context) (leave func(), err error) {
	if b.tx != nil {
		return func() {}, nil
	}
	return b.waiting.enter(ctx, b.db)
}

// transact runs fn in the caller's transaction, or else in one of its own, which it repeats when
// the database asks for that. What it is used for rests on locks and keys and not on the isolation,
// so its own is read committed, whatever the default: that has the least to repeat.
func (b *sqlBackend) transact(ctx context.Context, op string, fn func(conn) error) error {
	return b.run(ctx, op, func(c conn) error {
		if c.tx != nil {
			return fn(c)
		}
		if err := b.settings.check(ctx, b.db, &b.text.install); err != nil {
			return err
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

// failed turns an error of the driver into one of the store's. Those that ask for a repetition
// become errRetry, or, in the caller's transaction, ErrRetryTx.
func (b *sqlBackend) failed(op string, err error) error {
	if err == nil {
		return nil
	}
	if tooLarge, _ := isTooLarge(err); tooLarge {
		if errors.Is(err, ErrInvalid) || errors.Is(err, errRetry) || errors.Is(err, ErrRetryTx) {
			return err
		}
		return invalid("%s: %w", op, err)
	}
	switch b.dialect.classify(err) {
	case faultNoTable:
		return fmt.Errorf("%w (%w)", ErrNotInstalled, err)
	case faultRetry:
		return b.retryable(op, err)
	case faultLost:
		return &statementError{op, err, errLost}
	case faultDriver:
		if isOwn(err) {
			break
		}
		return &statementError{op, err, errUnavailable}
	case faultDown, faultEnded:
		return &statementError{op, err, errUnavailable}
	case faultDenied:
		return &statementError{op, err, errDenied}
	case faultForeign:
		return invalid("dialect %s: this is another kind of database: %s: %w", b.dialect.name, op, err)
	}
	if errors.Is(err, errVersion) || errors.Is(err, errRetry) || errors.Is(err, ErrRetryTx) || errors.Is(err, ErrInvalid) || errors.Is(err, ErrInconsistent) {
		return err
	}
	return fmt.Errorf("eventstore: %s: %w", op, err)
}

// isOwn reports whether an error is one of the store's own, which no driver has made.
func isOwn(err error) bool {
	for _, own := range []error{errVersion, errRetry, ErrInvalid, ErrLeaseLost, errEnded} {
		if errors.Is(err, own) {
			return true
		}
	}
	return false
}

// retryable returns err as one that asks for a repetition.
func (b *sqlBackend) retryable(op string, err error) error {
	if b.tx != nil {
		return fmt.Errorf("%w: %s: %w", ErrRetryTx, op, err)
	}
	return &statementError{op, err, errRetry}
}

// conn is where statements run: a transaction, one connection, or (both nil) the pool.
type conn struct {
	b   *sqlBackend
	tx  *sql.Tx
	one *sql.Conn
}

func (b *sqlBackend) conn() conn { return conn{b: b, tx: b.tx} }

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
	if c.tx != nil && (c.b.tx == nil || c.b.ours) {
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

// query runs a statement and calls scan for each of its rows. The rows are closed when it
// returns, and what ended them early is its error.
func (c conn) query(ctx context.Context, scan func(*sql.Rows) error, text string, args ...any) error {
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
		select {
		case n := <-async(res.RowsAffected):
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
func async(result func() (int64, error)) <-chan asyncResult {
	answer := make(chan asyncResult, 1)
	go func() {
		n, err := result()
		answer <- asyncResult{n, err}
	}()
	return answer
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

// timeArg returns a time as a parameter; the zero time is NULL.
func (b *sqlBackend) timeArg(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(b.dialect.timeLayout)
}
