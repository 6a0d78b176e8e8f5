// The transaction of one batch as handlers use it: emit, link, and the lease that must still be
// held.

package eventstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// batchTx is the transaction of one batch: what its handlers do, and how far they are.
type batchTx struct {
	inner   backendTx
	lease   *lease
	store   *Store
	name    string
	stopped bool
	wrote   bool  // events
	fault   error // what has ended the transaction, if it was not the handler
}

func (w *batchTx) sqlTx() (*sql.Tx, error) {
	if err := w.ensureHeld(); err != nil {
		return nil, err
	}
	tx, err := w.inner.sqlTx()
	w.noteFault(err)
	return tx, err
}

// noteFault keeps what has kept the transaction from beginning, which is not the handler's failure.
func (w *batchTx) noteFault(err error) {
	if transient(err) {
		w.fault = err
	}
}

// ensureHeld reports whether the transaction can still be committed: as far as is known here, or, if that was a
// while ago, as far as the database knows.
func (w *batchTx) ensureHeld() error {
	if !w.lease.lost() && w.lease.ctx.Err() == nil && w.lease.stale() {
		held, err := w.inner.holds(w.name, w.lease.epoch)
		switch {
		case err != nil:
			w.noteFault(err)
			return err
		case held:
			w.lease.confirm()
		default:
			w.lease.lose(ErrLeaseLost)
		}
	}
	if w.lease.lost() {
		return fmt.Errorf("%w: projection %q", ErrLeaseLost, w.name)
	}
	if w.fault != nil {
		return w.fault
	}
	return context.Cause(w.lease.ctx)
}

// append stores events in a stream, which it makes if it is not there, as part of the transaction.
func (w *batchTx) append(ctx context.Context, b Batch, complete bool) error {
	if err := w.ensureHeld(); err != nil {
		return err
	}
	inside, err := w.inner.backend()
	if err != nil {
		w.noteFault(err)
		return err
	}
	s := *w.store
	s.backend, s.inTx, s.appended = inside, true, newBroadcast()
	w.wrote = true
	err = s.appendBatch(ctx, b, complete)
	if errors.Is(err, ErrStreamNotFound) {
		if err := s.CreateStream(ctx, b.Stream, nil); err != nil && !errors.Is(err, ErrStreamExists) {
			return err
		}
		err = s.appendBatch(ctx, b, complete)
	}
	if conflict := (*ConflictError)(nil); errors.As(err, &conflict) && w.raced(ctx, &s, b) {
		err = fmt.Errorf("%w: %w", ErrRetryTx, err)
	}
	if errors.Is(err, ErrRetryTx) {
		w.fault = err
	}
	return err
}

func (s *Store) appendBatch(ctx context.Context, b Batch, complete bool) error {
	var err error
	if complete {
		_, err = s.Append(ctx, b.Stream, b.AggregateID, b.Expected, b.Events...)
	} else {
		_, err = s.appendThrough(ctx, s.opts.Middleware, b)
	}
	return err
}

// raced reports whether a conflict is one of versions only, which another try gets past.
func (w *batchTx) raced(ctx context.Context, s *Store, b Batch) bool {
	a := &appendRequest{stream: b.Stream, aggregateID: b.AggregateID, rows: make([]record, len(b.Events))}
	for i := range b.Events {
		a.rows[i].id = b.Events[i].ID
	}
	v, err := s.backend.diagnose(ctx, a)
	return err == nil && len(v.stored) == 0
}

// park sets an event aside; without an error text it waits behind another of its aggregate.
func (w *batchTx) park(r *record, errText string) error {
	err := w.inner.park(w.name, parkedRow{r.position, r.stream, r.aggregateID, errText})
	w.noteFault(err)
	return err
}

// linkID names the link of an event to a stream, so that linking again links nothing twice.
func linkID(event uuid.UUID, stream string) uuid.UUID { return uuid.NewSHA1(event, []byte(stream)) }
