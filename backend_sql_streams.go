// Streams in a database: create, delete, list.

package eventstore

import (
	"context"
	"database/sql"
	"time"
)

func (b *sqlBackend) createStream(ctx context.Context, name string, metadata []byte, at time.Time) (bool, error) {
	var created bool
	err := b.run(ctx, "create stream", func(c conn) error {
		err := b.eraseQueued(ctx, c)
		if err != nil {
			return err
		}
		created, err = c.changes(ctx, b.text.streams.create, name, string(metadata), b.timeArg(at))
		if b.dialect.classify(err) != faultTaken {
			return err
		}
		exists := false
		if b.text.streams.createTaken != "" {
			if exists, err = c.row(ctx, []any{new(int64)}, b.text.streams.createTaken, name); err != nil {
				return err
			}
		}
		if !exists {
			return b.idTaken()
		}
		return nil
	})
	return created, err
}

func (b *sqlBackend) deleteStream(ctx context.Context, name string) (bool, error) {
	var found bool
	err := b.transact(ctx, "delete stream", func(c conn) error {
		var id int64
		err := b.eraseQueued(ctx, c)
		if err != nil {
			return err
		}
		if found, err = c.row(ctx, []any{&id}, b.text.streams.lock, name); err != nil || !found {
			return err
		}
		for _, text := range []string{b.text.streams.delete, b.text.streams.deleteSealed, b.text.streams.erase, b.text.streams.deleteSnapshots} {
			if _, err := c.exec(ctx, text, id); err != nil {
				return err
			}
		}
		if b.tx != nil && b.text.streams.queueErase != "" {
			_, err = c.exec(ctx, b.text.streams.queueErase, id, id)
		}
		return err
	})
	return found, err
}

// eraseQueued erases what is left of streams that were deleted in transactions which could not see all
// of it. A caller's transaction leaves that to others.
func (b *sqlBackend) eraseQueued(ctx context.Context, c conn) error {
	if b.tx != nil || b.text.streams.queueErase == "" {
		return nil
	}
	var owed []int64
	if err := c.query(ctx, func(r *sql.Rows) error {
		owed = append(owed, 0)
		return r.Scan(&owed[len(owed)-1])
	}, b.text.streams.queuedErases); err != nil {
		return err
	}
	for _, id := range owed {
		for _, text := range []string{b.text.streams.deleteSealed, b.text.streams.erase, b.text.streams.deleteSnapshots, b.text.streams.eraseDone} {
			if _, err := c.exec(ctx, text, id); err != nil {
				return err
			}
		}
	}
	return nil
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
		var err error
		if found, err = c.changes(ctx, b.text.streams.setMetadata, string(metadata), name); found || err != nil {
			return err
		}
		// MySQL counts no row when the new value is the old one.
		found, err = c.row(ctx, []any{new(int64)}, b.text.streams.exists, name)
		return err
	})
	return found, err
}
