// What a runner does before it follows the log: read models are made, and resets and deletes that
// were asked for by name are finished.

package eventstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// prepare brings the read model and the state to where row says that they are.
func (r *runner) prepare(ctx context.Context, row *projectionRow) error {
	if r.readModel != nil && !r.readModelReady {
		if err := r.makeReadModel(ctx, row); err != nil {
			return err
		}
		r.readModelReady = true
	}
	if row.status == StatusResetting {
		if err := r.finishReset(ctx, row); err != nil {
			return err
		}
	}
	return r.batches.resume(ctx, row)
}

// reset carries out a reset that was asked for by name.
func (r *runner) reset(ctx context.Context, row *projectionRow) error {
	if r.readModel != nil {
		if err := r.makeReadModel(ctx, row); err != nil {
			return err
		}
	}
	return r.finishReset(ctx, row)
}

// makeReadModel creates the read model in a transaction of its own: on MySQL creating a table ends
// whatever transaction it is in.
func (r *runner) makeReadModel(ctx context.Context, row *projectionRow) error {
	tx := r.store.backend.begin(ctx)
	defer tx.rollback()
	if err := r.changeReadModel(ctx, tx, row, "initialise", r.readModel.Init); err != nil {
		return err
	}
	return r.commitErrand(tx, checkpoint{epoch: row.epoch, position: row.position})
}

// commitErrand commits an errand, if the lease of the checkpoint's epoch is still held: another
// runner may have taken over by now.
func (r *runner) commitErrand(tx backendTx, c checkpoint) error {
	c.name, c.term = r.name, r.term
	held, err := tx.commit(c)
	if err == nil && !held {
		err = ErrLeaseLost
	}
	return err
}

// changeReadModel has a read model change its tables, as the first part of an errand.
func (r *runner) changeReadModel(ctx context.Context, tx backendTx, row *projectionRow, op string, change func(context.Context, *sql.Tx) error) error {
	if err := tx.exclusive(r.name, row.epoch); err != nil {
		return err
	}
	sqlTx, err := tx.sqlTx()
	if err == nil {
		err = survive(func() error { return change(tx.handlerContext(ctx), sqlTx) })
	}
	if err != nil {
		return r.readModelFailed(tx, op, err)
	}
	return nil
}

func (r *runner) readModelFailed(tx backendTx, op string, err error) error {
	if transient(err) {
		return err
	}
	if fault := tx.databaseFault(err); fault != nil {
		return fault
	}
	return &locatedError{fmt.Sprintf("projection %q: %s read model", r.name, op), err}
}

// finishReset empties what the projection has written, and begins at the beginning.
func (r *runner) finishReset(ctx context.Context, row *projectionRow) error {
	tx := r.store.backend.begin(ctx)
	defer tx.rollback()
	if r.readModel != nil {
		if err := r.changeReadModel(ctx, tx, row, "reset", r.readModel.Reset); err != nil {
			return err
		}
	} else if row.readModel {
		if err := tx.exclusive(r.name, row.epoch); err != nil {
			return err
		}
	}
	err := r.deleteEmitted(ctx, tx, row)
	if err == nil {
		err = tx.dropParked(r.name)
	}
	if err == nil && row.kind == kindDocuments {
		err = tx.dropDocuments(r.name)
	}
	if err != nil {
		return err
	}
	return r.commitErrand(tx, checkpoint{epoch: row.epoch, resumed: true})
}

// deleteEmitted deletes the stream that the projection's Emit has made, if it is there. A stream that
// is only of the same name stays, and a relay has none.
func (r *runner) deleteEmitted(ctx context.Context, tx backendTx, row *projectionRow) error {
	if row.kind == kindRelay {
		return nil
	}
	inside, err := tx.backend(func(error) {})
	if err == nil {
		err = r.deleteStream(ctx, inside)
	}
	if errors.Is(err, ErrRetryTx) {
		err = &statementError{"projection", err, errRetry} // the transaction is the errand's own
	}
	return err
}

func (r *runner) deleteStream(ctx context.Context, inside backend) error {
	emittedBy, found, err := inside.streamEmitter(ctx, r.name)
	switch {
	case err != nil || !found:
		return err
	case emittedBy == nil:
		// It may be the projection's source. From now on the projection can't emit to it twice.
		r.store.opts.Logger.WarnContext(ctx, "stream left alone, as it is not known who made it", "projection", r.name, "stream", r.name)
		return inside.disownStream(ctx, r.name)
	case *emittedBy == r.name:
		_, err = inside.deleteStream(ctx, r.name)
	}
	return err
}

// withLease calls fn with the lease that row has seen free, unless another takes it first. The lease is
// renewed for as long as fn takes, which may have to wait for others' locks on a table.
func (r *runner) withLease(ctx context.Context, row *projectionRow, fn func(context.Context, *projectionRow) error) (err error) {
	claim := r.claim(row)
	claim.readModel = claim.readModel || row.readModel // which is not gone before the errand is done
	taken, err := r.store.backend.takeLease(ctx, row, claim)
	if err != nil || !taken {
		return err
	}
	held := *row
	held.epoch++
	defer r.release(ctx, StatusIdle, "") // behind a delete there is nothing to release
	l := r.store.leases.begin(ctx, r.store.backend, r.name, r.owner, held.epoch, r.term)
	defer func() {
		if err != nil && l.lost() {
			err = ErrLeaseLost
		}
		l.giveUp()
	}()
	return fn(l.ctx, &held)
}

// finishDelete drops what belongs to a projection that has been deleted, and its row. A read model that
// r does not know is left, and the row with it, to a runner that does.
func (r *runner) finishDelete(ctx context.Context, row *projectionRow) error {
	tx := r.store.backend.begin(ctx)
	defer tx.rollback()
	if r.readModel != nil {
		if err := r.changeReadModel(ctx, tx, row, "delete", r.readModel.Delete); err != nil {
			return err
		}
		r.readModelReady = false
	}
	if row.emitted {
		if err := r.deleteEmitted(ctx, tx, row); err != nil {
			return err
		}
	}
	if row.kind == kindDocuments {
		if err := tx.dropDocuments(r.name); err != nil {
			return err
		}
	}
	if row.readModel && r.readModel == nil {
		return r.commitErrand(tx, checkpoint{epoch: row.epoch, position: row.position, emptied: true})
	}
	return r.commitErrand(tx, checkpoint{epoch: row.epoch, removed: true})
}
