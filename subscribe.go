// Store.Subscribe: sealed events as they come.

package eventstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
)

// subscribePoll is the longest that Subscribe waits between looks for new events.
const subscribePoll = 500 * time.Millisecond

// Subscribe yields the sealed events that a selection picks after a position, in position order,
// and then waits for more. It ends with the context, whose error it yields, or at the first other
// error. Whoever keeps the last position seen and subscribes again after it misses nothing. It
// holds no connection while the caller's loop body runs or while it waits. Appends through this
// Store wake it; those of others it finds within half a second. On a store from [Store.WithTx],
// whose transaction need not see anything new, it yields [errors.ErrUnsupported].
func (s *Store) Subscribe(ctx context.Context, from Selection, after Position) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		poll := newPoller(s.appended, subscribePoll)
		for {
			poll.listen()
			sealed, settled, err := s.backend.seal(ctx)
			if err == nil && s.inTx {
				err = fmt.Errorf("eventstore: a subscription inside a transaction: %w", errors.ErrUnsupported)
			}
			if err == nil && sealed > after {
				for r, err := range s.read(ctx, from, nil, ReadOptions{After: after, Before: sealed + 1}, true, false) {
					var ev Event
					if err == nil {
						ev, err = s.load(ctx, r)
					}
					if !yield(ev, err) || err != nil {
						return
					}
				}
				after = sealed
				poll.found()
			}
			if err == nil {
				err = from.check()
			}
			if err == nil {
				err = poll.wait(ctx, settled)
			}
			if err != nil {
				yield(Event{}, err)
				return
			}
		}
	}
}
