// What append.go asks about a refused append: what is stored under its IDs, and its aggregate's
// version.

package eventstore

import (
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
		v.actual = h.version
		lock := ""
		if c.tx != nil && b.text.read.latest != "" {
			// The transaction's snapshot may be older than what refused the append.
			lock = b.text.read.latest
			if v.taken, err = c.row(ctx, []any{new(int64)}, b.text.append.versionTaken, a.stream, a.aggregateID, h.version+1); err != nil {
				return err
			}
		}
		for part := range slices.Chunk(a.rows, 1000) {
			args := make([]any, len(part))
			for i := range part {
				args[i] = b.dialect.eventID(part[i].id)
			}
			ids := strings.TrimSuffix(strings.Repeat(b.text.read.idValue+", ", len(args)), ", ")
			rows, err := b.records(ctx, c, 0, "SELECT {event} FROM "+b.text.read.fromAll+"\nWHERE e.event_id IN ("+ids+")"+lock, args...)
			if err != nil {
				return err
			}
			v.stored = append(v.stored, rows...)
		}
		slices.SortFunc(v.stored, byPosition)
		return nil
	})
	return v, err
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

// mustLookUp is lookUp, and errVersion if an append can't go on from what is found.
func (b *sqlBackend) mustLookUp(ctx context.Context, c conn, a *appendRequest, expected ExpectedVersion, h *appendHint) error {
	found, err := b.lookUp(ctx, c, a, h)
	if err == nil && (!found || !expected.admits(h.version)) {
		err = errVersion
	}
	return err
}

// refusal returns an errVersion for a faultTaken, unless it is about a key that is not the store's: then
// nothing of the store is in the append's way.
func (b *sqlBackend) refusal(err error) error {
	owner := b.dialect.violated(b.prefix, err)
	if owner == foreignKey {
		return err
	}
	return &refusedError{err, owner == ownKey}
}

// dropRows takes rows back that this very transaction has inserted; their positions become holes
// like those of a rollback. A context that ends meanwhile must not leave them there.
func (b *sqlBackend) dropRows(ctx context.Context, c conn, rows []record) error {
	for part := range slices.Chunk(rows, 1000) {
		args := make([]any, len(part))
		for i := range part {
			args[i] = int64(part[i].position)
		}
		if _, err := c.exec(context.WithoutCancel(ctx), b.text.append.dropEvents+placeholders(len(args))+")", args...); err != nil {
			return err
		}
	}
	return nil
}
