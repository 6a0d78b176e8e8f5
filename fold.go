package eventstore

import (
	"context"
	"fmt"
)

// Fold changes a state of type S by one event. It cannot fail: what has happened has happened, and
// decisions belong where events are made. [On], [OnEvent] and [OnAny] make them; aggregates,
// queries and projections take lists of them, and the types of the functions say which events
// they want. If several entries of one list want an event, all of them run, in list order.
type Fold[S any] struct {
	name    string // "": any event that no other entry names
	apply   func(*S, *turn) error
	problem error
}

// turn is one event's way through a list of entries. Its Event is made when asked for.
type turn struct {
	codec   *payloadCodec
	payload payload

	// One of these tells the event.
	fresh  func() (Event, error) // it is only now being made
	loaded *Event                // it has passed middleware
	record *record               // of store
	store  *Store
}

// event returns the event, decoding what is stored around its payload.
func (t *turn) event() (Event, error) {
	switch {
	case t.fresh != nil:
		return t.fresh()
	case t.loaded != nil:
		return t.codec.event(*t.loaded, t.payload)
	}
	ev, err := t.store.event(t.record)
	if err != nil {
		return ev, err
	}
	return t.codec.event(ev, t.payload)
}

// On folds events of type E.
func On[E Payload, S any](apply func(state *S, e E)) Fold[S] {
	f := Fold[S]{name: nameOf[E]()}
	f.problem = entryProblem[E]("On", f.name, apply == nil)
	f.apply = func(s *S, t *turn) error {
		e, err := payloadAs[E](t.codec, t.payload)
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
	f.problem = entryProblem[E]("OnEvent", f.name, apply == nil)
	f.apply = func(s *S, t *turn) error {
		e, err := payloadAs[E](t.codec, t.payload)
		if err != nil {
			return err
		}
		ev, err := t.event()
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
		f.problem = invalid("OnAny: its function is nil")
	}
	f.apply = func(s *S, t *turn) error {
		ev, err := t.event()
		if err == nil {
			apply(s, ev)
		}
		return err
	}
	return f
}

// entryProblem finds what is wrong with an entry for E.
func entryProblem[E Payload](maker, name string, missing bool) error {
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
	if f.problem == nil && f.apply == nil {
		return invalid("the zero Fold")
	}
	return f.problem
}

// apply runs the entries that want the turn's payload, one after the other.
func (l *folds[S]) apply(s *S, t *turn) error {
	entries := l.entries(t.payload.name)
	if len(entries) == 0 {
		return fmt.Errorf("%w: no fold takes %q", ErrUnknownEvent, t.payload.name)
	}
	for _, f := range entries {
		if err := f.apply(s, t); err != nil {
			return err
		}
	}
	return nil
}

// turns leads records, one after the other, through a list of entries. It is for one goroutine, and
// uses one turn for all, which is nobody's any more when fn returns.
type turns struct {
	store *Store
	fn    func(*turn) error
	turn  turn
}

// turns begins to call fn.
func (s *Store) turns(fn func(*turn) error) *turns { return &turns{store: s, fn: fn} }

// take calls fn with each of the payloads that a record stands for today.
func (ts *turns) take(ctx context.Context, r *record) error {
	s, t := ts.store, &ts.turn
	*t = turn{codec: s.codec, store: s, record: r, payload: payload{name: r.name, data: r.data}}
	if s.loads {
		// Middleware may change what is read, so it comes first.
		ev, err := s.load(ctx, r)
		if err != nil {
			return err
		}
		t.loaded, t.payload.name, t.payload.data = &ev, ev.Name, ev.Data
	}
	if len(s.codec.upcasters) == 0 {
		return ts.fn(t)
	}
	return s.codec.each(t.payload.name, t.payload.data, func(p payload) error {
		t.payload = p
		return ts.fn(t)
	})
}
