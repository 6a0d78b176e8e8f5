package deploys_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"sync"
	"time"

	es "example.com/eventstore"
)

// entry is a line of the log of a store or of a member.
type entry struct {
	Time       time.Time
	Msg        string
	Projection string
	Owner      string
	Epoch      int64
	Position   es.Position
	Member     int
	Changed    bool // memberEnds: because of ErrProjectionChanged
	Error      string
}

// journal gathers the logs of all processes, by projection.
type journal struct {
	mu      sync.Mutex
	entries map[string][]entry
}

// Write takes one line of JSON. A line that a kill has cut short is dropped.
func (j *journal) Write(line []byte) (int, error) {
	var e entry
	if err := json.Unmarshal(line, &e); err == nil {
		j.mu.Lock()
		defer j.mu.Unlock()
		if j.entries == nil {
			j.entries = map[string][]entry{}
		}
		j.entries[e.Projection] = append(j.entries[e.Projection], e)
	}
	return len(line), nil
}

// of returns a projection's entries with a message.
func (j *journal) of(projection, msg string) []entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(j.entries[projection]), func(e entry) bool { return e.Msg != msg })
}

// started reports whether a member has said that it starts.
func (j *journal) started(projection string, number int) bool {
	return slices.ContainsFunc(j.of(projection, memberStarts), func(e entry) bool { return e.Member == number })
}

// takeOvers counts the changes of a lease from one owner to another.
func (j *journal) takeOvers(projection string) (n int) {
	taken := j.of(projection, "lease taken")
	slices.SortFunc(taken, func(a, b entry) int { return int(a.Epoch - b.Epoch) })
	for i := 1; i < len(taken); i++ {
		if taken[i].Owner != taken[i-1].Owner {
			n++
		}
	}
	return n
}

// lineWriter passes on what is written to it line by line.
type lineWriter struct {
	to   *journal
	rest []byte
}

func (w *lineWriter) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		line, rest, found := bytes.Cut(w.rest, []byte("\n"))
		if !found {
			return len(b), nil
		}
		_, _ = w.to.Write(line) // which never fails
		w.rest = rest
	}
}
