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
// once and alone, so nobody ever waits for company. Where there are many, and the database can do with
// it, they go in two groups of about the same size in turns, so that the server has one of them to
// work on while the other's answer is on its way.
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
	// inTurns says that two groups may be under way.
	inTurns bool

	mu          sync.Mutex
	turns       []*appendTurn             // the statements to be waited for
	crowded     bool                      // the last statement was a group's
	apart       map[aggregateKey]int      // aggregates with appends under way alone, and how many
	waiting     []*appendMember           // in the order in which they came
	keys        map[aggregateKey]struct{} // of those who wait
	rows, bytes int                       // of those who wait
	dispatching bool                      // a goroutine is at it, as long as somebody waits
	wake        chan struct{}             // tells it that there may be something to do
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
	// groupPatience is how long others wait for a statement: several times as long as one takes that
	// does not wait itself.
	groupPatience = 5 * time.Millisecond
)

// appendTurn is a statement that is under way.
type appendTurn struct {
	began time.Time
	rows  int
	of    map[aggregateKey]struct{} // a group's aggregates; those that go alone are in apart
}

// appendGroup is the appends of one statement. The lock of appendGroups guards how many wait.
type appendGroup struct {
	turn    *appendTurn
	members []*appendMember
	ctx     context.Context // of the statement, which is everybody's: it ends early only when all have gone
	cancel  context.CancelFunc
	waiting int // members that wait for the outcome
	ended   chan struct{}
}

