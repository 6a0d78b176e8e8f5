// What appends remember from earlier ones: ids of streams, versions, the database's clock.

package eventstore

import (
	"sync"
	"sync/atomic"
	"time"
)

// appendHint is what insertGuarded has to know.
type appendHint struct {
	stream  int64 // id
	version int64 // of the aggregate
	// position of that version; zero: not known
	position Position
	now      time.Time
	step     int64 // from one position of a statement to the next: auto_increment_increment
	can      capabilities
}

// capabilities are what a server can do that its dialect does not take for granted: MariaDB has them,
// MySQL does not.
type capabilities struct {
	returning bool // an INSERT can return positions
	noWait    bool // a statement can be told to fail where it would wait for a lock
}

// at is when an append's events are recorded.
func (h *appendHint) at(a *appendRequest) time.Time {
	if a.at.IsZero() {
		return h.now.Truncate(time.Microsecond)
	}
	return a.at
}

// appendHints remember what an append would otherwise look up. None of it has to be right: the
// statement's guard and unique key find out, and what was wrong is forgotten.
type appendHints struct {
	mu       sync.Mutex
	streams  map[string]int64
	versions map[aggregateKey]int64
	now      time.Time // the database's, when learnt was the time here
	learnt   time.Time
	step     int64
	can      capabilities
}

const (
	maxHints = 10000
	// maxHintAge bounds how far the clock here can drift from the database's.
	maxHintAge = time.Minute
)

func (h *appendHints) get(stream, id string, after lastEvent, inTx bool) (appendHint, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	age := time.Since(h.learnt)
	hint := appendHint{version: int64(after.expected), position: after.after, now: h.now.Add(age), step: h.step, can: h.can}
	var ok bool
	if hint.stream, ok = h.streams[stream]; !ok || age > maxHintAge {
		return appendHint{}, false
	}
	if inTx {
		// It may see, or have done, what others have not, and keeps its locks for longer than a
		// statement: the previous event's position is worth another trip.
		return appendHint{}, false
	}
	if after.expected >= 0 {
		return hint, true
	}
	hint.version, ok = h.versions[aggregateKey{stream, id}]
	return hint, ok && after.expected.admits(hint.version)
}

func (h *appendHints) learnState(stream string, hint appendHint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.streams) >= maxHints || h.streams == nil {
		h.streams = map[string]int64{}
	}
	h.streams[stream] = hint.stream
	h.now, h.learnt, h.step, h.can = hint.now, time.Now(), hint.step, hint.can
}

// stream returns a stream's id, as far as it is known.
func (h *appendHints) stream(name string) (id int64, known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id, known = h.streams[name]
	return id, known
}

// learnStream remembers a stream's id.
func (h *appendHints) learnStream(name string, id int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.streams) >= maxHints || h.streams == nil {
		h.streams = map[string]int64{}
	}
	h.streams[name] = id
}

func (h *appendHints) advance(stream, id string, version int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.versions) >= maxHints || h.versions == nil {
		h.versions = map[aggregateKey]int64{}
	}
	h.versions[aggregateKey{stream, id}] = version
}

// isPast reports whether an aggregate is known to be past a version.
func (h *appendHints) isPast(stream, id string, version int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.versions[aggregateKey{stream, id}] > version
}

func (h *appendHints) forget(stream, id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.streams, stream)
	delete(h.versions, aggregateKey{stream, id})
}

// looksAhead remembers what was not possible when an append in a transaction looked ahead, and when it may be tried
// again. Times are in nanoseconds since began.
type looksAhead struct {
	began time.Time
	due   atomic.Int64 // of a look on another connection
	claim atomic.Int64 // of a lock on an event, for which MySQL wants the right to update it
}
