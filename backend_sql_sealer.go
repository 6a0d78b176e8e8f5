// What sealing remembers: holes, who may fill them, and for how long the sealed position has
// stood still.

package eventstore

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// sealer finds out up to where the order of events is final. All of a store's readers share it.
//
// The database hands out positions before transactions commit, so that 8 can be seen while 7 is
// still to come, and a reader that has moved on to 8 would lose 7. Every position up to the sealed
// one therefore is accounted for: its row exists, or no transaction can ever fill it. Where a
// transaction was rolled back, a gap row is put in the place of the number it has burnt. A writer that
// holds that number after all, which on InnoDB can be alive without any trace, then fails on the primary
// key and retries with another number: no look at the clock, and no waiting, is part of the argument.
// The argument for spans that are too long for gap rows is in backend_sql_span.go.
//
// One goroutine looks at a time: it has the turn, and with it all fields but those behind mu. Calls
// inside a transaction never wait for the turn, since the goroutine that has it may be waiting for
// the connection that the transaction holds.
type sealer struct {
	turn  chan struct{} // holds one token; a channel because waiting for it ends with a context
	begun atomic.Int64  // looks
	last  lookOutcome   // of the last look that succeeded

	known  bool // sealed has been read
	sealed Position
	marked Position     // what the database has been told
	told   atomic.Int64 // marked, as of the last look, for calls that do not have the turn
	holes  []knownGap   // in ascending order
	proof  *proof       // that nobody can fill the long holes; nil: it is not needed
	stall  stall
	now    func() time.Time

	eventless eventless

	began    time.Time
	floor    atomic.Int64 // up to it no position is handed out any more, if all is well
	floorDue atomic.Int64 // when the database is asked for it next, in nanoseconds since began

	mu       sync.Mutex // never held across a call
	seen     Position   // sealed, as of the last look
	seenWait stall
}

// lookOutcome is what a look has come to.
type lookOutcome struct {
	number  int64 // looks are counted from 1
	sealed  Position
	settled bool
}

// knownGap is a span of missing positions below one that exists.
type knownGap struct {
	span
	*hole
}

// hole is what is known of missing positions that were first seen at once.
type hole struct {
	// writers are the transactions that could fill it: of those that had the table locked for
	// writing when the hole was first seen, the ones that are not over. The one that was given the
	// number is among them unless it is over, since it had the lock before it was given the number.
	writers []writer
	seen    time.Time // first
	proven  bool      // by a proof: no transaction is left that could fill it
}

// writer is a transaction that has the events table locked for writing.
type writer struct {
	id       string
	prepared bool // for the second phase of its commit
}

// narrow drops writers that are over by now. One that is gone may also have been prepared, and have
// another id since: any that is prepared now might be it. That can't go on for ever, since one that
// is prepared is not prepared again.
func (h *hole) narrow(now []writer) {
	var left []writer
	gone := false
	for _, w := range h.writers {
		if slices.Contains(now, w) {
			left = append(left, w)
		} else if !w.prepared {
			gone = true
		}
	}
	for _, w := range now {
		if gone && w.prepared && !slices.Contains(left, w) {
			left = append(left, w)
		}
	}
	h.writers = left
}

func newSealer() *sealer {
	z := &sealer{turn: make(chan struct{}, 1), now: time.Now, began: time.Now()}
	z.turn <- struct{}{}
	return z
}

// publish lets those see what a look has come to who do not wait for the turn.
func (z *sealer) publish() {
	z.raiseFloor(z.sealed)
	z.mu.Lock()
	defer z.mu.Unlock()
	z.seen, z.seenWait = z.sealed, z.stall
	if z.stall.at <= z.sealed {
		z.seenWait = stall{} // it was sealed by another process, says the mark
	}
}

func (z *sealer) raiseFloor(p Position) {
	for {
		floor := z.floor.Load()
		if int64(p) <= floor || z.floor.CompareAndSwap(floor, int64(p)) {
			return
		}
	}
}

// state returns what the last look has come to.
func (z *sealer) state() (Position, stall) {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.seen, z.seenWait
}

