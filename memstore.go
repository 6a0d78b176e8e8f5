// The store in memory: streams, events, snapshots.

package eventstore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// memBackend keeps a store's rows in memory. One lock guards all of it. An append is one critical
// section, and sealed when it returns. Only a transaction leaves positions open for a while: see memTx.
type memBackend struct {
	mu     sync.RWMutex
	log    []*record // by position, which are not the indexes once streams have been deleted
	free   []record  // room for the next ones
	next   Position
	byName map[string]*memStream
	events map[uuid.UUID]Position // without pointers, which would be the garbage collector's work

	open   map[Position]time.Time // the first that each open transaction has reserved, and when
	closed *broadcast             // told of each end of one of these

	projected  map[string]*memProjection
	generation int64 // of the projection created last
}

type memStream struct {
	name       string
	emittedBy  string
	metadata   []byte
	createdAt  time.Time
	log        []*record
	aggregates map[string][]*record // by version, from 1
	snapshots  map[string]*snapshot // by aggregate ID
}

// memProjection is a projection's row, the events that it has set aside, and its documents.
type memProjection struct {
	projectionRow
	leaseUntil time.Time
	parked     map[Position]parkedRow
	verdicts   map[Position]controlKind
	kept       definition
	changingAt int64 // the epoch whose holder is changing it
	last       ProjectionControl
	documents  memDocuments
}

// current is the row as a reader sees it now.
func (p *memProjection) current() projectionRow {
	row := p.projectionRow
	row.held = time.Now().Before(p.leaseUntil)
	row.changing, row.judged = p.changingAt == p.epoch, len(p.verdicts) > 0
	return row
}

// newMemBackend returns an empty backend, which tells closed when the sealed position can move on.
func newMemBackend(closed *broadcast) *memBackend {
	return &memBackend{
		next: 1, byName: map[string]*memStream{}, events: map[uuid.UUID]Position{},
		open: map[Position]time.Time{}, closed: closed, projected: map[string]*memProjection{},
	}
}

func (m *memBackend) install(ctx context.Context) error { return ctx.Err() }

func (m *memBackend) writeSchema(io.Writer) error { return nil }

func (m *memBackend) withTx(*sql.Tx) backend { return &brokenBackend{err: errNoSQL()} }

// errNoSQL is the error where a transaction of package sql is asked for.
func errNoSQL() error {
	return fmt.Errorf("eventstore: a memory store has no *sql.Tx: %w", errors.ErrUnsupported)
}

// clock returns at, or the time now if at is zero.
func (m *memBackend) clock(at time.Time) time.Time {
	if at.IsZero() {
		return time.Now().UTC().Truncate(time.Microsecond)
	}
	return at
}

func (m *memBackend) createStream(ctx context.Context, name string, metadata []byte, emittedBy string, at time.Time) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if m.byName[name] != nil {
		return false, nil
	}
	m.byName[name] = m.newStream(name, metadata, emittedBy, at)
	return true, nil
}

func (m *memBackend) newStream(name string, metadata []byte, emittedBy string, at time.Time) *memStream {
	return &memStream{name: name, metadata: metadata, emittedBy: emittedBy, createdAt: m.clock(at), aggregates: map[string][]*record{}, snapshots: map[string]*snapshot{}}
}

func (m *memBackend) streamEmitter(ctx context.Context, name string) (*string, bool, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if st := m.byName[name]; st != nil {
		return &st.emittedBy, true, ctx.Err()
	}
	return nil, false, ctx.Err()
}

// disownStream has nothing to do: memory knows who has made its streams.
func (m *memBackend) disownStream(ctx context.Context, _ string) error { return ctx.Err() }

func (m *memBackend) deleteStream(ctx context.Context, name string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return false, err
	}
	return m.drop(name), nil
}

func (m *memBackend) drop(name string) bool {
	st := m.byName[name]
	if st == nil {
		return false
	}
	delete(m.byName, name)
	for _, r := range st.log {
		delete(m.events, r.id)
	}
	m.log = slices.DeleteFunc(m.log, m.gone)
	return true
}

