// The rows of projections and relays as they pass the seam: leases, control by name, parked events, and
// what is shown of them.

package eventstore

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// leaseClaim is what a runner takes a lease with.
type leaseClaim struct {
	name, owner string
	kind        runnerKind
	readModel   bool   // the runner has a read model
	over        string // the hash of the stored set, if its holder has to give way to a wider one; or ""
	changing    bool   // the runner's definition is to become the stored one, if it is not refused
	term        time.Duration
}

// runnerKind is what a name belongs to.
type runnerKind string

const (
	kindProjection runnerKind = "projection"
	kindRelay      runnerKind = "relay"
	kindDocuments  runnerKind = "documents"
)

// owns returns an error if a name belongs to another kind than k, which may be "", whichever it is.
func (k runnerKind) owns(name string, row *projectionRow) error {
	if k == "" || row.kind == "" || k == row.kind {
		return nil
	}
	return invalid("%s %q: the name belongs to %s", k, name, row.kind.indefinite())
}

// indefinite returns the kind with its article.
func (k runnerKind) indefinite() string {
	if k == kindDocuments {
		return string(k)
	}
	return "a " + string(k)
}

// projectionRow is what is stored of a projection.
type projectionRow struct {
	kind       runnerKind // "": it has not run since an earlier version of this package made the row
	position   Position
	state      []byte // nil: none yet
	status     ProjectionStatus
	owner      string
	epoch      int64
	generation int64 // changes when all runs of the projection have to end
	held       bool  // the lease has not run out
	readModel  bool  // the last holder of the lease has a read model
	retry      bool  // parked events wait to be tried again
	emitted    bool  // of one to be deleted: with the stream that it has emitted
	errText    string
	began      Position // after which its first event is
	replayTo   Position // up to which events were sealed when it began or was last reset
	wants      string   // the hash of the stored wanted set; "": there is none
	paused     bool
	judged     bool // there are verdicts on events to come
	changing   bool // the holder's definition is to become the stored one
}

// free reports whether a runner can take the lease.
func (p *projectionRow) free(owner string) bool {
	switch p.status {
	case StatusIdle, StatusFailed, StatusStopping:
		return true
	}
	return !p.held || p.owner == owner
}

// ProjectionInfo describes a projection or a relay.
type ProjectionInfo struct {
	Name     string // "loans@2" for version 2 of "loans"
	Version  int    // from 1
	Status   ProjectionStatus
	Position Position // the last that it has taken in or passed over
	Lag      int64    // sealed position minus Position: an upper bound of the events to come, without counting
	Owner    string   // of the lease, as host/process/run; empty: the lease is free
	Parked   int      // events set aside

	// Error is why it has failed; while it runs, why its last attempt has, be it an event's failure or the
	// database's. It also tells why an older definition stands at an event that it does not know.
	// Empty: there is nothing wrong.
	Error string

	LeaseUntil time.Time // by the database's clock; zero: the lease is free

	// Verdicts is how many events [Store.SkipEvent] and [Store.ParkEvent] name that the projection has
	// not come to yet.
	Verdicts int

	// LastControl is the last control call that changed it. Zero: there was none.
	LastControl ProjectionControl
}

// ProjectionControl describes a control call, such as [Store.PauseProjection].
type ProjectionControl struct {
	Action   string    // "pause", "resume", "skip", "park", "retry", "drop", "accept", "stop", "reset" or "delete"
	Position Position  // of the event that the call named; zero: it named none
	By       string    // the process that made the call, as host/process/call
	At       time.Time // by the database's clock
}

// ProjectionStatus says what becomes of a projection.
type ProjectionStatus string

const (
	StatusIdle      ProjectionStatus = "idle"      // the lease is free
	StatusRunning   ProjectionStatus = "running"   // a runner holds the lease
	StatusStopping  ProjectionStatus = "stopping"  // its runner can't write any more, and has not noticed yet
	StatusResetting ProjectionStatus = "resetting" // its next runner empties its read model
	StatusDeleting  ProjectionStatus = "deleting"  // its next runner drops its read model
	StatusFailed    ProjectionStatus = "failed"    // a handler has failed for good
	StatusPaused    ProjectionStatus = "paused"    // its runs stand by until [Store.ResumeProjection]
)

