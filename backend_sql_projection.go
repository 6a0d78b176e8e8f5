// Projections in a database: rows, leases, control by name, parked events.

package eventstore

import (
	"context"
	"database/sql"
	"time"
)

func (b *sqlBackend) lastPosition(ctx context.Context) (p Position, err error) {
	err = b.run(ctx, "look for the last event", func(c conn) error {
		_, err := c.row(ctx, []any{&p}, b.text.read.lastPosition)
		return err
	})
	return p, err
}

func (b *sqlBackend) createProjection(ctx context.Context, name string) error {
	// A generation and an epoch that no earlier row of this name can have had: a runner that has
	// not noticed yet that its projection was deleted must not pass for one of its successor.
	first := time.Now().UnixNano()
	return b.run(ctx, "create projection", func(c conn) error {
		_, err := c.exec(ctx, b.text.projections.create, name, first, first)
		return err
	})
}

func (b *sqlBackend) projection(ctx context.Context, name string) (row projectionRow, found bool, err error) {
	err = b.run(ctx, "read projection", func(c conn) error {
		row = projectionRow{}
		found, err = c.row(ctx, []any{
			&row.position, &row.state, &row.status, &row.owner, &row.epoch, &row.generation, &row.held,
			&row.readModel, &row.retry, &row.errText, &row.kind, &row.emitted,
		}, b.text.projections.get, name)
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
	}, b.text.projections.list)
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

func (b *sqlBackend) takeLease(ctx context.Context, row *projectionRow, c leaseClaim) (bool, error) {
	return b.change(ctx, "take lease", b.text.projections.takeLease, c.owner, c.owner, string(c.kind), c.readModel, c.term.Microseconds(), c.name, row.epoch, c.owner)
}

func (b *sqlBackend) renewLease(ctx context.Context, name string, epoch int64, term time.Duration) (bool, error) {
	return b.change(ctx, "renew lease", b.text.projections.renewLease, term.Microseconds(), name, epoch)
}

func (b *sqlBackend) releaseLease(ctx context.Context, name, owner string, status ProjectionStatus, errText string) error {
	_, err := b.change(ctx, "release lease", b.text.projections.releaseLease, errText, string(status), name, owner)
	return err
}

func (b *sqlBackend) noteError(ctx context.Context, name string, epoch int64, errText string) error {
	_, err := b.change(ctx, "store the error", b.text.projections.noteError, errText, name, epoch)
	return err
}

func (b *sqlBackend) control(ctx context.Context, name string, c control) (found bool, err error) {
	text := map[controlKind]string{
		controlStop: b.text.projections.stop, controlReset: b.text.projections.reset, controlDelete: b.text.projections.delete,
		controlRetryParked: b.text.projections.retryParked, controlDropParked: b.text.projections.fence,
	}[c.kind]
	switch c.kind {
	case controlDelete:
		return b.change(ctx, "control projection", text, c.emitted, name)
	case controlStop, controlReset, controlRetryParked:
		return b.change(ctx, "control projection", text, name)
	}
	err = b.transact(ctx, "drop parked event", func(t conn) (err error) {
		if found, err = t.changes(ctx, text, name); err != nil || !found {
			return err
		}
		_, err = t.exec(ctx, b.text.projections.unpark, name, int64(c.position))
		return err
	})
	return found, err
}

func (b *sqlBackend) parked(ctx context.Context, name string) (out []parkedRow, err error) {
	err = b.run(ctx, "list parked events", func(c conn) error {
		out = nil
		return c.query(ctx, func(rows *sql.Rows) error {
			var p parkedRow
			err := rows.Scan(&p.position, &p.stream, &p.aggregateID, &p.errText)
			out = append(out, p)
			return err
		}, b.text.projections.listParked, name)
	})
	return out, err
}
