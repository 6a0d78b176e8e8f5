// Appends to a database: which strategy, alone or with a group, in one statement or in several.

package eventstore

import (
	"context"
	"database/sql/driver"
	"errors"

	"github.com/google/uuid"
)

// Rows per statement: as many as parameters are allowed (65,535 on both databases), and no more
// bytes than a server takes in one packet (16 MiB on MariaDB, unless it was told otherwise).
const (
	maxRows      = 5000
	maxArrayRows = 50000
	maxRowBytes  = 4 << 20
)

// append stores an append's rows, alone or together with those of others.
func (b *sqlBackend) append(ctx context.Context, a *appendRequest) error {
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
	h, known := b.hints.get(a.stream, a.aggregateID, a.expected, false)
	return known && h.can.noWait && !b.hints.isPast(a.stream, a.aggregateID, h.version)
}

// appendAlone stores an append's rows with one statement, or, where one can't hold them all, with
// several in a transaction.
func (b *sqlBackend) appendAlone(ctx context.Context, a *appendRequest) error {
	chunks := b.chunks(a.rows)
	if len(chunks) == 1 {
		c := b.conn()
		return b.failed("append", b.insert(ctx, c, a, a.rows, a.expected))
	}
	if b.tx != nil {
		return b.failed("append", b.insertChunks(ctx, b.conn(), a, chunks))
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
func (b *sqlBackend) insert(ctx context.Context, c conn, a *appendRequest, rows []record, expected ExpectedVersion) error {
	if b.dialect.returning {
		return b.insertReturning(ctx, c, a, rows, expected)
	}
	return b.insertGuarded(ctx, c, a, rows, expected)
}

func (b *sqlBackend) chunks(rows []record) [][]record {
	most := maxRows
	if b.dialect.returning {
		most = maxArrayRows
	}
	var out [][]record
	for len(rows) > 0 {
		n, bytes := 0, 0
		for n < len(rows) && n < most {
			if bytes += len(rows[n].data) + len(rows[n].metadata); bytes > maxRowBytes && n > 0 {
				break
			}
			n++
		}
		out, rows = append(out, rows[:n]), rows[n:]
	}
	return out
}

func (b *sqlBackend) insertChunks(ctx context.Context, c conn, a *appendRequest, chunks [][]record) error {
	expected, done := a.expected, 0
	for _, rows := range chunks {
		err := b.insert(ctx, c, a, rows, expected)
		if b.tx != nil && done > 0 && errors.Is(err, errVersion) {
			// The caller's transaction may go on: nothing of the append may stay in it.
			if err := b.dropRows(ctx, c, a.rows[:done]); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		done += len(rows)
		expected = ExpectedVersion(rows[len(rows)-1].version)
	}
	return nil
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
