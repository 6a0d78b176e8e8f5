// Lost attempts: a batch that the database undoes again and again is taken apart, until the event
// that brings it about is found.

package eventstore

import (
	"slices"
	"time"
)

// losses counts the attempts of batches that the database has undone, in a row and while it was well
// otherwise. Most are accidents: a connection that was cut, a deadlock, a fail-over. But an event's
// handler can bring it about every time, for example with a statement above the server's packet
// size, which ends the connection. So each loss halves what is taken in at once, until one event is
// alone, and one that is lost often enough has failed.
//
// A failure of the database as a whole is no loss in this sense: no event is to blame for it.
type losses struct {
	first Position // of the events of the last attempt that was lost
	last  Position // of the events of all that were lost
	size  int      // of the last attempt that was lost
	n     int      // in a row, of this one
	err   error    // of the last one

	slow Position // of an event whose handler has taken longer than a lease
}

const (
	// maxLosses is how often an event is tried alone before its losses count as its failure.
	maxLosses = 10

	lossPause = 100 * time.Millisecond // the longest pause after a loss
)

// add counts a loss of rows.
func (l *losses) add(rows []record, err error) {
	if l.first != rows[0].position || l.size != len(rows) {
		l.n = 0
	}
	l.first, l.size, l.err = rows[0].position, len(rows), err
	l.last = max(l.last, rows[len(rows)-1].position)
	l.n++
}

// passed notes that an attempt of n events went well: the next may be twice as large.
func (l *losses) passed(n int) { l.size = 4 * n }

// limit returns how many of rows to take in at once. A slow event is taken in alone.
func (l *losses) limit(rows []record) int {
	n := len(rows)
	if n > 0 && rows[0].position <= l.last {
		n = min(n, max(1, l.size/2))
	}
	if slow := slices.IndexFunc(rows[:n], func(r record) bool { return r.position == l.slow }); slow >= 0 {
		n = max(1, slow)
	}
	return n
}

// attempt returns which attempt of the first of rows the last one was, counting from when its losses
// count as failures; zero: they do not.
func (l *losses) attempt(rows []record) int {
	if len(rows) == 0 || rows[0].position != l.first || l.size != 1 {
		return 0
	}
	return max(0, l.n-maxLosses+1)
}
