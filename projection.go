// Projection: a state, or tables, kept up to date with the log.

package eventstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// Projection builds an S, or tables, from events in sealed order, and remembers how far it is: it
// takes in each event that From picks exactly once, in position order. What its handlers write
// through the [Step], the state and the position commit together. It is a literal, checked when
// first used, and safe for concurrent use.
//
//	var totals = eventstore.Projection[Totals]{
//		Name: "totals",
//		From: eventstore.FromStream("accounts"),
//		When: []eventstore.Handler[Totals]{
//			eventstore.On(func(t *Totals, e Deposited) { t.Cents += e.Cents }),
//		},
//	}
//
// The name stands for what is stored: projections of one name are the same projection, whichever
// process runs them, and relays share the names. The state is stored by the store's codec, so that
// only what the codec writes of an S survives a restart.
type Projection[S any] struct {
	Name string // 1 to 255 bytes, without "@"

	// Version tells definitions of one name apart. Each version has a position, a state, parked events and
	// a lease of its own: raising it builds the projection anew beside the older one, which processes
	// with the older definition go on running and reading. By name, as in [Store.ResetProjection] and
	// [ProjectionInfo], version 2 of "loans" is "loans@2"; so is the stream that it emits to. Zero and
	// one are the name itself. Name and version have at most 255 bytes together.
	Version int

	From Selection

	// After is the position after which a projection begins that has never run; [Latest] is what is
	// sealed by then. A reset begins at the first event all the same.
	After Position

	// OnChange says what a run does whose definition wants events that an earlier definition of the same
	// name and version has passed over. Default: [RefuseChange].
	//
	// What a definition wants are the streams and categories of From times the stored names of the events
	// that its handlers take, those counted in that upcasters make of them. The row of the projection
	// keeps the set that has been taken in.
	//
	//   - A definition that wants more takes the lease at once, also from a runner of the older one. If
	//     an event that it wants has been passed over, OnChange decides; otherwise it goes on.
	//   - One that wants less is an older definition. It takes the lease only when it is free, and stands
	//     by before the first event that it would pass over; [ProjectionInfo].Error says so. With another
	//     OnChange than RefuseChange its set becomes the stored one instead.
	//   - One that lacks some and adds others is [ErrProjectionChanged], unless OnChange says otherwise:
	//     then it takes the lease when that is free.
	//
	// Changes of matches, of Init and of what handlers do are not noticed: raise Version for those. Names
	// that [Middleware] gives to events do not count.
	OnChange Change

	Init func() S // the state before the first event; default: the zero S

	// When are the handlers: [On], [OnEvent] and [OnAny] change the state, [Do] and [DoAny] have
	// effects and can fail. If several want an event, all of them run, in list order. Events that
	// none of them wants are passed over.
	When []Handler[S]

	// ReadModel are tables that live and die with the projection. On a memory store, which has no
	// tables, a projection with one can't be used: [errors.ErrUnsupported].
	ReadModel ReadModel

	// OnError decides what becomes of an event whose handling has failed; attempt counts its
	// tries, from 1. Default: [Retry] three times, then [Fail]. If a function panicked, err is a
	// [*PanicError]. If OnError panics itself, that counts as Fail.
	//
	// It is asked only about what a handler did. A deadlock, a lost connection, a server that is
	// read-only or out of space, and a failure of the store's own statements blame no event: the runner
	// retries with a growing pause for as long as it takes, and [ProjectionInfo].Error says why. But an
	// event that is alone in its batch and loses its transaction ten times running, while the database
	// takes other statements, has failed: its handler brings that about.
	OnError func(ctx context.Context, ev Event, err error, attempt int) ErrorAction

	BatchSize int           // the most events of a transaction; zero: 1000
	Poll      time.Duration // the longest wait between looks for new events; zero: 500ms

	// Lease is how long a runner that has died keeps others from taking over. It is renewed while
	// handlers run, on another connection; a batch that has taken half a lease commits what it has. A
	// handler that takes longer than a lease, where the pool has no other connection, loses the lease
	// once; from then on its transaction keeps the lease, and others wait for its end. Zero: 10s; at
	// least 1s.
	Lease time.Duration
}

// Checkpoint is how far a projection is.
type Checkpoint[S any] struct {
	Position Position // the last that it has taken in or passed over
	State    S
}

// Run follows the log until ctx ends, and returns ctx.Err(); until it is stopped, by
// [Step.Stop], [Store.StopProjection] or a delete, and returns nil; or until a handler has failed
// for good, and returns a [*ProjectionError]: calling Run again tries again.
//
// Any number of processes may run one projection. One of them holds its lease; the others stand by
// and take over when it ends. A lease that was lost and a database that can't be reached, or refuses
// statements for now, end nothing: Run goes on when it can. No lock is held on the lease while handlers run. Reading goes
// on beside handling, on another connection if the pool has one.
//
// A store from [Store.WithTx] can't run projections: [errors.ErrUnsupported].
func (p *Projection[S]) Run(ctx context.Context, s *Store) error {
	r, _, err := p.runner(s)
	if err != nil {
		return err
	}
	return r.run(ctx)
}

// CatchUp runs the projection, or waits for another runner's work, until every event that was
// committed before the call is in. It waits for older appends that are still uncommitted, however
// long their transactions take. If it is stopped it returns how far the projection has come. Errors
// are those of Run.
func (p *Projection[S]) CatchUp(ctx context.Context, s *Store) (Checkpoint[S], error) {
	var cp Checkpoint[S]
	r, f, err := p.runner(s)
	if err != nil {
		return cp, err
	}
	if err := r.catchUp(ctx); err != nil {
		return cp, err
	}
	return Checkpoint[S]{r.batches.position, f.state}, nil
}

