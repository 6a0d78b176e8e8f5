// Failing events: retried, skipped, parked, or the end of the run, as an ErrorAction says; and
// parked events that are tried again.

package eventstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// lost takes note of an attempt that did not fail because of what a handler did. It returns the error
// that ends the hold on the lease: whether the attempt was committed is only known after that.
func (b *batcher) lost(ctx context.Context, rows []record, err error) error {
	if transient(err) && ctx.Err() == nil && len(rows) > 0 && b.noteFailure(ctx, err) {
		b.losses.add(rows, err)
	}
	return err
}

// handleFailure does with an event that has failed what the definition says. attempt is how often it has.
func (b *batcher) handleFailure(ctx context.Context, one []record, failure error, attempt int) error {
	ev := &one[0]
	for ; ; attempt++ {
		var action ErrorAction
		action, failure = b.decide(ctx, ev, failure, attempt)
		b.logFailure(ctx, ev, failure, attempt, action)
		switch action {
		case Retry:
			b.noteFailure(ctx, failure)
			if err := sleep(ctx, pauseAfter(attempt)); err != nil {
				return err
			}
			// An operator may have decided on the event meanwhile.
			err := b.check(ctx)
			if err != nil {
				return err
			}
			if _, failure, err = b.attempt(ctx, one, ev.position); err != nil {
				return b.lost(ctx, one, err)
			}
			if failure == nil {
				return nil
			}
		case Skip:
			tx := b.begin(ctx)
			defer tx.inner.rollback()
			return b.finish(tx, ev.position)
		case Park:
			tx := b.begin(ctx)
			defer tx.inner.rollback()
			if err := tx.park(ev, errorText(failure)); err != nil {
				return err
			}
			if err := b.finish(tx, ev.position); err != nil {
				return err
			}
			return nil
		default:
			return b.consumer.fatal(ev, failure)
		}
	}
}

// decide asks the definition what becomes of an event. If it panics, the answer is Fail and the failure is both.
func (b *batcher) decide(ctx context.Context, ev *record, failure error, attempt int) (action ErrorAction, _ error) {
	err := survive(func() error {
		action = b.consumer.decide(ctx, ev, failure, attempt)
		return nil
	})
	if err != nil {
		return Fail, &undecidedError{failure, err}
	}
	return action, failure
}

// undecidedError is a failure about which OnError has panicked.
type undecidedError struct{ failure, panicked error }

func (e *undecidedError) Error() string {
	return e.failure.Error() + "; OnError: " + unprefixed{e.panicked}.Error()
}

func (e *undecidedError) Unwrap() []error { return []error{e.failure, e.panicked} }

func (b *batcher) logFailure(ctx context.Context, ev *record, failure error, attempt int, action ErrorAction) {
	args := []any{"projection", b.name, "position", ev.position, "attempt", attempt, "action", action, "error", failure}
	if p := (*PanicError)(nil); errors.As(failure, &p) {
		args = append(args, "stack", string(p.Stack))
	}
	b.store.opts.Logger.WarnContext(ctx, "projection failed on an event", args...)
}

// noteFailure shows in ProjectionInfo.Error why a runner does not get on, and reports whether it could:
// a database that can't do even that is not well.
func (b *batcher) noteFailure(ctx context.Context, failure error) bool {
	ctx, cancel := context.WithTimeout(ctx, noteTime)
	defer cancel()
	b.noted = true
	err := b.store.backend.noteError(ctx, b.name, b.lease.epoch, errorText(failure))
	if err == nil {
		b.told = true
		return true
	}
	if ctx.Err() == nil {
		b.store.opts.Logger.WarnContext(ctx, "error not stored", "projection", b.name, "owner", b.lease.owner, "error", err)
	}
	return false
}

// noteWell takes back what noteFailure has shown.
func (b *batcher) noteWell(ctx context.Context) {
	if b.store.backend.noteError(ctx, b.name, b.lease.epoch, "") == nil {
		b.told = false
	}
}

// noteTime is how long noteFailure tries.
const noteTime = 5 * time.Second

