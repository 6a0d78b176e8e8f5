package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"example.com/eventstore"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What surrounds an event travels in headers. Text is percent-encoded there: a header can't hold
// line breaks, and an aggregate ID can.
const (
	headerPosition  = "Event-Position"
	headerStream    = "Event-Stream"
	headerAggregate = "Event-Aggregate"
	headerVersion   = "Event-Version"
	headerName      = "Event-Name"
	headerTime      = "Event-Time"
	headerMetadata  = "Event-Metadata"
)

// newMessage returns an event as a message: its body is the payload, byte for byte. The event's ID
// is the message's, by which the server drops what it has got already.
func newMessage(ev eventstore.Event) (*nats.Msg, error) {
	metadata, err := json.Marshal(ev.Metadata)
	if err != nil {
		return nil, fmt.Errorf("metadata of event %d: %w", ev.Position, err)
	}
	msg := nats.NewMsg(subject(ev))
	msg.Data = ev.Data
	msg.Header.Set(jetstream.MsgIDHeader, ev.ID.String())
	msg.Header.Set(headerPosition, strconv.FormatInt(int64(ev.Position), 10))
	msg.Header.Set(headerStream, url.PathEscape(ev.Stream))
	msg.Header.Set(headerAggregate, url.PathEscape(ev.AggregateID))
	msg.Header.Set(headerVersion, strconv.FormatInt(ev.Version, 10))
	msg.Header.Set(headerName, url.PathEscape(ev.Name))
	msg.Header.Set(headerTime, ev.RecordedAt.Format(time.RFC3339Nano))
	msg.Header.Set(headerMetadata, string(metadata))
	return msg, nil
}

// readMessage is the reverse of newMessage. Of the event, [eventstore.Decode] makes a payload; in
// its metadata, a float without a fraction has become an integer.
func readMessage(header nats.Header, data []byte) (eventstore.Event, error) {
	r := headerReader{header: header}
	ev := eventstore.Event{
		Position:    eventstore.Position(r.integer(headerPosition)),
		ID:          r.id(jetstream.MsgIDHeader),
		Stream:      r.text(headerStream),
		AggregateID: r.text(headerAggregate),
		Version:     r.integer(headerVersion),
		Name:        r.text(headerName),
		Data:        data,
		Metadata:    r.metadata(headerMetadata),
		RecordedAt:  r.time(headerTime),
	}
	return ev, r.err
}

// headerReader reads headers, and keeps the first error.
type headerReader struct {
	header nats.Header
	err    error
}

func (r *headerReader) note(key string, err error) {
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("header %s: %w", key, err)
	}
}

func (r *headerReader) integer(key string) int64 {
	n, err := strconv.ParseInt(r.header.Get(key), 10, 64)
	r.note(key, err)
	return n
}

func (r *headerReader) text(key string) string {
	s, err := url.PathUnescape(r.header.Get(key))
	r.note(key, err)
	return s
}

func (r *headerReader) id(key string) uuid.UUID {
	id, err := uuid.Parse(r.header.Get(key))
	r.note(key, err)
	return id
}

func (r *headerReader) time(key string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, r.header.Get(key))
	r.note(key, err)
	return t
}

func (r *headerReader) metadata(key string) eventstore.Metadata {
	md := eventstore.Metadata{}
	dec := json.NewDecoder(bytes.NewReader([]byte(r.header.Get(key))))
	dec.UseNumber() // an int64 does not fit into JSON's usual float64
	r.note(key, dec.Decode(&md))
	for k, v := range md {
		number, ok := v.(json.Number)
		if !ok {
			continue
		}
		var err error
		if md[k], err = number.Int64(); err != nil {
			md[k], err = number.Float64()
		}
		r.note(key, err)
	}
	return md
}
