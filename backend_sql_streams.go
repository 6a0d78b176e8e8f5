// Streams in a database: create, delete, list.

package eventstore

import (
	"context"
	"database/sql"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (b *sqlBackend) createStream(ctx context.Context, name string, metadata []byte, emittedBy string, at time.Time) (bool, error) {
	if err := b.eraseQueued(ctx); err != nil {
		return false, err
	}
	var created bool
	err := b.run(ctx, "create stream", func(c conn) error {
		if b.tx != nil {
			// On InnoDB an INSERT of a name that exists locks the gap before it.
			if exists, err := c.row(ctx, []any{new(int64)}, b.text.streams.exists, name); err != nil || exists {
				return err
			}
		}
		var err error
		created, err = c.changes(ctx, b.text.streams.create, name, string(metadata), emittedBy, b.timeArg(at))
		if b.dialect.classify(err) != faultTaken {
			return err
		}
		if b.text.streams.createTaken != "" {
			if exists, look := c.row(ctx, []any{new(int64)}, b.text.streams.createTaken, name); exists || look != nil {
				return look
			}
		}
		if owner, _ := b.dialect.violated(b.prefix+"streams", err); owner != ownKey {
			return err
		}
		return b.idTaken()
	})
	return created, err
}

// deleteStream deletes a stream's row and queues its events in one transaction, which appends that
// are in flight have to end before. From then on no read and no append finds the stream, and its
// events are erased in short transactions, as sealing waits for none of these for long. In a caller's
// transaction they are erased at once, as far as it sees them.
func (b *sqlBackend) deleteStream(ctx context.Context, name string) (found bool, err error) {
	if err := b.eraseQueued(ctx); err != nil {
		return false, err
	}
	err = b.transact(ctx, "delete stream", func(c conn) error {
		var id int64
		var err error
		if found, err = c.row(ctx, []any{&id}, b.text.streams.id, name); err != nil || !found {
			return err
		}
		if err := b.beginErasing(ctx, c); err != nil {
			return err
		}
		if found, err = c.changes(ctx, b.text.streams.delete, id, name); err != nil || !found {
			return err
		}
		if c.b.tx != nil {
			if err := b.eraseSeen(ctx, c, id); err != nil {
				return err
			}
		}
		_, err = c.exec(ctx, b.text.streams.queueErase, id, id)
		return err
	})
	if err == nil && found {
		err = b.eraseQueued(ctx)
	}
	return found, err
}

// eraseSeen erases what a caller's transaction sees of a deleted stream.
func (b *sqlBackend) eraseSeen(ctx context.Context, c conn, id int64) error {
	for after := int64(0); ; {
		positions, err := b.positionsAfter(ctx, c, id, after)
		if err != nil {
			return err
		}
		if len(positions) == 0 {
			break
		}
		if _, err := b.erase(ctx, c, positions); err != nil {
			return err
		}
		after = positions[len(positions)-1]
	}
	if b.text.streams.snapshots == "" {
		_, err := c.exec(ctx, b.text.streams.deleteSnapshots, id)
		return err
	}
	var ids []string
	if err := c.query(ctx, func(r *sql.Rows) error {
		ids = append(ids, "")
		return r.Scan(&ids[len(ids)-1])
	}, b.text.streams.snapshots, id); err != nil {
		return err
	}
	for part := range slices.Chunk(ids, eraseAtOnce) {
		if _, err := c.exec(ctx, b.text.streams.deleteListed, `["`+strings.Join(part, `","`)+`"]`, id); err != nil {
			return err
		}
	}
	return nil
}

// eraseQueued erases the events of deleted streams that are still queued: of one that has just been
// deleted, of one whose deletion was cut short, and what transactions did not see of those that they
// deleted. A caller's transaction leaves that to others.
func (b *sqlBackend) eraseQueued(ctx context.Context) error {
	if b.tx != nil {
		return nil
	}
	var queued []int64
	err := b.run(ctx, "look for deleted streams", func(c conn) error {
		queued = nil
		return c.query(ctx, func(r *sql.Rows) error {
			queued = append(queued, 0)
			return r.Scan(&queued[len(queued)-1])
		}, b.text.streams.queuedErases)
	})
	for _, id := range queued {
		if err == nil {
			err = b.eraseStream(ctx, id)
		}
	}
	return err
}

// eraseStream erases the events of a deleted stream, and then its snapshots: one that is being saved
// holds its event.
func (b *sqlBackend) eraseStream(ctx context.Context, id int64) error {
	for after, more := int64(0), true; more; {
		if err := b.transact(ctx, "erase deleted stream", func(c conn) error {
			positions, err := b.positionsAfter(ctx, c, id, after)
			if more = err == nil && len(positions) > 0; !more {
				return err
			}
			if _, err := b.erase(ctx, c, positions); err != nil {
				return err
			}
			after = positions[len(positions)-1]
			return nil
		}); err != nil {
			return err
		}
	}
	return b.transact(ctx, "erase deleted stream", func(c conn) error {
		if _, err := c.exec(ctx, b.text.streams.deleteSnapshots, id); err != nil {
			return err
		}
		_, err := c.exec(ctx, b.text.streams.eraseDone, id)
		return err
	})
}

// eraseAtOnce is how many events are erased with one statement, and, of a stream, in one transaction.
const eraseAtOnce = 1000

// positionsAfter returns the positions of a stream's next events after one of them.
func (b *sqlBackend) positionsAfter(ctx context.Context, c conn, id, after int64) (out []int64, err error) {
	err = c.query(ctx, func(r *sql.Rows) error {
		out = append(out, 0)
		return r.Scan(&out[len(out)-1])
	}, b.text.streams.positions, id, after, eraseAtOnce)
	return out, err
}

// beginErasing marks a caller's transaction as one that erases events. Others are too short to matter.
func (b *sqlBackend) beginErasing(ctx context.Context, c conn) error {
	if b.tx == nil || b.text.erase.begin == "" {
		return nil
	}
	_, err := c.exec(ctx, b.text.erase.begin)
	return err
}

// erase removes events below the sealed position that every process knows, and makes gap rows of the
// others, so that no process finds holes where it still looks for them. It returns how many there
// were.
//
// The mark is read by a statement of its own: a DELETE that reads it would lock it, on InnoDB, against
// the process that seals. A caller's transaction does not read it at all, since that is a lock too at
// serializable: what this process knows to be there does as well.
//
// The event at the mark stays as a gap row, so that the last position of the log always exists: a lock
// on one that does not would hold up all appends.
func (b *sqlBackend) erase(ctx context.Context, c conn, positions []int64) (n int64, err error) {
	mark := b.sealer.told.Load()
	if b.tx == nil {
		if _, err := c.row(ctx, []any{&mark}, b.text.seal.mark); err != nil {
			return 0, err
		}
	}
	var below, others []int64
	for _, p := range positions {
		if p < mark {
			below = append(below, p)
		} else {
			others = append(others, p)
		}
	}
	removed, err := b.execListed(ctx, c, b.text.erase.remove, below)
	if err != nil {
		return 0, err
	}
	blanked, err := b.execListed(ctx, c, b.text.erase.blank, others)
	return removed + blanked, err
}

// execListed runs a statement that takes a list of positions, and returns how many rows it changed.
func (b *sqlBackend) execListed(ctx context.Context, c conn, text string, positions []int64) (n int64, err error) {
	for part := range slices.Chunk(positions, eraseAtOnce) {
		res, err := c.exec(ctx, text, b.list(part))
		if err != nil {
			return 0, err
		}
		changed, err := res.RowsAffected()
		if err != nil {
			return 0, err
		}
		n += changed
	}
	return n, nil
}

func (b *sqlBackend) streamEmitter(ctx context.Context, name string) (emittedBy *string, found bool, err error) {
	err = b.run(ctx, "look for the stream's emitter", func(c conn) (err error) {
		found, err = c.row(ctx, []any{&emittedBy}, b.text.streams.emitter, name)
		return err
	})
	return emittedBy, found, err
}

func (b *sqlBackend) disownStream(ctx context.Context, name string) error {
	return b.run(ctx, "disown stream", func(c conn) error {
		_, err := c.exec(ctx, b.text.streams.disown, name)
		return err
	})
}

// list returns positions as one parameter.
func (b *sqlBackend) list(positions []int64) string {
	list := []byte(b.dialect.brackets[:1])
	for i, p := range positions {
		if i > 0 {
			list = append(list, ',')
		}
		list = strconv.AppendInt(list, p, 10)
	}
	return string(append(list, b.dialect.brackets[1]))
}

func (b *sqlBackend) hasStream(ctx context.Context, name string) (bool, error) {
	var found bool
	err := b.run(ctx, "look for stream", func(c conn) (err error) {
		found, err = c.row(ctx, []any{new(int64)}, b.text.streams.exists, name)
		return err
	})
	return found, err
}

func (b *sqlBackend) streams(ctx context.Context, prefix string) ([]streamRow, error) {
	var out []streamRow
	err := b.run(ctx, "list streams", func(c conn) error {
		out = nil
		return c.query(ctx, func(rows *sql.Rows) error {
			var row streamRow
			if err := rows.Scan(&row.name, &row.metadata, (*dbTime)(&row.createdAt)); err != nil {
				return err
			}
			out = append(out, row)
			return nil
		}, b.text.streams.list, prefix, prefix)
	})
	return out, err
}

func (b *sqlBackend) setStreamMetadata(ctx context.Context, name string, metadata []byte) (bool, error) {
	var found bool
	err := b.run(ctx, "set stream metadata", func(c conn) error {
		// By its id: on InnoDB an UPDATE by name locks the gap before that, or, where there is none, the gap
		// in which it would be.
		var id int64
		var err error
		if found, err = c.row(ctx, []any{&id}, b.text.streams.id, name); err != nil || !found {
			return err
		}
		if changed, err := c.changes(ctx, b.text.streams.setMetadata, string(metadata), id); changed || err != nil {
			return err
		}
		// It has been deleted meanwhile, or MySQL counts no row because the new value is the old one.
		found, err = c.row(ctx, []any{new(int64)}, b.text.streams.exists, name)
		return err
	})
	return found, err
}
