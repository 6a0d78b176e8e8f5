// Waiting: broadcasts within the process, and the poller that looks for what other processes do.

package eventstore

import (
	"context"
	"sync"
	"time"
)

// broadcast wakes all goroutines that wait for something to happen.
type broadcast struct {
	mu    sync.Mutex
	ch    chan struct{} // nil: none waits
	asked chan struct{} // closed when one begins to wait; nil: none has to know
}

func newBroadcast() *broadcast { return &broadcast{} }

// next returns a channel that is closed with the next publish.
func (b *broadcast) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
		if b.asked != nil {
			close(b.asked)
			b.asked = nil
		}
	}
	return b.ch
}

// awaited returns a channel that is closed as soon as a goroutine waits for the next publish.
func (b *broadcast) awaited() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.asked == nil {
		b.asked = make(chan struct{})
	}
	asked := b.asked
	if b.ch != nil {
		close(b.asked)
		b.asked = nil
	}
	return asked
}

func (b *broadcast) publish() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}

// poller waits between looks: until a broadcast from this process, or for a while that doubles as long
// as nothing is found.
type poller struct {
	broadcast *broadcast
	ch        <-chan struct{}
	pause     time.Duration
	longest   time.Duration
}

const shortestPause = 10 * time.Millisecond

// settleTime is how long a hole may take to be filled before its writer is looked for.
const settleTime = 2 * time.Millisecond

func newPoller(b *broadcast, longest time.Duration) *poller {
	return &poller{broadcast: b, longest: longest, pause: min(shortestPause, longest)}
}

// listen is called before a look, so that what happens during it is not missed.
func (p *poller) listen() { p.ch = p.broadcast.next() }

// found is called when a look found something.
func (p *poller) found() { p.pause = min(shortestPause, p.longest) }

// wait waits; not for long if the look before left something unsettled.
func (p *poller) wait(ctx context.Context, settled bool) error {
	pause := p.pause
	if settled {
		p.pause = min(2*p.pause, p.longest)
	} else {
		pause = settleTime
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-p.ch:
	case <-t.C:
	}
	return ctx.Err()
}
