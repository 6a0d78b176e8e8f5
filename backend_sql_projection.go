// Projections in a database: rows, leases, control by name, parked events.

package eventstore

import (
	"context"
	"database/sql"
	"math"
	"time"
)

func (b *sqlBackend) lastPosition(ctx context.Context) (p Position, err error) {
	err = b.run(ctx, "look for the last event", func(c conn) error {
		_, err := c.row(ctx, []any{&p}, b.text.read.lastPosition)
		return err
	})
	return p, err
}

func (b *sqlBackend) createProjection(ctx context.Context, name string, after, replayTo Position) error {
	// A generation and an epoch that no earlier row of this name can have had: a runner that has
	// not noticed yet that its projection was deleted must not pass for one of its successor.
	first := time.Now().UnixNano()
	return b.run(ctx, "create projection", func(c conn) error {
		_, err := c.exec(ctx, b.text.projections.create, name, int64(after), int64(after), int64(replayTo), first, first)
		return err
	})
}

func (b *sqlBackend) projection(ctx context.Context, name string) (row projectionRow, found bool, err error) {
	err = b.run(ctx, "read projection", func(c conn) error {
		row, found, err = b.projectionOn(ctx, c, name)
		return err
	})
	return row, found, err
}

func (b *sqlBackend) projectionOn(ctx context.Context, c conn, name string) (row projectionRow, found bool, err error) {
	found, err = c.row(ctx, []any{
		&row.position, &row.state, &row.status, &row.owner, &row.epoch, &row.generation, &row.held,
		&row.readModel, &row.retry, &row.errText, &row.kind, &row.emitted,
		&row.began, &row.replayTo, &row.wants, &row.paused, &row.changing, &row.judged,
	}, b.text.projections.get, name)
	return row, found, err
}

func (b *sqlBackend) definition(ctx context.Context, name string) (d *definition, err error) {
	err = b.run(ctx, "read definition", func(c conn) error {
		var wanted, taken []byte
		if _, err := c.row(ctx, []any{&wanted, &taken}, b.text.projections.definition, name); err != nil {
			return err
		}
		d, err = decodeDefinition(wanted, taken)
		return err
	})
	return d, err
}

func (b *sqlBackend) define(ctx context.Context, name string, epoch int64, d *definition) (bool, error) {
	wanted, taken, err := d.encode()
	if err != nil {
		return false, err
	}
	return b.change(ctx, "store definition", b.text.projections.define, d.wanted.hash(), string(wanted), nullable(taken), name, epoch)
}

// nullable is text as a parameter, NULL where there is none.
func nullable(text []byte) sql.NullString {
	return sql.NullString{String: string(text), Valid: text != nil}
}

func (b *sqlBackend) rebuild(ctx context.Context, name string, epoch int64, w *wantedSet, sealed Position) (held bool, err error) {
	wanted, _, err := (&definition{wanted: w}).encode()
	if err != nil {
		return false, err
	}
	err = b.transact(ctx, "rebuild projection", func(t conn) (err error) {
		if held, err = t.changes(ctx, b.text.projections.rebuild, int64(sealed), w.hash(), string(wanted), name, epoch); err != nil || !held {
			return err
		}
		_, err = t.exec(ctx, b.text.projections.dropVerdicts, name, int64(math.MaxInt64))
		return err
	})
	return held, err
}

