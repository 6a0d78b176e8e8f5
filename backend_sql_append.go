// Appends to a database: which strategy, alone or with a group, in one statement or in several.

package eventstore

import (
	"context"
	"database/sql/driver"
	"errors"

	"github.com/google/uuid"
)

// Rows per statement: as many as parameters are allowed (65,535 on both databases), and no more
// bytes than a statement should hold, if the server takes them: see packetLimit.
const (
	maxRows      = 5000
	maxArrayRows = 50000
	maxRowBytes  = 4 << 20
)

// append stores an append's rows, alone or together with those of others.
func (b *sqlBackend) append(ctx context.Context, a *appendRequest) error {
	leave, err := b.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := b.learnFloor(ctx); err != nil {
		return b.failed("append", err)
	}
	if b.groupable(a) {
		return b.groupCommit.append(ctx, a)
	}
	return b.appendAlone(ctx, a)
}

// groupable reports whether an append may go out in one statement with others.
func (b *sqlBackend) groupable(a *appendRequest) bool {
	if b.tx != nil || len(a.rows) > maxSharedRows || a.size() > maxSharedBytes {
		return false
	}
	if b.dialect.returning {
		_, known := b.hints.stream(a.stream)
		return known
	}
	h, known := b.hints.get(a.stream, a.aggregateID, a.lastEvent, false)
	return known && h.can.noWait && !b.hints.isPast(a.stream, a.aggregateID, h.version)
}

// appendAlone stores an append's rows with one statement, or, where one can't hold them all, with
// several in a transaction.
func (b *sqlBackend) appendAlone(ctx context.Context, a *appendRequest) error {
	chunks, err := b.chunks(ctx, a.rows)
	if err != nil {
		return b.failed("append", err)
	}
	if len(chunks) == 1 {
		return b.failed("append", b.insert(ctx, b.conn(), a, a.rows, a.lastEvent))
	}
	if b.tx != nil {
		return b.failed("append", b.insertOrUndo(ctx, a, chunks))
	}
	// What decides are keys and locks, so the isolation with the fewest locks will do.
	tx, err := b.db.BeginTx(ctx, readCommitted)
	if err != nil {
		return b.failed("append", err)
	}
	if err := b.insertChunks(ctx, conn{b: b, tx: tx}, a, chunks); err != nil {
		// The error that matters is the first: a rollback fails only with a connection that is gone.
		_ = tx.Rollback()
		return b.failed("append", ended(ctx, err))
	}
	return b.failed("append", ended(ctx, tx.Commit()))
}

// insert stores rows with one statement and completes them.
func (b *sqlBackend) insert(ctx context.Context, c conn, a *appendRequest, rows []record, after lastEvent) error {
	var err error
	if b.dialect.returning {
		err = b.insertReturning(ctx, c, a, rows, after)
	} else {
		err = b.insertGuarded(ctx, c, a, rows, after)
	}
	if _, refused := isTooLarge(err); refused && len(rows) > 1 {
		// The rows are cut into smaller chunks by now.
		return b.retryable("append", err)
	}
	return err
}

// chunks cuts rows into those of one statement each. It is ErrInvalid if a row is larger than any
// statement can be: so nothing of the append has been stored by then.
func (b *sqlBackend) chunks(ctx context.Context, rows []record) ([][]record, error) {
	total, largest, at := 0, 0, 0
	for i := range rows {
		size := rows[i].sizeInStatement()
		if total += size; size > largest {
			largest, at = size, i
		}
	}
	most := maxRows
	if b.dialect.returning {
		most = maxArrayRows
	}
	if total <= smallStatement && len(rows) <= most {
		return [][]record{rows}, nil
	}
	if err := b.conn().fits(ctx, largest+packetSlack); err != nil {
		if tooLarge, _ := isTooLarge(err); tooLarge {
			err = invalid("event %d: payload and metadata: %w", at, err)
		}
		return nil, err
	}
	mostBytes := b.limit.cut(maxRowBytes)
	var out [][]record
	for len(rows) > 0 {
		n, bytes := 0, 0
		for n < len(rows) && n < most {
			if bytes += rows[n].sizeInStatement(); bytes > mostBytes && n > 0 {
				break
			}
			n++
		}
		out, rows = append(out, rows[:n]), rows[n:]
	}
	return out, nil
}

// sizeInStatement returns about how many bytes a row has in a statement.
func (r *record) sizeInStatement() int {
	return len(r.data) + len(r.metadata) + len(r.name) + len(r.aggregateID) + 10*parameterSize
}

func (b *sqlBackend) insertChunks(ctx context.Context, c conn, a *appendRequest, chunks [][]record) error {
	after := a.lastEvent
	for _, rows := range chunks {
		if err := b.insert(ctx, c, a, rows, after); err != nil {
			return err
		}
		last := &rows[len(rows)-1]
		after = lastEvent{ExpectedVersion(last.version), last.position}
	}
	return nil
}

// insertOrUndo is insertChunks in the caller's transaction, which may go on after an error and be
// committed: nothing of the append may stay in it then.
func (b *sqlBackend) insertOrUndo(ctx context.Context, a *appendRequest, chunks [][]record) error {
	c := b.conn()
	if _, err := c.exec(ctx, b.text.append.savepoint); err != nil {
		return err
	}
	err := b.insertChunks(ctx, c, a, chunks)
	if err == nil {
		_, err = c.exec(ctx, b.text.append.release)
	}
	if err == nil {
		return nil
	}
	// The context may have ended between two statements, which leaves the transaction alive.
	if _, undo := c.exec(context.WithoutCancel(ctx), b.text.append.rollbackTo); undo != nil && b.dialect.classify(err) != faultRetry {
		// The connection is gone, which ends the transaction too, or there is no other way to keep
		// what was stored from being committed. After a deadlock the server has undone everything.
		_ = c.tx.Rollback()
	}
	return err
}

// insertGroup stores appends to different aggregates with one statement, each on the condition of
// its own version, and says which of them it has stored. Those that it has not, for whatever
// reason, lose nothing by being decided alone. It waits for nobody's locks, or not for long.
func (b *sqlBackend) insertGroup(ctx context.Context, calls []*appendRequest) (stored []bool, err error) {
	if haveTwins(calls) {
		return make([]bool, len(calls)), nil // what is returned for that ID could be either's
	}
	if b.dialect.returning {
		stored, err = b.groupReturning(ctx, calls)
	} else {
		stored, err = b.groupGuarded(ctx, calls)
	}
	switch {
	case err == nil:
		return stored, nil
	case errors.Is(err, driver.ErrBadConn):
		// It has not been sent: the pool had nothing but connections that others' contexts have ended.
	case b.dialect.classify(err) == faultLost || ctx.Err() != nil:
		return nil, b.failed("append", err)
	}
	return make([]bool, len(calls)), nil
}

// haveTwins reports whether one event ID is in several appends.
func haveTwins(calls []*appendRequest) bool {
	seen := make(map[uuid.UUID]struct{}, len(calls))
	n := 0
	for _, a := range calls {
		for i := range a.rows {
			seen[a.rows[i].id] = struct{}{}
			n++
		}
	}
	return len(seen) < n
}
