// Snapshots in a database, and the deletion of an aggregate.

package eventstore

import (
	"cmp"
	"context"
	"slices"

	"github.com/google/uuid"
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

// deleteAggregate deletes the events up to the sealed position that everybody knows of, and makes
// gap rows of the others, so that nobody finds holes where it still looks for them.
func (b *sqlBackend) deleteAggregate(ctx context.Context, stream, aggregateID string) (found bool, n int64, err error) {
	err = b.transact(ctx, "delete aggregate", func(c conn) error {
		n = 0
		var id int64
		if found, err = c.row(ctx, []any{&id}, b.text.streams.id, stream); err != nil || !found {
			return err
		}
		last, claimed, err := b.holdAggregate(ctx, c, id, aggregateID)
		if err != nil || last == 0 {
			return err
		}
		for _, text := range []string{b.text.aggregates.deleteSealed, b.text.aggregates.erase} {
			res, err := c.exec(ctx, text, id, aggregateID)
			if err != nil {
				return err
			}
			gone, err := res.RowsAffected()
			if err != nil {
				return err
			}
			n += gone
		}
		n -= claimed
		if b.text.aggregates.claimSnapshot != "" {
			if _, err := c.exec(ctx, b.text.aggregates.claimSnapshot, id, aggregateID); err != nil {
				return err
			}
		}
		_, err = c.exec(ctx, b.text.aggregates.deleteSnapshot, id, aggregateID)
		return err
	})
	return found, n, err
}

// holdAggregate makes sure that an aggregate gets no further events while it is being deleted, for
// they would be left with versions that begin at no 1. Every append keeps the event before it
// locked, so whoever has the last one locked has nobody above it, unless the lock had to be waited
// for: hence the loop. A snapshot of the caller's transaction may not show what is really the last;
// where that can be, the next version is claimed too, which fails if it is taken.
func (b *sqlBackend) holdAggregate(ctx context.Context, c conn, id int64, aggregateID string) (last, claimed int64, err error) {
	for {
		before := last
		found, err := c.row(ctx, []any{&last}, b.text.aggregates.lockLast, id, aggregateID)
		if err != nil || !found {
			return 0, 0, err
		}
		if b.text.aggregates.claimVersion == "" {
			if last == before {
				return last, 0, nil
			}
			continue
		}
		claim, err := uuid.NewV7()
		if err != nil {
			return 0, 0, err
		}
		if ok, err := c.changes(ctx, b.text.aggregates.claimVersion, id, aggregateID, last+1, b.dialect.eventID(claim)); err != nil || ok {
			return last, 1, err
		}
	}
}
