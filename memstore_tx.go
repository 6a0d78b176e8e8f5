// The transaction of a projection's batch in memory.

package eventstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// memTx keeps what a batch does until it is committed, as a whole. Its events get their
// positions then: until that they have none.
type memTx struct {
	m       *memBackend
	ctx     context.Context
	changes []func()              // on m, under its lock
	created map[string]string     // streams, and who emits them
	found   map[string]*memStream // streams whose emitter has been asked for, which must be the same at the end
	appends []*appendRequest
	parks   []func(*memProjection)
}

func (m *memBackend) begin(ctx context.Context) backendTx {
	return &memTx{m: m, ctx: ctx, created: map[string]string{}, found: map[string]*memStream{}}
}

func (*memTx) handlerContext(ctx context.Context) context.Context { return ctx }

func (u *memTx) sqlTx() (*sql.Tx, error) {
	return nil, fmt.Errorf("eventstore: a memory store has no transactions: %w", errors.ErrUnsupported)
}

func (u *memTx) keepLease(name string, epoch int64, term time.Duration) (bool, error) {
	return u.m.renewLease(u.ctx, name, epoch, term)
}

// guard has nothing to guard: memory has no transactions that a handler could end.
func (u *memTx) guard() error { return u.ctx.Err() }

// exclusive has nothing to keep from others: memory has no statements that define data.
func (u *memTx) exclusive(string, int64) error { return u.ctx.Err() }

func (u *memTx) backend() (backend, error) {
	return &memTxBackend{brokenBackend{err: fmt.Errorf("eventstore: not within a projection on a memory store: %w", errors.ErrUnsupported)}, u}, nil
}

func (u *memTx) holds(name string, epoch int64) (bool, error) {
	row, found, err := u.m.projection(u.ctx, name)
	return found && row.epoch == epoch, err
}

func (u *memTx) park(_ string, row parkedRow) error {
	u.parks = append(u.parks, func(p *memProjection) { p.parked[row.position] = row })
	return nil
}

func (u *memTx) unpark(_ string, at Position) error {
	u.parks = append(u.parks, func(p *memProjection) { delete(p.parked, at) })
	return nil
}

func (u *memTx) dropParked(string) error {
	u.parks = append(u.parks, func(p *memProjection) { clear(p.parked) })
	return nil
}

func (u *memTx) databaseFault(error) error { return nil }

func (u *memTx) isAftermath(error) bool { return false }

func (u *memTx) rollback() {}

func (u *memTx) commit(c checkpoint) (bool, error) {
	u.m.mu.Lock()
	defer u.m.mu.Unlock()
	if err := u.ctx.Err(); err != nil {
		return false, err
	}
	p := u.m.projected[c.name]
	if p == nil || p.epoch != c.epoch {
		return false, nil
	}
	// What others have done since an append was accepted is a reason to try again.
	if !u.fits() {
		return false, &statementError{"checkpoint", errVersion, errRetry}
	}
	for _, change := range u.changes {
		change()
	}
	for _, park := range u.parks {
		park(p)
	}
	p.position, p.errText, p.leaseUntil = c.position, "", time.Now().Add(c.term)
	if c.state != nil {
		p.state = c.state
	}
	if c.resumed {
		p.status, p.retry = StatusRunning, false
		for at, row := range p.parked {
			row.retry = false
			p.parked[at] = row
		}
	}
	if c.judged {
		maps.DeleteFunc(p.judged, func(at Position, _ controlKind) bool { return at <= c.position })
	}
	if c.emptied {
		p.emitted = false
	}
	if c.removed {
		delete(u.m.projected, c.name)
	}
	return true, nil
}

// memTxBackend is the backend for what is appended within a transaction.
type memTxBackend struct {
	brokenBackend
	tx *memTx
}

func (b *memTxBackend) install(context.Context) error { return b.err }

func (b *memTxBackend) writeSchema(io.Writer) error { return b.err }

