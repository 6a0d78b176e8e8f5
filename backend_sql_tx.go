// The transaction of a projection's batch in a database, and its checkpoint.

package eventstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

// sqlBatchTx is a transaction that begins when it is first needed: a batch that changes nothing but
// its checkpoint is a statement.
type sqlBatchTx struct {
	b      *sqlBackend
	ctx    context.Context
	tx     *sql.Tx
	caller bool // it is of Store.Transact, and has no checkpoint

	one     *sql.Conn // that of tx
	over    bool      // tx was committed, or a rollback has begun
	lock    string    // the name of a lock that it has, or ""
	guarded bool
	held    *heldConn // by tx, as handlers' contexts know it; nil: there is none yet
	unsure  bool      // tx did not end here: database/sql may still be about to roll it back
}

func (u *sqlBatchTx) handlerContext(ctx context.Context) context.Context {
	if u.held == nil {
		u.held = newHeldConn(ctx, u.b.db)
		u.held.taken.Store(u.tx != nil)
	}
	return u.held.context(ctx)
}

func (b *sqlBackend) begin(ctx context.Context) backendTx { return &sqlBatchTx{b: b, ctx: ctx} }

func (u *sqlBatchTx) sqlTx() (*sql.Tx, error) {
	if u.tx != nil {
		return u.tx, nil
	}
	if err := u.b.settings.check(u.ctx, u.b.db, &u.b.text.install); err != nil {
		return nil, u.b.failed("begin", err)
	}
	// Read committed, whatever the default: the lease is renewed in the row that the checkpoint updates,
	// and a higher level would take that for a conflict.
	opts := readCommitted
	if u.caller {
		opts = nil
	} else if err := u.prepare(); err != nil {
		return nil, err
	}
	err := u.b.onOne(u.ctx, func(one *sql.Conn) (err error) {
		if u.tx, err = one.BeginTx(u.ctx, opts); err == nil {
			u.one = one
		}
		return err
	})
	if err != nil {
		return nil, u.b.failed("begin", err)
	}
	if u.held != nil {
		u.held.taken.Store(true)
	}
	return u.tx, nil
}

// guard begins a savepoint that only its own transaction can release. Where a statement can end a
// transaction without a word, and leaves a connection that commits each of the next ones by itself,
// that is switched off too, so that what comes after the end is undone with the batch.
func (u *sqlBatchTx) guard() error {
	if u.guarded {
		return nil
	}
	u.guarded = true
	for _, text := range u.b.text.projections.guard {
		if err := u.exec("guard", text); err != nil {
			return err
		}
	}
	return nil
}

// checkGuard finds out whether the transaction is still the one of guard.
func (u *sqlBatchTx) checkGuard() error {
	if !u.guarded {
		return nil
	}
	_, err := conn{b: u.b, tx: u.tx}.exec(u.ctx, u.b.text.projections.checkGuard)
	if u.b.dialect.classify(err) == faultNoSavepoint {
		return errEnded
	}
	return err
}

// prepare prepares the checkpoint, which has to be known before the transaction has the connection: a
// pool of one could not do it any more.
func (u *sqlBatchTx) prepare() error {
	for _, text := range []string{u.b.text.projections.checkpoint, u.b.text.projections.checkpointState} {
		st, err := u.b.cache.get(u.ctx, text, true)
		if err != nil {
			return u.b.failed("begin", err)
		}
		st.release()
	}
	return nil
}

// tidyTime is how long rollback tries to leave the connection as it was.
const tidyTime = time.Second

// lockWait is how many seconds exclusive waits for a lock before it ends the connection that has it.
const lockWait = 1

// exclusive takes a lock by name where a statement that defines data commits by itself, so that the
// fence comes too late for it. A process that was stopped between the fence and such a statement
// keeps the lock for as long as it keeps its connection, which is ended here: the statement can't run
// any more when the process goes on.
func (u *sqlBatchTx) exclusive(name string, epoch int64) error {
	if u.b.text.projections.lock == "" {
		return nil
	}
	if _, err := u.sqlTx(); err != nil {
		return err
	}
	u.lock = u.b.prefix + "projection\x00" + name
	return u.b.failed("lock read model", u.takeLock(conn{b: u.b, tx: u.tx}, name, epoch))
}

