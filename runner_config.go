// What projections and relays have in common: their configuration, and the consumer that takes in
// events.

package eventstore

import (
	"context"
	"errors"
	"strings"
	"time"
)

// runnerConfig is what projections and relays have in common.
type runnerConfig struct {
	name      string
	kind      runnerKind // "": of whatever kind it is
	from      Selection
	names     []string   // under which wanted events are stored; nil: any
	wanted    *wantedSet // what is kept of the definition; nil with kind ""
	after     Position   // where the first run begins, or Latest
	onChange  Change
	batchSize int
	poll      time.Duration
	term      time.Duration // of the lease
	consumer  consumer
	readModel ReadModel
}

const (
	noTarget Position = -1

	defaultBatchSize = 1000
	defaultPoll      = 500 * time.Millisecond

	releaseTime = time.Second
)

// Latest is the After of a projection or relay that begins behind what was there before it: it stands for the position that is sealed when it first runs.
const Latest Position = -1

// checkDefined finds what is wrong with the name and version of a definition, and returns the name of its
// row; kind names it in errors.
func checkDefined(kind, name string, version int) (row string, err error) {
	if err := checkName(kind+".Name", name); err != nil {
		return "", err
	}
	row = rowName(name, version)
	switch {
	case strings.Contains(name, "@"):
		return "", invalid("%s.Name %q contains \"@\", which separates a name from its version", kind, name)
	case version < 0:
		return "", invalid("%s.Version %d is negative", kind, version)
	case len(row) > maxName:
		return "", invalid("%s.Name and Version, %.40q…, have %d bytes together, more than %d", kind, row, len(row), maxName)
	}
	return row, nil
}

// check finds what is wrong with a definition; kind names it in errors.
func (c *runnerConfig) check(kind string) error {
	if err := checkFrom(kind+".From", c.from); err != nil {
		return err
	}
	switch {
	case c.after < Latest:
		return invalid("%s.After %d: want a position, or Latest", kind, c.after)
	case c.onChange < RefuseChange || c.onChange > ContinueOnChange:
		return invalid("%s.OnChange %d: want RefuseChange, RebuildOnChange or ContinueOnChange", kind, c.onChange)
	case c.batchSize < 0:
		return invalid("%s.BatchSize %d", kind, c.batchSize)
	case c.poll < 0:
		return invalid("%s.Poll %v", kind, c.poll)
	case c.term != 0 && c.term < shortestLease:
		return invalid("%s.Lease %v: want at least %v", kind, c.term, shortestLease)
	}
	return nil
}

// errStopped ends a run that has been asked to end, or has reached its target.
var errStopped = errors.New("eventstore: stopped")

// consumer takes in the events of batches: a projection handles them, a relay publishes them.
type consumer interface {
	// restore sets the state to one that was stored; nil: to the one before the first event.
	restore(state []byte) error
	// handle takes in events, as part of w, and returns how many of them went well.
	handle(ctx context.Context, w *batchTx, rows []record) (done int, err error)
	// finish writes into w what is left to be written, and returns the state as it is to be stored, or nil
	// if there is none or it has not changed.
	finish(w *batchTx) (state []byte, err error)
	// decide says what becomes of an event on which handle has failed.
	decide(ctx context.Context, r *record, err error, attempt int) ErrorAction
	// fatal is the error that ends the run if that is Fail.
	fatal(r *record, err error) error
}
