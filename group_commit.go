// Group commit: small appends that arrive together share one statement.

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

// groupCommit implements group commit: appends that arrive while a statement is in flight share the
// next one. What a database does for each statement (a round trip, a plan, a commit) it then does once
// for all of them. An append that arrives when nothing is in flight goes at once and alone, so none
// ever waits for company. Where there are many, and the database can do with it, two groups of about
// the same size are in flight in turns: the server works on one while the other's answer is on its way.
//
// An append that can't go on holds up no other. A statement is waited for only a moment. A group's
// statement gives up after a moment if it meets a lock, and then its appends go solo: each with a
// statement of its own. So do appends to the same aggregates that arrive while these are in flight.
type groupCommit struct {
	// insertAlone stores one append with a statement of its own.
	insertAlone func(ctx context.Context, a *appendRequest) error
	// insertGroup stores with one statement those of the appends that it can, and returns which. After
	// an error that is not known.
	insertGroup func(ctx context.Context, calls []*appendRequest) (stored []bool, err error)
	// twoGroups reports that two groups may be in flight.
	twoGroups bool
	// maxBytes returns how many bytes of a group a statement can hold; nil: maxGroupBytes.
	maxBytes func() int

	mu           sync.Mutex
	inFlight     []*inFlightStatement      // the statements to be waited for
	lastWasGroup bool                      // the last statement was a group's
	solo         map[aggregateKey]int      // aggregates with solo appends in flight, and how many
	waiting      []*groupMember            // in the order in which they came
	keys         map[aggregateKey]struct{} // of those that wait
	rows, bytes  int                       // of those that wait
	dispatching  bool                      // a goroutine sends those that wait
	wake         chan struct{}             // tells that goroutine that there may be something to do
}

