// Upcasters: events stored in an earlier shape become today's while they are read.

package eventstore

import (
	"errors"
	"fmt"
)

// Upcaster brings events that were stored in an earlier shape to today's, on the way out: what is
// stored stays as it is. Aggregates, queries, projections and [Decode] see only today's shape;
// [Event] values that [Store.Read] and [Store.Subscribe] yield carry what is stored, and a
// [Selection] matches what is stored.
//
// Upcasters chain: what one makes of an event is given to the one for its new name.
type Upcaster struct {
	from, to string // to: "" if only known once an event is there
	apply    func(c *payloadCodec, p payload, stored storedEvent) ([]payload, error)
	err      error
}

// storedEvent returns the event that upcasters are at, as it is stored. Each call returns one that belongs to its
// receiver.
type storedEvent func() (Event, error)

// Upcast turns a stored Old into a New. Their names must differ.
func Upcast[Old, New Payload](fn func(Old) New) Upcaster {
	u := newUpcaster(fn == nil, func(old Old, _ storedEvent) ([]Payload, error) { return []Payload{fn(old)}, nil })
	return u.into(nameOf[New](), *new(New))
}

// UpcastEvent is [Upcast] with the event as [Store.Read] yields it: with its position, IDs, time and metadata, and
// with the name and the data that are stored, also where Old is what another upcaster has made of them. The event
// is fn's own, and [Decode] takes its payload as it is stored. fn must depend on nothing else, so that an event
// looks the same whenever it is read.
func UpcastEvent[Old, New Payload](fn func(old Old, ev Event) New) Upcaster {
	u := newUpcaster(fn == nil, func(old Old, stored storedEvent) ([]Payload, error) {
		ev, err := stored()
		if err != nil {
			return nil, err
		}
		ev.codec = &payloadCodec{Codec: ev.codec.Codec} // decoding it must not lead here again
		return []Payload{fn(old, ev)}, nil
	})
	return u.into(nameOf[New](), *new(New))
}

// into returns u for one that makes events of a name, of a sample's type.
func (u Upcaster) into(name string, sample Payload) Upcaster {
	u.to = name
	if u.err == nil && name == "" {
		u.err = invalid("upcaster: %T has no event name", sample)
	}
	return u
}

// Split turns a stored Old into several events, or none. They keep its position, version and ID,
// and are handled together: a projection's checkpoint never falls between them.
func Split[Old Payload](fn func(Old) []Payload) Upcaster {
	return newUpcaster(fn == nil, func(old Old, _ storedEvent) ([]Payload, error) { return fn(old), nil })
}

// Rename lets events stored as from be seen as to, in the same shape.
func Rename(from, to string) Upcaster {
	u := Upcaster{from: from, to: to, err: errors.Join(checkName("upcaster's name", from), checkName("upcaster's new name", to))}
	u.apply = func(_ *payloadCodec, p payload, _ storedEvent) ([]payload, error) {
		p.name = to
		return []payload{p}, nil
	}
	return u
}

func newUpcaster[Old Payload](missing bool, fn func(Old, storedEvent) ([]Payload, error)) Upcaster {
	u := Upcaster{from: nameOf[Old]()}
	switch {
	case missing:
		u.err = invalid("upcaster of %q: its function is nil", u.from)
	case u.from == "":
		u.err = invalid("upcaster: %T has no event name", *new(Old))
	}
	u.apply = func(c *payloadCodec, p payload, stored storedEvent) ([]payload, error) {
		old, err := payloadAs[Old](c, p)
		if err != nil {
			return nil, err
		}
		values, err := fn(old, stored)
		if err != nil {
			return nil, err
		}
		out := make([]payload, len(values))
		for i, v := range values {
			name, err := payloadName(v)
			if err != nil {
				return nil, within(fmt.Sprintf("upcaster of %q", u.from), err)
			}
			out[i] = payload{name: name, value: v}
		}
		return out, nil
	}
	return u
}

// payload is one event's content on its way to a fold: stored text, or the value that an upcaster
// made of it.
type payload struct {
	name  string
	data  []byte
	value Payload // nil: still in data
}

