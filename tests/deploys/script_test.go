package deploys_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	es "example.com/eventstore"
)

type action int

const (
	start  action = iota
	kill          // SIGKILL
	freeze        // SIGSTOP
	thaw          // SIGCONT
)

// order is one step of a deploy.
type order struct {
	do     action
	member int           // in the order of their starts
	newer  bool          // start: which definition
	after  time.Duration // thaw: how long the member has been frozen at least
	pause  time.Duration // until the next order
}

// script is a rolling deploy. A seed has one.
type script struct {
	seed     uint64
	onChange es.Change // of the newer definition
	batch    int
	orders   []order
	newFrom  int  // the order from which on events of the new name are appended
	leave    bool // members go on while the newest definition is run to the end

	rollbacks int // starts of the older definition after the newer one
}

// beyondLease is longer than the lease of a deploy's members.
const beyondLease = 1200 * time.Millisecond

func newScript(seed uint64) *script {
	r := rand.New(rand.NewPCG(seed, 1))
	s := &script{seed: seed, onChange: es.Change(r.IntN(3)), batch: 1 + r.IntN(20), leave: r.IntN(2) == 0}
	var members []fate
	long := false // a member is frozen beyond its lease at most once: it takes time
	add := func(o order) {
		o.pause = time.Duration(r.IntN(200)) * time.Millisecond
		s.orders = append(s.orders, o)
	}
	begin := func(newer bool) {
		for _, m := range members {
			if m.newer && !newer {
				s.rollbacks++
				break
			}
		}
		add(order{do: start, member: len(members), newer: newer})
		members = append(members, fate{newer: newer, alive: true})
	}
	end := func(i int) {
		add(order{do: kill, member: i})
		members[i].alive = false
	}
	wake := func(i int) {
		after := time.Duration(r.IntN(200)) * time.Millisecond
		if !long && r.IntN(5) < 2 {
			long, after = true, beyondLease+after
		}
		add(order{do: thaw, member: i, after: after})
		members[i].frozen = false
	}
	// one picks a member, or returns -1.
	one := func(fits func(fate) bool) int {
		found := -1
		for i, n := 0, 0; i < len(members); i++ {
			if fits(members[i]) {
				if n++; r.IntN(n) == 0 {
					found = i
				}
			}
		}
		return found
	}
	begin(r.IntN(6) == 0)
	firstNewer := -1
	for n := 4 + r.IntN(6); n > 0; n-- {
		alive := 0
		for _, m := range members {
			if m.alive {
				alive++
			}
		}
		switch choice := r.IntN(10); {
		case choice < 3 && alive < 3 || alive == 0:
			begin(r.IntN(2) == 0)
		case choice < 5: // a member is replaced
			i := one(func(m fate) bool { return m.alive })
			begin(r.IntN(2) == 0)
			end(i)
		case choice < 6: // a rollback
			for i, m := range members {
				if m.newer && m.alive {
					end(i)
				}
			}
			begin(false)
		case choice < 7:
			end(one(func(m fate) bool { return m.alive }))
		case choice < 9:
			if i := one(func(m fate) bool { return m.alive && !m.frozen }); i >= 0 {
				add(order{do: freeze, member: i})
				members[i].frozen = true
			}
		default:
			if i := one(func(m fate) bool { return m.alive && m.frozen }); i >= 0 {
				wake(i)
			}
		}
	}
	for i, m := range members {
		if m.alive && m.frozen {
			wake(i)
		}
	}
	for i, o := range s.orders {
		if o.do == start && o.newer && firstNewer < 0 {
			firstNewer = i
		}
	}
	// The newer service appends the new name, but in half of the deploys another one has begun before.
	switch {
	case firstNewer < 0:
		s.newFrom = r.IntN(len(s.orders))
	case r.IntN(2) == 0:
		s.newFrom = r.IntN(max(1, firstNewer))
	default:
		s.newFrom = firstNewer + 1
	}
	return s
}

// fate is what a script has done with a member.
type fate struct{ newer, alive, frozen bool }

func (s *script) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: the newer definition has OnChange %v, batches of %d", s.seed, s.onChange, s.batch)
	for i, o := range s.orders {
		if i == s.newFrom {
			b.WriteString("\n  from here on the new name is appended")
		}
		fmt.Fprintf(&b, "\n  %s %d", [...]string{"start", "kill", "freeze", "thaw"}[o.do], o.member)
		switch {
		case o.do == start && o.newer:
			b.WriteString(", newer")
		case o.do == start:
			b.WriteString(", older")
		case o.do == thaw:
			fmt.Fprintf(&b, " after %v", o.after)
		}
		fmt.Fprintf(&b, ", pause %v", o.pause)
	}
	if s.leave {
		b.WriteString("\n  the members left go on until the end")
	}
	return b.String()
}
