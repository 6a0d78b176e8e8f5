// What a store does inside a transaction in memory.

package eventstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// memTxBackend is the backend inside a transaction. Its reads return what others have committed and what
// the transaction has done. What a store never asks for there, such as leases, fails.
type memTxBackend struct {
	brokenBackend
	*memTx
}

func newMemTxBackend(u *memTx) *memTxBackend {
	return &memTxBackend{brokenBackend{err: fmt.Errorf("eventstore: inside a transaction on a memory store: %w", errors.ErrUnsupported)}, u}
}

func (b *memTxBackend) createStream(ctx context.Context, name string, metadata []byte, emittedBy string, at time.Time) (created bool, err error) {
	err = b.look(ctx, func() error {
		if _, found := b.stream(name); !found {
			b.touch(name).made = b.m.newStream(name, metadata, emittedBy, at)
			created = true
		}
		return nil
	})
	return created, err
}

func (b *memTxBackend) streamEmitter(ctx context.Context, name string) (emittedBy *string, found bool, err error) {
	err = b.look(ctx, func() error {
		var st *memStream
		if st, found = b.stream(name); found {
			if t := b.touch(name); t.made != nil {
				st = t.made
			}
			emittedBy = &st.emittedBy
		}
		return nil
	})
	return emittedBy, found, err
}

func (b *memTxBackend) disownStream(ctx context.Context, _ string) error { return ctx.Err() }

func (b *memTxBackend) deleteStream(ctx context.Context, name string) (found bool, err error) {
	err = b.look(ctx, func() error {
		if _, found = b.stream(name); !found {
			return nil
		}
		t := b.touch(name)
		t.deleted, t.made, t.metadata = t.base != nil, nil, nil
		clear(t.aggregates)
		b.forget(func(r *record) bool { return r.stream == name })
		return nil
	})
	return found, err
}

func (b *memTxBackend) deleteAggregate(ctx context.Context, stream, id string) (found bool, n int64, err error) {
	err = b.look(ctx, func() error {
		if _, found = b.stream(stream); !found {
			return nil
		}
		if err := b.aggregateConflict(stream, id); err != nil {
			return err
		}
		others, own := b.committed(stream, id)
		if n = int64(len(others) + len(own)); n == 0 {
			return nil
		}
		a := b.aggregate(stream, id)
		a.deleted, a.rows = true, nil
		b.forget(func(r *record) bool { return r.stream == stream && r.aggregateID == id })
		return nil
	})
	return found, n, err
}

func (b *memTxBackend) hasStream(ctx context.Context, name string) (found bool, err error) {
	err = b.look(ctx, func() error {
		_, found = b.stream(name)
		return nil
	})
	return found, err
}

func (b *memTxBackend) streams(ctx context.Context, prefix string) (out []streamRow, err error) {
	err = b.look(ctx, func() error {
		names := map[string]bool{}
		for name := range b.m.byName {
			names[name] = true
		}
		for name := range b.memTx.streams {
			names[name] = true
		}
		for name := range names {
			if st, found := b.stream(name); found && strings.HasPrefix(name, prefix) {
				out = append(out, b.row(name, st))
			}
		}
		slices.SortFunc(out, func(x, y streamRow) int { return strings.Compare(x.name, y.name) })
		return nil
	})
	return out, err
}

// row returns a stream, of which others have stored st, as the transaction sees it.
func (b *memTxBackend) row(name string, st *memStream) streamRow {
	t := b.memTx.streams[name]
	if t != nil && t.made != nil {
		st = t.made
	}
	row := streamRow{st.name, st.metadata, st.createdAt}
	if t != nil && t.metadata != nil {
		row.metadata = t.metadata
	}
	return row
}

func (b *memTxBackend) setStreamMetadata(ctx context.Context, name string, metadata []byte) (found bool, err error) {
	err = b.look(ctx, func() error {
		if _, found = b.stream(name); found {
			b.touch(name).metadata = metadata
		}
		return nil
	})
	return found, err
}

func (b *memTxBackend) append(ctx context.Context, a *appendRequest) error {
	return b.change(ctx, func() error {
		if err := b.aggregateConflict(a.stream, a.aggregateID); err != nil {
			return err
		}
		_, found := b.stream(a.stream)
		if !found || !a.admits(b.last(a.stream, a.aggregateID)) || slices.ContainsFunc(a.rows, func(r record) bool { return b.taken(r.id) }) {
			return errVersion
		}
		b.insert(a)
		return nil
	})
}

