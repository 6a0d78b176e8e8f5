// Retries of the store's own statements: which errors are transient, how often, and the back-off.
// Conflicts are retried in aggregate.go.

package eventstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"
)

// maxRetries bounds how often an append is repeated for reasons that are not the caller's; with
// the back-off this is more than ten seconds.
const maxRetries = 150

// transient reports whether an error need not come back when the database is asked again. It is for
// callers whose context has not ended: a deadline that was exceeded then is one of the driver, which
// could not reach the server in its time.
func transient(err error) bool {
	if terminal(err) {
		return false
	}
	return errors.Is(err, errRetry) || errors.Is(err, errLost) || errors.Is(err, errUnavailable) || errors.Is(err, ErrRetryTx) ||
		errors.Is(err, context.DeadlineExceeded)
}

// lostRace reports whether an error inside a transaction says that it can't be committed, and can be run
// again from its beginning.
func lostRace(err error) bool {
	return errors.Is(err, errRetry) || errors.Is(err, errLost) || errors.Is(err, ErrRetryTx)
}

// denied reports whether the database will never take a statement of the store's own, which is nothing
// that an event or a handler is to blame for: rights are missing, say.
func denied(err error) bool { return errors.Is(err, errDenied) }

// terminal reports whether err says that a handler has failed for good. What the handler's own error wraps,
// which may be anything, means nothing then.
func terminal(err error) bool {
	var p *ProjectionError
	return errors.As(err, &p)
}

// backOff waits before another attempt: up to 2^attempt milliseconds and never more than 100,
// with full jitter so that those who collided part ways.
func backOff(ctx context.Context, attempt int) error {
	return sleep(ctx, rand.N(min(100*time.Millisecond, time.Millisecond<<min(attempt, 10))))
}

// retries remembers why a call was retried.
type retries struct {
	last error // nil: it was not

	text   string // of the refusal
	actual int64  // the aggregate's version then
	same   int    // refusals in a row with this text, at this version
}

// maxSameRefusals is how often one entry of a unique key refuses an append until it can't be the store's.
const maxSameRefusals = 5

// refused returns the error of an append that was refused and has found out why, with the aggregate's
// version. If that is errRetry, a race that is over, the error tells what the database said. What keeps
// refusing it in the same words, while the aggregate stays as it is, is none of the store's keys: then
// the error is the database's.
func (r *retries) refused(refusal error, actual int64, why error) error {
	var said *refusedError
	//nolint:errorlint // only the bare error has nothing to tell
	if why != errRetry || !errors.As(refusal, &said) {
		r.text, r.same = "", 0
		return why
	}
	if text := said.err.Error(); text == r.text && actual == r.actual {
		r.same++
	} else {
		r.text, r.actual, r.same = text, actual, 1
	}
	if !said.own && r.same == maxSameRefusals {
		return &locatedError{"append", said.err}
	}
	return &statementError{"append", said.err, errRetry}
}

// ended returns the error of a call, and if a context has ended its retries also the last reason for
// them.
func (r *retries) ended(ctx context.Context, err error) error {
	if r.last == nil || ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
		return err
	}
	return &retriesEndedError{ctx.Err(), r.last}
}

// retriesEndedError is the error of a context, and of the database before that.
type retriesEndedError struct{ err, last error }

func (e *retriesEndedError) Error() string { return e.last.Error() + ": " + e.err.Error() }

// Unwrap leaves out that the last error could be retried: that is over.
func (e *retriesEndedError) Unwrap() []error {
	if said := errors.Unwrap(e.last); said != nil {
		return []error{e.err, said}
	}
	return []error{e.err}
}

// retryTx returns the ErrRetryTx that stands for err.
func retryTx(err error) error {
	return &retryTxError{strings.TrimPrefix(err.Error(), prefix), err}
}

// retryTxError is an ErrRetryTx.
type retryTxError struct {
	why string
	err error
}

func (e *retryTxError) Error() string { return ErrRetryTx.Error() + ": " + e.why }

func (e *retryTxError) Unwrap() error { return e.err }

func (e *retryTxError) Is(target error) bool { return target == ErrRetryTx }

// pauseAfter is how long to wait after a number of failures in a row: longer and longer, up to two
// seconds, with jitter.
func pauseAfter(failures int) time.Duration {
	longest := min(2*time.Second, 10*time.Millisecond<<min(failures, 10))
	return longest/2 + rand.N(longest/2)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
