// Batches: a runner that holds the lease reads sealed events, has its consumer take them in, and
// commits the checkpoint.

package eventstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"
)

// batcher follows the sealed order of events for as long as a runner holds the lease. It reads the
// next batch outside any transaction while the consumer takes in the one before. What handlers
// write and the checkpoint commit together, if the lease's epoch is still the runner's own.
type batcher struct {
	looker

	lease    *lease
	position Position // as stored
	state    []byte   // as stored
	replayTo Position // as stored
	parked   map[aggregateKey]bool
	failures int // since there was last progress
	losses   losses
	told     bool // ProjectionInfo.Error says why a try has failed
	noted    bool // that of this hold

	facts   factsOfTables
	singly  Position // up to which events' writes of Tables are not gathered
	misfits int      // how often in a row gathering has failed for nothing
}

// resume goes to where row says that the consumer is.
func (b *batcher) resume(ctx context.Context, row *projectionRow) error {
	if row.position < b.position {
		b.losses, b.singly = losses{}, 0 // it has been reset
	}
	b.position, b.state, b.replayTo = row.position, row.state, row.replayTo
	if err := b.restore(b.state); err != nil {
		return err
	}
	waiting, err := b.store.backend.parked(ctx, b.name)
	b.verdicts = nil
	if err == nil && row.judged {
		b.verdicts, err = b.store.backend.verdicts(ctx, b.name)
	}
	if err != nil {
		return err
	}
	b.parked = map[aggregateKey]bool{}
	for _, p := range waiting {
		b.parked[p.aggregate()] = true
	}
	if row.retry {
		return b.retryParked(ctx, waiting)
	}
	return nil
}

// follow takes in one batch after the other, and reads the next one meanwhile if it is there. It ends
// with errStopped at a target, unless that is noTarget.
func (b *batcher) follow(ctx context.Context, target Position) error {
	poll := newPoller(b.store.appended, b.poll)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var ahead *background[lookResult]
	defer func() {
		cancel()
		if ahead != nil {
			ahead.end()
		}
	}()
	checked := time.Now()
	for {
		if target != noTarget && b.position >= target {
			return errStopped
		}
		if ahead == nil {
			ahead = b.fetch(ctx, poll, b.position)
		}
		look := ahead
		ahead = nil
		next := look.wait()
		if next.err != nil {
			return next.err
		}
		if next.upTo == b.position && b.told {
			b.noteWell(ctx)
		}
		if next.upTo > b.position {
			poll.found()
			if next.more && (target == noTarget || next.upTo < target) {
				ahead = b.fetch(ctx, poll, next.upTo)
			}
			if err := b.process(ctx, next.rows, next.upTo); err != nil {
				return err
			}
			if next.barred != nil && (target == noTarget || b.position < target) {
				return b.stand(next.barred)
			}
			if !next.more && target == noTarget && len(next.rows) > 1 {
				if err := b.pace(ctx, next.began); err != nil {
					return err
				}
			}
			continue
		}
		if next.barred != nil {
			return b.stand(next.barred)
		}
		if err := poll.wait(ctx, next.settled); err != nil {
			return err
		}
		if time.Since(checked) >= b.poll {
			if err := b.check(ctx); err != nil {
				return err
			}
			checked = time.Now()
		}
	}
}

// stand returns the error that ends the hold on the lease before an event.
func (b *batcher) stand(at *record) error {
	return &barredError{event: *at, wants: b.bar.hash(), after: b.position}
}

// pace lets events gather before the next look, if more than one came at once and nobody is waiting
// for them: each batch costs a look, a page and a transaction, which appends have to share the
// database with, however few events it has.
func (b *batcher) pace(ctx context.Context, began time.Time) error {
	t := time.NewTimer(time.Until(began.Add(min(paceTime, b.poll))))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-b.store.progress.awaited():
	case <-t.C:
	}
	return ctx.Err()
}

// check finds out whether the lease is still held, where no checkpoint does.
func (b *batcher) check(ctx context.Context) error {
	row, found, err := b.store.backend.projection(ctx, b.name)
	if err == nil && (!found || row.epoch != b.lease.epoch) {
		err = ErrLeaseLost
	}
	return err
}

