// Projections in memory: rows, leases, control by name.

package eventstore

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"
)

func (m *memBackend) lastPosition(ctx context.Context) (Position, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.last(), ctx.Err()
}

// last returns the highest position that can be seen, or the sealed one if what was there is deleted.
func (m *memBackend) last() Position {
	p := m.sealed()
	if n := len(m.log); n > 0 {
		p = max(p, m.log[n-1].position)
	}
	return p
}

func (m *memBackend) createProjection(ctx context.Context, name string, after, replayTo Position) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil || m.projected[name] != nil {
		return err
	}
	m.generation++
	first := m.generation << 32 // which no earlier row of this name can have come to
	row := projectionRow{status: StatusIdle, epoch: first, generation: first, position: after, began: after, replayTo: replayTo}
	m.projected[name] = &memProjection{projectionRow: row, parked: map[Position]parkedRow{}, verdicts: map[Position]controlKind{}}
	return nil
}

func (m *memBackend) projection(ctx context.Context, name string) (projectionRow, bool, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if p := m.projected[name]; p != nil {
		return p.current(), true, ctx.Err()
	}
	return projectionRow{}, false, ctx.Err()
}

func (m *memBackend) projections(ctx context.Context) ([]ProjectionInfo, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.list(), ctx.Err()
}

func (m *memBackend) list() []ProjectionInfo {
	var out []ProjectionInfo
	for name, p := range m.projected {
		info := ProjectionInfo{Name: name, Status: p.status, Position: p.position, Owner: p.owner, Parked: len(p.parked), Error: p.errText, LeaseUntil: p.leaseUntil.UTC(), Verdicts: len(p.verdicts), LastControl: p.last}
		out = append(out, info.seen(p.current().held, p.paused))
	}
	slices.SortFunc(out, func(x, y ProjectionInfo) int { return strings.Compare(x.Name, y.Name) })
	return out
}

func (m *memBackend) definition(ctx context.Context, name string) (*definition, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	d := definition{}
	if p := m.projected[name]; p != nil {
		d = p.kept
	}
	return &d, ctx.Err()
}

func (m *memBackend) define(ctx context.Context, name string, epoch int64, d *definition) (bool, error) {
	return m.change(ctx, name, func(p *memProjection) bool {
		if p.epoch != epoch {
			return false
		}
		p.kept, p.wants, p.changingAt = definition{wanted: d.wanted, earlier: d.earlier}, d.wanted.hash(), 0
		return true
	})
}

func (m *memBackend) rebuild(ctx context.Context, name string, epoch int64, w *wantedSet, sealed Position) (bool, error) {
	return m.change(ctx, name, func(p *memProjection) bool {
		if p.epoch != epoch {
			return false
		}
		p.restart(sealed)
		p.kept, p.wants, p.changingAt = definition{wanted: w}, w.hash(), 0
		return true
	})
}

// restart has the next batch begin at the first event, once what the projection has written is gone.
func (p *memProjection) restart(sealed Position) {
	p.replayTo, p.began = max(sealed, p.position), 0
	p.kept = definition{wanted: p.kept.wanted}
	p.status, p.position, p.state, p.retry, p.errText = StatusResetting, 0, nil, false, ""
	clear(p.verdicts)
}

func (m *memBackend) noteLooks(ctx context.Context, name string, epoch int64, d *definition) error {
	_, err := m.change(ctx, name, func(p *memProjection) bool {
		if p.epoch == epoch {
			p.kept.looks = d.looks
		}
		return true
	})
	return err
}

// change calls fn with a projection's row, if there is one, and says what it returned.
func (m *memBackend) change(ctx context.Context, name string, fn func(p *memProjection) bool) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return false, err
	}
	p := m.projected[name]
	return p != nil && fn(p), nil
}

func (m *memBackend) takeLease(ctx context.Context, row *projectionRow, c leaseClaim) (bool, error) {
	return m.change(ctx, c.name, func(p *memProjection) bool {
		now := p.current()
		if now.epoch != row.epoch || !now.free(c.owner) && (now.wants == "" || now.wants != c.over || now.changing) {
			return false
		}
		if p.owner != c.owner {
			p.errText = ""
		}
		p.owner, p.kind, p.readModel, p.leaseUntil = c.owner, c.kind, c.readModel, time.Now().Add(c.term)
		p.epoch++
		p.changingAt = 0
		if c.changing {
			p.changingAt = p.epoch
		}
		if p.status != StatusResetting && p.status != StatusDeleting {
			p.status = StatusRunning
		}
		return true
	})
}