func (b *memTxBackend) diagnose(ctx context.Context, a *appendRequest) (v conflictCause, err error) {
	err = b.look(ctx, func() error {
		_, v.found = b.stream(a.stream)
		v.actual, v.position = b.last(a.stream, a.aggregateID)
		for i := range a.rows {
			id := a.rows[i].id
			if own := b.events[id]; own != nil {
				v.stored = append(v.stored, *own)
			} else if b.takenByOthers(id) {
				v.stored = append(v.stored, *b.m.log[search(b.m.log, b.m.events[id])])
			}
		}
		slices.SortFunc(v.stored, byPosition)
		return nil
	})
	return v, err
}

func (b *memTxBackend) seal(ctx context.Context) (p Position, settled bool, err error) {
	err = b.look(ctx, func() error {
		p = b.m.sealed()
		return nil
	})
	return p, true, err
}

func (b *memTxBackend) readPage(ctx context.Context, q *page) (out []record, more bool, err error) {
	err = b.look(ctx, func() error {
		if err := b.conflict(); err != nil {
			return err
		}
		others, own := between(b.m.logOf(q), q), between(b.rows, q)
		for len(out) < q.limit && len(others)+len(own) > 0 {
			var r *record
			if len(others) == 0 || len(own) > 0 && (edge(own, q).position < edge(others, q).position) != q.backward {
				r, own = edge(own, q), without(own, q)
				out = append(out, *r)
			} else if r, others = edge(others, q), without(others, q); !b.hides(r) {
				out = append(out, *r)
			}
			q.advance(r.position)
		}
		more = len(others)+len(own) > 0
		return nil
	})
	return out, more, err
}

// edge returns the row that comes first in a page's order.
func edge(rows []*record, q *page) *record {
	if q.backward {
		return rows[len(rows)-1]
	}
	return rows[0]
}

// without returns rows without their edge.
func without(rows []*record, q *page) []*record {
	if q.backward {
		return rows[:len(rows)-1]
	}
	return rows[1:]
}

func (b *memTxBackend) readAggregate(ctx context.Context, stream, id string, after int64, limit int) (out []record, more bool, err error) {
	err = b.look(ctx, func() (err error) {
		out, err = b.versions(stream, id, after, limit)
		return err
	})
	return out, len(out) == limit, err
}

// versions returns up to limit of an aggregate's rows after a version.
func (b *memTxBackend) versions(stream, id string, after int64, limit int) ([]record, error) {
	if err := b.aggregateConflict(stream, id); err != nil {
		return nil, err
	}
	var out []record
	others, own := b.committed(stream, id)
	for _, rows := range [][]*record{others, own} {
		if len(rows) == 0 || rows[len(rows)-1].version <= after {
			continue
		}
		for _, r := range rows[max(0, after+1-rows[0].version):] {
			if len(out) == limit {
				return out, nil
			}
			out = append(out, *r)
		}
	}
	return out, nil
}

func (b *memTxBackend) readSnapshot(ctx context.Context, stream, id string, schema int64, limit int) (out []record, more bool, err error) {
	err = b.look(ctx, func() error {
		after := int64(0)
		if others, _ := b.committed(stream, id); len(others) > 0 {
			if sn, ok := b.m.snapshot(stream, id, schema); ok {
				after, out = sn.version, append(out, sn)
			}
		}
		rows, err := b.versions(stream, id, after, limit)
		out, more = append(out, rows...), len(rows) == limit
		return err
	})
	return out, more, err
}

func (b *memTxBackend) lastPosition(ctx context.Context) (p Position, err error) {
	err = b.look(ctx, func() error {
		p = b.m.last()
		if n := len(b.rows); n > 0 {
			p = max(p, b.rows[n-1].position)
		}
		return nil
	})
	return p, err
}

// A transaction changes no projection: what it reads of them is what is stored.

func (b *memTxBackend) projection(ctx context.Context, name string) (projectionRow, bool, error) {
	if err := b.look(ctx, nothing); err != nil {
		return projectionRow{}, false, err
	}
	return b.m.projection(ctx, name)
}

func (b *memTxBackend) projections(ctx context.Context) ([]ProjectionInfo, error) {
	if err := b.look(ctx, nothing); err != nil {
		return nil, err
	}
	return b.m.projections(ctx)
}

func (b *memTxBackend) parked(ctx context.Context, name string) ([]parkedRow, error) {
	if err := b.look(ctx, nothing); err != nil {
		return nil, err
	}
	return b.m.parked(ctx, name)
}

func nothing() error { return nil }
