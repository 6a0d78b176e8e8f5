// The consumer of a projection: it runs handlers and keeps the state.

package eventstore

import (
	"bytes"
	"cmp"
	"context"
	"time"
)

// projector is a projection's consumer.
type projector[S any] struct {
	name     string
	store    *Store
	init     func() S // nil: the zero S
	handlers byName[*entry[S]]
	onError  func(ctx context.Context, ev Event, err error, attempt int) ErrorAction

	state   S
	stored  []byte // the state, as stored
	touched bool   // a handler has run since
}

func (f *projector[S]) restore(state []byte) (err error) {
	defer recoverTo(&err)
	f.stored, f.touched = state, false
	var s S
	if state == nil {
		if f.init != nil {
			s = f.init()
		}
		f.state = s
		return nil
	}
	err = f.store.codec.Unmarshal(state, &s)
	f.state = s
	return err
}

func (f *projector[S]) encode() (_ []byte, err error) {
	defer recoverTo(&err)
	if !f.touched {
		return nil, nil
	}
	state, err := f.store.codec.Marshal(f.state)
	if err != nil {
		return nil, err
	}
	if err := checkData(f.store.codec.Codec, "state", state); err != nil {
		return nil, err
	}
	f.touched = false
	if bytes.Equal(state, f.stored) {
		return nil, nil
	}
	f.stored = state
	return state, nil
}

func (f *projector[S]) handle(ctx context.Context, tx *batchTx, rows []record) (done int, err error) {
	dispatcher := f.store.dispatcher(func(d *delivery) error { return f.deliver(ctx, tx, d) })
	for i := range rows {
		tx.current = &rows[i]
		err := survive(func() error { return dispatcher.dispatch(ctx, &rows[i]) })
		if err == nil {
			// A handler may have hidden it. At once, because on MySQL a deadlock has ended the
			// transaction, and what other handlers did behind it would be stored by itself.
			err = cmp.Or(tx.fault, tx.gathering.failure(), ctx.Err())
		}
		if err != nil {
			return i, err
		}
		if tx.stopped || time.Now().After(tx.due) {
			return i + 1, nil
		}
	}
	return len(rows), nil
}

func (f *projector[S]) deliver(ctx context.Context, tx *batchTx, d *delivery) error {
	var step *Step[S] // of all the event's effects
	entries := f.handlers.entries(d.payload.name)
	if len(entries) > 1 {
		if err := d.encode(); err != nil {
			return err
		}
	}
	for _, e := range entries {
		f.touched = true
		var err error
		if e.fold != nil {
			err = e.fold(&f.state, d)
		} else {
			if step == nil {
				step = &Step[S]{State: &f.state, Replay: d.record.position <= tx.replayTo, tx: tx, record: d.record}
			}
			err = e.effect(ctx, step, d)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *projector[S]) decide(ctx context.Context, r *record, err error, attempt int) ErrorAction {
	return f.onError(ctx, f.store.eventOf(r), err, attempt)
}

func (f *projector[S]) fatal(r *record, err error) error {
	return &ProjectionError{Name: f.name, Event: f.store.eventOf(r), Err: err}
}

// eventOf returns a record as an Event for somebody who is told of a failure, which may be that
// its metadata can't be read.
func (s *Store) eventOf(r *record) Event {
	ev, err := s.eventCopy(r)
	if err != nil {
		ev = Event{Position: r.position, ID: r.id, Stream: r.stream, AggregateID: r.aggregateID, Version: r.version, Name: r.name, RecordedAt: r.recordedAt, codec: s.codec}
	}
	return ev
}
