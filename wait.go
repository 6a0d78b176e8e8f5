package eventstore

import (
	"context"
	"sync"
	"time"
)

// news tells those who wait for events that there are some.
type news struct {
	mu    sync.Mutex
	ch    chan struct{} // nil: nobody waits
	asked chan struct{} // closed when somebody begins to wait; nil: nobody has to know
}

func newNews() *news { return &news{} }

// next returns a channel that is closed with the next publish.
func (n *news) next() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch == nil {
		n.ch = make(chan struct{})
		if n.asked != nil {
			close(n.asked)
			n.asked = nil
		}
	}
	return n.ch
}

// awaited returns a channel that is closed as soon as somebody waits for news.
func (n *news) awaited() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.asked == nil {
		n.asked = make(chan struct{})
	}
	asked := n.asked
	if n.ch != nil {
		close(n.asked)
		n.asked = nil
	}
	return asked
}

func (n *news) publish() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch != nil {
		close(n.ch)
		n.ch = nil
	}
}

// waiter waits between looks: until there is news from this process, or for a while that doubles
// as long as nothing is found.
type waiter struct {
	news    *news
	ch      <-chan struct{}
	pause   time.Duration
	longest time.Duration
}

const shortestPause = 10 * time.Millisecond

// settleTime is what a hole gets to be filled before somebody asks after its writer.
const settleTime = 2 * time.Millisecond

func newWaiter(n *news, longest time.Duration) *waiter {
	return &waiter{news: n, longest: longest, pause: min(shortestPause, longest)}
}

// listen is called before a look, so that what happens during it is not missed.
func (w *waiter) listen() { w.ch = w.news.next() }

// found is called when a look found something.
func (w *waiter) found() { w.pause = min(shortestPause, w.longest) }

// wait waits; not for long if the look before left something unsettled.
func (w *waiter) wait(ctx context.Context, settled bool) error {
	pause := w.pause
	if settled {
		w.pause = min(2*w.pause, w.longest)
	} else {
		pause = settleTime
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-w.ch:
	case <-t.C:
	}
	return ctx.Err()
}
