// Stored events on their way to folds: through middleware and upcasters.

package eventstore

import "context"

// dispatcher delivers records, one after the other, to a function that runs a list of entries. It is
// for one goroutine, and uses one delivery for all, which is nobody's any more when fn returns.
type dispatcher struct {
	store    *Store
	fn       func(*delivery) error
	delivery delivery
	stored   storedEvent // that of delivery, for upcasters
}

// dispatcher begins to call fn.
func (s *Store) dispatcher(fn func(*delivery) error) *dispatcher {
	p := &dispatcher{store: s, fn: fn}
	if len(s.codec.upcasters) > 0 {
		p.stored = p.delivery.stored
	}
	return p
}

// dispatch calls fn with each of the payloads that a record stands for today.
func (p *dispatcher) dispatch(ctx context.Context, r *record) error {
	s, d := p.store, &p.delivery
	*d = delivery{codec: s.codec, events: s, record: r, payload: payload{name: r.name, data: r.data}}
	if s.hasLoadMiddleware {
		// Middleware may change what is read, so it comes first.
		ev, err := s.loadCopy(ctx, r)
		if err != nil {
			return err
		}
		d.loaded, d.payload.name, d.payload.data = &ev, ev.Name, ev.Data
	}
	if len(s.codec.upcasters) == 0 {
		return p.fn(d)
	}
	return s.codec.each(d.payload, p.stored, func(today payload) error {
		d.payload = today
		return p.fn(d)
	})
}