// errorText is an error's text as every database takes it: a handler's may hold bytes of whatever
// it has failed on. It is never empty, which would say that there was no error.
func errorText(err error) string {
	const most = 64 << 10
	text := err.Error()
	text = strings.ToValidUTF8(text[:min(most, len(text))], "\uFFFD")
	return cmp.Or(strings.ReplaceAll(text, "\x00", "\uFFFD"), fmt.Sprintf("%T", err))
}

// retryParked tries the events that have been set aside again, each aggregate's in order. What
// fails again stays, and what stands behind it.
func (b *batcher) retryParked(ctx context.Context, waiting []parkedRow) error {
	waiting = toRetry(waiting)
	for i := range waiting {
		delete(b.parked, waiting[i].aggregate())
	}
	for i := range waiting {
		if !b.parked[waiting[i].aggregate()] {
			if err := b.retryOne(ctx, &waiting[i]); err != nil {
				return err
			}
		}
	}
	tx := b.begin(ctx)
	defer tx.inner.rollback()
	return b.commit(tx, checkpoint{position: b.position, resumed: true})
}

// toRetry returns those parked events that are asked for, with all others of their aggregates.
func toRetry(waiting []parkedRow) []parkedRow {
	asked := map[aggregateKey]bool{}
	for i := range waiting {
		if waiting[i].retry {
			asked[waiting[i].aggregate()] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(waiting), func(p parkedRow) bool { return !asked[p.aggregate()] })
}

func (b *batcher) retryOne(ctx context.Context, p *parkedRow) error {
	rows, _, err := b.store.backend.readPage(ctx, &page{from: FromAll(), after: p.position - 1, before: p.position + 1, limit: 1})
	if err != nil {
		return err
	}
	if len(rows) > 0 && (b.bars(&rows[0]) || b.names != nil && !b.wanted.holds(rows[0].stream, rows[0].name)) {
		// Another definition has parked it, and has the handler.
		b.store.opts.Logger.WarnContext(ctx, "parked event not retried: the definition does not take it in", "projection", b.name, "owner", b.lease.owner, "position", p.position)
		b.parked[p.aggregate()] = true
		return nil
	}
	tx := b.begin(ctx)
	defer func() { tx.inner.rollback() }()
	var failure error
	if b.losses.attempt(rows) > 0 {
		failure = b.losses.err
		b.losses.size = 0 // the next retry is another turn
	} else if stopped, f, err := b.retryEvent(ctx, tx, rows, p.position); err != nil {
		return b.lost(ctx, rows, err)
	} else if f == nil && stopped {
		return errStopped
	} else if failure = f; failure == nil {
		return nil
	}
	b.parked[p.aggregate()] = true
	tx.inner.rollback()
	tx = b.begin(ctx)
	if err := tx.park(&rows[0], errorText(failure)); err != nil {
		return err
	}
	return b.finish(tx, b.position)
}

// retryEvent has a parked event handled; rows are empty if it has been deleted.
func (b *batcher) retryEvent(ctx context.Context, tx *batchTx, rows []record, at Position) (stopped bool, failure, err error) {
	if len(rows) > 0 {
		if err := b.keepLease(tx, rows); err != nil {
			return false, nil, err
		}
		if _, failure = b.consumer.handle(tx.inner.handlerContext(ctx), tx, rows); failure != nil {
			_, failure, err = b.undo(ctx, tx, 0, failure)
			return false, failure, err
		}
	}
	if err := tx.inner.unpark(b.name, at); err != nil {
		return false, nil, err
	}
	err = b.finish(tx, b.position)
	if err == nil || transient(err) || errors.Is(err, ErrLeaseLost) || denied(err) || len(rows) == 0 {
		return tx.stopped, nil, err
	}
	_, failure, err = b.undo(ctx, tx, 0, err)
	return false, failure, err
}

// setAside parks an event, or skips it if an operator has said so.
func (b *batcher) setAside(tx *batchTx, r *record) error {
	switch {
	case b.verdict(r) == controlSkip:
		b.store.opts.Logger.InfoContext(tx.lease.ctx, "event skipped", "projection", b.name, "owner", tx.lease.owner, "position", r.position)
		return nil
	case b.waits(tx, r):
		return tx.park(r, "")
	}
	b.store.opts.Logger.InfoContext(tx.lease.ctx, "event parked", "projection", b.name, "owner", tx.lease.owner, "position", r.position)
	return tx.park(r, "parked by an operator")
}