func (b *memTxBackend) createStream(ctx context.Context, name string, metadata []byte, emittedBy string, at time.Time) (bool, error) {
	if has, err := b.hasStream(ctx, name); has || err != nil {
		return false, err
	}
	b.tx.created[name] = emittedBy
	b.tx.changes = append(b.tx.changes, func() { b.tx.m.create(name, metadata, emittedBy, at) })
	return true, nil
}

func (b *memTxBackend) streamEmitter(ctx context.Context, name string) (*string, bool, error) {
	if emittedBy, ok := b.tx.created[name]; ok {
		return &emittedBy, true, ctx.Err()
	}
	b.tx.m.mu.RLock()
	defer b.tx.m.mu.RUnlock()
	st := b.tx.m.byName[name]
	if st == nil {
		return nil, false, ctx.Err()
	}
	b.tx.found[name] = st
	return &st.emittedBy, true, ctx.Err()
}

func (b *memTxBackend) disownStream(ctx context.Context, _ string) error { return ctx.Err() }

func (b *memTxBackend) deleteStream(ctx context.Context, name string) (bool, error) {
	has, err := b.hasStream(ctx, name)
	b.tx.changes = append(b.tx.changes, func() { b.tx.m.drop(name) })
	return has, err
}

func (b *memTxBackend) hasStream(ctx context.Context, name string) (bool, error) {
	has, err := b.tx.m.hasStream(ctx, name)
	_, created := b.tx.created[name]
	return has || created, err
}

func (b *memTxBackend) append(ctx context.Context, a *appendRequest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.tx.m.mu.RLock()
	defer b.tx.m.mu.RUnlock()
	if !b.tx.admits(a, b.tx.appends) || b.tx.taken(a) {
		return errVersion
	}
	kept := &appendRequest{stream: a.stream, aggregateID: a.aggregateID, lastEvent: a.lastEvent, at: a.at, rows: slices.Clone(a.rows)}
	b.tx.appends = append(b.tx.appends, kept)
	b.tx.changes = append(b.tx.changes, func() { b.tx.m.insert(kept) })
	return nil
}

// fits reports whether everything that the transaction appends can still be stored, in the streams
// that it has found or made.
func (u *memTx) fits() bool {
	for name, st := range u.found {
		if u.m.byName[name] != st {
			return false
		}
	}
	for name := range u.created {
		if u.m.byName[name] != nil {
			return false
		}
	}
	for i, a := range u.appends {
		if !u.admits(a, u.appends[:i]) {
			return false
		}
	}
	return true
}

// admits reports whether the store takes an append behind earlier ones of the transaction.
func (u *memTx) admits(a *appendRequest, earlier []*appendRequest) bool {
	st := u.m.byName[a.stream]
	if _, created := u.created[a.stream]; st == nil && !created || u.m.taken(a) {
		return false
	}
	var version int64
	var position Position
	if st != nil {
		version, position = st.last(a.aggregateID)
	}
	for _, e := range earlier {
		if e.stream == a.stream && e.aggregateID == a.aggregateID {
			version, position = version+int64(len(e.rows)), 0 // which it has none of yet
		}
	}
	return a.admits(version, position)
}

// taken reports whether the transaction holds one of an append's events already.
func (u *memTx) taken(a *appendRequest) bool {
	for _, earlier := range u.appends {
		for i := range earlier.rows {
			if slices.ContainsFunc(a.rows, func(r record) bool { return r.id == earlier.rows[i].id }) {
				return true
			}
		}
	}
	return false
}

func (b *memTxBackend) diagnose(ctx context.Context, a *appendRequest) (conflictCause, error) {
	v, err := b.tx.m.diagnose(ctx, a)
	_, created := b.tx.created[a.stream]
	v.found = v.found || created
	if len(v.stored) > 0 || err != nil {
		return v, err
	}
	// What the transaction itself is about to store counts as stored, in its order.
	for _, earlier := range b.tx.appends {
		for i := range earlier.rows {
			r := earlier.rows[i]
			if slices.ContainsFunc(a.rows, func(w record) bool { return w.id == r.id }) {
				r.version = int64(len(v.stored))
				v.stored = append(v.stored, r)
			}
		}
	}
	return v, nil
}