const (
	maxGroupAppends = 64
	maxGroupRows    = 256
	maxGroupBytes   = 1 << 20
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

// inFlightStatement is a statement whose answer is still to come.
type inFlightStatement struct {
	began      time.Time
	rows       int
	aggregates map[aggregateKey]struct{} // of a group; those of solo appends are in groupCommit.solo
}

// commitGroup is the appends of one statement. The lock of groupCommit guards how many wait.
type commitGroup struct {
	statement *inFlightStatement
	members   []*groupMember
	ctx       context.Context // of the statement, which all share: it ends early only when all members have gone
	cancel    context.CancelFunc
	waiting   int // members that wait for the outcome
	ended     chan struct{}
}

// groupMember is one append that goes with others.
type groupMember struct {
	ctx     context.Context
	request *appendRequest
	key     aggregateKey
	bytes   int
	group   *commitGroup // nil: it waits for a statement
	outcome chan error
	gone    bool // its context has ended
	solo    bool // it counts among the solo appends
}

// errGoSolo is the outcome of an append that has to go solo.
var errGoSolo = errors.New("eventstore: not stored together with others")

// append stores a, alone or with a group.
func (g *groupCommit) append(ctx context.Context, a *appendRequest) error {
	key := aggregateKey{a.stream, a.aggregateID}
	g.mu.Lock()
	_, twin := g.keys[key]
	switch {
	case twin || g.solo[key] > 0:
		// Two appends to one aggregate race, or one waits for what the other waits for.
		g.addSolo(key)
		g.mu.Unlock()
		return g.goSolo(ctx, a, key)
	case len(g.inFlight) == 0 && len(g.waiting) == 0 && !g.lastWasGroup:
		statement := &inFlightStatement{began: time.Now(), rows: len(a.rows)}
		g.inFlight = append(g.inFlight, statement)
		g.addSolo(key)
		g.mu.Unlock()
		defer func() {
			g.mu.Lock()
			g.finished(statement)
			g.mu.Unlock()
		}()
		return g.goSolo(ctx, a, key)
	}
	m := &groupMember{ctx: ctx, request: a, key: key, bytes: a.size(), outcome: make(chan error, 1)}
	g.add(m)
	g.mu.Unlock()

	var err error
	select {
	case err = <-m.outcome:
	case <-ctx.Done():
		g.leave(m)
		return fmt.Errorf("%sappend: %w", prefix, ctx.Err())
	}
	if errors.Is(err, errGoSolo) {
		return g.goSolo(ctx, a, key)
	}
	return err
}

func (g *groupCommit) addSolo(key aggregateKey) {
	if g.solo == nil {
		g.solo = map[aggregateKey]int{}
	}
	g.solo[key]++
}

func (g *groupCommit) removeSolo(key aggregateKey) {
	if g.solo[key]--; g.solo[key] == 0 {
		delete(g.solo, key)
	}
}

// goSolo stores an append with a statement of its own; its aggregate counts among solo by now.
func (g *groupCommit) goSolo(ctx context.Context, a *appendRequest, key aggregateKey) error {
	defer func() { // a panic of the driver may be the caller's to recover
		g.mu.Lock()
		g.removeSolo(key)
		g.mu.Unlock()
	}()
	return g.insertAlone(ctx, a)
}

// add has m wait for a statement.
func (g *groupCommit) add(m *groupMember) {
	if g.keys == nil {
		g.keys, g.wake = map[aggregateKey]struct{}{}, make(chan struct{}, 1)
	}
	g.waiting = append(g.waiting, m)
	g.count(m, 1)
	if !g.dispatching {
		g.dispatching = true
		go g.dispatch()
	} else if g.ready() {
		g.wakeUp()
	}
}

// count counts m among those that wait, or with -1 no longer.
func (g *groupCommit) count(m *groupMember, sign int) {
	g.rows += sign * len(m.request.rows)
	g.bytes += sign * m.bytes
	if sign > 0 {
		g.keys[m.key] = struct{}{}
	} else {
		delete(g.keys, m.key)
	}
}

func (g *groupCommit) wakeUp() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// finished takes a statement out of those in flight.
func (g *groupCommit) finished(t *inFlightStatement) {
	g.inFlight = slices.DeleteFunc(g.inFlight, func(other *inFlightStatement) bool { return other == t })
	if g.dispatching {
		g.wakeUp()
	}
}

// leave is for a member whose context has ended. The last one to go ends its group.
func (g *groupCommit) leave(m *groupMember) {
	g.mu.Lock()
	m.gone = true
	if m.solo {
		g.removeSolo(m.key)
	}
	group, last := m.group, false
	if group != nil {
		group.waiting--
		last = group.waiting == 0
	} else {
		g.waiting = slices.DeleteFunc(g.waiting, func(other *groupMember) bool { return other == m })
		g.count(m, -1)
		g.wakeUp()
	}
	g.mu.Unlock()
	if last {
		group.cancel()
		<-group.ended
	}
}

// dispatch sends those that wait, until none is left.
func (g *groupCommit) dispatch() {
	patience := time.NewTimer(groupPatience)
	defer patience.Stop()
	for {
		g.mu.Lock()
		g.dropSlow()
		if g.ready() {
			g.gather()
		}
		if len(g.waiting) == 0 {
			g.dispatching = false
			g.mu.Unlock()
			return
		}
		if g.ready() {
			group := g.nextGroup()
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

// dropSlow no longer waits for statements that take so long that they must be waiting themselves.
func (g *groupCommit) dropSlow() {
	g.inFlight = slices.DeleteFunc(g.inFlight, func(t *inFlightStatement) bool { return time.Since(t.began) >= groupPatience })
}

// patience returns how long it takes until there is a statement for dropSlow.
func (g *groupCommit) patience() time.Duration {
	d := groupPatience
	for _, t := range g.inFlight {
		d = min(d, groupPatience-time.Since(t.began))
	}
	return d
}

// ready reports whether the next group may go: when nothing is in flight; beside one statement, if
// those that wait are enough to be one of two groups; or when they are enough for a full statement.
func (g *groupCommit) ready() bool {
	if len(g.inFlight) == 0 {
		return len(g.waiting) > 0
	}
	enough := maxGroupRows
	if half, two := g.halves(); two && len(g.inFlight) == 1 {
		enough = half * 3 / 4
	}
	if g.rows < enough && len(g.waiting) < maxGroupAppends && g.bytes < g.mostBytes() {
		return false
	}
	return slices.ContainsFunc(g.waiting, func(m *groupMember) bool { return !g.isInFlight(m.key) })
}

// halves reports whether the rows that wait and those in flight should be two groups, and how many
// rows each should have.
func (g *groupCommit) halves() (half int, two bool) {
	rows := g.rows
	for _, t := range g.inFlight {
		rows += t.rows
	}
	return (rows + 1) / 2, g.twoGroups && len(g.inFlight) < 2 && rows >= twoGroupsRows
}

func (g *groupCommit) mostBytes() int {
	if g.maxBytes == nil {
		return maxGroupBytes
	}
	return min(maxGroupBytes, g.maxBytes())
}

// isInFlight reports whether a group in flight appends to an aggregate.
func (g *groupCommit) isInFlight(key aggregateKey) bool {
	return slices.ContainsFunc(g.inFlight, func(t *inFlightStatement) bool {
		_, ok := t.aggregates[key]
		return ok
	})
}

// gather lets goroutines run that are about to append, most of them because a statement has just
// released them: for as long as that brings any, and until there are enough for two statements.
func (g *groupCommit) gather() {
	for n := 0; len(g.waiting) != n && len(g.waiting) < 2*maxGroupAppends; {
		n = len(g.waiting)
		g.mu.Unlock()
		runtime.Gosched()
		g.mu.Lock()
	}
}

// nextGroup makes a group of those that go now, and counts it among those in flight.
func (g *groupCommit) nextGroup() *commitGroup {
	most := maxGroupRows
	if half, two := g.halves(); two {
		most = min(most, half)
	}
	n := min(len(g.waiting), maxGroupAppends)
	group := &commitGroup{statement: &inFlightStatement{began: time.Now(), aggregates: make(map[aggregateKey]struct{}, n)}, members: make([]*groupMember, 0, n), ended: make(chan struct{})}
	bytes, seen, mostBytes := 0, 0, g.mostBytes()
	var later []*groupMember // came before the last to go
	for _, m := range g.waiting {
		if group.statement.rows > 0 && (len(group.members) == maxGroupAppends || group.statement.rows+len(m.request.rows) > most || bytes+m.bytes > mostBytes) {
			break
		}
		seen++
		if g.isInFlight(m.key) {
			later = append(later, m)
			continue
		}
		m.group = group
		group.members = append(group.members, m)
		group.statement.aggregates[m.key] = struct{}{}
		group.statement.rows += len(m.request.rows)
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
	g.inFlight = append(g.inFlight, group.statement)
	g.lastWasGroup = len(group.members) > 1
	return group
}

// send stores a group's appends and tells each what has become of it. If the driver panics, or ends the goroutine,
// which appends are stored is not known: then each goes solo, which stores none of them twice, and if it panics
// again it does so in the goroutine of the append.
func (g *groupCommit) send(group *commitGroup) {
	defer close(group.ended)
	defer group.cancel()
	// In one order, or two stores' groups could each wait for what the other has inserted.
	members := group.members
	slices.SortFunc(members, func(x, y *groupMember) int {
		return cmp.Or(cmp.Compare(x.key.stream, y.key.stream), cmp.Compare(x.key.id, y.key.id))
	})
	calls := make([]*appendRequest, len(members))
	for i, m := range members {
		calls[i] = m.request
	}
	stored := make([]bool, len(calls)) // none that is known
	var err error
	defer func() {
		_ = recover()
		g.answer(group, stored, err)
	}()
	if len(calls) == 1 {
		err = g.insertAlone(group.ctx, calls[0])
		stored[0] = true
	} else {
		stored, err = g.insertGroup(group.ctx, calls)
	}
}

// answer tells a group's appends what has become of them.
func (g *groupCommit) answer(group *commitGroup, stored []bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, m := range group.members {
		switch {
		case m.gone:
		case err == nil && !stored[i]:
			m.solo = true
			g.addSolo(m.key)
			m.outcome <- errGoSolo
		default:
			m.outcome <- err
		}
	}
	g.finished(group.statement)
}