// process takes in a batch, whatever becomes of single events, and moves the checkpoint to upTo.
func (b *batcher) process(ctx context.Context, rows []record, upTo Position) error {
	for {
		if attempt := b.losses.attempt(rows); attempt > 0 && b.verdict(&rows[0]) == "" {
			if err := b.handleFailure(ctx, rows[:1], b.losses.err, attempt); err != nil {
				return err
			}
			rows = rows[1:]
			continue
		}
		part, to := rows, upTo
		if n := b.losses.limit(rows); n < len(rows) {
			part, to = rows[:n], rows[n-1].position
		}
		done, failure, err := b.attempt(ctx, part, to)
		if err != nil {
			return b.lost(ctx, part, err)
		}
		if failure == nil {
			b.losses.passed(done)
			if done == len(rows) {
				return nil
			}
			rows = rows[done:]
			continue
		}
		if done == unknown {
			for i := range part {
				if err := b.process(ctx, rows[i:i+1], rows[i].position); err != nil {
					return err
				}
			}
			rows = rows[len(part):]
			continue
		}
		if done > 0 {
			// What went well before was undone with the rest: once more, by itself.
			if err := b.process(ctx, rows[:done], rows[done-1].position); err != nil {
				return err
			}
			rows = rows[done:]
		}
		if err := b.handleFailure(ctx, rows[:1], failure, 1); err != nil {
			return err
		}
		rows = rows[1:]
	}
}

func (b *batcher) begin(ctx context.Context) *batchTx {
	return &batchTx{ctx: ctx, inner: b.store.backend.begin(ctx), store: b.store, lease: b.lease, name: b.name, after: b.position, replayTo: b.replayTo, due: time.Now().Add(b.term / 2)}
}

// unknown is how many events went well when it turned out only at the commit that one did not: a
// handler has hidden an error of its statement, or a deferred constraint is broken, or the state
// can't be encoded.
const unknown = -1

// attempt handles events and commits, or does neither. A failure is a handler's; done is how many
// events went well before it, or unknown.
//
// If gathered writes of Tables fail, it is not known whose. Then the events are handled once more, and each write
// is made at once, so that the handler gets its error. So it is for the rest of the batch, which would fail again.
// If nothing fails then, it is the gathering that does not suit the handlers: they get over the error, or the
// table takes the writes only one by one. Then it is not tried for the next batches, for more of them each time.
func (b *batcher) attempt(ctx context.Context, rows []record, upTo Position) (done int, failure, err error) {
	done, failure, err = b.tryBatch(ctx, rows, upTo)
	gathered := (*gatheredError)(nil)
	if !errors.As(err, &gathered) {
		if failure == nil && err == nil && len(rows) > 0 && rows[0].position > b.singly {
			b.misfits = 0
		}
		return done, failure, err
	}
	b.singly = max(b.singly, rows[len(rows)-1].position)
	if done, failure, err = b.tryBatch(ctx, rows, upTo); failure == nil && err == nil && done == len(rows) {
		b.misfits++
		b.singly += Position(len(rows)) << min(b.misfits, 10)
		b.store.opts.Logger.InfoContext(ctx, "writes of tables fail only together", "projection", b.name, "owner", b.lease.owner, "error", gathered.err)
	}
	return done, failure, err
}

// gatheredError ends the attempt of a batch whose gathered writes have failed.
type gatheredError struct{ err error }

func (e *gatheredError) Error() string { return e.err.Error() }

func (b *batcher) tryBatch(ctx context.Context, rows []record, upTo Position) (done int, failure, err error) {
	tx := b.begin(ctx)
	if len(rows) > 0 && rows[0].position > b.singly {
		tx.gathering = &gathering{facts: &b.facts}
	}
	defer tx.inner.rollback()
	defer func() {
		if errors.Is(err, ErrLeaseLost) && tx.current != nil && time.Now().After(tx.due) {
			b.losses.slow = tx.current.position
		}
	}()
	if len(rows) > 0 {
		if err := b.keepLease(tx, rows); err != nil {
			return 0, nil, err
		}
		if done, failure = b.handle(ctx, tx, rows); failure != nil {
			return b.undo(ctx, tx, done, failure)
		}
		if done < len(rows) && done > 0 {
			upTo = rows[done-1].position
		}
		if err := tx.flush(); err != nil {
			return b.undo(ctx, tx, 0, err)
		}
	}
	switch err := b.finish(tx, upTo); {
	case err == nil && tx.stopped:
		return done, nil, errStopped
	case err == nil:
		return done, nil, nil
	case transient(err) || errors.Is(err, ErrLeaseLost) || denied(err) || len(rows) == 0:
		return 0, nil, err
	case len(rows) == 1:
		return b.undo(ctx, tx, 0, err)
	default:
		return b.undo(ctx, tx, unknown, err)
	}
}

