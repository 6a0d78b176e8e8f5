package eventstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

// appendGroups has small appends that come to a store while a statement of another is under way go
// out together, as one statement. What a database does for each statement (a round trip, a plan, a
// commit) it then does once for all of them. An append that comes when nothing is under way goes at
// once and alone, so nobody ever waits for company.
//
// Nobody waits for an append that can't go on, either. A statement is waited for only a moment; a
// group's statement gives up after a moment, if it meets a lock; and from then on the appends that
// were in it, and those to the same aggregates that come while these are under way, go alone.
type appendGroups struct {
	// alone stores one append with a statement of its own.
	alone func(ctx context.Context, a *appendCall) error
	// together stores with one statement those of the appends that it can, and says which. An error
	// says that nobody can know.
	together func(ctx context.Context, calls []*appendCall) (stored []bool, err error)

	mu      sync.Mutex
	current *appendTurn          // the statement to be waited for; nil: there is none
	crowded bool                 // the turn before was a group's
	forming *appendGroup         // waits for current; nil: nobody does
	apart   map[aggregateKey]int // aggregates with appends under way alone, and how many
}

const (
	maxGroupCalls = 64
	maxGroupRows  = 256
	maxGroupBytes = 1 << 20
	// maxSharedRows and maxSharedBytes bound an append that may share a statement. A larger one
	// has little to gain, and would hold up the others.
	maxSharedRows  = 16
	maxSharedBytes = 64 << 10
	// groupPatience is how long a group waits for the statement under way: several times as long as
	// one takes that does not wait itself.
	groupPatience = 5 * time.Millisecond
)

// appendTurn is a statement that is under way, or about to be.
type appendTurn struct{ over chan struct{} }

// appendGroup is the appends that go out together. The lock of appendGroups guards it until it is
// closed, and what its members say of themselves.
type appendGroup struct {
	turn    *appendTurn
	members []*appendMember
	byKey   map[aggregateKey]struct{}
	rows    int
	bytes   int
	closed  bool          // to newcomers
	full    chan struct{} // closed when no more fit in
	waiting int           // members that wait for the outcome
	cancel  context.CancelFunc
	ended   chan struct{}
}

// appendMember is one append in a group.
type appendMember struct {
	call    *appendCall
	key     aggregateKey
	outcome chan error
	gone    bool // its context has ended
	apart   bool // it counts among those that go alone
}

// errApart is the outcome of an append that has to be decided alone.
var errApart = errors.New("eventstore: not stored together with others")

// append stores a in its turn.
func (g *appendGroups) append(ctx context.Context, a *appendCall) error {
	key := aggregateKey{a.stream, a.aggregateID}
	g.mu.Lock()
	var twin bool
	if g.forming != nil {
		_, twin = g.forming.byKey[key]
	}
	switch {
	case twin || g.apart[key] > 0:
		// Two appends to one aggregate race, or one waits for what the other waits for.
		g.setApart(key)
		g.mu.Unlock()
		return g.goApart(ctx, a, key)
	case g.current == nil && !g.crowded:
		turn := newAppendTurn()
		g.current = turn
		g.setApart(key)
		g.mu.Unlock()
		defer g.over(turn)
		return g.goApart(ctx, a, key)
	}
	group, m := g.join(ctx, a, key)
	g.mu.Unlock()

	var err error
	select {
	case err = <-m.outcome:
	case <-ctx.Done():
		g.leave(group, m)
		return fmt.Errorf("%sappend: %w", prefix, ctx.Err())
	}
	if errors.Is(err, errApart) {
		return g.goApart(ctx, a, key)
	}
	return err
}

func newAppendTurn() *appendTurn { return &appendTurn{over: make(chan struct{})} }

func (g *appendGroups) setApart(key aggregateKey) {
	if g.apart == nil {
		g.apart = map[aggregateKey]int{}
	}
	g.apart[key]++
}

func (g *appendGroups) unsetApart(key aggregateKey) {
	if g.apart[key]--; g.apart[key] == 0 {
		delete(g.apart, key)
	}
}

