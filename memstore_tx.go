// Transactions in memory: what they do is kept beside the store until they commit, as a whole.

package eventstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// memTx is an optimistic transaction at read committed: each of its calls sees what is committed when it
// begins, and what the transaction itself has done. No lock is held between calls, so nothing waits for
// it. Its commit validates what its changes rest on, in one critical section with the changes: of two
// transactions, or of a transaction and an append, that race for an aggregate the second to commit loses.
//
// Its events get their positions at once, from the counter that appends use, as in a database. Until it
// ends, the sealed position stays before the first of them. So sealed order holds:
//
//   - A transaction registers, in the critical section in which it reserves its first position, with
//     memBackend.open. Every later sealed position is before that one until the transaction ends.
//   - Its rows enter the log in the critical section in which it leaves memBackend.open. So they appear
//     above the sealed position.
//   - A new reservation is above all earlier ones, and so above the sealed position, which never goes back.
//   - A rollback leaves a hole that no later append can fill, since the counter only grows.
//
// Versions of an aggregate agree with positions: its rows were reserved after the transaction had seen the
// aggregate's last event, and they are stored only if that still is the last.
type memTx struct {
	m    *memBackend
	ctx  context.Context
	lost func(error) // told of each call that fails since a race is lost

	mu      sync.Mutex // taken before m.mu
	ended   bool
	streams map[string]*memTxStream // that it has changed, or has found and relies on
	rows    []*record               // its own, by position
	events  map[uuid.UUID]*record   // the same
	first   Position                // that it has reserved; zero: none
	parks   []func(*memProjection)
	written []*documentChanges
}

// memTxStream is what a transaction has done to a stream.
type memTxStream struct {
	base       *memStream // as the transaction found it; nil: there was none
	deleted    bool       // base is
	made       *memStream // by the transaction, in the place of base
	metadata   []byte     // that it has set; nil: none
	aggregates map[string]*memTxAggregate
}

// memTxAggregate is what a transaction has done to an aggregate.
type memTxAggregate struct {
	version  int64    // of the last event that others had stored when the transaction first changed it
	position Position // of the same
	expected ExpectedVersion
	deleted  bool // what others had stored
	rows     []*record
}

func (m *memBackend) newTx(ctx context.Context) *memTx {
	return &memTx{m: m, ctx: ctx, lost: func(error) {}, streams: map[string]*memTxStream{}, events: map[uuid.UUID]*record{}}
}

// look calls fn under the locks that a call needs which changes nothing but the transaction.
func (u *memTx) look(ctx context.Context, fn func() error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.m.mu.RLock()
	defer u.m.mu.RUnlock()
	return u.call(ctx, fn)
}

// change is look for a call that reserves positions.
func (u *memTx) change(ctx context.Context, fn func() error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.m.mu.Lock()
	defer u.m.mu.Unlock()
	return u.call(ctx, fn)
}

func (u *memTx) call(ctx context.Context, fn func() error) error {
	err := u.usable(ctx)
	if err == nil {
		err = fn()
	}
	if errors.Is(err, ErrRetryTx) {
		u.lost(err)
	}
	return err
}

