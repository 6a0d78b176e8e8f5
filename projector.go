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
	failurePolicy
	init     func() S // nil: the zero S
	handlers byName[*entry[S]]

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
	err = f.store.decodeState(state, &s)
	f.state = s
	return err
}

func (f *projector[S]) finish(*batchTx) ([]byte, error) {
	if !f.touched {
		return nil, nil
	}
	state, err := f.store.encodeState(f.state)
	if err != nil {
		return nil, ofState(f.name, err)
	}
	f.touched = false
	if bytes.Equal(state, f.stored) {
		return nil, nil
	}
	f.stored = state
	return state, nil
}

// encodeState encodes the state of a projection or a document.
func (s *Store) encodeState(state any) (data []byte, err error) {
	defer recoverTo(&err)
	if data, err = s.codec.Marshal(state); err == nil {
		err = checkData(s.codec.Codec, "state", data)
	}
	return data, err
}

// decodeState decodes into a pointer what encodeState has encoded.
func (s *Store) decodeState(data []byte, state any) (err error) {
	defer recoverTo(&err)
	return s.codec.Unmarshal(data, state)
}

func (f *projector[S]) handle(ctx context.Context, tx *batchTx, rows []record) (done int, err error) {
	dispatcher := f.store.dispatcher(func(d *delivery) error { return f.deliver(ctx, tx, d) })
	return tx.each(ctx, rows, func(i int) error { return dispatcher.dispatch(ctx, &rows[i]) })
}

// each calls handle for one row after the other, as their turn in a projection, until the batch has to end.
func (t *batchTx) each(ctx context.Context, rows []record, handle func(i int) error) (done int, err error) {
	for i := range rows {
		t.current = &rows[i]
		err := survive(func() error { return handle(i) })
		if err == nil {
			// A handler may have hidden it. At once, because on MySQL a deadlock has ended the
			// transaction, and what other handlers did behind it would be stored by itself.
			err = cmp.Or(t.fault, t.gathering.failure(), ctx.Err())
		}
		if err != nil {
			return i, err
		}
		if t.stopped || time.Now().After(t.due) {
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

// failurePolicy is what a definition says of failing events.
type failurePolicy struct {
	name    string // of the projection's row
	store   *Store
	onError func(ctx context.Context, ev Event, err error, attempt int) ErrorAction // nil: the default
}

func (f *failurePolicy) decide(ctx context.Context, r *record, err error, attempt int) ErrorAction {
	onError := f.onError
	if onError == nil {
		onError = defaultOnError
	}
	return onError(ctx, f.store.eventOf(r), err, attempt)
}

func (f *failurePolicy) fatal(r *record, err error) error {
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
