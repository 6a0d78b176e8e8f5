// Failing events: retried, skipped, parked, or the end of the run, as an ErrorAction says; and
// parked events that are tried again.

package eventstore

import (
	"cmp"
	"context"
	"fmt"
	"strings"
)

// handleFailure does with an event that has failed what the definition says.
func (b *batcher) handleFailure(ctx context.Context, one []record, failure error) error {
	ev := &one[0]
	for attempt := 1; ; attempt++ {
		action := b.consumer.decide(ctx, ev, failure, attempt)
		b.store.opts.Logger.WarnContext(ctx, "projection failed on an event", "projection", b.name, "position", ev.position, "attempt", attempt, "action", action, "error", failure)
		switch action {
		case Retry:
			b.noteFailure(ctx, failure)
			if err := sleep(ctx, pauseAfter(attempt)); err != nil {
				return err
			}
			var err error
			if _, failure, err = b.attempt(ctx, one, ev.position); err != nil || failure == nil {
				return err
			}
		case Skip:
			return b.finish(b.begin(ctx), ev.position)
		case Park:
			tx := b.begin(ctx)
			defer tx.inner.rollback()
			if err := tx.park(ev, errorText(failure)); err != nil {
				return err
			}
			if err := b.finish(tx, ev.position); err != nil {
				return err
			}
			b.parked[aggregateKey{ev.stream, ev.aggregateID}] = true
			return nil
		default:
			return b.consumer.fatal(ev, failure)
		}
	}
}

// noteFailure lets it be seen from elsewhere why a runner does not get on. That it can't must not
// keep the runner from trying again.
func (b *batcher) noteFailure(ctx context.Context, failure error) {
	if err := b.store.backend.noteError(ctx, b.name, b.lease.epoch, errorText(failure)); err != nil && ctx.Err() == nil {
		b.store.opts.Logger.WarnContext(ctx, "error not stored", "projection", b.name, "owner", b.lease.owner, "error", err)
	}
}

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
	clear(b.parked)
	for i := range waiting {
		if !b.parked[aggregateKey{waiting[i].stream, waiting[i].aggregateID}] {
			if err := b.retryOne(ctx, &waiting[i]); err != nil {
				return err
			}
		}
	}
	tx := b.begin(ctx)
	defer tx.inner.rollback()
	return b.commit(tx, checkpoint{position: b.position, resumed: true})
}

func (b *batcher) retryOne(ctx context.Context, p *parkedRow) error {
	rows, _, err := b.store.backend.readPage(ctx, &page{from: FromAll(), after: p.position - 1, before: p.position + 1, limit: 1})
	if err != nil {
		return err
	}
	tx := b.begin(ctx)
	defer func() { tx.inner.rollback() }()
	if len(rows) > 0 { // or else it has been deleted
		if _, failure := b.consumer.handle(tx.inner.handlerContext(ctx), tx, rows); failure != nil {
			if _, failure, err = b.undo(ctx, tx, 0, failure); err != nil {
				return err
			}
			b.parked[aggregateKey{p.stream, p.aggregateID}] = true
			tx = b.begin(ctx)
			if err := tx.park(&rows[0], errorText(failure)); err != nil {
				return err
			}
			return b.finish(tx, b.position)
		}
	}
	if err := tx.inner.unpark(b.name, p.position); err != nil {
		return err
	}
	if err := b.finish(tx, b.position); err != nil {
		return err
	}
	if tx.stopped {
		return errStopped
	}
	return nil
}
