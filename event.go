// Events: Payload, NewEvent, Event, ExpectedVersion, and Decode. A property that each event has
// begins here; dialect.go lists what else a column takes.

package eventstore

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"time"

	"github.com/google/uuid"
)

// Payload is a domain event as the application writes it: a plain struct that names itself.
//
//	type Deposited struct{ Cents int64 }
//
//	func (Deposited) EventName() string { return "account.deposited" }
//
// The name is what is stored, 1 to 255 bytes of UTF-8 without NUL, and never derives from the Go
// type's name: types can be renamed and moved freely. EventName must return the same for every
// value of the type, the zero value included.
type Payload interface{ EventName() string }

// Position is an event's place in the store's global order, from 1. Positions are strictly
// increasing, but not without holes, and are never used again.
type Position int64

// NewEvent is an event about to be stored.
type NewEvent struct {
	// ID identifies the event for good. A zero ID gets a fresh UUIDv7; set one to be able to
	// repeat an append whose answer was lost.
	ID       uuid.UUID
	Payload  Payload
	Metadata Metadata
}

// ExpectedVersion is the version at which an append expects its aggregate; zero or more is exactly
// that version.
type ExpectedVersion int64

const (
	MustNotExist ExpectedVersion = 0  // the aggregate has no events
	AnyVersion   ExpectedVersion = -1 // whatever it has
	MustExist    ExpectedVersion = -2 // it has at least one
)

func (v ExpectedVersion) String() string {
	switch v {
	case MustNotExist:
		return "that it does not exist"
	case AnyVersion:
		return "any version"
	case MustExist:
		return "that it exists"
	}
	return fmt.Sprintf("version %d", int64(v))
}

// admits reports whether an append may go on from an aggregate at this version.
func (v ExpectedVersion) admits(actual int64) bool {
	switch v {
	case AnyVersion:
		return true
	case MustExist:
		return actual > 0
	}
	return actual == int64(v)
}

// bounds returns the lowest and the highest version that v admits.
func (v ExpectedVersion) bounds() (low, high int64) {
	switch v {
	case AnyVersion:
		return 0, math.MaxInt64
	case MustExist:
		return 1, math.MaxInt64
	}
	return int64(v), int64(v)
}

// Event is a stored event. Its Data and Metadata belong to its receiver: each handler, middleware and
// attempt gets its own, and changes to them are seen by no other.
type Event struct {
	Position    Position
	ID          uuid.UUID
	Stream      string
	AggregateID string
	Version     int64 // place within its aggregate, from 1, without holes
	Name        string
	Data        []byte    // the payload as the codec wrote it, byte for byte
	Metadata    Metadata  // never nil
	RecordedAt  time.Time // UTC, microseconds

	codec *payloadCodec
}

// clone returns an event that shares no memory with ev.
func (ev Event) clone() Event {
	ev.Data, ev.Metadata = bytes.Clone(ev.Data), maps.Clone(ev.Metadata)
	return ev
}

// Decode returns ev's payload as an E, through the codec and the upcasters of the store that ev
// was read from (encoding/json and none, for an Event that no store returned). If neither the
// event's name nor what the upcasters make of it is E's name, the error is [ErrUnknownEvent]; if
// [Split] makes several E of it, the first is returned.
func Decode[E Payload](ev Event) (E, error) {
	name := nameOf[E]()
	codec := ev.codec
	if codec == nil {
		codec = defaultCodec
	}
	var e E
	var err error
	found := ev.Name == name
	if len(codec.upcasters) > 0 {
		e, found, err = decodeFirst[E](codec, ev, name)
	} else if found {
		e, err = payloadAs[E](codec, payload{name: name, data: ev.Data})
	}
	switch {
	case err != nil:
		return e, within(fmt.Sprintf("event %d", ev.Position), err)
	case !found:
		return e, fmt.Errorf("%w: %q is not %q", ErrUnknownEvent, ev.Name, name)
	}
	return e, nil
}

// decodeFirst returns the first of the payloads of this name that upcasters make of an event.
func decodeFirst[E Payload](codec *payloadCodec, ev Event, name string) (e E, found bool, err error) {
	err = codec.each(ev.Name, ev.Data, func(p payload) (err error) {
		if p.name != name {
			return nil
		}
		if e, err = payloadAs[E](codec, p); err == nil {
			err = errFound
		}
		return err
	})
	if errors.Is(err, errFound) {
		return e, true, nil
	}
	return e, false, err
}

// nameOf returns the event name of payloads of type E, or "" if E is an interface or its
// EventName needs more than a zero value.
func nameOf[E Payload]() string {
	var zero E
	name, _ := payloadName(zero)
	if name == "" {
		// It is nil, perhaps a pointer, which this makes point to a zero value; whether the rest of
		// the type takes an empty object does not matter.
		e := new(E)
		_ = json.Unmarshal([]byte("{}"), e)
		name, _ = payloadName(*e)
	}
	return name
}

// payloadName asks a payload for its name. A nil pointer in a Payload makes EventName panic where
// it has a value receiver; that is the caller's mistake and comes back as an error.
func payloadName(p Payload) (name string, err error) {
	if p == nil {
		return "", invalid("payload is nil")
	}
	panicked := survive(func() error { name = p.EventName(); return nil })
	if panicked != nil {
		return "", invalid("payload %T: its EventName panics: %w", p, unprefixed{panicked})
	}
	return name, nil
}

func checkEventID(id uuid.UUID) error {
	if [8]byte(id[:8]) == reservedIDs {
		return invalid("event ID %s is in the range that the store keeps for itself", id)
	}
	return nil
}

// reservedIDs are the first eight bytes of the IDs that gap rows carry, with their position
// behind. No UUID that RFC 9562 knows begins like this: it has no version.
var reservedIDs = [8]byte{0xe5, 0xe5}

// gapID returns the ID of the gap row at a position.
func gapID(p Position) (id uuid.UUID) {
	copy(id[:], reservedIDs[:])
	binary.BigEndian.PutUint64(id[8:], uint64(p))
	return id
}

// aggregateKey identifies an aggregate.
type aggregateKey struct{ stream, id string }
