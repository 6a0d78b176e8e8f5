package eventstore

import (
	"context"
)

// Sealed looks, seals as far as can be, and returns the sealed position: the order of events up to
// it is final, and no event can ever appear at or below it. It never goes back. An append that is
// not yet committed holds it up, however long its transaction takes; one that was rolled back does
// not. Inside a caller's transaction it returns, without a look, the position up to which that sees
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
