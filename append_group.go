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
// once and alone, so nobody ever waits for company. Where there are many, they go in two groups of
// about the same size in turns, so that the server has one of them to work on while the other's answer
// is on its way.
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
	turns   []*appendTurn        // the statements to be waited for
	crowded bool                 // the last statement was a group's
	forming *appendGroup         // waits for its turn; nil: nobody does
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
	// twoGroupsRows is how many rows have to be on their way for two groups to be better than one.
	twoGroupsRows = 32
	// groupPatience is how long a group waits for the statements under way: several times as long as
	// one takes that does not wait itself.
	groupPatience = 5 * time.Millisecond
)

// appendTurn is a statement that is under way.
type appendTurn struct {
	rows int
	of   map[aggregateKey]struct{} // a group's aggregates; those that go alone are in apart
}

// appendGroup is the appends that go out together. The lock of appendGroups guards it, and what its
// members say of themselves.
type appendGroup struct {
	members []*appendMember
	byKey   map[aggregateKey]struct{}
	rows    int
	bytes   int
	sent    bool
	waiting int           // members that wait for the outcome
	wake    chan struct{} // says that the group may have become due
	cancel  context.CancelFunc
	ended   chan struct{}
}

// appendMember is one append in a group.
type appendMember struct {
	call    *appendCall
	key     aggregateKey
	group   *appendGroup
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
	case len(g.turns) == 0 && g.forming == nil && !g.crowded:
		turn := &appendTurn{rows: len(a.rows)}
		g.turns = append(g.turns, turn)
		g.setApart(key)
		g.mu.Unlock()
		defer func() {
			g.mu.Lock()
			g.over(turn)
			g.mu.Unlock()
		}()
		return g.goApart(ctx, a, key)
	}
	if g.forming == nil {
		g.form(ctx)
	}
	m := &appendMember{call: a, key: key, outcome: make(chan error, 1)}
	g.forming.add(m)
	if g.due(g.forming) {
		g.forming.wakeUp()
	}
	g.mu.Unlock()

	var err error
	select {
	case err = <-m.outcome:
	case <-ctx.Done():
		g.leave(m)
		return fmt.Errorf("%sappend: %w", prefix, ctx.Err())
	}
	if errors.Is(err, errApart) {
		return g.goApart(ctx, a, key)
	}
	return err
}

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

// over ends a turn.
func (g *appendGroups) over(t *appendTurn) {
	g.turns = slices.DeleteFunc(g.turns, func(other *appendTurn) bool { return other == t })
	if g.forming != nil {
		g.forming.wakeUp()
	}
}