// keepLease keeps the lease for as long as the transaction lasts, where an event has been lost to
// another runner because its handler took longer than a lease, and nothing renewed that meanwhile: a
// pool of one connection has none left. Others wait for the transaction then, also if the handler hangs.
func (b *batcher) keepLease(tx *batchTx, rows []record) error {
	if len(rows) > 1 || rows[0].position != b.losses.slow {
		return nil
	}
	held, err := tx.inner.keepLease(b.name, b.lease.epoch, b.term)
	if err == nil && !held {
		b.lease.lose(ErrLeaseLost)
		err = ErrLeaseLost
	}
	return err
}

// handle has the consumer take in events, and sets those aside that stand behind a parked one of
// their aggregate.
func (b *batcher) handle(ctx context.Context, tx *batchTx, rows []record) (done int, err error) {
	for done < len(rows) {
		next := done
		for next < len(rows) && !b.waits(tx, &rows[next]) && b.verdict(&rows[next]) == "" {
			next++
		}
		if next > done {
			n, err := b.consumer.handle(tx.inner.handlerContext(ctx), tx, rows[done:next])
			if done += n; err != nil || tx.stopped || done < next {
				return done, err
			}
		}
		if next < len(rows) {
			if err := b.setAside(tx, &rows[next]); err != nil {
				return done, err
			}
			done++
		}
	}
	return done, nil
}

// waits reports whether an event has to be set aside, since an earlier one of its aggregate is.
func (b *batcher) waits(tx *batchTx, r *record) bool {
	key := aggregateKey{r.stream, r.aggregateID}
	return b.parked[key] || tx.parked[key]
}

// undo takes back what handlers have done, and says whether the failure was theirs. It is not if the
// store's own statements have failed, or if the database has undone the transaction.
func (b *batcher) undo(ctx context.Context, tx *batchTx, done int, failure error) (int, error, error) {
	gathered := tx.gathering.failure()
	if gathered != nil {
		failure = gathered // which the handler may have hidden
	}
	broken := tx.inner.databaseFault(failure)
	if tx.fault != nil {
		broken = tx.fault
	}
	tx.inner.rollback()
	if ctx.Err() != nil {
		return 0, nil, context.Cause(ctx)
	}
	if broken != nil {
		return 0, nil, broken
	}
	if err := b.restore(b.state); err != nil {
		return 0, nil, err
	}
	if gathered != nil {
		return 0, nil, &gatheredError{gathered}
	}
	if done > 0 && (tx.unclear || tx.inner.isAftermath(failure)) {
		done = unknown
	}
	return done, failure, nil
}

// finish commits a transaction together with the checkpoint behind it.
func (b *batcher) finish(tx *batchTx, upTo Position) error {
	state, err := b.consumer.finish(tx)
	if err != nil {
		return err
	}
	if err := b.commit(tx, checkpoint{position: upTo, state: state, judged: b.judged(upTo)}); err != nil {
		return err
	}
	b.position, b.failures, b.told = upTo, 0, false
	maps.Copy(b.parked, tx.parked)
	if state != nil {
		b.state = state
	}
	if tx.wrote {
		b.store.appended.publish()
	}
	b.store.progress.publish()
	return nil
}

// judged reports whether there are verdicts on events from the stored position on up to another.
func (b *batcher) judged(upTo Position) bool {
	for at := range b.verdicts {
		if b.position < at && at <= upTo {
			return true
		}
	}
	return false
}

// commit commits a transaction, if the lease is still this runner's.
func (b *batcher) commit(tx *batchTx, c checkpoint) error {
	c.name, c.epoch, c.term = b.name, b.lease.epoch, b.term
	held, err := tx.inner.commit(c)
	switch {
	case err != nil:
		return err
	case !held:
		b.lease.lose(ErrLeaseLost)
		return ErrLeaseLost
	}
	b.lease.confirm()
	return nil
}

func (b *batcher) restore(state []byte) error {
	if err := b.consumer.restore(state); err != nil {
		return ofState(b.name, err)
	}
	return nil
}

// ofState is an error of a projection's state.
func ofState(name string, err error) error {
	return within(fmt.Sprintf("state of projection %q", name), err)
}
