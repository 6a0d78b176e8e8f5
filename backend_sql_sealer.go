// What sealing remembers: holes, who may fill them, and for how long the sealed position has
// stood still.

package eventstore

import (
	"context"
	"slices"
	"sync/atomic"
	"time"
)

// sealer finds out up to where the order of events is final. All of a store's readers share it.
//
// The database hands out positions before transactions commit, so that 8 can be seen while 7 is
// still to come, and a reader that has moved on to 8 would lose 7. Every position up to the sealed
// one therefore is accounted for: its row exists. Where a transaction was rolled back, a gap row
// is put in the place of the number it has burnt. A writer that holds that number after all, which
// on InnoDB can be alive without any trace, then fails on the primary key and repeats with another
// number: no look at the clock, and no waiting, is part of the argument.
type sealer struct {
	lock   chan struct{} // holds one token; a channel because waiting for it ends with a context
	known  bool          // sealed has been read
	sealed Position
	marked Position     // what the database has been told
	told   atomic.Int64 // marked, as of the last look, for those that do not hold the lock
	holes  map[Position]*hole
	stall  stall
	now    func() time.Time
}

// hole is what is known of missing positions below one that exists, of all that were first seen at
// once.
type hole struct {
	// writers are the transactions that could fill it: of those that had the table locked for
	// writing when the hole was first seen, the ones that are not over. The one that was given the
	// number is among them unless it is over, since it had the lock before it was given the number.
	writers []writer
	seen    time.Time // first
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
	z := &sealer{lock: make(chan struct{}, 1), holes: map[Position]*hole{}, now: time.Now}
	z.lock <- struct{}{}
	return z
}

// state returns what the last look has come to.
func (z *sealer) state(ctx context.Context) (Position, stall, error) {
	select {
	case <-ctx.Done():
		return 0, stall{}, ctx.Err()
	case <-z.lock:
	}
	defer func() { z.lock <- struct{}{} }()
	if z.stall.at <= z.sealed {
		return z.sealed, stall{}, nil // it was sealed by another process, says the mark
	}
	return z.sealed, z.stall, nil
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
	h := z.holes[at]
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

// ranges joins positions in ascending order.
func ranges(positions []Position) []span {
	var out []span
	for _, p := range positions {
		if n := len(out); n > 0 && out[n-1].to == p-1 {
			out[n-1].to = p
		} else {
			out = append(out, span{p, p})
		}
	}
	return out
}