func (u *memTx) usable(ctx context.Context) error {
	if u.ended {
		return fmt.Errorf("eventstore: %w", sql.ErrTxDone)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return u.ctx.Err()
}

// stream returns what others have stored of a stream and the transaction has not deleted, which may be
// nothing, and reports whether there is a stream.
func (u *memTx) stream(name string) (st *memStream, found bool) {
	t := u.streams[name]
	switch {
	case t == nil:
		st = u.m.byName[name]
		return st, st != nil
	case t.made != nil:
		return nil, true
	case t.deleted:
		return nil, false
	}
	return t.base, t.base != nil
}

// touch returns what the transaction has done to a stream, which it relies on from now on.
func (u *memTx) touch(name string) *memTxStream {
	t := u.streams[name]
	if t == nil {
		t = &memTxStream{base: u.m.byName[name], aggregates: map[string]*memTxAggregate{}}
		u.streams[name] = t
	}
	return t
}

// aggregate returns what the transaction has done to an aggregate, which it relies on from now on.
func (u *memTx) aggregate(stream, id string) *memTxAggregate {
	t := u.touch(stream)
	a := t.aggregates[id]
	if a == nil {
		a = &memTxAggregate{expected: AnyVersion}
		if st, _ := u.stream(stream); st != nil {
			a.version, a.position = st.last(id)
		}
		t.aggregates[id] = a
	}
	return a
}

// committed returns the rows of an aggregate that others have stored and the transaction has not deleted,
// and its own.
func (u *memTx) committed(stream, id string) (others, own []*record) {
	var a *memTxAggregate
	if t := u.streams[stream]; t != nil {
		a = t.aggregates[id]
	}
	if st, _ := u.stream(stream); st != nil && (a == nil || !a.deleted) {
		others = st.aggregates[id]
	}
	if a != nil {
		own = a.rows
	}
	return others, own
}

// last returns an aggregate's version and the position of its last event.
func (u *memTx) last(stream, id string) (version int64, p Position) {
	others, own := u.committed(stream, id)
	if len(own) == 0 {
		own = others
	}
	if n := len(own); n > 0 {
		return own[n-1].version, own[n-1].position
	}
	return 0, 0
}

// hides reports whether the transaction has deleted a row that others have stored.
func (u *memTx) hides(r *record) bool {
	t := u.streams[r.stream]
	if t == nil {
		return false
	}
	a := t.aggregates[r.aggregateID]
	return t.deleted || a != nil && a.deleted
}

// taken reports whether an event ID is in use.
func (u *memTx) taken(id uuid.UUID) bool {
	if _, own := u.events[id]; own {
		return true
	}
	return u.takenByOthers(id)
}

func (u *memTx) takenByOthers(id uuid.UUID) bool {
	p, stored := u.m.events[id]
	return stored && !u.hides(u.m.log[search(u.m.log, p)])
}

// insert completes an append's rows and keeps them as the transaction's own.
func (u *memTx) insert(a *appendRequest) {
	version, _ := u.last(a.stream, a.aggregateID)
	kept := u.aggregate(a.stream, a.aggregateID)
	if len(kept.rows) == 0 {
		kept.expected = a.expected
	}
	at := u.m.clock(a.at)
	if u.first == 0 {
		u.first = u.m.next
		u.m.open[u.first] = time.Now()
	}
	copies := make([]record, len(a.rows))
	for i := range a.rows {
		r := &a.rows[i]
		r.position, r.version, r.recordedAt = u.m.next, version+int64(i+1), at
		u.m.next++
		copies[i] = *r
		copies[i].decoded = nil // which its reader may change
		kept.rows = append(kept.rows, &copies[i])
		u.events[r.id] = &copies[i]
	}
	u.rows = append(u.rows, kept.rows[len(kept.rows)-len(copies):]...)
}

// forget drops those of the transaction's own rows of which gone reports true.
func (u *memTx) forget(gone func(*record) bool) {
	u.rows = slices.DeleteFunc(u.rows, func(r *record) bool {
		if gone(r) {
			delete(u.events, r.id)
			return true
		}
		return false
	})
}

// conflict returns an error if something that the transaction relies on is not as it has found it.
func (u *memTx) conflict() error {
	for name, t := range u.streams {
		if err := u.streamConflict(name, t); err != nil {
			return err
		}
		for id, a := range t.aggregates {
			if err := a.conflict(t, name, id); err != nil {
				return err
			}
		}
	}
	for _, r := range u.rows {
		if u.takenByOthers(r.id) {
			return retryTx(fmt.Errorf("event ID %s has been stored meanwhile", r.id))
		}
	}
	return nil
}

func (u *memTx) streamConflict(name string, t *memTxStream) error {
	if u.m.byName[name] != t.base {
		return retryTx(fmt.Errorf("stream %q has been made or deleted meanwhile", name))
	}
	return nil
}

// aggregateConflict is conflict for one aggregate.
func (u *memTx) aggregateConflict(stream, id string) error {
	t := u.streams[stream]
	if t == nil {
		return nil
	}
	if err := u.streamConflict(stream, t); err != nil {
		return err
	}
	if a := t.aggregates[id]; a != nil {
		return a.conflict(t, stream, id)
	}
	return nil
}

func (a *memTxAggregate) conflict(t *memTxStream, stream, id string) error {
	if t.base == nil || t.deleted {
		return nil // what others have appended is deleted with the stream
	}
	version, position := t.base.last(id)
	if version == a.version && position == a.position {
		return nil
	}
	if a.expected == AnyVersion {
		return retryTx(fmt.Errorf("aggregate %q of stream %q has changed meanwhile: it was at version %d, is at %d", id, stream, a.version, version))
	}
	return retryTx(&ConflictError{Stream: stream, AggregateID: id, Expected: a.expected, Actual: version})
}

// apply stores what the transaction has done: deletes, streams, and then its rows.
func (u *memTx) apply() {
	rows := map[*memStream][]*record{}
	for name, t := range u.streams {
		if t.deleted {
			u.m.drop(name)
		}
		if t.made != nil {
			u.m.byName[name] = t.made
		}
		st := u.m.byName[name]
		if st == nil {
			continue
		}
		if t.metadata != nil {
			st.metadata = t.metadata
		}
		for id, a := range t.aggregates {
			if a.deleted && !t.deleted {
				u.m.dropAggregate(st, id)
			}
			if len(a.rows) > 0 {
				st.aggregates[id] = append(st.aggregates[id], a.rows...)
			}
		}
	}
	for _, r := range u.rows {
		u.m.events[r.id] = r.position
		st := u.m.byName[r.stream]
		rows[st] = append(rows[st], r)
	}
	u.m.log = mergeRows(u.m.log, u.rows)
	for st, own := range rows {
		st.log = mergeRows(st.log, own)
	}
}

// mergeRows puts rows where they belong in a log. Both are in order of position.
func mergeRows(log, rows []*record) []*record {
	if len(rows) == 0 {
		return log
	}
	i := search(log, rows[0].position)
	after := slices.Clone(log[i:])
	log = log[:i]
	for len(after) > 0 && len(rows) > 0 {
		if after[0].position < rows[0].position {
			log, after = append(log, after[0]), after[1:]
		} else {
			log, rows = append(log, rows[0]), rows[1:]
		}
	}
	return append(append(log, after...), rows...)
}

// end ends the transaction, after fn, which may commit it and runs in the same critical section. On a
// transaction that has ended it does nothing.
func (u *memTx) end(fn func() error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended {
		return fmt.Errorf("eventstore: %w", sql.ErrTxDone)
	}
	u.m.mu.Lock()
	defer func() {
		u.ended = true
		delete(u.m.open, u.first)
		u.m.mu.Unlock()
		if u.first > 0 {
			u.m.closed.publish()
		}
	}()
	return fn()
}

func (u *memTx) rollback() { _ = u.end(func() error { return nil }) }
