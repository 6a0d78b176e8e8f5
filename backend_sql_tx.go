// The transaction of a projection's batch in a database, and its checkpoint.

package eventstore

import (
	"context"
	"database/sql"
)

// sqlBatchTx is a transaction that begins when it is first needed: a batch that changes nothing but
// its checkpoint is a statement.
type sqlBatchTx struct {
	b    *sqlBackend
	ctx  context.Context
	tx   *sql.Tx
	held *heldConn // by tx, as handlers' contexts know it; nil: there is none yet
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
	// The checkpoint has to be known before the transaction has the connection: a pool of one
	// could not prepare it any more.
	for _, text := range []string{u.b.text.projections.checkpoint, u.b.text.projections.checkpointState} {
		st, err := u.b.cache.get(u.ctx, text, true)
		if err != nil {
			return nil, u.b.failed("begin", err)
		}
		st.release()
	}
	// Read committed, whatever the default: the lease is renewed in the row that the checkpoint
	// updates, and a higher level would take that for a conflict.
	tx, err := u.b.db.BeginTx(u.ctx, readCommitted)
	if err != nil {
		return nil, u.b.failed("begin", err)
	}
	u.tx = tx
	if u.held != nil {
		u.held.taken.Store(true)
	}
	return tx, nil
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
	if c.resumed {
		if err := u.exec("projection", u.b.text.projections.resumed, c.name, c.epoch); err != nil {
			return false, err
		}
	}
	// Last of all, so that the row is locked for no longer than the commit takes.
	held, err := conn{b: u.b, tx: u.tx}.changes(u.ctx, text, append(args, c.name, c.epoch)...)
	if err == nil && held && u.tx != nil {
		err = u.tx.Commit()
		u.release()
	}
	return held && err == nil, u.b.failed("checkpoint", err)
}

func (u *sqlBatchTx) rollback() {
	if u.tx != nil {
		// A rollback fails only behind a commit or with a connection that is gone.
		_ = u.tx.Rollback()
		u.release()
	}
}

// release notes that the transaction has given its connection back.
func (u *sqlBatchTx) release() {
	if u.held != nil {
		u.held.taken.Store(false)
	}
}
