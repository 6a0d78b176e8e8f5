// Root: one aggregate in memory, and the events recorded but not yet saved.

package eventstore

import (
	"bytes"
	"fmt"
	"maps"

	"github.com/google/uuid"
)

// Root is one aggregate in memory: its state, its version, and the events recorded but not yet
// saved. It belongs to one goroutine at a time.
type Root[S any] struct {
	id      string
	version int64
	state   S
	pending []recordedEvent
	stream  string
	folds   *folds[S]
	codec   *payloadCodec
	err     error // what Record could not say

	snapshot int64    // the version of the snapshot that is known to be stored
	position Position // of the last event loaded or saved
}

// ID returns the aggregate's ID.
func (r *Root[S]) ID() string { return r.id }

// Version returns the version of the state, recorded events included. A new aggregate is at 0.
func (r *Root[S]) Version() int64 { return r.version }

// Position returns the position of the last event that was loaded into the root or saved from it, for
// [Projection.Wait]; zero: there is none. One that was saved inside a caller's transaction is there
// for others when that has been committed.
func (r *Root[S]) Position() Position { return r.position }

// State returns the state with all recorded events applied. What it refers to (maps, slices,
// pointers) is the root's own: read it, but don't change it.
func (r *Root[S]) State() S { return r.state }

// Record applies p to the state and keeps it for [Aggregate.Save], with the metadata given. The event
// is encoded at once, and the folds get what that decodes to, as they do when it is loaded: changes
// to p, to what it refers to or to the state, after Record, do not change what is stored. An event
// that no fold takes, or that is none, is reported by Save, which then stores nothing.
//
// A root from [Aggregate.New] does not know its store's [Options].Codec. It uses encoding/json, and a
// codec of the store's own encodes the payload when it is saved: leave that alone until then.
func (r *Root[S]) Record(p Payload, md ...Metadata) { r.add(NewEvent{Payload: p}, md...) }

// RecordEvent is Record for an event whose ID is known; a zero ID gets a fresh one. The ID stands for
// the event: whoever makes it from what asks for the command, say a client's Idempotency-Key, can
// carry the command out again, at any time and in any process, and it is stored once. If a command
// records several events, each needs such an ID.
//
// The decision is made again all the same, on a state that has the events in it already: it must not
// refuse what it has done itself. Folds made by [OnEvent] can keep the IDs in the state; or the
// decision looks for the event, by [ByEventID].
func (r *Root[S]) RecordEvent(ev NewEvent) {
	r.add(NewEvent{ID: ev.ID, Payload: ev.Payload}, ev.Metadata)
}

func (r *Root[S]) add(ev NewEvent, md ...Metadata) {
	e := recordedEvent{NewEvent: ev}
	if r.err == nil {
		r.err = errHalfRecorded // unless record returns
		r.err = r.record(&e, md)
	}
	r.pending = append(r.pending, e)
	r.version++
}

// errHalfRecorded is what Save returns for a root on which Record has panicked, where its caller has recovered: its
// state may have a part of the event.
var errHalfRecorded = invalid("Root.Record has panicked: load the aggregate again")

func (r *Root[S]) record(ev *recordedEvent, md []Metadata) error {
	if r.folds == nil {
		return invalid("a Root made by hand: use Aggregate.New or Load")
	}
	name, err := payloadName(ev.Payload)
	if err != nil {
		return err
	}
	if ev.ID == uuid.Nil {
		// It is given here so that saving again after a lost answer stores nothing twice.
		if ev.ID, err = uuid.NewV7(); err != nil {
			return fmt.Errorf("eventstore: make an event ID: %w", err)
		}
	}
	for _, m := range md {
		if ev.Metadata == nil {
			ev.Metadata = make(Metadata, len(m))
		}
		maps.Copy(ev.Metadata, m)
	}
	data, err := r.codec.Marshal(ev.Payload)
	if err != nil {
		return invalid("payload %q can't be encoded: %w", name, err)
	}
	ev.codec, ev.data = r.codec, data
	d := delivery{codec: r.codec, payload: payload{name: name, data: data}}
	d.fresh = func() (Event, error) {
		md, err := ev.Metadata.normal()
		if err != nil {
			return Event{}, err
		}
		return Event{
			ID: ev.ID, Stream: r.stream, AggregateID: r.id, Version: r.version + 1,
			Name: name, Data: bytes.Clone(data), Metadata: md, codec: r.codec,
		}, nil
	}
	return r.folds.apply(&r.state, &d)
}

// Uncommitted returns the events recorded since the root was made, loaded or last saved. The payloads
// are those that were recorded; the rest is a copy.
func (r *Root[S]) Uncommitted() []NewEvent {
	events := make([]NewEvent, len(r.pending))
	for i := range r.pending {
		events[i] = r.pending[i].NewEvent
		events[i].Metadata = maps.Clone(events[i].Metadata)
	}
	return events
}

// batch returns what Save appends, and what the root knows of it.
func (r *Root[S]) batch() (Batch, *batchOrigin) {
	b := Batch{Stream: r.stream, AggregateID: r.id, Expected: ExpectedVersion(r.version - int64(len(r.pending))), Events: r.Uncommitted()}
	return b, &batchOrigin{stream: r.stream, aggregateID: r.id, expected: b.Expected, after: r.position, recorded: r.pending}
}