// payloadCodec is a codec together with the upcasters that apply on the way out. It never
// changes, and is safe for concurrent use.
type payloadCodec struct {
	Codec
	upcasters map[string]Upcaster // by the name they start from
}

var defaultCodec = &payloadCodec{Codec: jsonCodec{}}

func newPayloadCodec(codec Codec, upcasters []Upcaster) (*payloadCodec, error) {
	c := &payloadCodec{Codec: codec, upcasters: make(map[string]Upcaster, len(upcasters))}
	if codec == nil {
		c.Codec = jsonCodec{}
	}
	for i, u := range upcasters {
		switch _, twice := c.upcasters[u.from]; {
		case u.err != nil:
			return nil, u.err
		case u.apply == nil:
			return nil, invalid("Options.Upcasters[%d] is the zero Upcaster", i)
		case twice:
			return nil, invalid("Options.Upcasters: two of them start from %q", u.from)
		}
		c.upcasters[u.from] = u
	}
	for from := range c.upcasters {
		name := from
		for range c.upcasters {
			name = c.upcasters[name].to
		}
		if name != "" && c.upcasters[name].apply != nil {
			return nil, invalid("Options.Upcasters: those from %q on lead in a circle", from)
		}
	}
	return c, nil
}

// Marshal is that of the codec, with an error that tells nothing of v.
func (c *payloadCodec) Marshal(v any) ([]byte, error) {
	data, err := c.Codec.Marshal(v)
	return data, newCodecError(c.Codec, err)
}

// Unmarshal is that of the codec, with an error that tells nothing of data.
func (c *payloadCodec) Unmarshal(data []byte, v any) error {
	return newCodecError(c.Codec, c.Codec.Unmarshal(data, v))
}

// maxChain bounds a chain of upcasters that Split closes to a circle.
const maxChain = 1000

// each calls fn with every payload that an event's stored one stands for today, until fn returns an error.
func (c *payloadCodec) each(p payload, stored storedEvent, fn func(payload) error) error {
	if len(c.upcasters) == 0 {
		return fn(p)
	}
	return c.walk(p, stored, fn, 0)
}

func (c *payloadCodec) walk(p payload, stored storedEvent, fn func(payload) error, depth int) error {
	u, ok := c.upcasters[p.name]
	if !ok {
		return fn(p)
	}
	if depth == maxChain {
		return invalid("upcasters of %q lead in a circle", p.name)
	}
	next, err := u.apply(c, p, stored)
	for i := 0; i < len(next) && err == nil; i++ {
		err = c.walk(next[i], stored, fn, depth+1)
	}
	return err
}

// stored returns the stored names whose events today's names can come from, those names included.
// Splits are always among them: what they make is known only once an event is there.
func (c *payloadCodec) stored(names map[string]bool) map[string]bool {
	out := make(map[string]bool, len(names))
	for name := range names {
		out[name] = true
	}
	for grown := true; grown; {
		grown = false
		for from, u := range c.upcasters {
			if !out[from] && (u.to == "" || out[u.to]) {
				out[from], grown = true, true
			}
		}
	}
	return out
}

// event returns ev as it looks with p for its content: unchanged if p is what is stored.
func (c *payloadCodec) event(ev Event, p payload) (Event, error) {
	ev.Name = p.name
	if p.value == nil {
		return ev, nil
	}
	data, err := c.Marshal(p.value)
	if err != nil {
		return ev, fmt.Errorf("encode %q: %w", p.name, err)
	}
	ev.Data = data
	return ev, nil
}

// errFound ends a search through payloads.
var errFound = errors.New("found")

// payloadAs returns p's content as an E. The names have been compared by the caller.
func payloadAs[E Payload](c *payloadCodec, p payload) (E, error) {
	var e E
	data := p.data
	if p.value != nil {
		if e, ok := p.value.(E); ok {
			return e, nil
		}
		if e, ok := any(p.value).(*E); ok && e != nil {
			return *e, nil
		}
		var err error
		if data, err = c.Marshal(p.value); err != nil {
			return e, fmt.Errorf("encode %q: %w", p.name, err)
		}
	}
	if err := c.Unmarshal(data, &e); err != nil {
		return e, fmt.Errorf("decode %q: %w", p.name, err)
	}
	return e, nil
}