// carry returns the missing spans with what is known of them. Parts that were not missing before
// have no hole yet.
func (z *sealer) carry(missing []span) (gaps []knownGap, fresh bool) {
	known := z.holes
	for _, m := range missing {
		for m.from <= m.to {
			for len(known) > 0 && known[0].to < m.from {
				known = known[1:]
			}
			if len(known) == 0 || known[0].from > m.to {
				gaps, fresh = append(gaps, knownGap{m, nil}), true
				break
			}
			k := known[0]
			if k.from > m.from {
				gaps, fresh = append(gaps, knownGap{span{m.from, k.from - 1}, nil}), true
				m.from = k.from
			}
			to := min(m.to, k.to)
			gaps = append(gaps, knownGap{span{m.from, to}, k.hole})
			m.from = to + 1
		}
	}
	return gaps, fresh
}

// holeAt returns the hole that a position is in, or nil.
func (z *sealer) holeAt(p Position) *hole {
	for _, g := range z.holes {
		if g.from <= p && p <= g.to {
			return g.hole
		}
	}
	return nil
}

// stall is the hole that keeps the sealed position where it is, as of the last look.
type stall struct {
	at     Position // zero: there is none
	since  time.Time
	waited time.Duration // from since to the last look
	due    time.Duration // to be waited until the logger is told next
	told   bool
}

// stallTime is how long sealing waits at a hole until the logger is told.
const stallTime = 5 * time.Second

// notice is what the logger is to be told.
type notice struct {
	text string
	args []any
}

// watch finds out whether a look has left sealing at a hole, and what is to be told of that: when
// the hole has been there for long, and when it is over.
func (z *sealer) watch() (out []notice) {
	now, at := z.now(), z.sealed+1
	h := z.holeAt(at)
	if was := &z.stall; was.at > 0 && (h == nil || was.at != at) {
		if was.told {
			out = append(out, notice{"sealing goes on", []any{"position", was.at, "waited", now.Sub(was.since)}})
		}
		z.stall = stall{}
	}
	if h == nil {
		return out
	}
	if z.stall.at == 0 {
		z.stall = stall{at: at, since: h.seen, due: stallTime}
	}
	s := &z.stall
	if s.waited = now.Sub(s.since); s.waited < s.due {
		return out
	}
	s.told = true
	for s.due <= s.waited {
		s.due *= 2
	}
	args := []any{"position", at, "waited", s.waited}
	if len(h.writers) > 0 {
		ids := make([]string, len(h.writers))
		for i, w := range h.writers {
			ids[i] = w.id
		}
		args = append(args, "writers", ids)
	}
	return append(out, notice{"sealing waits", args})
}

// span is the positions from one to another, both included.
type span struct{ from, to Position }

// size is how many positions a span has.
func (s span) size() int64 { return int64(s.to-s.from) + 1 }

// proof is the search for moments, after some holes were first seen, at which no append was in flight.
type proof struct {
	holes   []*hole
	pending []idRange // of streams for which there was none yet
	waitAt  time.Time // when the next try may wait for locks
	pause   time.Duration
}

// idRange is the stream ids from one to another, both included.
type idRange struct{ from, to int64 }

// split divides a range whose lowest and highest stream are known, or zero: there is none. One that
// holds no more than a stream can't be divided.
func (r idRange) split(low, high int64) []idRange {
	var parts []idRange
	add := func(from, to int64) {
		if from <= to {
			parts = append(parts, idRange{from, to})
		}
	}
	switch {
	case low == 0:
		return []idRange{r}
	case low == high:
		add(r.from, low-1)
		add(low, low)
		add(low+1, r.to)
	default:
		middle := low + (high-low)/2
		add(r.from, middle)
		add(middle+1, r.to)
	}
	return parts
}

// eventless remembers long spans of sealed positions without events, so that they are searched once. No event
// can appear in them.
type eventless struct {
	mu    sync.Mutex
	spans []span // the longest that are known, in no order
}

const (
	maxEventless  = 64
	longEventless = 1000
)

// skip returns the last position before which nothing is to be looked for.
func (e *eventless) skip(after Position) Position {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.spans {
		if s.from <= after+1 && after < s.to {
			after = s.to
		}
	}
	return after
}

func (e *eventless) add(s span) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.size() < longEventless {
		return
	}
	e.spans = slices.DeleteFunc(e.spans, func(o span) bool { return s.from <= o.from && o.to <= s.to })
	e.spans = append(e.spans, s)
	slices.SortFunc(e.spans, func(x, y span) int { return cmp.Compare(y.size(), x.size()) })
	e.spans = e.spans[:min(len(e.spans), maxEventless)]
}