// appendMember is one append that goes with others.
type appendMember struct {
	ctx     context.Context
	call    *appendCall
	key     aggregateKey
	bytes   int
	group   *appendGroup // nil: it waits for its turn
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
	_, twin := g.keys[key]
	switch {
	case twin || g.apart[key] > 0:
		// Two appends to one aggregate race, or one waits for what the other waits for.
		g.setApart(key)
		g.mu.Unlock()
		return g.goApart(ctx, a, key)
	case len(g.turns) == 0 && len(g.waiting) == 0 && !g.crowded:
		turn := &appendTurn{began: time.Now(), rows: len(a.rows)}
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
	m := &appendMember{ctx: ctx, call: a, key: key, bytes: a.size(), outcome: make(chan error, 1)}
	g.add(m)
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

// add has m wait for its turn.
func (g *appendGroups) add(m *appendMember) {
	if g.keys == nil {
		g.keys, g.wake = map[aggregateKey]struct{}{}, make(chan struct{}, 1)
	}
	g.waiting = append(g.waiting, m)
	g.count(m, 1)
	if !g.dispatching {
		g.dispatching = true
		go g.dispatch()
	} else if g.due() {
		g.wakeUp()
	}
}

// count counts m among those who wait, or with -1 no longer.
func (g *appendGroups) count(m *appendMember, sign int) {
	g.rows += sign * len(m.call.rows)
	g.bytes += sign * m.bytes
	if sign > 0 {
		g.keys[m.key] = struct{}{}
	} else {
		delete(g.keys, m.key)
	}
}

func (g *appendGroups) wakeUp() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// over ends a turn.
func (g *appendGroups) over(t *appendTurn) {
	g.turns = slices.DeleteFunc(g.turns, func(other *appendTurn) bool { return other == t })
	if g.dispatching {
		g.wakeUp()
	}
}

// leave is for a member whose context has ended. The last one to go ends its group.
func (g *appendGroups) leave(m *appendMember) {
	g.mu.Lock()
	m.gone = true
	if m.apart {
		g.unsetApart(m.key)
	}
	group, last := m.group, false
	if group != nil {
		group.waiting--
		last = group.waiting == 0
	} else {
		g.waiting = slices.DeleteFunc(g.waiting, func(other *appendMember) bool { return other == m })
		g.count(m, -1)
		g.wakeUp()
	}
	g.mu.Unlock()
	if last {
		group.cancel()
		<-group.ended
	}
}

// dispatch sends those who wait, until there is nobody left.
func (g *appendGroups) dispatch() {
	patience := time.NewTimer(groupPatience)
	defer patience.Stop()
	for {
		g.mu.Lock()
		g.forget()
		if g.due() {
			g.gather()
		}
		if len(g.waiting) == 0 {
			g.dispatching = false
			g.mu.Unlock()
			return
		}
		if g.due() {
			group := g.take()
			g.mu.Unlock()
			go g.send(group)
			continue
		}
		patience.Reset(g.patience())
		g.mu.Unlock()
		select {
		case <-g.wake:
		case <-patience.C:
		}
	}
}

// forget drops the statements that take so long that they must be waiting themselves.
func (g *appendGroups) forget() {
	g.turns = slices.DeleteFunc(g.turns, func(t *appendTurn) bool { return time.Since(t.began) >= groupPatience })
}

// patience returns how long it takes until there is a statement to be forgotten.
func (g *appendGroups) patience() time.Duration {
	d := groupPatience
	for _, t := range g.turns {
		d = min(d, groupPatience-time.Since(t.began))
	}
	return d
}

// due says whether somebody who waits may go: when nothing is under way; beside one statement, if
// those who wait are enough to be one of two groups; or when they are enough for a full statement.
func (g *appendGroups) due() bool {
	if len(g.turns) == 0 {
		return len(g.waiting) > 0
	}
	enough := maxGroupRows
	if half, two := g.inTwo(); two && len(g.turns) == 1 {
		enough = half * 3 / 4
	}
	if g.rows < enough && len(g.waiting) < maxGroupCalls && g.bytes < maxGroupBytes {
		return false
	}
	return slices.ContainsFunc(g.waiting, func(m *appendMember) bool { return !g.underWay(m.key) })
}

// inTwo says whether the rows that wait and those under way should be two groups, and how many rows
// each should have.
func (g *appendGroups) inTwo() (half int, two bool) {
	rows := g.rows
	for _, t := range g.turns {
		rows += t.rows
	}
	return (rows + 1) / 2, g.inTurns && len(g.turns) < 2 && rows >= twoGroupsRows
}

// underWay says whether a group that is under way appends to an aggregate.
func (g *appendGroups) underWay(key aggregateKey) bool {
	return slices.ContainsFunc(g.turns, func(t *appendTurn) bool {
		_, ok := t.of[key]
		return ok
	})
}

// gather lets those run first who are about to come, most of them because a statement has just
// released them, for as long as that brings anybody, and until there are enough for two statements.
func (g *appendGroups) gather() {
	for n := 0; len(g.waiting) != n && len(g.waiting) < 2*maxGroupCalls; {
		n = len(g.waiting)
		g.mu.Unlock()
		runtime.Gosched()
		g.mu.Lock()
	}
}

// take makes a group of those who go now, and begins its turn.
func (g *appendGroups) take() *appendGroup {
	most := maxGroupRows
	if half, two := g.inTwo(); two {
		most = min(most, half)
	}
	n := min(len(g.waiting), maxGroupCalls)
	group := &appendGroup{turn: &appendTurn{began: time.Now(), of: make(map[aggregateKey]struct{}, n)}, members: make([]*appendMember, 0, n), ended: make(chan struct{})}
	bytes, seen := 0, 0
	var later []*appendMember // came before the last to go
	for _, m := range g.waiting {
		if group.turn.rows > 0 && (len(group.members) == maxGroupCalls || group.turn.rows+len(m.call.rows) > most || bytes+m.bytes > maxGroupBytes) {
			break
		}
		seen++
		if g.underWay(m.key) {
			later = append(later, m)
			continue
		}
		m.group = group
		group.members = append(group.members, m)
		group.turn.of[m.key] = struct{}{}
		group.turn.rows += len(m.call.rows)
		bytes += m.bytes
		g.count(m, -1)
	}
	rest := g.waiting[seen:]
	if clear(g.waiting[:seen]); len(later) > 0 {
		rest = append(later, rest...)
	}
	g.waiting = rest
	group.waiting = len(group.members)
	group.ctx, group.cancel = context.WithCancel(context.WithoutCancel(group.members[0].ctx))
	g.turns = append(g.turns, group.turn)
	g.crowded = len(group.members) > 1
	return group
}

// send stores a group's appends and tells each what has become of it.
func (g *appendGroups) send(group *appendGroup) {
	defer close(group.ended)
	defer group.cancel()
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
		stored, err = []bool{true}, g.alone(group.ctx, calls[0])
	} else {
		stored, err = g.together(group.ctx, calls)
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
	g.over(group.turn)
}