// form begins the next group.
func (g *appendGroups) form(ctx context.Context) {
	group := &appendGroup{byKey: map[aggregateKey]struct{}{}, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	// The statement is everybody's: it ends early only when all have gone.
	ctx, group.cancel = context.WithCancel(context.WithoutCancel(ctx))
	g.forming = group
	go g.run(ctx, group)
}

func (group *appendGroup) add(m *appendMember) {
	m.group = group
	group.members = append(group.members, m)
	group.byKey[m.key] = struct{}{}
	group.waiting++
	group.rows += len(m.call.rows)
	group.bytes += m.call.size()
}

func (group *appendGroup) remove(m *appendMember) {
	group.members = slices.DeleteFunc(group.members, func(other *appendMember) bool { return other == m })
	delete(group.byKey, m.key)
	group.rows -= len(m.call.rows)
	group.bytes -= m.call.size()
}

func (group *appendGroup) wakeUp() {
	select {
	case group.wake <- struct{}{}:
	default:
	}
}

// leave is for a member whose context has ended. The last one to go ends the group.
func (g *appendGroups) leave(m *appendMember) {
	g.mu.Lock()
	group := m.group
	m.gone = true
	if m.apart {
		g.unsetApart(m.key)
	}
	group.waiting--
	last := group.waiting == 0
	if !group.sent {
		group.remove(m)
		if last {
			g.forming = nil
		}
	}
	g.mu.Unlock()
	if last {
		group.cancel()
		<-group.ended
	}
}

// run sends a group's statement when it is due.
func (g *appendGroups) run(ctx context.Context, group *appendGroup) {
	defer close(group.ended)
	defer group.cancel()
	turn := g.await(ctx, group)
	if turn == nil {
		return
	}
	// In one order, or two stores' groups could each wait for what the other has inserted.
	members := group.members
	slices.SortFunc(members, func(x, y *appendMember) int {
		return cmp.Or(cmp.Compare(x.key.stream, y.key.stream), cmp.Compare(x.key.id, y.key.id))
	})
	calls := make([]*appendCall, len(members))
	for i, m := range members {
		calls[i] = m.call
	}
	var stored []bool
	var err error
	if len(calls) == 1 {
		stored, err = []bool{true}, g.alone(ctx, calls[0])
	} else {
		stored, err = g.together(ctx, calls)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
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
	g.over(turn)
}

// await waits until a group is due, and begins its turn; there is none if all its members have left.
func (g *appendGroups) await(ctx context.Context, group *appendGroup) *appendTurn {
	patience := time.NewTimer(groupPatience)
	defer patience.Stop()
	for {
		g.mu.Lock()
		if g.due(group) {
			g.gather(group)
		}
		if len(group.members) > 0 && g.due(group) {
			break
		}
		g.mu.Unlock()
		select {
		case <-group.wake:
		case <-patience.C:
			g.mu.Lock()
			g.turns = nil // they wait for something themselves
			g.mu.Unlock()
		case <-ctx.Done():
			return nil
		}
	}
	defer g.mu.Unlock()
	g.split(ctx, group)
	turn := &appendTurn{rows: group.rows, of: group.byKey}
	g.turns = append(g.turns, turn)
	g.crowded = len(group.members) > 1
	group.sent = true
	return turn
}

// due says whether a group need not wait any more: nothing is under way, or one statement of about
// the same size, or there are enough for another.
func (g *appendGroups) due(group *appendGroup) bool {
	enough := maxGroupRows
	switch len(g.turns) {
	case 0:
		return true
	case 1:
		if half, two := inTwo(group.rows + g.turns[0].rows); two {
			enough = half * 3 / 4
		}
	}
	if group.rows < enough && len(group.members) < maxGroupCalls && group.bytes < maxGroupBytes {
		return false
	}
	return slices.ContainsFunc(group.members, func(m *appendMember) bool { return !g.underWay(m.key) })
}

// inTwo returns how many rows each of two groups should have, and whether there should be two.
func inTwo(rows int) (half int, two bool) { return (rows + 1) / 2, rows >= twoGroupsRows }

// underWay says whether a group that is under way appends to an aggregate.
func (g *appendGroups) underWay(key aggregateKey) bool {
	return slices.ContainsFunc(g.turns, func(t *appendTurn) bool {
		_, ok := t.of[key]
		return ok
	})
}

// gather lets those run first who are about to come, since a statement has released them, for as long
// as that brings anybody. Nothing is waited for.
func (g *appendGroups) gather(group *appendGroup) {
	for n := 0; ; {
		g.mu.Unlock()
		runtime.Gosched()
		g.mu.Lock()
		if len(group.members) == n {
			return
		}
		n = len(group.members)
	}
}

// split leaves in a group those who go now, in the order in which they came, and makes the others the
// next group.
func (g *appendGroups) split(ctx context.Context, group *appendGroup) {
	most := maxGroupRows
	if len(g.turns) < 2 {
		rows := group.rows
		for _, t := range g.turns {
			rows += t.rows
		}
		if half, two := inTwo(rows); two {
			most = min(most, half)
		}
	}
	came := group.members
	group.members, group.rows, group.bytes, group.waiting = nil, 0, 0, 0
	clear(group.byKey)
	g.forming = nil
	for _, m := range came {
		n := len(group.members)
		if n == maxGroupCalls || n > 0 && (group.rows+len(m.call.rows) > most || group.bytes+m.call.size() > maxGroupBytes) || g.underWay(m.key) {
			if g.forming == nil {
				g.form(ctx)
			}
			g.forming.add(m)
		} else {
			group.add(m)
		}
	}
}
