package eventstore

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/google/uuid"
)

// Aggregate defines how events build an S, and where they are kept. It is a literal, checked when
// first used, and safe for concurrent use; it must not be changed any more by then.
//
//	var accounts = eventstore.Aggregate[Account]{
//		Stream: "accounts",
//		When: []eventstore.Fold[Account]{
//			eventstore.On(func(a *Account, e Deposited) { a.Cents += e.Cents }),
//		},
//	}
type Aggregate[S any] struct {
	Stream string
	Init   func() S // the state before the first event; default: the zero S
	When   []Fold[S]

	Commands []Command[S] // what Handle carries out
	Snapshot Snapshot     // default: none

	// Attempts is how often Execute tries when other appends get in first, with jittered
	// back-off between. Zero: 10.
	Attempts int
}

// defaultAttempts is the default of Aggregate.Attempts.
const defaultAttempts = 10

// Root is one aggregate in memory: its state, its version, and the events recorded but not yet
// saved. It belongs to one goroutine at a time.
type Root[S any] struct {
	id      string
	version int64
	state   S
	pending []NewEvent
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

// Record applies p to the state and keeps it for [Aggregate.Save], with the metadata given. An
// event that no fold takes, or that is none, is reported by Save, which then stores nothing.
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
	if r.err == nil {
		r.err = r.record(&ev, md)
	}
	r.pending = append(r.pending, ev)
	r.version++
}

func (r *Root[S]) record(ev *NewEvent, md []Metadata) error {
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
	t := turn{codec: r.codec, payload: payload{name: name, value: ev.Payload}}
	t.fresh = func() (Event, error) {
		md, err := ev.Metadata.normal()
		if err != nil {
			return Event{}, err
		}
		data, err := r.codec.Marshal(ev.Payload)
		if err != nil {
			return Event{}, invalid("payload %q can't be encoded: %w", name, err)
		}
		return Event{
			ID: ev.ID, Stream: r.stream, AggregateID: r.id, Version: r.version + 1,
			Name: name, Data: data, Metadata: md, codec: r.codec,
		}, nil
	}
	return r.folds.apply(&r.state, &t)
}

// Uncommitted returns the events recorded since the root was made, loaded or last saved.
func (r *Root[S]) Uncommitted() []NewEvent { return append([]NewEvent(nil), r.pending...) }

// New returns an aggregate without events. It does no I/O: whether the ID is taken turns out when
// it is saved.
func (a *Aggregate[S]) New(id string) *Root[S] {
	folds, err := a.check()
	r := a.root(id, folds, defaultCodec)
	r.err = err
	return r
}

func (a *Aggregate[S]) root(id string, folds *folds[S], codec *payloadCodec) *Root[S] {
	r := &Root[S]{id: id, stream: a.Stream, folds: folds, codec: codec}
	if a.Init != nil {
		r.state = a.Init()
	}
	return r
}

// check finds what is wrong with the definition.
func (a *Aggregate[S]) check() (*folds[S], error) {
	if err := checkName("Aggregate.Stream", a.Stream); err != nil {
		return nil, err
	}
	switch {
	case a.Attempts < 0:
		return nil, invalid("Aggregate.Attempts %d", a.Attempts)
	case a.Snapshot.Every < 0:
		return nil, invalid("Aggregate.Snapshot.Every %d", a.Snapshot.Every)
	case a.Snapshot.Schema < 0:
		return nil, invalid("Aggregate.Snapshot.Schema %d", a.Snapshot.Schema)
	}
	if err := checkCommands("Aggregate.Commands", a.Commands); err != nil {
		return nil, err
	}
	return newFolds("Aggregate.When", a.When)
}

// Load returns the aggregate as its events have made it. If it has none: [ErrAggregateNotFound].
// A stored event that no fold takes is [ErrUnknownEvent]: a state that leaves something out is no
// ground for decisions. Use [OnAny] to let events pass on purpose.
func (a *Aggregate[S]) Load(ctx context.Context, s *Store, id string) (*Root[S], error) {
	r, err := a.load(ctx, s, id)
	if err == nil && r.version == 0 {
		return nil, fmt.Errorf("%w: %q in stream %q", ErrAggregateNotFound, id, a.Stream)
	}
	return r, err
}

