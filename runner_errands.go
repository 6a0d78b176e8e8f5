// What a runner does before it follows the log: read models are made, and resets and deletes that
// were asked for by name are finished.

package eventstore

import (
	"context"
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

// makeReadModel creates the read model in a transaction of its own: on MySQL creating a table ends
// whatever transaction it is in.
func (r *runner) makeReadModel(ctx context.Context, row *projectionRow) error {
	tx := r.store.backend.begin(ctx)
	defer tx.rollback()
	sqlTx, err := tx.sqlTx()
	if err == nil {
		err = r.readModel.Init(tx.handlerContext(ctx), sqlTx)
	}
	if err != nil {
		return r.readModelFailed(tx, "initialise", err)
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

func (r *runner) readModelFailed(tx backendTx, op string, err error) error {
	if transient(err) {
		return err
	}
	if fault := tx.databaseFault(err); fault != nil {
		return fault
	}
	return fmt.Errorf("eventstore: projection %q: %s read model: %w", r.name, op, err)
}

// finishReset empties what the projection has written, and begins at the beginning.
func (r *runner) finishReset(ctx context.Context, row *projectionRow) error {
	tx := r.store.backend.begin(ctx)
	defer tx.rollback()
	if r.readModel != nil {
		sqlTx, err := tx.sqlTx()
		if err == nil {
			err = r.readModel.Reset(tx.handlerContext(ctx), sqlTx)
		}
		if err != nil {
			return r.readModelFailed(tx, "reset", err)
		}
	}
	inside, err := tx.backend()
	if err == nil {
		_, err = inside.deleteStream(ctx, r.name)
	}
	if err == nil {
		err = tx.dropParked(r.name)
	}
	if err != nil {
		return err
	}
	return r.commitErrand(tx, checkpoint{epoch: row.epoch, resumed: true})
}

// withLease calls fn with the lease that row has seen free, unless another takes it first. The lease is
// renewed for as long as fn takes, which may have to wait for others' locks on a table.
func (r *runner) withLease(ctx context.Context, row *projectionRow, fn func(context.Context, *projectionRow) error) (err error) {
	taken, err := r.store.backend.takeLease(ctx, r.name, r.owner, row, r.readModel != nil, r.term)
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

// finishDelete drops what belongs to a projection that has been deleted.
func (r *runner) finishDelete(ctx context.Context, row *projectionRow) error {
	if r.readModel != nil {
		tx := r.store.backend.begin(ctx)
		defer tx.rollback()
		sqlTx, err := tx.sqlTx()
		if err == nil {
			err = r.readModel.Delete(tx.handlerContext(ctx), sqlTx)
		}
		if err != nil {
			return r.readModelFailed(tx, "delete", err)
		}
		if err := r.commitErrand(tx, checkpoint{epoch: row.epoch, position: row.position}); err != nil {
			return err
		}
		r.readModelReady = false
	}
	return r.store.backend.removeProjection(ctx, r.name, row.epoch)
}
