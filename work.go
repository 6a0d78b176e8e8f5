package eventstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// projectionBackend is the part of a backend that keeps projections.
type projectionBackend interface {
	// lastPosition returns the highest position that can be seen, whatever the order below it.
	lastPosition(context.Context) (Position, error)

	// createProjection makes a projection's row, unless there is one.
	createProjection(ctx context.Context, name string) error
	projection(ctx context.Context, name string) (row projectionRow, found bool, err error)
	projections(context.Context) ([]ProjectionInfo, error)

	// takeLease takes the lease that row has seen free, and begins the next epoch.
	takeLease(ctx context.Context, name, owner string, row *projectionRow, readModel bool, term time.Duration) (taken bool, err error)
	renewLease(ctx context.Context, name string, epoch int64, term time.Duration) (held bool, err error)
	releaseLease(ctx context.Context, name, owner string, status ProjectionStatus, problem string) error

	// failedTry notes why the last try of a runner has failed, until its next checkpoint, if the epoch
	// is still this.
	failedTry(ctx context.Context, name string, epoch int64, problem string) error

	// control carries out what somebody has asked for by a projection's name.
	control(ctx context.Context, name string, c control) (found bool, err error)
	removeProjection(ctx context.Context, name string, epoch int64) error
	parked(ctx context.Context, name string) ([]parkedRow, error)

	// unit begins what a runner does for one batch. The context ends it.
	unit(context.Context) unit
}

// projectionRow is what is stored of a projection.
type projectionRow struct {
	position   Position
	state      []byte // nil: none yet
	status     ProjectionStatus
	owner      string
	epoch      int64
	generation int64 // changes when all runs of the projection have to end
	held       bool  // the lease has not run out
	readModel  bool  // whoever had the lease last has a read model
	retry      bool  // parked events wait to be tried again
	problem    string
}

// free says whether a runner can take the lease.
func (p *projectionRow) free(owner string) bool {
	switch p.status {
	case StatusIdle, StatusFailed, StatusStopping:
		return true
	}
	return !p.held || p.owner == owner
}

// control is a change that somebody makes to a projection from outside. Each of them begins an
// epoch, so that whoever has the lease can't commit any more without having seen it.
type control struct {
	kind     controlKind
	position Position // of the event to drop
}

type controlKind int

const (
	controlStop controlKind = iota
	controlReset
	controlDelete
	controlRetryParked
	controlDropParked
)

// parkedRow is an event that has been set aside.
type parkedRow struct {
	position            Position
	stream, aggregateID string
	problem             string // empty: it waits behind another
}

// checkpoint is how far a projection is.
type checkpoint struct {
	name     string
	epoch    int64
	position Position
	state    []byte // nil: as it was
	term     time.Duration
	resumed  bool // what had been asked for has been done
}

// unit is what commits together with a checkpoint.
type unit interface {
	// sqlTx returns the transaction, which begins when it is first asked for.
	sqlTx() (*sql.Tx, error)
	// store is a backend whose calls are part of the unit.
	store() (backend, error)
	// holds says whether the epoch is still this.
	holds(name string, epoch int64) (bool, error)
	park(name string, row parkedRow) error
	unpark(name string, p Position) error
	dropParked(name string) error
	// broken returns an error of kind errRepeat or errLost if err, which a handler has returned, or
	// the state of the unit, is due to the database and not to what the handler did.
	broken(err error) error
	// late says that err only says that something before it has failed.
	late(err error) bool
	// commit stores all of it, if the epoch is still the checkpoint's.
	commit(c checkpoint) (held bool, err error)
	// rollback undoes a unit that has not been committed; behind a commit it does nothing.
	rollback()
}

// work is one batch of a projection on its way: what its handlers do, and how far they are.
type work struct {
	unit    unit
	lease   *lease
	name    string
	stopped bool
	wrote   bool  // events
	fault   error // what has ended the unit, if it was not the handler
}

func (w *work) tx() (*sql.Tx, error) {
	if err := w.alive(); err != nil {
		return nil, err
	}
	tx, err := w.unit.sqlTx()
	w.blame(err)
	return tx, err
}

// blame keeps what has kept the unit from beginning, which is not the handler's failure.
func (w *work) blame(err error) {
	if passing(err) {
		w.fault = err
	}
}

// alive says whether the work can still be committed: as far as is known here, or, if that was a
// while ago, as far as the database knows.
func (w *work) alive() error {
	if !w.lease.lost() && w.lease.ctx.Err() == nil && w.lease.stale() {
		held, err := w.unit.holds(w.name, w.lease.epoch)
		switch {
		case err != nil:
			w.blame(err)
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

// append stores events in a stream, which it makes if it is not there, as part of the work.
func (w *work) append(ctx context.Context, b Batch, complete bool) error {
	if err := w.alive(); err != nil {
		return err
	}
	inside, err := w.unit.store()
	if err != nil {
		w.blame(err)
		return err
	}
	s := *w.lease.store
	s.backend, s.inTx, s.news = inside, true, newNews()
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

// raced says whether a conflict is one of versions only, which another try gets past.
func (w *work) raced(ctx context.Context, s *Store, b Batch) bool {
	a := &appendCall{stream: b.Stream, aggregateID: b.AggregateID, rows: make([]record, len(b.Events))}
	for i := range b.Events {
		a.rows[i].id = b.Events[i].ID
	}
	v, err := s.backend.resolve(ctx, a)
	return err == nil && len(v.stored) == 0
}

// linkID names the link of an event to a stream, so that linking again links nothing twice.
func linkID(event uuid.UUID, stream string) uuid.UUID { return uuid.NewSHA1(event, []byte(stream)) }