// gone reports whether a record has been deleted.
func (m *memBackend) gone(r *record) bool { return m.events[r.id] != r.position }

func (m *memBackend) deleteAggregate(ctx context.Context, stream, aggregateID string) (found bool, n int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return false, 0, err
	}
	st := m.byName[stream]
	if st == nil {
		return false, 0, nil
	}
	return true, m.dropAggregate(st, aggregateID), nil
}

// dropAggregate deletes an aggregate and returns how many events it had.
func (m *memBackend) dropAggregate(st *memStream, id string) (n int64) {
	for _, r := range st.aggregates[id] {
		delete(m.events, r.id)
		n++
	}
	delete(st.aggregates, id)
	delete(st.snapshots, id)
	m.log = slices.DeleteFunc(m.log, m.gone)
	st.log = slices.DeleteFunc(st.log, m.gone)
	return n
}

func (m *memBackend) readSnapshot(ctx context.Context, stream, aggregateID string, schema int64, limit int) ([]record, bool, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	after := int64(0)
	var out []record
	if sn, ok := m.snapshot(stream, aggregateID, schema); ok {
		after, out = sn.version, append(out, sn)
	}
	rows := m.versions(stream, aggregateID, after, limit)
	return append(out, rows...), len(rows) == limit, ctx.Err()
}

// snapshot returns an aggregate's snapshot, if it is of this schema and its event is there, as a row.
func (m *memBackend) snapshot(stream, aggregateID string, schema int64) (record, bool) {
	st := m.byName[stream]
	if st == nil {
		return record{}, false
	}
	sn := st.snapshots[aggregateID]
	if sn == nil || sn.schema != schema || !m.holds(st, sn) {
		return record{}, false
	}
	return record{position: sn.position, aggregateID: aggregateID, version: sn.version, data: sn.state}, true
}

// holds reports whether a snapshot's event is there.
func (m *memBackend) holds(st *memStream, sn *snapshot) bool {
	aggregate := st.aggregates[sn.aggregateID]
	return sn.version <= int64(len(aggregate)) && aggregate[sn.version-1].position == sn.position
}

func (m *memBackend) saveSnapshot(ctx context.Context, sn *snapshot) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := m.byName[sn.stream]
	if st == nil || !m.holds(st, sn) {
		return ctx.Err()
	}
	if old := st.snapshots[sn.aggregateID]; old == nil || old.position <= sn.position {
		st.snapshots[sn.aggregateID] = sn
	}
	return ctx.Err()
}

func (m *memBackend) hasStream(ctx context.Context, name string) (bool, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.byName[name] != nil, ctx.Err()
}

func (m *memBackend) streams(ctx context.Context, prefix string) ([]streamRow, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var out []streamRow
	for _, st := range m.byName {
		if strings.HasPrefix(st.name, prefix) {
			out = append(out, streamRow{st.name, st.metadata, st.createdAt})
		}
	}
	slices.SortFunc(out, func(x, y streamRow) int { return strings.Compare(x.name, y.name) })
	return out, nil
}

func (m *memBackend) setStreamMetadata(ctx context.Context, name string, metadata []byte) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return false, err
	}
	st := m.byName[name]
	if st == nil {
		return false, nil
	}
	st.metadata = metadata
	return true, nil
}

func (m *memBackend) append(ctx context.Context, a *appendRequest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	st := m.byName[a.stream]
	if st == nil || !a.admits(st.last(a.aggregateID)) || m.taken(a) {
		return errVersion
	}
	m.insert(a)
	return nil
}

// last returns an aggregate's version and the position of its last event.
func (st *memStream) last(id string) (version int64, p Position) {
	aggregate := st.aggregates[id]
	if n := len(aggregate); n > 0 {
		return int64(n), aggregate[n-1].position
	}
	return 0, 0
}

// taken reports whether one of an append's events is stored.
func (m *memBackend) taken(a *appendRequest) bool {
	for i := range a.rows {
		if _, taken := m.events[a.rows[i].id]; taken {
			return true
		}
	}
	return false
}

