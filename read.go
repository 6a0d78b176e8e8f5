// Reads: Store.Read, Store.ReadAggregate and Store.Sealed, in pages, with nothing held while the
// caller's loop body runs.

package eventstore

import (
	"bytes"
	"context"
	"iter"
	"maps"
	"slices"
)

// ReadOptions bound a read.
type ReadOptions struct {
	After, Before Position // exclusive bounds; zero: none
	Limit         int      // the most events to yield; zero: no limit
	Backward      bool     // from the highest position down
	Sealed        bool     // only sealed events: a cursor kept over them never misses one
}

// Read yields the events that a selection picks, in position order: at least those that were
// committed when it began. The sequence ends at the first error, the context's own included, which
// is yielded with a zero Event. It reads pages and holds no connection while the caller's loop
// body runs, so the body may use the same database, with a pool of one connection too. Each use of
// the sequence in a range statement is a read of its own.
//
// A page has at most 1000 events, and ends with the event with which it comes to 2 MiB: a read holds one
// page in memory, or two where it reads ahead. What a read costs the database depends on the events that
// it returns, on those that a Match drops, and on how many streams it goes through, not on how long the log
// is. Matches of event IDs, and of one aggregate in one stream, look events up; so do positions.
//
// Without Sealed, events of transactions that commit while or after Read passes can appear below
// positions already yielded: don't keep a cursor over such a read.
func (s *Store) Read(ctx context.Context, from Selection, opts ReadOptions) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for r, err := range s.read(ctx, from, nil, opts, opts.Sealed, false) {
			var ev Event
			if err == nil {
				ev, err = s.load(ctx, r)
			}
			if !yield(ev, err) || err != nil {
				return
			}
		}
	}
}

// ReadAggregate yields an aggregate's events with versions above afterVersion, by version, like
// [Store.Read] otherwise. An aggregate or a stream that does not exist has none.
func (s *Store) ReadAggregate(ctx context.Context, stream, aggregateID string, afterVersion int64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for r, err := range s.readAggregate(ctx, stream, aggregateID, afterVersion, false) {
			var ev Event
			if err == nil {
				ev, err = s.load(ctx, r)
			}
			if !yield(ev, err) || err != nil {
				return
			}
		}
	}
}

// Sealed looks, seals as far as can be, and returns the sealed position: the order of events up to
// it is final, and no event can ever appear at or below it. It never goes back. An append that is
// not yet committed holds it up, however long its transaction takes; one that was rolled back does
// not. If the tables are not those in which this store has sealed, as after they were emptied or restored:
// [ErrInconsistent], as from all that reads in sealed order, until the store is opened anew. Inside a caller's
// transaction it returns, without a look, the position up to which that sees
// all of what has been sealed before.
func (s *Store) Sealed(ctx context.Context) (Position, error) {
	p, settled, err := s.backend.seal(ctx)
	if err != nil || settled {
		return p, err
	}
	// Under steady load every look meets holes that are new, so that none is settled. What was
	// there when this call began is enough.
	last, err := s.backend.lastPosition(ctx)
	for err == nil && !settled && p < last {
		if err := sleep(ctx, settleTime); err != nil {
			return 0, err
		}
		before := p
		if p, settled, err = s.backend.seal(ctx); p == before {
			break // behind it is the hole of the look before, and its writer is in flight
		}
	}
	return p, err
}

// event returns a record as an Event.
func (s *Store) event(r *record) (Event, error) {
	md, err := r.meta()
	if err != nil {
		return Event{}, err
	}
	data := r.data
	if s.copiesData {
		data = bytes.Clone(data)
	}
	return Event{
		Position: r.position, ID: r.id, Stream: r.stream, AggregateID: r.aggregateID, Version: r.version,
		Name: r.name, Data: data, Metadata: md, RecordedAt: r.recordedAt, codec: s.codec,
	}, nil
}

// eventCopy is event for a record that is delivered more than once: to several handlers, or again
// after a failure.
func (s *Store) eventCopy(r *record) (Event, error) {
	ev, err := s.event(r)
	if err != nil {
		return ev, err
	}
	if s.copiesData {
		ev.Metadata = maps.Clone(ev.Metadata)
		return ev, nil
	}
	return ev.clone(), nil
}

// load returns a record as the Event that a reader is to see.
func (s *Store) load(ctx context.Context, r *record) (Event, error) {
	ev, err := s.event(r)
	return s.loaded(ctx, ev, err)
}

// loadCopy is load for a record that is delivered more than once.
func (s *Store) loadCopy(ctx context.Context, r *record) (Event, error) {
	ev, err := s.eventCopy(r)
	return s.loaded(ctx, ev, err)
}

// loaded takes an event through the middleware.
func (s *Store) loaded(ctx context.Context, ev Event, err error) (Event, error) {
	for _, m := range slices.Backward(s.opts.Middleware) {
		if err != nil {
			break
		}
		if m.Load != nil {
			ev, err = m.Load(ctx, ev)
		}
	}
	if err != nil {
		return Event{}, err
	}
	ev.codec = s.codec
	return ev, nil
}

