// The transaction of one batch as handlers use it: emit, link, and the lease that must still be
// held.

package eventstore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// batchTx is the transaction of one batch: what its handlers do, and how far they are.
type batchTx struct {
	inner    backendTx
	lease    *lease
	store    *Store
	name     string
	after    Position              // of the checkpoint that is stored
	replayTo Position              // up to which events are replayed
	parked   map[aggregateKey]bool // by this transaction
	due      time.Time             // when to commit, with however many events of the batch
	current  *record               // in the hands of handlers, or the last that was
	stopped  bool
	wrote    bool  // events
	emits    bool  // the projection's own stream is there, and can't be deleted
	fault    error // what has ended the transaction, if it was not the handler
	unclear  bool  // what fails may be due to an event before the current one

	flushDocuments func() error // writes what is done to documents; nil: there are none

	ctx       context.Context
	gathering *gathering // of writes of Tables; nil: each is made at once
	shown     *record    // the event whose handler has been given the transaction
}

// sqlTx returns the transaction for a handler's own statements. As it may keep that until it returns, writes of
// Tables are made at once until then.
func (t *batchTx) sqlTx() (*sql.Tx, error) {
	t.shown = t.current
	return t.flushed()
}

// gather keeps a write of a Table, if it can wait.
func (t *batchTx) gather(ctx context.Context, w *tableWrite) (kept bool, err error) {
	if t.gathering == nil || t.current == nil || t.shown == t.current {
		return false, nil
	}
	if err := cmp.Or(ctx.Err(), t.gathering.failure()); err != nil {
		return false, err
	}
	tx, err := t.begun()
	if err != nil || !t.gathering.add(w) {
		return false, err
	}
	if t.gathering.full() {
		err = t.gathering.flush(t.ctx, tx)
	}
	return true, err
}

// flushed returns the transaction, in which all writes that were kept are made.
func (t *batchTx) flushed() (*sql.Tx, error) {
	tx, err := t.begun()
	if err == nil {
		err = t.gathering.flush(t.ctx, tx)
	}
	if err != nil {
		return nil, err
	}
	return tx, nil
}

// flush makes all writes that were kept, before the commit.
func (t *batchTx) flush() error {
	if t.gathering.empty() {
		return t.gathering.failure()
	}
	tx, err := t.inner.sqlTx()
	if err != nil {
		return err
	}
	return t.gathering.flush(t.ctx, tx)
}

// begun returns the transaction, which it begins.
func (t *batchTx) begun() (*sql.Tx, error) {
	if err := t.ensureHeld(); err != nil {
		return nil, err
	}
	tx, err := t.inner.sqlTx()
	if err == nil {
		err = t.inner.guard()
	}
	t.noteFault(err)
	if err != nil {
		return nil, err
	}
	return tx, nil
}

// noteFault keeps a failure of the store's own statements, which is not the handler's.
func (t *batchTx) noteFault(err error) {
	if transient(err) || denied(err) {
		t.fault = err
	}
}

// noteLoss is noteFault for failures inside the transaction. A context that has ended is perhaps the handler's.
func (t *batchTx) noteLoss(err error) {
	if lostRace(err) || errors.Is(err, errUnavailable) || denied(err) {
		t.fault = err
	}
}

// noteConflict keeps a conflict of a handler's command, which another try can get past.
func (t *batchTx) noteConflict(err error) { t.fault = retryTx(err) }

// ensureHeld returns an error if the transaction can't be committed any more: as far as is known
// here or, where that was a while ago, as the database knows.
func (t *batchTx) ensureHeld() error {
	if !t.lease.lost() && t.lease.ctx.Err() == nil && t.lease.stale() {
		held, err := t.inner.holds(t.name, t.lease.epoch)
		switch {
		case err != nil && !t.lease.lost(): // else it was lost meanwhile, which has ended the call
			t.noteFault(err)
			return err
		case held:
			t.lease.confirm()
		default:
			t.lease.lose(ErrLeaseLost)
		}
	}
	if t.lease.lost() {
		return fmt.Errorf("%w: projection %q", ErrLeaseLost, t.name)
	}
	if t.fault != nil {
		return t.fault
	}
	return context.Cause(t.lease.ctx)
}

