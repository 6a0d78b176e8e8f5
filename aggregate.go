// Aggregate: load, save, execute and handle, with retries on conflict.

package eventstore

import (
	"context"
	"errors"
	"fmt"
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
	folds, err := a.check()
	if err != nil {
		return nil, err
	}
	r, err := a.load(ctx, s, folds, id)
	if err == nil && r.version == 0 {
		return nil, fmt.Errorf("%w: %q in stream %q", ErrAggregateNotFound, id, a.Stream)
	}
	return r, err
}

// load is Load, but an aggregate without events is a new one.
func (a *Aggregate[S]) load(ctx context.Context, s *Store, folds *folds[S], id string) (*Root[S], error) {
	r := a.root(id, folds, s.codec)
	dispatcher := s.dispatcher(func(d *delivery) error { return folds.apply(&r.state, d) })
	if a.Snapshot.Every > 0 {
		rows, more, err := s.readSnapshot(ctx, a.Stream, id, a.Snapshot.Schema)
		if err != nil {
			return nil, err
		}
		if rows, ok := a.restore(ctx, s, r, rows); ok {
			for i := range rows {
				if err := a.replay(ctx, dispatcher, r, &rows[i]); err != nil {
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
			err = a.replay(ctx, dispatcher, r, rec)
		}
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}

// replay folds a stored event into a root.
func (a *Aggregate[S]) replay(ctx context.Context, dispatcher *dispatcher, r *Root[S], rec *record) error {
	if err := dispatcher.dispatch(ctx, rec); err != nil {
		return within(fmt.Sprintf("aggregate %q in stream %q, version %d", r.id, a.Stream, rec.version), err)
	}
	r.version, r.position = rec.version, rec.position
	return nil
}

// Save appends what r has recorded, at the version that r was loaded with, and returns the events
// as stored; r is then ready to record more. If others were faster: [*ConflictError]. So it is if the
// aggregate was deleted since, even if a successor has come to the same version. After any
// error r still holds its events: saving it again stores them at most once, also if the error was
// a lost answer and they have been stored. If they turn out to have been stored before, r becomes the
// aggregate as it is now, in a caller's transaction as that sees it.
func (a *Aggregate[S]) Save(ctx context.Context, s *Store, r *Root[S]) ([]Event, error) {
	if r.err != nil {
		return nil, r.err
	}
	if len(r.pending) == 0 {
		return nil, nil
	}
	b, origin := r.batch()
	stored, err := s.appendBatch(ctx, b, origin)
	if err != nil {
		return stored, err
	}
	if n := len(stored); !origin.earlier && n == len(r.pending) && stored[n-1].Version == r.version {
		r.pending, r.position = nil, stored[n-1].Position
	} else {
		// They were stored before, perhaps behind other events than r has seen or with other payloads, or
		// middleware has stored others: r's state may be none that the aggregate ever had.
		fresh, err := a.load(ctx, s, r.folds, r.id)
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
	folds, err := a.check()
	if err != nil {
		return nil, err
	}
	return a.execute(ctx, s, folds, id, decide)
}

// execute is Execute for a checked definition.
func (a *Aggregate[S]) execute(ctx context.Context, s *Store, folds *folds[S], id string, decide func(*Root[S]) error) (*Root[S], error) {
	attempts := a.Attempts
	switch {
	case s.inTx:
		attempts = 1
	case attempts == 0:
		attempts = defaultAttempts
	}
	taken := false
	for attempt := 1; ; attempt++ {
		r, err := a.load(ctx, s, folds, id)
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

// Handle carries out a command: it is [Aggregate.Execute] with the first entry of Commands that
// takes the command's type. If none does: [ErrUnknownCommand], and nothing is read. An error of the
// entry comes back as it is, with nothing stored.
func (a *Aggregate[S]) Handle(ctx context.Context, s *Store, id string, command any) (*Root[S], error) {
	folds, err := a.check()
	if err != nil {
		return nil, err
	}
	for i := range a.Commands {
		if c := &a.Commands[i]; c.takes(command) {
			return a.execute(ctx, s, folds, id, func(r *Root[S]) error { return c.decide(ctx, r, command) })
		}
	}
	return nil, fmt.Errorf("%w: %T", ErrUnknownCommand, command)
}
