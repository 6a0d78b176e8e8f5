// Recorded events on their way into the log: as they were when they were recorded, whatever becomes of
// their payloads, and after the event that their root has seen last.

package eventstore

import (
	"bytes"
	"slices"
)

// recordedEvent is an event as it was recorded, whatever becomes of its payload afterwards.
type recordedEvent struct {
	NewEvent
	codec *payloadCodec // data is of this codec; nil: there is no data
	data  []byte
}

// batchOrigin is what a root and the store know of a batch beyond what middleware sees, which stands
// between the two and passes events alone.
type batchOrigin struct {
	stream, aggregateID string
	expected            ExpectedVersion
	after               Position // of the event at the expected version
	recorded            []recordedEvent
	earlier             bool           // an earlier call had stored the batch, it turned out
	given               map[int][]byte // what payloads that can't be compared are when middleware gets them, encoded
}

// follows returns the position that the event before a batch must have; zero: any.
func (o *batchOrigin) follows(b *Batch) Position {
	if o == nil || b.Stream != o.stream || b.AggregateID != o.aggregateID || b.Expected != o.expected {
		return 0
	}
	return o.after
}

// prepare makes a batch ready for middleware, which can replace payloads.
func (o *batchOrigin) prepare(codec *payloadCodec) error {
	for i := range o.recorded {
		r := &o.recorded[i]
		if !r.isOf(codec) || canCompare(r.Payload) {
			continue
		}
		data, err := codec.Marshal(r.Payload)
		if err != nil {
			return invalid("payload of event %d can't be encoded any more: %w", i, err)
		}
		if o.given == nil {
			o.given = make(map[int][]byte, len(o.recorded))
		}
		o.given[i] = data
	}
	return nil
}

// data returns the i-th event of a batch as it was encoded when it was recorded, or nil if it was not
// encoded by this codec, or middleware has given it another payload.
func (o *batchOrigin) data(i int, ev *NewEvent, codec *payloadCodec, middleware bool) []byte {
	if o == nil {
		return nil
	}
	if i >= len(o.recorded) || o.recorded[i].ID != ev.ID { // middleware has changed their number or order
		if i = slices.IndexFunc(o.recorded, func(r recordedEvent) bool { return r.ID == ev.ID }); i < 0 {
			return nil
		}
	}
	r := &o.recorded[i]
	switch given, encoded := o.given[i]; {
	case !r.isOf(codec):
		return nil
	case !middleware:
		return r.data
	case encoded:
		if now, err := codec.Marshal(ev.Payload); err != nil || !bytes.Equal(now, given) {
			return nil
		}
	case !canCompare(ev.Payload) || ev.Payload != r.Payload:
		return nil
	}
	return r.data
}

// isOf reports whether the event's data are what codec made of its payload.
func (r *recordedEvent) isOf(codec *payloadCodec) bool {
	if r.codec == codec || r.codec == nil {
		return r.codec != nil
	}
	_, standard := codec.Codec.(jsonCodec)
	_, before := r.codec.Codec.(jsonCodec)
	return standard && before
}

// canCompare reports whether Go can compare a payload: a struct with slices or maps it can't.
func canCompare(p Payload) (ok bool) {
	defer func() { ok = recover() == nil && ok }()
	return p == p //nolint:gocritic,staticcheck // it panics, or is true but for NaN
}
