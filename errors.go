// Errors: the sentinels to branch on, and the typed errors that carry data.

package eventstore

import (
	"errors"
	"fmt"
	"strings"
)

// Errors to branch on with [errors.Is]. Errors of the database itself are wrapped and reach the
// caller through [errors.As] and [errors.Is] like the context's own.
var (
	// ErrConflict is what every [*ConflictError] is.
	ErrConflict = errors.New("eventstore: version conflict")

	// ErrStreamExists says that a stream of this name is there already.
	ErrStreamExists = errors.New("eventstore: stream exists")

	// ErrStreamNotFound says that no stream of this name exists; streams are made by
	// [Store.CreateStream], never by an append.
	ErrStreamNotFound = errors.New("eventstore: stream not found")

	// ErrAggregateNotFound says that an aggregate has no events.
	ErrAggregateNotFound = errors.New("eventstore: aggregate not found")

	// ErrUnknownEvent says that nothing in a list of folds, or not the type asked for, goes by
	// the event's name.
	ErrUnknownEvent = errors.New("eventstore: unknown event")

	// ErrUnknownCommand says that no entry of [Aggregate].Commands takes the command's type.
	ErrUnknownCommand = errors.New("eventstore: unknown command")

	// ErrProjectionNotFound says that no projection of this name has ever run, or that it has been
	// deleted, be it that its read model is still to be dropped.
	ErrProjectionNotFound = errors.New("eventstore: projection not found")

	// ErrProjectionChanged is returned by runs of a definition that wants events which earlier definitions of
	// the same name and version have passed over. See [Projection].OnChange.
	ErrProjectionChanged = errors.New("eventstore: the projection's definition has changed")

	// ErrEventNotFound is returned when no event has the given ID, or is parked at the given position.
	ErrEventNotFound = errors.New("eventstore: event not found")

	// ErrDocumentNotFound is returned by [Documents.Get] when there is no document of that key.
	ErrDocumentNotFound = errors.New("eventstore: document not found")

	// ErrLeaseLost says that another runner has taken a projection over. [Step.Emit],
	// [Step.LinkTo] and [Step.Tx] return it; the transaction they belong to can't commit.
	ErrLeaseLost = errors.New("eventstore: lease lost")

	// ErrRetryTx says that the caller's transaction has met a deadlock, a serialisation failure
	// or a lost position: roll it back and run it again. It wraps what the database has said, if anything.
	ErrRetryTx = errors.New("eventstore: roll back and retry the transaction")

	// ErrInvalid says that an argument, an option or a definition can't be used; the text names
	// it. Nothing was stored. A state or metadata larger than the database takes in one statement are
	// ErrInvalid too.
	ErrInvalid = errors.New("eventstore: invalid")

	// ErrNotInstalled says that the store's tables are missing or older than this package. Any call
	// on a store in a database can return it until [Store.Install] has been called.
	ErrNotInstalled = errors.New("eventstore: tables are missing or out of date: call Store.Install first")

	// ErrInconsistent is returned when the tables can't be as the store has left them, so that events would be
	// lost to projections: they were emptied or restored while the store was in use, or the generator of
	// positions or of stream ids has fallen behind what is stored. The text says what to do.
	ErrInconsistent = errors.New("eventstore: the tables are inconsistent")
)

// ConflictError says that an append found its aggregate at another version than expected, or, if
// Actual is as expected, the IDs of its events already in use for something else. Inside a caller's
// transaction that can also be a version which others have stored and the transaction can't see.
// [errors.Is] knows it as [ErrConflict]. Nothing of the append was stored.
type ConflictError struct {
	Stream, AggregateID string
	Expected            ExpectedVersion
	Actual              int64 // the aggregate's version; zero: it has no events
}

func (e *ConflictError) Error() string {
	why := ""
	if e.Expected.admits(e.Actual) {
		why = ", but an ID of the events is in use, or a version that the transaction can't see, or the aggregate was deleted and created again"
	}
	return fmt.Sprintf("%v: aggregate %q of stream %q: expected %s, is at version %d%s",
		ErrConflict, e.AggregateID, e.Stream, e.Expected, e.Actual, why)
}

// Is makes every *ConflictError an [ErrConflict].
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// ProjectionError says that a projection's handler failed for good on an event. The projection
// has taken in all events before it, and nothing of it; running it again tries again.
type ProjectionError struct {
	Name  string // the projection's
	Event Event
	Err   error // the handler's
}

func (e *ProjectionError) Error() string {
	return fmt.Sprintf("%sprojection %q: event %d, %q: %s", prefix, e.Name, e.Event.Position, e.Event.Name,
		strings.TrimPrefix(e.Err.Error(), prefix))
}

// Unwrap returns the handler's error.
func (e *ProjectionError) Unwrap() error { return e.Err }

// invalidError is an ErrInvalid that says what about which argument.
type invalidError struct{ err error }

func (e *invalidError) Error() string        { return ErrInvalid.Error() + ": " + e.err.Error() }
func (e *invalidError) Unwrap() error        { return e.err }
func (e *invalidError) Is(target error) bool { return target == ErrInvalid }

func invalid(format string, args ...any) error {
	return &invalidError{fmt.Errorf(format, args...)}
}

func inconsistent(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInconsistent, fmt.Errorf(format, args...))
}

// within says where err was found, behind the one prefix that the text of an error begins with.
func within(where string, err error) error {
	//nolint:errorlint // of an error that wraps one, the words around it must stay
	if e, ok := err.(*invalidError); ok {
		return invalid("%s: %w", where, e.err)
	}
	return &locatedError{where, err}
}

// locatedError says where another error was found. The other's own prefix is left out.
type locatedError struct {
	where string
	err   error
}

func (e *locatedError) Unwrap() error { return e.err }
func (e *locatedError) Error() string {
	return prefix + e.where + ": " + strings.TrimPrefix(e.err.Error(), prefix)
}

// unprefixed is an error in the middle of another's text.
type unprefixed struct{ error }

func (e unprefixed) Error() string { return strings.TrimPrefix(e.error.Error(), prefix) }
func (e unprefixed) Unwrap() error { return e.error }

// prefix begins the text of every error of this package.
const prefix = "eventstore: "