// Load returns what is stored of the projection. If it has never run, or has been deleted:
// [ErrProjectionNotFound].
func (p *Projection[S]) Load(ctx context.Context, s *Store) (Checkpoint[S], error) {
	var cp Checkpoint[S]
	name, err := checkDefined("Projection", p.Name, p.Version)
	if err != nil {
		return cp, err
	}
	row, found, err := s.backend.projection(ctx, name)
	switch {
	case err != nil:
		return cp, err
	case !found || row.status == StatusDeleting:
		return cp, notFound(name)
	}
	if err := kindProjection.owns(name, &row); err != nil {
		return cp, err
	}
	f := p.projector(s, name)
	if err := f.restore(row.state); err != nil {
		return cp, within(fmt.Sprintf("state of projection %q", name), err)
	}
	return Checkpoint[S]{row.position, f.state}, nil
}

// Wait returns when the projection, whoever runs it, has taken in everything up to a position:
// given that of the last event that [Store.Append] returned, or [Root.Position] behind
// [Aggregate.Execute], what is read afterwards holds one's own writes. It
// runs nothing itself: while nobody runs the projection, or it has failed, it waits until ctx ends,
// which therefore should have a deadline, and returns ctx.Err(). So it does on a store from
// [Store.WithTx] for events of that transaction, which nobody sees before its commit.
func (p *Projection[S]) Wait(ctx context.Context, s *Store, at Position) error {
	name, err := checkDefined("Projection", p.Name, p.Version)
	if err != nil {
		return err
	}
	return s.waitFor(ctx, name, kindProjection, p.Poll, at)
}

// Reset begins the projection at the first event again: its state, its read model's rows, its
// parked events and the stream that its [Step.Emit] has created are gone. A stream that only has the
// projection's name is left alone. Runners go on from there at once. If it has never run, or has been
// deleted: [ErrProjectionNotFound].
func (p *Projection[S]) Reset(ctx context.Context, s *Store) error {
	r, _, err := p.runner(s)
	if err != nil {
		return err
	}
	return s.resetProjection(ctx, r)
}

// Delete removes the projection with its read model, and, if emitted, the stream that its
// [Step.Emit] has created; its runs end with nil. A stream that only has the projection's name is
// left alone. If it has never run: [ErrProjectionNotFound].
func (p *Projection[S]) Delete(ctx context.Context, s *Store, emitted bool) error {
	r, _, err := p.runner(s)
	if err != nil {
		return err
	}
	return s.deleteProjection(ctx, r, emitted)
}

// runner checks the definition and returns what runs it.
func (p *Projection[S]) runner(s *Store) (*runner, *projector[S], error) {
	name, err := checkDefined("Projection", p.Name, p.Version)
	if err != nil {
		return nil, nil, err
	}
	r, handlers, err := newProjectionRunner(s, "Projection", runnerConfig{
		name: name, kind: kindProjection, from: p.From, after: p.After, onChange: p.OnChange,
		batchSize: p.BatchSize, poll: p.Poll, term: p.Lease, readModel: p.ReadModel,
	}, p.When)
	if err != nil {
		return nil, nil, err
	}
	f := p.projector(s, name)
	f.handlers = handlers
	r.consumer = f
	return r, f, nil
}

// projector returns what takes in the events, without its handlers.
func (p *Projection[S]) projector(s *Store, name string) *projector[S] {
	return &projector[S]{failurePolicy: failurePolicy{name, s, p.OnError}, init: p.Init}
}

// newProjectionRunner checks a definition and returns what runs it, still without a consumer, and its handlers.
// what names the definition's type in errors.
func newProjectionRunner[S any](s *Store, what string, c runnerConfig, when []Handler[S]) (*runner, byName[*entry[S]], error) {
	var handlers byName[*entry[S]]
	if err := c.check(what); err != nil {
		return nil, handlers, err
	}
	if s.inTx {
		return nil, handlers, fmt.Errorf("eventstore: a projection inside a transaction: %w", errors.ErrUnsupported)
	}
	if _, memory := s.backend.(*memBackend); memory && c.readModel != nil {
		return nil, handlers, fmt.Errorf("eventstore: projection %q: a read model on a memory store: %w", c.name, errors.ErrUnsupported)
	}
	for i, h := range when {
		if h == nil {
			return nil, handlers, invalid("%s.When[%d] is nil", what, i)
		}
		e := h.handler()
		err := e.err
		if err == nil && c.kind != kindDocuments && (e.keys != nil || e.drop) {
			err = invalid("OnKey and Drop are handlers of Documents")
		}
		if err != nil {
			return nil, handlers, within(fmt.Sprintf("%s.When[%d]", what, i), err)
		}
		handlers.add(e.name, e)
	}
	names := handlers.names()
	c.names = s.storedNames(names)
	if names != nil {
		names = s.codec.stored(names)
	}
	c.wanted = newWantedSet(c.from, names)
	return newRunner(s, c), handlers, nil
}

// waitFor returns when what runs under a name has taken in everything up to a position.
func (s *Store) waitFor(ctx context.Context, name string, kind runnerKind, longest time.Duration, at Position) error {
	poll := newPoller(s.progress, cmp.Or(longest, defaultPoll))
	for {
		poll.listen()
		row, found, err := s.backend.projection(ctx, name)
		if err == nil {
			err = kind.owns(name, &row)
		}
		switch {
		case err != nil && !transient(err):
			return err
		case err == nil && found && row.position >= at && row.status != StatusResetting && row.status != StatusDeleting:
			return nil
		}
		if err := poll.wait(ctx, true); err != nil {
			return err
		}
	}
}
