// Projections in memory: rows, leases, control by name.

package eventstore

import (
	"cmp"
	"context"
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

func (m *memBackend) createProjection(ctx context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil || m.projected[name] != nil {
		return err
	}
	m.generation++
	first := m.generation << 32 // which no earlier row of this name can have come to
	m.projected[name] = &memProjection{projectionRow: projectionRow{status: StatusIdle, epoch: first, generation: first}, parked: map[Position]parkedRow{}}
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
		info := ProjectionInfo{Name: name, Status: p.status, Position: p.position, Owner: p.owner, Parked: len(p.parked), Error: p.errText}
		out = append(out, info.seen(p.current().held))
	}
	slices.SortFunc(out, func(x, y ProjectionInfo) int { return strings.Compare(x.Name, y.Name) })
	return out
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
		if now.epoch != row.epoch || !now.free(c.owner) {
			return false
		}
		if p.owner != c.owner {
			p.errText = ""
		}
		p.owner, p.kind, p.readModel, p.leaseUntil = c.owner, c.kind, c.readModel, time.Now().Add(c.term)
		p.epoch++
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

func (m *memBackend) control(ctx context.Context, name string, c control) (bool, error) {
	return m.change(ctx, name, func(p *memProjection) bool {
		if p.status == StatusDeleting && c.kind != controlStop && c.kind != controlDelete {
			return false
		}
		p.epoch++
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
			p.status, p.position, p.state, p.retry, p.errText, p.leaseUntil = StatusResetting, 0, nil, false, "", time.Time{}
		case controlDelete:
			p.generation++
			p.status, p.emitted, p.leaseUntil = StatusDeleting, p.emitted || c.emitted, time.Time{}
		case controlRetryParked:
			p.retry = true
		case controlDropParked:
			delete(p.parked, c.position)
		}
		return true
	})
}

func (m *memBackend) parked(ctx context.Context, name string) ([]parkedRow, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []parkedRow
	if p := m.projected[name]; p != nil {
		for _, row := range p.parked {
			out = append(out, row)
		}
	}
	slices.SortFunc(out, func(x, y parkedRow) int { return cmp.Compare(x.position, y.position) })
	return out, ctx.Err()
}
