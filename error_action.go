// ErrorAction: the policies for an event that a handler fails on. runner_failure.go carries them
// out; a relay always retries.

package eventstore

import (
	"context"
	"fmt"
)

// ErrorAction is what becomes of an event that a projection has failed on.
type ErrorAction int

const (
	// Fail ends the run with a [*ProjectionError].
	Fail ErrorAction = iota
	// Retry tries again, after a pause that grows with the attempts up to two seconds.
	Retry
	// Skip goes on as if the event had not been there.
	Skip
	// Park sets the event aside, and later ones of its aggregate behind it, and goes on with the
	// rest. See [Store.ParkedEvents].
	Park
)

func (a ErrorAction) String() string {
	switch a {
	case Fail:
		return "fail"
	case Retry:
		return "retry"
	case Skip:
		return "skip"
	case Park:
		return "park"
	}
	return fmt.Sprintf("ErrorAction(%d)", int(a))
}

// defaultOnError retries three times.
func defaultOnError(_ context.Context, _ Event, _ error, attempt int) ErrorAction {
	if attempt <= 3 {
		return Retry
	}
	return Fail
}