func (m *memBackend) renewLease(ctx context.Context, name string, epoch int64, term time.Duration) (bool, error) {
	return m.change(ctx, name, func(p *memProjection) bool {
		if p.epoch != epoch {
			return false
		}
		p.leaseUntil = time.Now().Add(term)
		return true
	})
}

func (m *memBackend) releaseLease(ctx context.Context, name, owner string, status ProjectionStatus, errText string) error {
	_, err := m.change(ctx, name, func(p *memProjection) bool {
		if p.owner != owner {
			return false
		}
		if p.status != StatusResetting && p.status != StatusDeleting {
			p.status = status
		}
		p.owner, p.errText, p.leaseUntil = "", errText, time.Time{}
		p.epoch++
		return true
	})
	return err
}

func (m *memBackend) noteError(ctx context.Context, name string, epoch int64, errText string) error {
	_, err := m.change(ctx, name, func(p *memProjection) bool {
		if p.epoch == epoch {
			p.errText = errText
		}
		return true
	})
	return err
}

func (m *memBackend) control(ctx context.Context, name string, c control) (found, changed bool, err error) {
	found, cerr := m.change(ctx, name, func(p *memProjection) bool {
		if p.status == StatusDeleting && c.kind != controlStop && c.kind != controlDelete {
			return false
		}
		if p.done(c) {
			return true
		}
		if err = p.control(name, c); err == nil {
			changed = true
			p.epoch++
			p.last = ProjectionControl{string(c.kind), c.position, c.by, m.clock(time.Time{})}
		}
		return true
	})
	return found, changed, cmp.Or(cerr, err)
}

// done reports whether there is nothing to change.
func (p *memProjection) done(c control) bool {
	switch c.kind {
	case controlPause, controlResume:
		return p.paused == (c.kind == controlPause)
	case controlDropParked:
		_, parked := p.parked[c.position]
		return !parked
	}
	return false
}

func (p *memProjection) control(name string, c control) error {
	switch c.kind {
	case controlStop:
		p.generation++
		if p.status == StatusRunning {
			p.status = StatusIdle
			if p.current().held {
				p.status = StatusStopping
			}
		}
	case controlReset:
		p.restart(c.sealed)
		p.leaseUntil = time.Time{}
	case controlDelete:
		p.generation++
		p.status, p.emitted, p.paused, p.leaseUntil = StatusDeleting, p.emitted || c.emitted, false, time.Time{}
	case controlPause, controlResume:
		p.paused, p.leaseUntil = c.kind == controlPause, time.Time{}
		if p.status == StatusRunning {
			p.status = StatusIdle
		}
	case controlAccept:
		p.kept, p.wants, p.leaseUntil = definition{}, "", time.Time{}
	case controlSkip, controlPark:
		if c.position <= p.position {
			return errTakenIn(name, c.position, p.position)
		}
		p.verdicts[c.position] = c.kind
	case controlRetry:
		return p.askRetry(c.position)
	case controlDropParked:
		delete(p.parked, c.position)
	}
	return nil
}

// askRetry has a parked event and those of its aggregate tried again, or at zero all.
func (p *memProjection) askRetry(at Position) error {
	var one *parkedRow
	rows := p.parkedRows()
	if at > 0 {
		var err error
		if one, err = errRetryOf(rows, at); err != nil {
			return err
		}
	}
	for _, row := range rows {
		if one == nil || row.aggregate() == one.aggregate() {
			row.retry = true
			p.parked[row.position] = row
		}
	}
	p.retry = true
	return nil
}

func (m *memBackend) parked(ctx context.Context, name string) (out []parkedRow, err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if p := m.projected[name]; p != nil {
		out = p.parkedRows()
	}
	return out, ctx.Err()
}

// parkedRows returns the events that are set aside, by position.
func (p *memProjection) parkedRows() (out []parkedRow) {
	for _, row := range p.parked {
		out = append(out, row)
	}
	slices.SortFunc(out, func(x, y parkedRow) int { return cmp.Compare(x.position, y.position) })
	return out
}

func (m *memBackend) verdicts(ctx context.Context, name string) (map[Position]controlKind, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if p := m.projected[name]; p != nil {
		return maps.Clone(p.verdicts), ctx.Err()
	}
	return nil, ctx.Err()
}
