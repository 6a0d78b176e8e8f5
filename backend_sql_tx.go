// The transaction of a projection's batch in a database, and its checkpoint.

package eventstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"strconv"
	"time"
)

// sqlBatchTx is a transaction that begins when it is first needed: a batch that changes nothing but
// its checkpoint is a statement.
type sqlBatchTx struct {
	b   *sqlBackend
	ctx context.Context
	tx  *sql.Tx

	locked *sql.Conn // that of tx, with a lock by name
	lock   string    // the name
}

func (b *sqlBackend) begin(ctx context.Context) backendTx { return &sqlBatchTx{b: b, ctx: ctx} }

func (u *sqlBatchTx) sqlTx() (*sql.Tx, error) {
	if u.tx != nil {
		return u.tx, nil
	}
	if err := u.prepare(); err != nil {
		return nil, err
	}
	if err := u.beginOn(u.b.db); err != nil {
		return nil, err
	}
	return u.tx, nil
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

// beginOn begins the transaction on the pool or a connection: read committed, whatever the default.
// The lease is renewed in the row that the checkpoint updates, and a higher level would take that for
// a conflict.
func (u *sqlBatchTx) beginOn(on interface {
	BeginTx(context.Context, *sql.TxOptions) (*sql.Tx, error)
}) (err error) {
	u.tx, err = on.BeginTx(u.ctx, readCommitted)
	return u.b.failed("begin", err)
}

// unlockTime is how long rollback tries to give a lock back.
const unlockTime = time.Second

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
	err := u.prepare()
	if err == nil {
		u.locked, err = u.b.db.Conn(u.ctx)
	}
	if err != nil {
		return u.b.failed("lock read model", err)
	}
	u.lock = u.b.prefix + "projection\x00" + name
	if err := u.takeLock(conn{b: u.b, one: u.locked}, name, epoch); err != nil {
		return u.b.failed("lock read model", err)
	}
	return u.beginOn(u.locked)
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
				return &transientError{"projection", fmt.Errorf("connection %d keeps the read model locked, and can't be ended: %w", holder.Int64, err), errRetry}
			}
		}
	}
}

func (u *sqlBatchTx) backend() (backend, error) {
	tx, err := u.sqlTx()
	if err != nil {
		return nil, err
	}
	return u.b.withTx(tx), nil
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
	var ask interface {
		QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	}
	switch fault := u.b.dialect.classify(err); {
	case fault == faultRetry:
		return &transientError{"projection", err, errRetry}
	case u.tx != nil:
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
		return &transientError{"projection", err, errLost}
	}
	return nil
}

func (u *sqlBatchTx) isAftermath(err error) bool { return u.b.dialect.classify(err) == faultAborted }

func (u *sqlBatchTx) commit(c checkpoint) (bool, error) {
	text, args := u.b.text.projections.checkpoint, []any{int64(c.position), c.term.Microseconds()}
	if c.state != nil {
		text, args = u.b.text.projections.checkpointState, append(args, string(c.state))
	}
	var before []string // what else changes, where the epoch is this
	if c.resumed {
		before = append(before, u.b.text.projections.resumed)
	}
	if c.emptied {
		before = append(before, u.b.text.projections.emptied)
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
		err = u.tx.Commit()
	}
	return held && err == nil, u.b.failed("checkpoint", err)
}

func (u *sqlBatchTx) rollback() {
	if u.tx != nil {
		// A rollback fails only after a commit or with a connection that is gone.
		_ = u.tx.Rollback()
	}
	if u.locked == nil {
		return
	}
	// A connection that may still hold the lock must not go back.
	var released sql.NullInt64
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.ctx), unlockTime)
	defer cancel()
	c := conn{b: u.b, one: u.locked}
	if _, err := c.row(ctx, []any{&released}, u.b.text.projections.unlock, u.lock); err != nil || released.Int64 != 1 {
		_ = u.locked.Raw(func(any) error { return driver.ErrBadConn })
	}
	_ = u.locked.Close() // gives it back
	u.locked = nil
}
