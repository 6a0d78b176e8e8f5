// Folds: On, OnEvent and OnAny turn events into state, for aggregates, queries and projections.

package eventstore

import (
	"fmt"
)

// Fold changes a state of type S by one event. It cannot fail: what has happened has happened, and
// decisions belong where events are made. [On], [OnEvent] and [OnAny] make them; aggregates,
// queries and projections take lists of them, and the types of the functions say which events
// they want. If several entries of one list want an event, all of them run, in list order.
type Fold[S any] struct {
	name  string // "": any event that no other entry names
	apply func(*S, *delivery) error
	err   error
}

// delivery is one event on its way through a list of entries. Its Event is made when asked for.
type delivery struct {
	codec   *payloadCodec
	payload payload

	// One of these tells the event.
	fresh  func() (Event, error) // it is only now being made
	loaded *Event                // it has passed middleware
	record *record               // as events has it
	events eventSource
}

// eventSource makes Events of records: a Store.
type eventSource interface {
	eventCopy(r *record) (Event, error)
}

// encode makes every entry decode a payload of its own, where an upcaster has made one for all.
func (d *delivery) encode() error {
	if d.payload.value == nil {
		return nil
	}
	data, err := d.codec.Marshal(d.payload.value)
	if err != nil {
		return fmt.Errorf("encode %q: %w", d.payload.name, err)
	}
	d.payload.data, d.payload.value = data, nil
	return nil
}

// event returns the event, decoding what is stored around its payload. Each call returns one that
// belongs to its receiver.
func (d *delivery) event() (Event, error) {
	switch {
	case d.fresh != nil:
		return d.fresh()
	case d.loaded != nil:
		ev, err := d.codec.event(*d.loaded, d.payload)
		return ev.clone(), err
	}
	ev, err := d.stored()
	if err != nil {
		return ev, err
	}
	return d.codec.event(ev, d.payload)
}

// stored returns the event as it is stored, or as middleware has it read. Like event, it returns a new one.
func (d *delivery) stored() (Event, error) {
	if d.loaded != nil {
		return d.loaded.clone(), nil
	}
	return d.events.eventCopy(d.record)
}

// On folds events of type E.
func On[E Payload, S any](apply func(state *S, e E)) Fold[S] {
	f := Fold[S]{name: nameOf[E]()}
	f.err = checkEntry[E]("On", f.name, apply == nil)
	f.apply = func(s *S, d *delivery) error {
		e, err := payloadAs[E](d.codec, d.payload)
		if err == nil {
			apply(s, e)
		}
		return err
	}
	return f
}

// OnEvent folds events of type E together with what is stored around them. Of an event that
// [Root.Record] has just taken, Position and RecordedAt are zero, and Metadata is what Record was
// given.
func OnEvent[E Payload, S any](apply func(state *S, e E, ev Event)) Fold[S] {
	f := Fold[S]{name: nameOf[E]()}
	f.err = checkEntry[E]("OnEvent", f.name, apply == nil)
	f.apply = func(s *S, d *delivery) error {
		e, err := payloadAs[E](d.codec, d.payload)
		if err != nil {
			return err
		}
		ev, err := d.event()
		if err == nil {
			apply(s, e, ev)
		}
		return err
	}
	return f
}

// OnAny folds the events that no other entry of the list names.
func OnAny[S any](apply func(state *S, ev Event)) Fold[S] {
	f := Fold[S]{}
	if apply == nil {
		f.err = invalid("OnAny: its function is nil")
	}
	f.apply = func(s *S, d *delivery) error {
		ev, err := d.event()
		if err == nil {
			apply(s, ev)
		}
		return err
	}
	return f
}

// checkEntry finds what is wrong with an entry for E.
func checkEntry[E Payload](maker, name string, missing bool) error {
	if missing {
		return invalid("%s[%T]: its function is nil", maker, *new(E))
	}
	return checkName(fmt.Sprintf("%s[%T]: the event name", maker, *new(E)), name)
}

// byName are the entries of a checked list, by the names of the events that they want.
type byName[E any] struct {
	named map[string][]E
	rest  []E // those that want what no other names
}

// add appends an entry; an empty name stands for what no other entry names.
func (l *byName[E]) add(name string, e E) {
	if name == "" {
		l.rest = append(l.rest, e)
		return
	}
	if l.named == nil {
		l.named = map[string][]E{}
	}
	l.named[name] = append(l.named[name], e)
}

// entries returns those that want an event of this name.
func (l *byName[E]) entries(name string) []E {
	if named, ok := l.named[name]; ok {
		return named
	}
	return l.rest
}

// names returns the names that the list wants, or nil if it wants all.
func (l *byName[E]) names() map[string]bool {
	if len(l.rest) > 0 {
		return nil
	}
	names := make(map[string]bool, len(l.named))
	for name := range l.named {
		names[name] = true
	}
	return names
}

// folds is a checked list of folds, ready to be applied.
type folds[S any] struct{ byName[*Fold[S]] }

// newFolds checks a definition's list; field names it in errors.
func newFolds[S any](field string, when []Fold[S]) (*folds[S], error) {
	l := &folds[S]{}
	for i := range when {
		f := &when[i]
		if err := f.check(); err != nil {
			return nil, within(fmt.Sprintf("%s[%d]", field, i), err)
		}
		l.add(f.name, f)
	}
	return l, nil
}

// check finds what is wrong with a fold.
func (f *Fold[S]) check() error {
	if f.err == nil && f.apply == nil {
		return invalid("the zero Fold")
	}
	return f.err
}

// apply runs the entries that want a delivery's payload, one after the other.
func (l *folds[S]) apply(s *S, d *delivery) error {
	entries := l.entries(d.payload.name)
	if len(entries) == 0 {
		return fmt.Errorf("%w: no fold takes %q", ErrUnknownEvent, d.payload.name)
	}
	if len(entries) > 1 {
		if err := d.encode(); err != nil {
			return err
		}
	}
	for _, f := range entries {
		if err := f.apply(s, d); err != nil {
			return err
		}
	}
	return nil
}