// emit appends events to the projection's own stream, which it makes if it is not there, as part of
// the transaction.
func (t *batchTx) emit(ctx context.Context, b Batch) error {
	s, err := t.inside()
	if err != nil {
		return err
	}
	if !t.emits {
		if err := t.ownStream(ctx, s); err != nil {
			t.noteFault(err) // a deadlock, say, that the handler may hide
			return err
		}
		t.emits = true
	}
	return t.append(ctx, s, b)
}

// ownStream makes the stream of the projection's name, or finds out that the projection has made it.
func (t *batchTx) ownStream(ctx context.Context, s *Store) error {
	for range maxRetries {
		emittedBy, found, err := s.backend.streamEmitter(ctx, t.name)
		switch {
		case err != nil:
			return err
		case found && emittedBy != nil && *emittedBy != t.name:
			return invalid("projection %q can't emit to stream %q, which it has not made: rename one of them, or delete the stream", t.name, t.name)
		case found:
			return nil
		}
		if created, err := t.createStream(ctx, s, t.name); err != nil || created {
			return err
		}
	}
	return &statementError{"emit", fmt.Errorf("stream %q is made and deleted all the time", t.name), errRetry}
}

// createStream makes a stream that is the projection's own if it has its name.
func (t *batchTx) createStream(ctx context.Context, s *Store, name string) (created bool, err error) {
	emittedBy := ""
	if name == t.name {
		emittedBy = t.name
	}
	md, err := s.checkStream(ctx, name, nil)
	if err != nil {
		return false, err
	}
	at, err := s.now()
	if err != nil {
		return false, err
	}
	return s.backend.createStream(ctx, name, md.encode(), emittedBy, at)
}

// link puts an event into a stream, which it makes if it is not there, as part of the transaction.
func (t *batchTx) link(ctx context.Context, b Batch) error {
	s, err := t.inside()
	if err != nil {
		return err
	}
	return t.append(ctx, s, b)
}

// commands returns a store for a handler's commands and appends, which are part of the transaction.
func (t *batchTx) commands() (*Store, error) {
	s, err := t.inside()
	if err != nil {
		return nil, err
	}
	t.wrote = true // as far as is known
	s.conflicted, s.flush = t.noteConflict, t.flushDocuments
	return s, nil
}

// inside returns a store whose calls are part of the transaction.
func (t *batchTx) inside() (*Store, error) {
	if err := t.ensureHeld(); err != nil {
		return nil, err
	}
	inside, err := t.inner.backend(t.noteLoss)
	if err != nil {
		t.noteFault(err)
		return nil, err
	}
	return t.store.inside(inside, t.sqlTx), nil
}

func (t *batchTx) append(ctx context.Context, s *Store, b Batch) error {
	t.wrote = true
	_, err := s.Append(ctx, b.Stream, b.AggregateID, b.Expected, b.Events...)
	if errors.Is(err, ErrStreamNotFound) {
		if _, err := t.createStream(ctx, s, b.Stream); err != nil {
			t.noteFault(err)
			return err
		}
		_, err = s.Append(ctx, b.Stream, b.AggregateID, b.Expected, b.Events...)
	}
	if conflict := (*ConflictError)(nil); errors.As(err, &conflict) && t.raced(ctx, s, b) {
		err = fmt.Errorf("%w: %w", ErrRetryTx, err)
	}
	t.noteFault(err)
	return err
}

// raced reports whether a conflict is one of versions only, which another try gets past.
func (t *batchTx) raced(ctx context.Context, s *Store, b Batch) bool {
	a := &appendRequest{stream: b.Stream, aggregateID: b.AggregateID, rows: make([]record, len(b.Events))}
	for i := range b.Events {
		a.rows[i].id = b.Events[i].ID
	}
	v, err := s.backend.diagnose(ctx, a)
	return err == nil && len(v.stored) == 0
}

// park sets an event aside; without an error text it waits behind another of its aggregate.
func (t *batchTx) park(r *record, errText string) error {
	row := parkedRow{position: r.position, stream: r.stream, aggregateID: r.aggregateID, errText: errText}
	err := t.inner.park(t.name, row)
	t.noteFault(err)
	if t.parked == nil {
		t.parked = map[aggregateKey]bool{}
	}
	t.parked[row.aggregate()] = true
	return err
}

// linkID names the link of an event to a stream, so that linking again links nothing twice.
func linkID(event uuid.UUID, stream string) uuid.UUID { return uuid.NewSHA1(event, []byte(stream)) }