// goApart stores an append alone; its aggregate counts as apart by now.
func (g *appendGroups) goApart(ctx context.Context, a *appendCall, key aggregateKey) error {
	defer func() { // a panic of the driver may be the caller's to recover
		g.mu.Lock()
		g.unsetApart(key)
		g.mu.Unlock()
	}()
	return g.alone(ctx, a)
}

// over ends a turn. If a group waits for it, it stays the current one until the group goes, so that
// the last to come are in it.
func (g *appendGroups) over(t *appendTurn) {
	g.mu.Lock()
	if g.current == t && g.forming == nil {
		g.current = nil
	}
	g.mu.Unlock()
	close(t.over)
}

// join makes a a member of the group that forms, or of a new one.
func (g *appendGroups) join(ctx context.Context, a *appendCall, key aggregateKey) (*appendGroup, *appendMember) {
	group := g.forming
	if group == nil {
		group = &appendGroup{turn: newAppendTurn(), byKey: map[aggregateKey]struct{}{}, full: make(chan struct{}), ended: make(chan struct{})}
		// The statement is everybody's: it ends early only when all have gone.
		ctx, group.cancel = context.WithCancel(context.WithoutCancel(ctx))
		g.forming = group
		if g.current == nil {
			g.current = newAppendTurn()
			close(g.current.over)
		}
		go g.run(ctx, group, g.current)
	}
	m := &appendMember{call: a, key: key, outcome: make(chan error, 1)}
	group.members = append(group.members, m)
	group.byKey[key] = struct{}{}
	group.waiting++
	group.rows += len(a.rows)
	group.bytes += a.size()
	if len(group.members) == maxGroupCalls || group.rows > maxGroupRows-maxSharedRows || group.bytes > maxGroupBytes-maxSharedBytes {
		g.close(group)
		close(group.full)
	}
	return group, m
}

// close closes a group to newcomers: from now on it is what they wait for.
func (g *appendGroups) close(group *appendGroup) {
	if !group.closed {
		group.closed = true
		g.forming, g.current = nil, group.turn
	}
}

// leave is for a member whose context has ended. The last one to go ends the group.
func (g *appendGroups) leave(group *appendGroup, m *appendMember) {
	g.mu.Lock()
	m.gone = true
	if m.apart {
		g.unsetApart(m.key)
	}
	group.waiting--
	last := group.waiting == 0
	if !group.closed {
		delete(group.byKey, m.key)
		group.members = slices.DeleteFunc(group.members, func(other *appendMember) bool { return other == m })
		if last {
			g.close(group)
		}
	}
	g.mu.Unlock()
	if last {
		group.cancel()
		<-group.ended
	}
}

// run waits for the turn before the group's, and sends its statement.
func (g *appendGroups) run(ctx context.Context, group *appendGroup, before *appendTurn) {
	defer close(group.ended)
	defer group.cancel()
	patience := time.NewTimer(groupPatience)
	select {
	case <-before.over:
	case <-group.full:
	case <-patience.C:
	case <-ctx.Done():
	}
	patience.Stop()
	// Those whom the turn before has released are about to come back: they are let run first, for as
	// long as that brings anybody. Nothing is waited for.
	n := 0
	for {
		runtime.Gosched()
		g.mu.Lock()
		if len(group.members) == n || group.closed {
			break
		}
		n = len(group.members)
		g.mu.Unlock()
	}
	g.close(group)
	members := group.members
	g.crowded = len(members) > 1
	g.mu.Unlock()

	// In one order, or two stores' groups could each wait for what the other has inserted.
	slices.SortFunc(members, func(x, y *appendMember) int {
		return cmp.Or(cmp.Compare(x.key.stream, y.key.stream), cmp.Compare(x.key.id, y.key.id))
	})
	calls := make([]*appendCall, len(members))
	for i, m := range members {
		calls[i] = m.call
	}
	var stored []bool
	var err error
	switch len(calls) {
	case 0:
	case 1:
		stored, err = []bool{true}, g.alone(ctx, calls[0])
	default:
		stored, err = g.together(ctx, calls)
	}
	g.mu.Lock()
	for i, m := range members {
		switch {
		case m.gone:
		case err == nil && !stored[i]:
			m.apart = true
			g.setApart(m.key)
			m.outcome <- errApart
		default:
			m.outcome <- err
		}
	}
	g.mu.Unlock()
	g.over(group.turn)
}
