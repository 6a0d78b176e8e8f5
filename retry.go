// Retries of the store's own statements: which errors are transient, how often, and the back-off.
// Conflicts are retried in aggregate.go.

package eventstore

import (
	"context"
	"errors"
	"math/rand/v2"
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