// seen returns what is stored as it is to be seen: a runner whose lease has run out is none.
func (p ProjectionInfo) seen(held, paused bool) ProjectionInfo {
	p.Version = versionOf(p.Name)
	if !held {
		p.Owner, p.LeaseUntil = "", time.Time{}
		if p.Status == StatusRunning || p.Status == StatusStopping {
			p.Status = StatusIdle
		}
	}
	if paused && p.Status != StatusResetting && p.Status != StatusDeleting {
		p.Status = StatusPaused
	}
	if p.LastControl.Action == "" {
		p.LastControl = ProjectionControl{}
	}
	return p
}

// rowName names the row of a version of a projection: the first is the name itself.
func rowName(name string, version int) string {
	if version <= 1 {
		return name
	}
	return name + "@" + strconv.Itoa(version)
}

// versionOf returns the version that a row's name tells.
func versionOf(row string) int {
	name, digits, _ := strings.Cut(row, "@")
	if version, err := strconv.Atoi(digits); err == nil && rowName(name, version) == row {
		return version
	}
	return 1
}

// lag is how many positions a projection is behind the sealed one. It may be before it, if another
// process has sealed further.
func (p *ProjectionInfo) lag(sealed Position) int64 { return max(0, int64(sealed-p.Position)) }

// control is a change to a projection that is asked for by its name. Each begins an epoch, so that
// the holder of the lease can't commit any more without having seen it.
type control struct {
	kind     controlKind
	by       string   // who asks for it
	position Position // of the event that it is about; zero: of none, or of all
	emitted  bool     // of a delete: with the stream that it has emitted
	sealed   Position // of a reset: the sealed position
}

// controlKind is what a control call does, by its name in [ProjectionControl].
type controlKind string

const (
	controlStop       controlKind = "stop"
	controlReset      controlKind = "reset"
	controlDelete     controlKind = "delete"
	controlPause      controlKind = "pause"
	controlResume     controlKind = "resume"
	controlAccept     controlKind = "accept"
	controlSkip       controlKind = "skip"
	controlPark       controlKind = "park"
	controlRetry      controlKind = "retry"
	controlDropParked controlKind = "drop"
)

// parkedRow is an event that has been set aside.
type parkedRow struct {
	position            Position
	stream, aggregateID string
	errText             string // empty: it waits behind another
	retry               bool   // it has to be tried again
}

func (p *parkedRow) aggregate() aggregateKey { return aggregateKey{p.stream, p.aggregateID} }

// errTakenIn is the error of a verdict on an event that comes too late.
func errTakenIn(name string, at, position Position) error {
	return invalid("event %d is in already: projection %q stands at %d", at, name, position)
}

// errRetryOf returns why one parked event can't be tried again, if there is a reason: it is not there, or
// another one of its aggregate comes first.
func errRetryOf(parked []parkedRow, at Position) (*parkedRow, error) {
	i := slices.IndexFunc(parked, func(p parkedRow) bool { return p.position == at })
	if i < 0 {
		return nil, fmt.Errorf("%w: no event is parked at position %d", ErrEventNotFound, at)
	}
	first := slices.IndexFunc(parked, func(p parkedRow) bool { return p.aggregate() == parked[i].aggregate() })
	if first < i {
		return nil, invalid("event %d waits for the parked event %d of its aggregate: retry that one", at, parked[first].position)
	}
	return &parked[i], nil
}

// checkpoint is how far a projection is.
type checkpoint struct {
	name     string
	epoch    int64
	position Position
	state    []byte // nil: as it was
	term     time.Duration
	resumed  bool // what had been asked for has been done
	removed  bool // the projection, with its parked events
	emptied  bool // what it has emitted has been deleted
	judged   bool // verdicts up to the position have been carried out
}