// fetched is a page, or what has kept it from being read.
type fetched struct {
	rows []record
	more bool // pages may follow
	err  error
}

// pages yields what fetch returns, up to the last page or the first error. Ahead, it fetches each page
// while the one before is in use.
func pages(ahead bool, fetch func() fetched) iter.Seq[fetched] {
	return func(yield func(fetched) bool) {
		for p, wanted := fetch(), true; wanted; {
			if p.err != nil || !p.more {
				yield(p)
				return
			}
			if !ahead {
				if wanted = yield(p); wanted {
					p = fetch()
				}
				continue
			}
			next := inBackground(fetch)
			func() {
				defer next.end() // also if the page's user panics: nothing is left running
				wanted = yield(p)
			}()
			if wanted {
				p = next.wait()
			}
		}
	}
}

// readsAhead reports whether folding a page can overlap with reading the next. A transaction is one
// connection's, which folds might use too; in memory there is nothing to wait for.
func (s *Store) readsAhead() bool { return !s.inTx && !s.copiesData }

// read yields the records that a selection picks and, of those, the ones stored under names (nil:
// all). Newest says that opts.Before, if it is not zero, is after the sealed position.
func (s *Store) read(ctx context.Context, from Selection, names []string, opts ReadOptions, newest, ahead bool) iter.Seq2[*record, error] {
	return func(yield func(*record, error) bool) {
		q := page{from: from, names: names, after: opts.After, before: opts.Before, limit: firstPage, backward: opts.Backward, newest: newest}
		err := checkRead(from, opts)
		if err == nil && opts.Sealed {
			var sealed Position
			if sealed, err = s.Sealed(ctx); q.before == 0 || q.before > sealed+1 {
				q.before = sealed + 1
			}
		}
		if err != nil {
			yield(nil, err)
			return
		}
		if len(from) == 0 {
			return
		}
		picker := from.picker()
		left := opts.Limit
		exact := true // all rows of the page before were picked
		fetch := func() (p fetched) {
			if opts.Limit > 0 && exact { // never ahead: both are of the page before
				q.limit = min(q.limit, left)
				q.sizeHint = min(q.sizeHint, left)
			}
			next := q // a fetch that panics is made again, and must not have moved on
			p.rows, p.more, p.err = s.backend.readPage(ctx, &next)
			q = next
			if p.err == nil && len(p.rows) > 0 {
				q.limit = pageSize(p.rows, maxPage)
				q.sizeHint = q.limit
			}
			return p
		}
		for p := range pages(ahead && opts.Limit == 0, fetch) {
			err := p.err
			for i := 0; i < len(p.rows) && err == nil; i++ {
				var picked bool
				if picked, err = picker.picks(&p.rows[i]); err != nil {
					break
				}
				if !picked {
					exact = false
					continue
				}
				if err = ctx.Err(); err != nil {
					break
				}
				if !yield(&p.rows[i], nil) {
					return
				}
				if left--; left == 0 {
					return
				}
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// readSnapshot returns the first page of what it takes to load an aggregate: its snapshot, if there
// is one to be used, as a record without a name, and the records behind it.
func (s *Store) readSnapshot(ctx context.Context, stream, aggregateID string, schema int) (rows []record, more bool, err error) {
	if err := checkAggregate(stream, aggregateID); err != nil {
		return nil, false, err
	}
	return s.backend.readSnapshot(ctx, stream, aggregateID, int64(schema), firstPage)
}

// readAggregate yields an aggregate's records by version.
func (s *Store) readAggregate(ctx context.Context, stream, aggregateID string, after int64, ahead bool) iter.Seq2[*record, error] {
	return func(yield func(*record, error) bool) {
		err := checkAggregate(stream, aggregateID)
		if err == nil && after < 0 {
			err = invalid("version %d", after)
		}
		if err != nil {
			yield(nil, err)
			return
		}
		last, limit := after, firstPage
		fetch := func() (p fetched) {
			p.rows, p.more, p.err = s.backend.readAggregate(ctx, stream, aggregateID, last, limit)
			if p.err == nil && p.more {
				last, limit = p.rows[len(p.rows)-1].version, pageSize(p.rows, maxPage)
			}
			return p
		}
		for p := range pages(ahead, fetch) {
			err := p.err
			for i := 0; i < len(p.rows) && err == nil; i++ {
				if err = ctx.Err(); err == nil && !yield(&p.rows[i], nil) {
					return
				}
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

func checkRead(from Selection, opts ReadOptions) error {
	switch {
	case opts.Limit < 0:
		return invalid("ReadOptions.Limit %d", opts.Limit)
	case opts.After < 0:
		return invalid("ReadOptions.After %d", opts.After)
	case opts.Before < 0:
		return invalid("ReadOptions.Before %d", opts.Before)
	}
	return from.check()
}
