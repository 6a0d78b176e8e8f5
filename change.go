// Change: the policies for a definition that wants other events than those that were taken in before, and
// the errors of one that can't go on. runner_change.go carries them out.

package eventstore

import "fmt"

// Change says what a run does whose definition wants events that an earlier definition of the same
// name and version has passed over.
type Change int

const (
	// RefuseChange has Run and CatchUp return [ErrProjectionChanged], which names the first such event.
	RefuseChange Change = iota
	// RebuildOnChange begins at the first event again, as a reset does.
	RebuildOnChange
	// ContinueOnChange goes on from the projection's position: events passed over stay out.
	ContinueOnChange
)

func (c Change) String() string {
	switch c {
	case RefuseChange:
		return "refuse"
	case RebuildOnChange:
		return "rebuild"
	case ContinueOnChange:
		return "continue"
	}
	return fmt.Sprintf("Change(%d)", int(c))
}

// changedError is an ErrProjectionChanged: the definition can't run as it is.
type changedError struct{ why string }

func (e *changedError) Error() string        { return ErrProjectionChanged.Error() + ": " + e.why }
func (e *changedError) Is(target error) bool { return target == ErrProjectionChanged }

const whatToDo = "set OnChange to RebuildOnChange or ContinueOnChange, raise Version, or call Store.AcceptProjection"

// barredError ends the hold on a lease of a definition that is older than the stored one, before the first
// event that only the stored one wants.
type barredError struct {
	event record
	wants string // the hash of the stored set
	after Position
}

func (e *barredError) Error() string {
	return fmt.Sprintf("eventstore: stands by before event %d, %q of stream %q, which a newer definition takes in and this one does not", e.event.position, e.event.name, e.event.stream)
}
