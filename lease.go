// Leases: the right to run a projection or a relay, its default length, and how it is renewed and
// lost.

package eventstore

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// lease is a runner's right to move a projection on. It is kept by the database's clock; what
// makes it safe is not the clock but the epoch, which grows whenever the lease changes hands or
// somebody stops, resets or deletes the projection: whatever a runner writes is written only while
// the epoch is still its own.
type lease struct {
	backend backend
	leases  *leases
	name    string
	owner   string
	epoch   int64
	term    time.Duration
	ctx     context.Context // ends with the lease, because of ErrLeaseLost if it was lost
	lose    context.CancelCauseFunc
	kept    chan struct{} // closed when nobody renews it any more

	confirmed atomic.Int64 // when it was last known to be held, in nanoseconds since began
	began     time.Time
}

const (
	defaultLease  = 10 * time.Second
	shortestLease = time.Second
)

// giveUp ends the lease here; what the database knows of it is another matter.
func (l *lease) giveUp() {
	l.lose(context.Canceled)
	<-l.kept
	l.leases.remove(l)
}

// lost reports whether somebody else has taken over, as far as is known here.
func (l *lease) lost() bool { return errors.Is(context.Cause(l.ctx), ErrLeaseLost) }

// confirm notes that the database has just said that the lease is held.
func (l *lease) confirm() { l.confirmed.Store(int64(time.Since(l.began))) }

// stale reports whether that is so long ago that it is worth asking again.
func (l *lease) stale() bool {
	return time.Since(l.began)-time.Duration(l.confirmed.Load()) > l.term/10
}

// keep renews the lease from beside the handlers. It asks the pool for a connection of its own: if
// there is none to be had, the next checkpoint renews the lease too.
func (l *lease) keep() {
	defer close(l.kept)
	pause := l.term / 3
	for sleep(l.ctx, pause) == nil {
		held, err := l.renew()
		switch {
		case err != nil:
			// The runner meets the same fault, or the lease runs out.
			pause = l.term / 10
		case !held:
			l.lose(ErrLeaseLost)
		default:
			l.confirm()
			pause = l.term / 3
		}
	}
}

// renew renews the lease once. A panic of the driver is an error like others: this goroutine has no caller.
func (l *lease) renew() (held bool, err error) {
	defer recoverTo(&err)
	return l.backend.renewLease(l.ctx, l.name, l.epoch, l.term)
}

// leases are those that runners of one Store have, so that whoever takes one away can tell its
// runner at once. Runners elsewhere learn it from the database.
type leases struct {
	mu   sync.Mutex
	held map[*lease]struct{}
}

func newLeases() *leases { return &leases{held: map[*lease]struct{}{}} }

// begin registers a lease that owner has taken, and renews it until it is lost or given up.
func (ls *leases) begin(ctx context.Context, b backend, name, owner string, epoch int64, term time.Duration) *lease {
	l := &lease{backend: b, leases: ls, name: name, owner: owner, epoch: epoch, term: term, kept: make(chan struct{}), began: time.Now()}
	l.ctx, l.lose = context.WithCancelCause(ctx)
	ls.add(l)
	go l.keep()
	return l
}

func (ls *leases) add(l *lease) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	// Whoever had it before has lost it: there can only be one.
	for other := range ls.held {
		if other.name == l.name {
			other.lose(ErrLeaseLost)
		}
	}
	ls.held[l] = struct{}{}
}

func (ls *leases) remove(l *lease) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	delete(ls.held, l)
}

// revoke ends the leases of a projection whose epoch has changed.
func (ls *leases) revoke(name string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for l := range ls.held {
		if l.name == name {
			l.lose(ErrLeaseLost)
		}
	}
}