func (b *sqlBackend) noteLooks(ctx context.Context, name string, epoch int64, d *definition) error {
	_, taken, err := d.encode()
	if err == nil {
		_, err = b.change(ctx, "store how far the log was checked", b.text.projections.noteLooks, string(taken), name, epoch)
	}
	return err
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
		var paused bool
		last := &p.LastControl
		if err := rows.Scan(&p.Name, &p.Position, &p.Status, &p.Owner, &held, &p.Error, &paused, (*dbTime)(&p.LeaseUntil),
			&last.Action, &last.By, &last.Position, (*dbTime)(&last.At), &p.Parked, &p.Verdicts); err != nil {
			return err
		}
		out = append(out, p.seen(held, paused))
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
	return b.change(ctx, "take lease", b.text.projections.takeLease, c.owner, c.changing, c.owner, string(c.kind), c.readModel, c.term.Microseconds(), c.name, row.epoch, c.owner, c.over)
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

func (b *sqlBackend) control(ctx context.Context, name string, c control) (found, changed bool, err error) {
	err = b.transact(ctx, "control projection", func(t conn) (err error) {
		found, changed, err = b.controlOn(ctx, t, name, c)
		return err
	})
	return found, changed, err
}

func (b *sqlBackend) controlOn(ctx context.Context, t conn, name string, c control) (found, changed bool, err error) {
	noted := func(before ...any) []any {
		return append(before, string(c.kind), c.by, int64(c.position), name)
	}
	p := &b.text.projections
	text, args := p.fence, noted()
	switch c.kind {
	case controlStop:
		text = p.stop
	case controlDelete:
		text, args = p.delete, noted(c.emitted)
	case controlPause, controlResume:
		paused := c.kind == controlPause
		text, args = p.pause, append(noted(paused), paused)
	case controlAccept:
		text = p.accept
	case controlReset:
		text, args = p.reset, noted(int64(c.sealed))
	case controlRetry:
		text = p.retryParked
	}
	changed = true
	if c.kind == controlDropParked {
		changed, err = t.changes(ctx, p.unpark, name, int64(c.position))
	}
	if changed && err == nil {
		changed, err = t.changes(ctx, text, args...)
	}
	if changed && err == nil {
		return true, true, b.controlEvents(ctx, t, name, c)
	}
	if err != nil {
		return false, false, err
	}
	row, found, err := b.projectionOn(ctx, t, name)
	return found && row.status != StatusDeleting, false, err
}

// controlEvents is the part of a control call that is about events.
func (b *sqlBackend) controlEvents(ctx context.Context, t conn, name string, c control) (err error) {
	p := &b.text.projections
	switch c.kind {
	case controlReset:
		_, err = t.exec(ctx, p.dropVerdicts, name, int64(math.MaxInt64))
	case controlSkip, controlPark:
		var row projectionRow
		if row, _, err = b.projectionOn(ctx, t, name); err != nil {
			return err
		}
		if c.position <= row.position {
			return errTakenIn(name, c.position, row.position)
		}
		_, err = t.exec(ctx, p.judge, name, int64(c.position), string(c.kind))
	case controlRetry:
		if c.position == 0 {
			_, err = t.exec(ctx, p.askRetries, name)
			return err
		}
		var parked []parkedRow
		if parked, err = b.parkedOn(ctx, t, name); err != nil {
			return err
		}
		one, err := errRetryOf(parked, c.position)
		if err != nil {
			return err
		}
		_, err = t.exec(ctx, p.askRetry, name, one.stream, one.aggregateID)
		return err
	}
	return err
}

func (b *sqlBackend) parked(ctx context.Context, name string) (out []parkedRow, err error) {
	err = b.run(ctx, "list parked events", func(c conn) (err error) {
		out, err = b.parkedOn(ctx, c, name)
		return err
	})
	return out, err
}

func (b *sqlBackend) parkedOn(ctx context.Context, c conn, name string) (out []parkedRow, err error) {
	err = c.query(ctx, func(rows *sql.Rows) error {
		var p parkedRow
		err := rows.Scan(&p.position, &p.stream, &p.aggregateID, &p.errText, &p.retry)
		out = append(out, p)
		return err
	}, b.text.projections.listParked, name)
	return out, err
}

func (b *sqlBackend) verdicts(ctx context.Context, name string) (out map[Position]controlKind, err error) {
	err = b.run(ctx, "list verdicts", func(c conn) error {
		out = map[Position]controlKind{}
		return c.query(ctx, func(rows *sql.Rows) error {
			var at Position
			var kind controlKind
			err := rows.Scan(&at, &kind)
			out[at] = kind
			return err
		}, b.text.projections.verdicts, name)
	})
	return out, err
}
