package eventstore

import (
	"context"
	"database/sql"
	"time"
)

func (b *sqlBackend) lastPosition(ctx context.Context) (p Position, err error) {
	err = b.run(ctx, "look for the last event", func(c conn) error {
		_, err := c.row(ctx, []any{&p}, b.text.lastPosition)
		return err
	})
	return p, err
}

func (b *sqlBackend) createProjection(ctx context.Context, name string) error {
	// A generation and an epoch that no earlier row of this name can have had: a runner that has
	// not noticed yet that its projection was deleted must not pass for one of its successor.
	first := time.Now().UnixNano()
	return b.run(ctx, "create projection", func(c conn) error {
		_, err := c.exec(ctx, b.text.createProjection, name, first, first)
		return err
	})
}

func (b *sqlBackend) projection(ctx context.Context, name string) (row projectionRow, found bool, err error) {
	err = b.run(ctx, "read projection", func(c conn) error {
		row = projectionRow{}
		found, err = c.row(ctx, []any{
			&row.position, &row.state, &row.status, &row.owner, &row.epoch, &row.generation, &row.held,
			&row.readModel, &row.retry, &row.problem,
		}, b.text.projection, name)
		return err
	})
	return row, found, err
}

func (b *sqlBackend) projections(ctx context.Context) (out []ProjectionInfo, err error) {
	err = b.run(ctx, "list projections", func(c conn) (err error) {
		out, err = b.listProjections(ctx, c)
		return err
	})
	return out, err
}

func (b *sqlBackend) listProjections(ctx context.Context, c conn) (out []ProjectionInfo, err error) {
	err = c.query(ctx, func(rows *sql.Rows) error {
		var p ProjectionInfo
		var held bool
		if err := rows.Scan(&p.Name, &p.Position, &p.Status, &p.Owner, &held, &p.Error, &p.Parked); err != nil {
			return err
		}
		out = append(out, p.seen(held))
		return nil
	}, b.text.listProjections)
	return out, err
}

// change runs a statement that changes a projection's row, and says whether it did.
func (b *sqlBackend) change(ctx context.Context, op, text string, args ...any) (changed bool, err error) {
	err = b.run(ctx, op, func(c conn) (err error) {
		changed, err = c.changes(ctx, text, args...)
		return err
	})
	return changed, err
}

func (b *sqlBackend) takeLease(ctx context.Context, name, owner string, row *projectionRow, readModel bool, term time.Duration) (bool, error) {
	return b.change(ctx, "take lease", b.text.takeLease, owner, readModel, term.Microseconds(), name, row.epoch, owner)
}

func (b *sqlBackend) renewLease(ctx context.Context, name string, epoch int64, term time.Duration) (bool, error) {
	return b.change(ctx, "renew lease", b.text.renewLease, term.Microseconds(), name, epoch)
}

func (b *sqlBackend) releaseLease(ctx context.Context, name, owner string, status ProjectionStatus, problem string) error {
	_, err := b.change(ctx, "release lease", b.text.releaseLease, problem, string(status), name, owner)
	return err
}

func (b *sqlBackend) failedTry(ctx context.Context, name string, epoch int64, problem string) error {
	_, err := b.change(ctx, "store the error", b.text.failedTry, problem, name, epoch)
	return err
}

func (b *sqlBackend) control(ctx context.Context, name string, c control) (found bool, err error) {
	text := map[controlKind]string{
		controlStop: b.text.stopProjection, controlReset: b.text.resetProjection, controlDelete: b.text.deleteProjection,
		controlRetryParked: b.text.retryParked, controlDropParked: b.text.fenceProjection,
	}[c.kind]
	if c.kind != controlDropParked {
		return b.change(ctx, "control projection", text, name)
	}
	err = b.transact(ctx, "drop parked event", func(t conn) (err error) {
		if found, err = t.changes(ctx, text, name); err != nil || !found {
			return err
		}
		_, err = t.exec(ctx, b.text.unpark, name, int64(c.position))
		return err
	})
	return found, err
}

