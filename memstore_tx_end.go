// The two kinds of transactions in memory: Store.Transact's and those of a projection's batches.

package eventstore

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"time"
)

// memCallerTx is a transaction of Store.Transact.
type memCallerTx struct{ *memTx }

func (m *memBackend) beginTx(ctx context.Context) (callerTx, error) {
	return memCallerTx{m.newTx(ctx)}, ctx.Err()
}

func (u memCallerTx) backend(lost func(error)) backend {
	u.lost = lost
	return newMemTxBackend(u.memTx)
}

// raced has nothing to find out: memory has no statements of the caller's own.
func (memCallerTx) raced(error) bool { return false }

func (memCallerTx) sqlTx() (*sql.Tx, error) { return nil, errNoSQL() }

// endedInside has nothing to find out: memory has no statements that end a transaction.
func (memCallerTx) endedInside(error) error { return nil }

func (u memCallerTx) commit() (again bool, err error) {
	err = u.end(func() error {
		err := u.ctx.Err()
		if err == nil {
			err = u.conflict()
		}
		if err == nil {
			u.apply()
		}
		return err
	})
	return errors.Is(err, ErrRetryTx), err
}

// memBatchTx is the transaction of a projection's batch.
type memBatchTx struct{ *memTx }

func (m *memBackend) begin(ctx context.Context) backendTx { return memBatchTx{m.newTx(ctx)} }

func (memBatchTx) handlerContext(ctx context.Context) context.Context { return ctx }

func (memBatchTx) sqlTx() (*sql.Tx, error) { return nil, errNoSQL() }

func (u memBatchTx) keepLease(name string, epoch int64, term time.Duration) (bool, error) {
	return u.m.renewLease(u.ctx, name, epoch, term)
}

// guard has nothing to guard: memory has no transactions that a handler could end.
func (u memBatchTx) guard() error { return u.ctx.Err() }

// exclusive has nothing to keep from others: memory has no statements that define data.
func (u memBatchTx) exclusive(string, int64) error { return u.ctx.Err() }

func (u memBatchTx) backend(lost func(error)) (backend, error) {
	u.lost = lost
	return newMemTxBackend(u.memTx), nil
}

func (u memBatchTx) holds(name string, epoch int64) (bool, error) {
	row, found, err := u.m.projection(u.ctx, name)
	return found && row.epoch == epoch, err
}

func (u memBatchTx) park(_ string, row parkedRow) error {
	u.parks = append(u.parks, func(p *memProjection) {
		row.retry = p.parked[row.position].retry
		p.parked[row.position] = row
	})
	return nil
}

func (u memBatchTx) unpark(_ string, at Position) error {
	u.parks = append(u.parks, func(p *memProjection) { delete(p.parked, at) })
	return nil
}

func (u memBatchTx) dropParked(string) error {
	u.parks = append(u.parks, func(p *memProjection) { clear(p.parked) })
	return nil
}

func (memBatchTx) databaseFault(error) error { return nil }

func (memBatchTx) isAftermath(error) bool { return false }

func (u memBatchTx) commit(c checkpoint) (held bool, err error) {
	err = u.end(func() error {
		if err := u.ctx.Err(); err != nil {
			return err
		}
		p := u.m.projected[c.name]
		if p == nil || p.epoch != c.epoch {
			return nil
		}
		// What others have done since an append was accepted is a reason to try again.
		if err := u.conflict(); err != nil {
			return &statementError{"checkpoint", err, errRetry}
		}
		held = true
		u.apply()
		for _, park := range u.parks {
			park(p)
		}
		for _, c := range u.written {
			p.documents.apply(c)
		}
		p.position, p.errText, p.leaseUntil = c.position, "", time.Now().Add(c.term)
		if c.state != nil {
			p.state = c.state
		}
		if c.resumed {
			p.status, p.retry = StatusRunning, false
			for at, row := range p.parked {
				row.retry = false
				p.parked[at] = row
			}
		}
		if c.judged {
			maps.DeleteFunc(p.verdicts, func(at Position, _ controlKind) bool { return at <= c.position })
		}
		if c.emptied {
			p.emitted = false
		}
		if c.removed {
			delete(u.m.projected, c.name)
		}
		return nil
	})
	return held, err
}