func (u *sqlBatchTx) takeLock(c conn, name string, epoch int64) error {
	for {
		var got sql.NullInt64
		if _, err := c.row(u.ctx, []any{&got}, u.b.text.projections.lock, u.lock, lockWait); err != nil {
			return err
		}
		// Whoever had it may have taken over.
		held, err := c.row(u.ctx, []any{new(int64)}, u.b.text.projections.holdsLease, name, epoch)
		switch {
		case err != nil:
			return err
		case !held:
			return ErrLeaseLost
		case got.Int64 == 1:
			return nil
		}
		var holder sql.NullInt64
		if _, err := c.row(u.ctx, []any{&holder}, u.b.text.projections.holder, u.lock); err != nil {
			return err
		}
		if holder.Valid {
			if _, err := c.exec(u.ctx, u.b.text.projections.kill+strconv.FormatInt(holder.Int64, 10)); err != nil {
				return &statementError{"projection", fmt.Errorf("connection %d keeps the read model locked, and can't be ended: %w", holder.Int64, err), errRetry}
			}
		}
	}
}

func (u *sqlBatchTx) backend(lost func(error)) (backend, error) {
	tx, err := u.sqlTx()
	if err != nil {
		return nil, err
	}
	return &sqlBackend{sqlShared: u.b.sqlShared, tx: tx, ours: true, lost: lost}, nil
}

// exec runs a statement in the transaction.
func (u *sqlBatchTx) exec(op, text string, args ...any) error {
	tx, err := u.sqlTx()
	if err != nil {
		return err
	}
	_, err = conn{b: u.b, tx: tx}.exec(u.ctx, text, args...)
	return u.b.failed(op, err)
}

func (u *sqlBatchTx) holds(name string, epoch int64) (held bool, err error) {
	tx, err := u.sqlTx()
	if err != nil {
		return false, err
	}
	held, err = conn{b: u.b, tx: tx}.row(u.ctx, []any{new(int64)}, u.b.text.projections.holdsLease, name, epoch)
	return held, u.b.failed("look at lease", err)
}

func (u *sqlBatchTx) keepLease(name string, epoch int64, term time.Duration) (held bool, err error) {
	tx, err := u.sqlTx()
	if err != nil {
		return false, err
	}
	held, err = conn{b: u.b, tx: tx}.changes(u.ctx, u.b.text.projections.renewLease, term.Microseconds(), name, epoch)
	return held, u.b.failed("renew lease", err)
}

func (u *sqlBatchTx) park(name string, row parkedRow) error {
	return u.exec("park", u.b.text.projections.park, name, int64(row.position), row.stream, row.aggregateID, row.errText)
}

func (u *sqlBatchTx) unpark(name string, p Position) error {
	return u.exec("unpark", u.b.text.projections.unpark, name, int64(p))
}

func (u *sqlBatchTx) dropParked(name string) error {
	return u.exec("drop parked events", u.b.text.projections.dropParked, name)
}

func (u *sqlBatchTx) databaseFault(err error) error {
	if errors.As(err, new(*PanicError)) {
		u.rollback() // it may have rows open, so that the transaction can't be asked
	}
	var ask interface {
		QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	}
	switch fault := u.b.dialect.classify(err); {
	case fault == faultRetry:
		return &statementError{"projection", err, errRetry}
	case fault == faultDown:
		return &statementError{"projection", err, errUnavailable}
	case u.tx != nil && !u.over:
		// The handler may have hidden what it met.
		ask = u.tx
	case fault == faultLost:
		ask = u.b.db
	default:
		return nil
	}
	// A connection that is lost looks alike whether it led here or to a broker, and io.EOF may just
	// be the end of what a handler has read: so the database is asked. Of a transaction that has
	// only met an error of its statements the connection still answers, if with another error.
	var one int
	if err := ask.QueryRowContext(u.ctx, "SELECT 1").Scan(&one); err != nil && u.b.dialect.classify(err) == faultLost {
		return &statementError{"projection", err, errLost}
	}
	return nil
}

func (u *sqlBatchTx) isAftermath(err error) bool { return u.b.dialect.classify(err) == faultAborted }

