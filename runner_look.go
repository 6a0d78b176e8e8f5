// Looks at the log: a runner reads the events that come next, in pages and windows.

package eventstore

import (
	"context"
	"time"
)

const (
	// A look covers at least minWindow positions and then as many more as can be looked at
	// quickly, so that an event which is rare in a long log is searched for in steps, each of
	// which is remembered.
	minWindow = 10000
	maxWindow = 1 << 40
	quickLook = 50 * time.Millisecond
	slowLook  = 500 * time.Millisecond

	paceTime = 10 * time.Millisecond // from one look that found all there was to the next
)

// lookResult is what a look at the log has found.
type lookResult struct {
	rows    []record
	upTo    Position // the position behind which to look next
	more    bool     // sealed events are left behind upTo
	settled bool     // unless another look soon may get further
	barred  *record  // the event after upTo, which must not be passed over; nil: there is none
	began   time.Time
	err     error
}

// looker reads the events that a runner has to take in, and finds those that it must not pass over.
type looker struct {
	*runnerConfig // the runner's
	store         *Store

	verdicts map[Position]controlKind // of operators, on events to come
	bar      *wantedSet               // whose events the definition must not pass over; nil: there is none

	limit     int  // of a page
	lastFound int  // in the last page
	last      page // how that was read
	window    Position
	sealed    Position  // as of the last look at what is
	looked    time.Time // when that was
}

// fetch looks for sealed events after a position, beside the caller.
func (l *looker) fetch(ctx context.Context, poll *poller, after Position) *background[lookResult] {
	return inBackground(func() (next lookResult) {
		next.err = l.look(ctx, poll, after, &next)
		return next
	})
}

func (l *looker) look(ctx context.Context, poll *poller, after Position, next *lookResult) error {
	poll.listen()
	next.began, next.settled = time.Now(), true
	// What was sealed stays so. A runner far behind still seals now and then, for those who look at
	// Stats while no other does.
	if l.sealed <= after || next.began.Sub(l.looked) > l.poll {
		var err error
		if l.sealed, next.settled, err = l.store.backend.seal(ctx); err != nil {
			return err
		}
		l.looked = next.began
	}
	next.upTo = max(after, min(l.sealed, after+l.window))
	if next.upTo == after {
		return nil
	}
	began := time.Now()
	from, names := l.reads()
	q := &page{sparse: l.last.sparse, perRow: l.last.perRow, from: from, names: names, after: after, before: next.upTo + 1, window: next.upTo < l.sealed, newest: next.upTo == l.sealed, limit: l.limit, sizeHint: l.lastFound}
	rows, more, err := l.store.backend.readPage(ctx, q)
	if err != nil {
		return err
	}
	l.lastFound, l.last = len(rows), page{sparse: q.sparse, perRow: q.perRow}
	if more {
		next.upTo = q.after
		if len(rows) > 0 {
			l.limit = pageSize(rows, l.batchSize)
		}
	} else {
		l.window = nextWindowSize(l.window, time.Since(began))
	}
	next.more = next.upTo < l.sealed
	picker := l.from.picker()
	next.rows = rows[:0]
	for i := range rows {
		picked, err := picker.picks(&rows[i])
		if err != nil {
			return err
		}
		switch r := &rows[i]; {
		case l.bars(r) && l.verdict(r) == "":
			next.barred = r
			next.upTo, next.more = r.position-1, false
			return nil
		case l.bars(r) || picked && (l.names == nil || l.wanted.holdsName(r.name)):
			next.rows = append(next.rows, *r)
		}
	}
	return nil
}

// reads returns what to read: the definition's events, and those that it must not pass over.
func (l *looker) reads() (from Selection, names []string) {
	if l.bar == nil {
		return l.from, l.names
	}
	if l.names == nil {
		return l.bar.selection(), nil
	}
	return l.bar.selection(), l.bar.storedNames()
}

// bars reports whether an event is one that the definition must not pass over.
func (l *looker) bars(r *record) bool {
	return l.bar != nil && l.bar.holds(r.stream, r.name) && !l.wanted.holds(r.stream, r.name)
}

// nextWindowSize returns how many positions to look at after a look that took so long.
func nextWindowSize(window Position, took time.Duration) Position {
	switch {
	case took < quickLook:
		return min(2*window, maxWindow)
	case took > slowLook:
		return max(window/2, minWindow)
	}
	return window
}

// verdict returns what an operator has said of an event; "": nothing.
func (l *looker) verdict(r *record) controlKind {
	if len(l.verdicts) == 0 {
		return ""
	}
	return l.verdicts[r.position]
}