// insert stores what an append holds and completes its rows.
func (m *memBackend) insert(a *appendRequest) {
	st := m.byName[a.stream]
	aggregate := st.aggregates[a.aggregateID]
	at := m.clock(a.at)
	kept := m.room(len(a.rows))
	for i := range a.rows {
		r := &a.rows[i]
		r.position, r.version, r.recordedAt = m.next, int64(len(aggregate)+i+1), at
		m.next++
		kept[i] = *r
		kept[i].decoded = nil // which its reader may change
		k := &kept[i]
		m.log = append(m.log, k)
		st.log = append(st.log, k)
		m.events[k.id] = k.position
	}
	for i := range kept {
		aggregate = append(aggregate, &kept[i])
	}
	st.aggregates[a.aggregateID] = aggregate
}

// room returns n records to be filled. Those of small appends come out of one block, which is
// cheaper than a piece of memory for each.
func (m *memBackend) room(n int) []record {
	const block = 32
	if n > block/4 {
		return make([]record, n)
	}
	if len(m.free) < n {
		m.free = make([]record, block)
	}
	out := m.free[:n:n]
	m.free = m.free[n:]
	return out
}

func (m *memBackend) diagnose(ctx context.Context, a *appendRequest) (conflictCause, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := ctx.Err(); err != nil {
		return conflictCause{}, err
	}
	st := m.byName[a.stream]
	if st == nil {
		return conflictCause{}, nil
	}
	v := conflictCause{found: true}
	v.actual, v.position = st.last(a.aggregateID)
	for i := range a.rows {
		if p, ok := m.events[a.rows[i].id]; ok {
			v.stored = append(v.stored, *m.log[search(m.log, p)])
		}
	}
	slices.SortFunc(v.stored, byPosition)
	return v, nil
}

// seal returns the sealed position. It is always settled: the end of a transaction wakes who waits for it.
func (m *memBackend) seal(ctx context.Context) (Position, bool, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.sealed(), true, ctx.Err()
}

// sealed returns the position before the first that a transaction has reserved.
func (m *memBackend) sealed() Position {
	p := m.next - 1
	for first := range m.open {
		p = min(p, first-1)
	}
	return p
}

func (m *memBackend) readPage(ctx context.Context, q *page) ([]record, bool, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	log := between(m.logOf(q), q)
	if len(log) == 0 {
		return nil, false, nil
	}
	more := len(log) > q.limit
	out := make([]record, min(q.limit, len(log)))
	for i := range out {
		if q.backward {
			out[i] = *log[len(log)-1-i]
		} else {
			out[i] = *log[i]
		}
	}
	q.advance(out[len(out)-1].position)
	return out, more, nil
}

// logOf returns the records among which those of a page are.
func (m *memBackend) logOf(q *page) []*record {
	if len(q.from) != 1 || q.from[0].Stream == "" {
		return m.log
	}
	if st := m.byName[q.from[0].Stream]; st != nil {
		return st.log
	}
	return nil
}

// between returns the records between a page's bounds.
func between(log []*record, q *page) []*record {
	first, last := search(log, q.after+1), len(log)
	if q.before > 0 {
		last = search(log, q.before)
	}
	return log[first:max(first, last)]
}

// search returns the index of the first record at or above a position.
func search(log []*record, p Position) int {
	i, _ := slices.BinarySearchFunc(log, p, func(r *record, p Position) int { return cmp.Compare(r.position, p) })
	return i
}

func (m *memBackend) readAggregate(ctx context.Context, stream, aggregateID string, after int64, limit int) ([]record, bool, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	rows := m.versions(stream, aggregateID, after, limit)
	return rows, len(rows) == limit, ctx.Err()
}

// versions returns up to limit of an aggregate's rows behind a version.
func (m *memBackend) versions(stream, aggregateID string, after int64, limit int) []record {
	st := m.byName[stream]
	if st == nil || after >= int64(len(st.aggregates[aggregateID])) {
		return nil
	}
	rows := st.aggregates[aggregateID][after:]
	out := make([]record, min(limit, len(rows)))
	for i := range out {
		out[i] = *rows[i]
	}
	return out
}
