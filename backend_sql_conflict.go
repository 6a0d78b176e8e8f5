// What append.go asks about a refused append: what is stored under its IDs, and its aggregate's
// version.

package eventstore

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"time"
)

func (b *sqlBackend) diagnose(ctx context.Context, a *appendRequest) (conflictCause, error) {
	var v conflictCause
	err := b.run(ctx, "resolve conflict", func(c conn) error {
		v = conflictCause{}
		var h appendHint
		var err error
		if v.found, err = b.lookUp(ctx, c, a, &h); err != nil || !v.found {
			return err
		}
		v.actual, v.position = h.version, h.position
		if c.tx != nil && a.refused == keyVersion && h.version < a.next {
			if v.taken, err = b.takenByAnother(ctx, c, a, a.next); err != nil {
				return err
			}
		}
		for part := range slices.Chunk(a.rows, 1000) {
			args := make([]any, len(part))
			for i := range part {
				args[i] = b.dialect.eventID(part[i].id)
			}
			ids := strings.TrimSuffix(strings.Repeat(b.text.read.idValue+", ", len(args)), ", ")
			rows, err := b.records(ctx, c, 0, "SELECT {event} FROM "+b.text.read.fromAll+"\nWHERE e.event_id IN ("+ids+")", args...)
			if err != nil {
				return err
			}
			v.stored = append(v.stored, rows...)
		}
		slices.SortFunc(v.stored, byPosition)
		if c.tx != nil && b.text.append.committed != "" && len(v.stored) == len(a.rows) {
			// The transaction may see what is not committed. An append that others still may roll back has
			// not been stored earlier.
			n := 0
			if _, err := c.row(ctx, []any{&n}, b.text.append.committed, b.list(positionsOf(v.stored))); err != nil {
				return err
			}
			if n < len(v.stored) {
				v.stored = nil
				return nil
			}
		}
		if len(v.stored) > 0 || v.taken || !a.admits(v.actual, v.position) {
			return nil
		}
		// Nothing is in the way but, perhaps, the position that the append was given.
		_, err = b.checkGenerator(ctx, c)
		return err
	})
	return v, err
}

// takenByAnother reports whether a version, of which the transaction knows only that it is taken, is that
// of another append. If it is that of a's first event, an earlier call has stored that, and the
// transaction sees it when it is retried.
//
// The row exists: the append that it refused has it locked already, or has seen it when it looked ahead. Where
// the transaction shows it by now (undoing to a savepoint ends its snapshot, if it has written nothing before)
// there is nothing to find out. Of rows that may be missing a
// transaction reads none with a lock: on InnoDB that locks the gap where they would be, and for fresh
// event IDs every append goes there.
func (b *sqlBackend) takenByAnother(ctx context.Context, c conn, a *appendRequest, version int64) (bool, error) {
	var id []byte
	found, err := c.row(ctx, []any{&id}, b.text.append.eventIDOf, a.stream, a.aggregateID, version)
	return found && !bytes.Equal(id, a.rows[0].id[:]), err
}

// lookUp finds out what an append has to know, and remembers what others can use.
func (b *sqlBackend) lookUp(ctx context.Context, c conn, a *appendRequest, h *appendHint) (found bool, err error) {
	var now time.Time
	var mariaDB bool
	found, err = c.row(ctx, []any{&h.stream, &h.version, (*int64)(&h.position), (*dbTime)(&now), &h.step, &mariaDB}, b.text.append.state, a.aggregateID, a.aggregateID, a.stream)
	if err == nil && found {
		h.now, h.can = now, capabilities{returning: mariaDB, noWait: mariaDB}
		if b.tx == nil { // what a caller's transaction sees may never be committed
			b.hints.learnState(a.stream, *h)
		}
	}
	return found, err
}

// mustLookUp is lookUp, and errVersion if rows can't go on from what is found.
func (b *sqlBackend) mustLookUp(ctx context.Context, c conn, a *appendRequest, after lastEvent, h *appendHint) error {
	found, err := b.lookUp(ctx, c, a, h)
	if err == nil && (!found || !after.admits(h.version, h.position)) {
		err = errVersion
	}
	return err
}

// refusal returns an errVersion for a faultTaken, unless it is about a key that is not the store's: then
// nothing of the store is in the append's way.
func (b *sqlBackend) refusal(err error) error {
	owner := b.dialect.violated(b.prefix+"events", err)
	if owner == foreignKey {
		return err
	}
	return &refusedError{err, owner == ownKey}
}

// dropRows takes rows back that this very transaction has inserted; their positions become holes
// like those of a rollback. A context that ends meanwhile must not leave them there.
func (b *sqlBackend) dropRows(ctx context.Context, c conn, rows []record) error {
	_, err := b.execListed(ctx, c, b.text.erase.remove, positionsOf(rows))
	return err
}

func positionsOf(rows []record) []int64 {
	positions := make([]int64, len(rows))
	for i := range rows {
		positions[i] = int64(rows[i].position)
	}
	return positions
}