// load is Load, but an aggregate without events is a new one.
func (a *Aggregate[S]) load(ctx context.Context, s *Store, id string) (*Root[S], error) {
	folds, err := a.check()
	if err != nil {
		return nil, err
	}
	r := a.root(id, folds, s.codec)
	turns := s.turns(func(t *turn) error { return folds.apply(&r.state, t) })
	if a.Snapshot.Every > 0 {
		rows, more, err := s.readSnapshot(ctx, a.Stream, id, a.Snapshot.Schema)
		if err != nil {
			return nil, err
		}
		if rows, ok := a.restore(ctx, s, r, rows); ok {
			for i := range rows {
				if err := a.replay(ctx, turns, r, &rows[i]); err != nil {
					return nil, err
				}
			}
			if !more {
				return r, nil
			}
		}
	}
	for rec, err := range s.readAggregate(ctx, a.Stream, id, r.version, s.readsAhead()) {
		if err == nil {
			err = a.replay(ctx, turns, r, rec)
		}
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}

// replay folds a stored event into a root.
func (a *Aggregate[S]) replay(ctx context.Context, turns *turns, r *Root[S], rec *record) error {
	if err := turns.take(ctx, rec); err != nil {
		return within(fmt.Sprintf("aggregate %q in stream %q, version %d", r.id, a.Stream, rec.version), err)
	}
	r.version, r.position = rec.version, rec.position
	return nil
}

// Save appends what r has recorded, at the version that r was loaded with, and returns the events
// as stored; r is then ready to record more. If others were faster: [*ConflictError]. After any
// error r still holds its events: saving it again stores them at most once, also if the error was
// a lost answer and they have been stored. If they turn out to have been stored before, at another
// version, r becomes the aggregate as it is now, in a caller's transaction as that sees it.
func (a *Aggregate[S]) Save(ctx context.Context, s *Store, r *Root[S]) ([]Event, error) {
	if r.err != nil {
		return nil, r.err
	}
	if len(r.pending) == 0 {
		return nil, nil
	}
	stored, err := s.Append(ctx, a.Stream, r.id, ExpectedVersion(r.version-int64(len(r.pending))), r.pending...)
	if err != nil {
		return stored, err
	}
	if n := len(stored); n == len(r.pending) && stored[n-1].Version == r.version {
		r.pending, r.position = nil, stored[n-1].Position
	} else {
		// They were stored before, behind other events than r has seen, or middleware has stored
		// others: r's state is none that the aggregate ever had.
		fresh, err := a.load(ctx, s, r.id)
		if err != nil {
			return nil, err
		}
		*r = *fresh
	}
	a.snapshotIfDue(ctx, s, r)
	return stored, nil
}

// Execute loads an aggregate, or starts it if it has no events, lets decide record events, and
// saves them. If others were faster it begins again with loading, up to Attempts times in all, and
// then returns the [*ConflictError]; inside a caller's transaction it tries once. If nothing is in
// the way but event IDs that are in use, which [Root.RecordEvent] can bring about, it tries twice.
// An error of decide ends it, with nothing stored, and comes back as it is. The root returned is as
// saved.
func (a *Aggregate[S]) Execute(ctx context.Context, s *Store, id string, decide func(*Root[S]) error) (*Root[S], error) {
	if decide == nil {
		return nil, invalid("decide is nil")
	}
	attempts := a.Attempts
	switch {
	case s.inTx:
		attempts = 1
	case attempts == 0:
		attempts = defaultAttempts
	}
	taken := false
	for attempt := 1; ; attempt++ {
		r, err := a.load(ctx, s, id)
		if err != nil {
			return nil, err
		}
		loaded := r.version
		if err := decide(r); err != nil {
			return nil, err
		}
		_, err = a.Save(ctx, s, r)
		if err == nil {
			return r, nil
		}
		if !errors.Is(err, ErrConflict) || attempt >= attempts {
			return nil, err
		}
		// Where nothing but IDs is in the way, deciding anew on the same state records them again,
		// unless what decide looks at elsewhere has changed: so once more, and no more.
		var conflict *ConflictError
		before := taken
		taken = errors.As(err, &conflict) && *conflict == ConflictError{a.Stream, id, ExpectedVersion(loaded), loaded}
		if taken && before {
			return nil, err
		}
		if err := backOff(ctx, attempt); err != nil {
			return nil, err
		}
	}
}
