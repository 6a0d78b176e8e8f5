// Snapshots in a database, and the deletion of an aggregate.

package eventstore

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
)

func (b *sqlBackend) readSnapshot(ctx context.Context, stream, aggregateID string, schema int64, limit int) (out []record, more bool, err error) {
	text := limited(b.text.aggregates.load, limit)
	err = b.run(ctx, "read aggregate", func(c conn) error {
		var cut, short bool
		var err error
		if out, cut, err = b.pageRows(ctx, c, 0, text, aggregateID, schema, stream, aggregateID, schema, aggregateID, stream); err != nil {
			return err
		}
		slices.SortFunc(out, func(x, y record) int { return cmp.Compare(x.version, y.version) })
		more = cut || len(out) >= limit
		if cut {
			// No order is promised to a page that was cut: what comes after a missing version is left.
			for i := range out {
				if i > 0 && out[i].version != out[i-1].version+1 {
					out = out[:i]
					break
				}
			}
		}
		out, short, err = b.complete(ctx, c, out)
		more = more || short
		return err
	})
	return out, more, err
}

func (b *sqlBackend) saveSnapshot(ctx context.Context, sn *snapshot) error {
	return b.run(ctx, "save snapshot", func(c conn) error {
		_, err := c.exec(ctx, b.text.aggregates.saveSnapshot, sn.version, sn.schema, string(sn.state), sn.stream, int64(sn.position), sn.aggregateID, sn.version)
		return err
	})
}

// deleteAggregate erases an aggregate's events in one transaction, so that none is seen without those
// before it.
func (b *sqlBackend) deleteAggregate(ctx context.Context, stream, aggregateID string) (found bool, n int64, err error) {
	err = b.transact(ctx, "delete aggregate", func(c conn) error {
		n = 0
		var id int64
		if found, err = c.row(ctx, []any{&id}, b.text.streams.id, stream); err != nil || !found {
			return err
		}
		if err := b.beginErasing(ctx, c); err != nil {
			return err
		}
		positions, err := b.holdAggregate(ctx, c, id, aggregateID)
		if err != nil || len(positions) == 0 {
			return err
		}
		if n, err = b.erase(ctx, c, positions); err != nil {
			return err
		}
		if b.tx != nil {
			seen, err := c.row(ctx, []any{new(int64)}, b.text.aggregates.hasSnapshot, id, aggregateID)
			if err == nil && !seen {
				_, err = c.exec(ctx, b.text.aggregates.claimSnapshot, id, aggregateID)
			}
			if err != nil {
				return err
			}
		}
		_, err = c.exec(ctx, b.text.aggregates.deleteSnapshot, id, aggregateID)
		return err
	})
	return found, n, err
}

// holdAggregate makes sure that an aggregate gets no further events while it is being deleted, for
// they would be left with versions that begin at no 1. It returns the positions of its events.
//
// Every append keeps the event before it locked. So while this transaction has the last event
// locked there is none after it, unless one was committed while it waited for the lock: hence the
// loop. The first event is locked before. There deletes of one aggregate wait for each other while they hold
// nothing: one that has locked the last event, which another has not seen, would need the older one that
// this other has locked. Postgres takes a second to find such a deadlock, and all appends to the aggregate wait.
func (b *sqlBackend) holdAggregate(ctx context.Context, c conn, id int64, aggregateID string) (positions []int64, err error) {
	if b.tx != nil {
		return b.holdAggregateInTx(ctx, c, id, aggregateID)
	}
	var version, last int64
	if found, err := c.row(ctx, []any{&last}, b.text.aggregates.lockFirst, id, aggregateID); err != nil || !found {
		return nil, err
	}
	for last = 0; last == 0 || last != version; {
		version = last
		if found, err := c.row(ctx, []any{&last}, b.text.aggregates.lockLast, id, aggregateID); err != nil || !found {
			return nil, err
		}
	}
	if err := b.lockAll(ctx, c, id, aggregateID); err != nil {
		return nil, err
	}
	positions, _, err = b.versionsAfter(ctx, c, id, aggregateID, 0)
	return positions, err
}

// lockAll locks each of an aggregate's events, before any is changed, where a lock is not yet a change to an
// append. An append that has begun before the last event came has an older one locked, and then finds the
// last's key taken. If this transaction had changed the last event, it would wait for the end of that, and this
// for its lock on the older one.
func (b *sqlBackend) lockAll(ctx context.Context, c conn, id int64, aggregateID string) error {
	if b.text.aggregates.lockAll == "" {
		return nil
	}
	_, err := c.row(ctx, []any{new(int64)}, b.text.aggregates.lockAll, id, aggregateID)
	return err
}

// holdAggregateInTx is holdAggregate in a caller's transaction, of which the isolation is not known.
//
// On InnoDB a locking read of an aggregate can lock the gap after it too, and so the appends of other
// aggregates, for as long as the transaction is open. So the events are read without locks, and the
// last is locked by itself. By its version that locks, on MariaDB, the gap before it: there is none
// behind an earlier version of the same aggregate.
//
// A snapshot of the transaction may not show what is really the last event. So the one that seems to be
// is given the next version, which fails if that is taken: the transaction has to be retried. The event
// is about to be erased; a row inserted for the purpose would hold sealing up.
func (b *sqlBackend) holdAggregateInTx(ctx context.Context, c conn, id int64, aggregateID string) (positions []int64, err error) {
	version := int64(0)
	for {
		more, last, err := b.versionsAfter(ctx, c, id, aggregateID, version)
		switch {
		case err != nil:
			return nil, err
		case len(more) > 0:
			var held bool
			if version == 0 && len(more) > 1 {
				if held, err = c.row(ctx, []any{new(int64)}, b.text.aggregates.lockPosition, more[0], id, aggregateID); err != nil || !held {
					return nil, err
				}
			}
			positions, version = append(positions, more...), last
			if version > 1 && b.text.aggregates.lockVersion != "" {
				held, err = c.row(ctx, []any{new(int64)}, b.text.aggregates.lockVersion, id, aggregateID, version)
			} else {
				held, err = c.row(ctx, []any{new(int64)}, b.text.aggregates.lockPosition, more[len(more)-1], id, aggregateID)
			}
			if err != nil || !held { // it has been deleted meanwhile
				return nil, err
			}
			continue
		case version == 0:
			return nil, nil
		}
		if err := b.lockAll(ctx, c, id, aggregateID); err != nil {
			return nil, err
		}
		if _, err = c.exec(ctx, b.text.aggregates.raise, positions[len(positions)-1]); b.dialect.classify(err) == faultTaken {
			return nil, fmt.Errorf("%w: delete aggregate: %w", ErrRetryTx, err)
		}
		return positions, err
	}
}

// versionsAfter returns the positions of an aggregate's events after a version, and the last version.
func (b *sqlBackend) versionsAfter(ctx context.Context, c conn, id int64, aggregateID string, version int64) (positions []int64, last int64, err error) {
	err = c.query(ctx, func(r *sql.Rows) error {
		positions = append(positions, 0)
		return r.Scan(&last, &positions[len(positions)-1])
	}, b.text.aggregates.versions, id, aggregateID, version)
	return positions, last, err
}