func (b *sqlBackend) removeProjection(ctx context.Context, name string, epoch int64) error {
	return b.transact(ctx, "remove projection", func(c conn) error {
		removed, err := c.changes(ctx, b.text.removeProjection, name, epoch)
		if err != nil || !removed {
			return err
		}
		_, err = c.exec(ctx, b.text.dropParked, name)
		return err
	})
}

func (b *sqlBackend) parked(ctx context.Context, name string) (out []parkedRow, err error) {
	err = b.run(ctx, "list parked events", func(c conn) error {
		out = nil
		return c.query(ctx, func(rows *sql.Rows) error {
			var p parkedRow
			err := rows.Scan(&p.position, &p.stream, &p.aggregateID, &p.problem)
			out = append(out, p)
			return err
		}, b.text.listParked, name)
	})
	return out, err
}

// sqlUnit is a transaction that begins when it is first needed: a batch that changes nothing but
// its checkpoint is a statement.
type sqlUnit struct {
	b   *sqlBackend
	ctx context.Context
	tx  *sql.Tx
}

func (b *sqlBackend) unit(ctx context.Context) unit { return &sqlUnit{b: b, ctx: ctx} }

func (u *sqlUnit) sqlTx() (*sql.Tx, error) {
	if u.tx != nil {
		return u.tx, nil
	}
	// The checkpoint has to be known before the transaction has the connection: a pool of one
	// could not prepare it any more.
	for _, text := range []string{u.b.text.checkpoint, u.b.text.checkpointState} {
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
	return tx, nil
}

func (u *sqlUnit) store() (backend, error) {
	tx, err := u.sqlTx()
	if err != nil {
		return nil, err
	}
	return u.b.withTx(tx), nil
}

// exec runs a statement in the transaction.
func (u *sqlUnit) exec(op, text string, args ...any) error {
	tx, err := u.sqlTx()
	if err != nil {
		return err
	}
	_, err = conn{b: u.b, tx: tx}.exec(u.ctx, text, args...)
	return u.b.failed(op, err)
}

func (u *sqlUnit) holds(name string, epoch int64) (held bool, err error) {
	tx, err := u.sqlTx()
	if err != nil {
		return false, err
	}
	held, err = conn{b: u.b, tx: tx}.row(u.ctx, []any{new(int64)}, u.b.text.holdsLease, name, epoch)
	return held, u.b.failed("look at lease", err)
}

func (u *sqlUnit) park(name string, row parkedRow) error {
	return u.exec("park", u.b.text.park, name, int64(row.position), row.stream, row.aggregateID, row.problem)
}

func (u *sqlUnit) unpark(name string, p Position) error {
	return u.exec("unpark", u.b.text.unpark, name, int64(p))
}

func (u *sqlUnit) dropParked(name string) error {
	return u.exec("drop parked events", u.b.text.dropParked, name)
}

func (u *sqlUnit) broken(err error) error {
	var ask interface {
		QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	}
	switch fault := u.b.dialect.classify(err); {
	case fault == faultRepeat:
		return &passingError{"projection", err, errRepeat}
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
		return &passingError{"projection", err, errLost}
	}
	return nil
}

func (u *sqlUnit) late(err error) bool { return u.b.dialect.classify(err) == faultAborted }

func (u *sqlUnit) commit(c checkpoint) (bool, error) {
	text, args := u.b.text.checkpoint, []any{int64(c.position), c.term.Microseconds()}
	if c.state != nil {
		text, args = u.b.text.checkpointState, append(args, string(c.state))
	}
	if c.resumed {
		if err := u.exec("projection", u.b.text.resumed, c.name, c.epoch); err != nil {
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

func (u *sqlUnit) rollback() {
	if u.tx != nil {
		// A rollback fails only behind a commit or with a connection that is gone.
		_ = u.tx.Rollback()
	}
}