func (u *sqlBatchTx) commit(c checkpoint) (bool, error) {
	text, args := u.b.text.projections.checkpoint, []any{int64(c.position), c.term.Microseconds()}
	if c.state != nil {
		text, args = u.b.text.projections.checkpointState, append(args, string(c.state))
	}
	if err := u.checkGuard(); err != nil {
		return false, u.b.failed("checkpoint", err)
	}
	var before []string // what else changes, where the epoch is this
	if c.resumed {
		before = append(before, u.b.text.projections.resumed)
	}
	if c.emptied {
		before = append(before, u.b.text.projections.emptied)
	}
	if c.resumed {
		if err := u.exec("retry parked events", u.b.text.projections.retried, c.name); err != nil {
			return false, err
		}
	}
	if c.judged || c.removed {
		upTo := c.position
		if c.removed {
			upTo = math.MaxInt64
		}
		if err := u.exec("drop verdicts", u.b.text.projections.dropVerdicts, c.name, int64(upTo)); err != nil {
			return false, err
		}
	}
	if c.removed {
		text, args = u.b.text.projections.remove, nil
		if err := u.dropParked(c.name); err != nil {
			return false, err
		}
	}
	for _, text := range before {
		if err := u.exec("projection", text, c.name, c.epoch); err != nil {
			return false, err
		}
	}
	// Last of all, so that the row is locked for no longer than the commit takes.
	held, err := conn{b: u.b, tx: u.tx}.changes(u.ctx, text, append(args, c.name, c.epoch)...)
	if err == nil && held && u.tx != nil {
		err, u.over = u.tx.Commit(), true
		u.unsure = err != nil
		u.release()
	}
	return held && err == nil, u.b.failed("checkpoint", err)
}

// rollbackTime is how long a rollback is waited for.
const rollbackTime = 2 * time.Second

// rollback undoes the transaction, if it is not over. A handler can keep it from ending: database/sql waits for ever
// for a query whose parameter, a driver.Valuer, has panicked. Then the connection is closed below database/sql, which
// counts it as in use from then on.
func (u *sqlBatchTx) rollback() {
	switch {
	case u.over:
		return
	case u.tx == nil:
		u.release()
		return
	}
	u.over = true
	// It fails only with a connection that is gone.
	undo := inBackground(func() error { return u.tx.Rollback() })
	t := time.NewTimer(rollbackTime)
	defer t.Stop()
	select {
	case <-undo.ended:
		u.unsure = undo.wait() != nil
		u.release()
	case <-t.C:
		u.b.log.WarnContext(u.ctx, "a rollback does not end: the connection is closed")
		go u.abandon(undo)
	}
}

// abandon closes the connection, unless the rollback comes to an end after all.
func (u *sqlBatchTx) abandon(undo *background[error]) {
	_ = u.one.Raw(func(c any) error {
		select {
		case <-undo.ended:
		default:
			if c, ok := c.(driver.Conn); ok {
				_ = c.Close()
			}
		}
		return nil
	})
	undo.end()
	u.unsure = true
	u.release()
}

// release gives the connection back, once the transaction has ended or could not begin.
func (u *sqlBatchTx) release() {
	if u.held != nil {
		u.held.taken.Store(false)
		u.b.waiting.letGo(u.held)
	}
	if u.one == nil {
		return
	}
	// A connection that is not as it was must not go back.
	if !u.tidy() {
		_ = u.one.Raw(func(any) error { return driver.ErrBadConn })
	}
	_ = u.one.Close() // gives it back
	u.one = nil
}

// tidy undoes what the transaction has left on its connection, and reports whether it could. It must not
// where the transaction may still be open: switching on that statements commit would commit it.
func (u *sqlBatchTx) tidy() bool {
	guarded := u.guarded && u.b.text.projections.endGuard != ""
	switch {
	case !guarded && u.lock == "":
		return true
	case u.unsure:
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.ctx), tidyTime)
	defer cancel()
	c := conn{b: u.b, one: u.one, checked: true}
	if guarded {
		if _, err := c.exec(ctx, u.b.text.projections.endGuard); err != nil {
			return false
		}
	}
	if u.lock == "" {
		return true
	}
	var released sql.NullInt64
	_, err := c.row(ctx, []any{&released}, u.b.text.projections.unlock, u.lock)
	return err == nil && released.Int64 == 1
}
