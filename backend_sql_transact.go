// The transactions of Store.Transact in a database.

package eventstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"sync/atomic"
)

// sqlCallerTx is a transaction at the default isolation, on a connection that is held from its beginning.
type sqlCallerTx struct {
	sqlBatchTx
	failed atomic.Bool // a statement of the store's own has failed, after which Postgres may refuse to commit
}

func (b *sqlBackend) beginTx(ctx context.Context) (callerTx, error) {
	u := &sqlCallerTx{sqlBatchTx: sqlBatchTx{b: b, ctx: ctx, caller: true}}
	leave, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if _, err := u.sqlBatchTx.sqlTx(); err != nil {
		return nil, err
	}
	u.held = b.waiting.hold(ctx, b.db)
	return u, nil
}

func (u *sqlCallerTx) backend(lost func(error)) backend {
	return &sqlBackend{sqlShared: u.b.sqlShared, tx: u.tx, ours: true, lost: func(err error) {
		u.failed.Store(true)
		lost(err)
	}}
}

func (u *sqlCallerTx) sqlTx() (*sql.Tx, error) {
	if err := u.guard(); err != nil {
		return nil, err
	}
	return u.tx, nil
}

func (u *sqlCallerTx) raced(err error) bool {
	switch u.b.dialect.classify(err) {
	case faultRetry, faultAborted:
		return true
	case faultLost:
		return u.databaseFault(err) != nil
	}
	return false
}

func (u *sqlCallerTx) commit() (again bool, err error) {
	if err := u.canCommit(); err != nil {
		return u.raced(err), u.end(err)
	}
	err, u.over = u.tx.Commit(), true
	u.unsure = err != nil
	u.release()
	switch fault := u.b.dialect.classify(err); {
	case err == nil:
		return false, nil
	case fault == faultRetry, fault == faultAborted:
		again = true
	case fault == faultLost:
		// By this error a driver says that it has sent nothing. What pgx says beyond that does not count: of an
		// answer that was lost its error claims to be safe to retry.
		again = errors.Is(err, driver.ErrBadConn)
	}
	return again, u.end(err)
}

// canCommit asks whether the transaction is still there and can be committed, where it may not be.
func (u *sqlCallerTx) canCommit() error {
	if u.guarded || !u.failed.Load() {
		return u.checkGuard()
	}
	var one int
	return u.tx.QueryRowContext(u.ctx, "SELECT 1").Scan(&one)
}

func (u *sqlCallerTx) endedInside(err error) error {
	if !u.guarded || u.b.dialect.classify(err) == faultRetry {
		return nil // the database has undone it
	}
	if gone := u.checkGuard(); errors.Is(gone, errEnded) {
		return gone
	}
	return nil
}

// end returns the error of a transaction that could not be committed.
func (u *sqlCallerTx) end(err error) error {
	err = ended(u.ctx, err)
	if u.b.dialect.classify(err) == faultAborted {
		return retryTx(err)
	}
	return (&sqlBackend{sqlShared: u.b.sqlShared, tx: u.tx}).failed("commit", err)
}
