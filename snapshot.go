// Snapshots: when Save has an aggregate's state stored, and when Load uses it.

package eventstore

import (
	"context"
	"fmt"
)

// Snapshot has an aggregate's state stored now and then, so that loading it reads the state and
// the events behind it, in one round trip as without.
//
// A snapshot is a cache: it is used only if it is of the same Schema, decodes, and belongs to an
// event that is still there; in any doubt the aggregate is replayed from its first event. It holds
// what replaying the stored events up to it makes of the state, as the codec writes it: fields that
// the codec leaves out are zero behind a snapshot, so a state with such fields can't have snapshots.
type Snapshot struct {
	// Every is how many events are saved between one snapshot and the next, not negative. Zero:
	// none are stored or used. Right behind a save that makes one due, the aggregate is loaded once
	// more and its state stored. That this fails never fails the save; Options.Logger is told.
	// Inside a caller's transaction none is stored: see [Aggregate.SaveSnapshot].
	Every int

	// Schema numbers the shape of the state and what folds make of it. Raise it when either
	// changes: snapshots of other numbers are not used. It is not negative.
	Schema int
}

// SaveSnapshot stores the aggregate's state as its snapshot now, whether or not one is due: for
// services that save inside transactions of their own, after the commit, or to prepare a new
// Schema. If it has no events: [ErrAggregateNotFound].
func (a *Aggregate[S]) SaveSnapshot(ctx context.Context, s *Store, id string) error {
	if a.Snapshot.Every == 0 {
		return invalid("Aggregate.Snapshot.Every is zero")
	}
	if s.inTx {
		return invalid("a snapshot inside a transaction")
	}
	r, err := a.Load(ctx, s, id)
	if err != nil {
		return err
	}
	if r.version == r.snapshot {
		return nil // nothing has happened since
	}
	state, err := s.codec.Marshal(r.state)
	if err == nil {
		err = checkData(s.codec.Codec, "state", state)
	}
	if err != nil {
		return within(fmt.Sprintf("snapshot of aggregate %q in stream %q", id, a.Stream), err)
	}
	return s.backend.saveSnapshot(ctx, &snapshot{
		stream: a.Stream, aggregateID: id, version: r.version, position: r.position, schema: int64(a.Snapshot.Schema), state: state,
	})
}

// snapshotIfDue stores a snapshot behind a save if so many events have been saved since the last.
func (a *Aggregate[S]) snapshotIfDue(ctx context.Context, s *Store, r *Root[S]) {
	if a.Snapshot.Every == 0 || s.inTx || r.version-r.snapshot < int64(a.Snapshot.Every) {
		return
	}
	if err := survive(func() error { return a.SaveSnapshot(ctx, s, r.id) }); err != nil {
		s.opts.Logger.WarnContext(ctx, "snapshot not stored", "stream", a.Stream, "aggregate", r.id, "version", r.version, "error", err)
		return
	}
	r.snapshot = r.version
}

// restore begins a root at its snapshot, if rows begin with one, and returns the events behind it.
// It reports whether that could be done.
func (a *Aggregate[S]) restore(ctx context.Context, s *Store, r *Root[S], rows []record) (rest []record, ok bool) {
	if len(rows) == 0 || rows[0].name != "" {
		return rows, true
	}
	var state S
	if err := survive(func() error { return s.codec.Unmarshal(rows[0].data, &state) }); err != nil {
		s.opts.Logger.WarnContext(ctx, "snapshot not used", "stream", a.Stream, "aggregate", r.id, "version", rows[0].version, "error", err)
		return nil, false
	}
	r.state, r.version, r.snapshot, r.position = state, rows[0].version, rows[0].version, rows[0].position
	return rows[1:], true
}
