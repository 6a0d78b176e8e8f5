package eventstore

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
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
	Name string // 1 to 255 bytes
	From Selection
	Init func() S // the state before the first event; default: the zero S

	// When are the handlers: [On], [OnEvent] and [OnAny] change the state, [Do] and [DoAny] have
	// effects and can fail. If several want an event, all of them run, in list order. Events that
	// none of them wants are passed over.
	When []Handler[S]

	// ReadModel are tables that live and die with the projection. On a memory store, which has no
	// tables, a projection with one can't be used: [errors.ErrUnsupported].
	ReadModel ReadModel

	// OnError decides what becomes of an event whose handling has failed; attempt counts its
	// tries, from 1. Default: [Retry] three times, then [Fail]. What the database asks to have
	// repeated (deadlocks, lost connections) is repeated without asking.
	OnError func(ctx context.Context, ev Event, err error, attempt int) Decision

	BatchSize int           // the most events of a transaction; zero: 1000
	Poll      time.Duration // the longest wait between looks for new events; zero: 500ms

	// Lease is how long a runner that has died keeps others from taking over. It is renewed while
	// handlers run. Zero: 10s; at least 1s.
	Lease time.Duration
}

// Handler takes in an event on behalf of a [Projection]: a [Fold] or an [Effect].
type Handler[S any] interface{ handler() *entry[S] }

// entry is a handler as projections run it: a fold or an effect.
type entry[S any] struct {
	name    string // "": any event that no other entry names
	problem error
	fold    func(*S, *turn) error
	effect  func(ctx context.Context, step *Step[S], t *turn) error
}

func (f Fold[S]) handler() *entry[S] {
	return &entry[S]{name: f.name, problem: f.check(), fold: f.apply}
}

// Effect does more than change the state: it writes to the database or emits events, and it can
// fail. [Do] and [DoAny] make it.
type Effect[S any] struct{ entry entry[S] }

func (e Effect[S]) handler() *entry[S] {
	if e.entry.effect == nil && e.entry.problem == nil {
		e.entry.problem = invalid("the zero Effect")
	}
	return &e.entry
}

// Do handles events of type E. ctx ends when the lease is lost. An error undoes what the step has
// done, down to the state, and [Projection].OnError decides what becomes of it.
//
// Effects outside the transaction of [Step.Tx] may come about more than once: a batch that could
// not be committed is handled again.
func Do[E Payload, S any](fn func(ctx context.Context, step *Step[S], e E) error) Effect[S] {
	name := nameOf[E]()
	effect := func(ctx context.Context, step *Step[S], t *turn) error {
		e, err := payloadAs[E](t.codec, t.payload)
		if err != nil {
			return err
		}
		if step.Event, err = t.event(); err != nil {
			return err
		}
		return fn(ctx, step, e)
	}
	return Effect[S]{entry[S]{name: name, problem: entryProblem[E]("Do", name, fn == nil), effect: effect}}
}

// DoAny handles the events that no other entry of the list names, otherwise like [Do].
func DoAny[S any](fn func(ctx context.Context, step *Step[S]) error) Effect[S] {
	var problem error
	if fn == nil {
		problem = invalid("DoAny: its function is nil")
	}
	effect := func(ctx context.Context, step *Step[S], t *turn) (err error) {
		if step.Event, err = t.event(); err != nil {
			return err
		}
		return fn(ctx, step)
	}
	return Effect[S]{entry[S]{problem: problem, effect: effect}}
}

// Step is one event's turn in a projection. It belongs to the handler until that returns.
type Step[S any] struct {
	State *S    // the projection's, with the events before; changes are stored with the position
	Event Event // as it is stored; [Do] has it decoded

	work   *work
	record *record
}

// Tx returns the transaction that also stores state and position, at read committed. It is for
// reading and writing: it is not the handler's to end, be it by a statement that defines data, which
// commits on MySQL. A handler returns the errors of its statements, or those at least that it does
// not expect: on MySQL a deadlock undoes the whole transaction, with what earlier steps have done.
// If another runner has taken over: [ErrLeaseLost], as far as this one can know; what it has not
// noticed, its commit does. On a memory store: [errors.ErrUnsupported].
func (st *Step[S]) Tx() (*sql.Tx, error) { return st.work.tx() }

// Emit appends events, together with state and position, to the stream named as the projection,
// which is made if it is not there, and to the aggregate there that has the ID of the step's own.
// A projection whose From picks that stream sees them too. If another runner has taken over:
// [ErrLeaseLost].
func (st *Step[S]) Emit(ctx context.Context, events ...NewEvent) error {
	if len(events) == 0 {
		return nil
	}
	b := Batch{Stream: st.work.name, AggregateID: st.record.aggregateID, Expected: AnyVersion, Events: events}
	return st.work.append(ctx, b, true)
}

// LinkTo puts the step's event into another stream too, which is made if it is not there: with the
// same aggregate ID, name, data and metadata plus "$link.stream" and "$link.position", which say
// where it comes from, as the next version there, under an ID derived from the event's and the
// stream's name: linking again changes nothing, nor does linking an event to the stream it is in.
// It commits together with state and position. If another runner has taken over: [ErrLeaseLost].
func (st *Step[S]) LinkTo(ctx context.Context, stream string) error {
	r := st.record
	if stream == r.stream {
		return st.work.alive()
	}
	md, err := decodeMetadata(r.metadata)
	if err != nil {
		return fmt.Errorf("eventstore: metadata of event %d: %w", r.position, err)
	}
	md["$link.stream"], md["$link.position"] = r.stream, int64(r.position)
	link := NewEvent{ID: linkID(r.id, stream), Payload: storedPayload{r.name, r.data}, Metadata: md}
	return st.work.append(ctx, Batch{Stream: stream, AggregateID: r.aggregateID, Expected: AnyVersion, Events: []NewEvent{link}}, false)
}

// Stop ends the run after this event, which still counts: Run returns nil, and CatchUp how far the
// projection has come.
func (st *Step[S]) Stop() { st.work.stopped = true }

// Decision is what becomes of an event that a projection has failed on.
type Decision int

const (
	// Fail ends the run with a [*ProjectionError].
	Fail Decision = iota
	// Retry tries again, after a pause that grows with the attempts up to two seconds.
	Retry
	// Skip goes on as if the event had not been there.
	Skip
	// Park sets the event aside, and later ones of its aggregate behind it, and goes on with the
	// rest. See [Store.ParkedEvents].
	Park
)

func (d Decision) String() string {
	switch d {
	case Fail:
		return "fail"
	case Retry:
		return "retry"
	case Skip:
		return "skip"
	case Park:
		return "park"
	}
	return fmt.Sprintf("Decision(%d)", int(d))
}

// defaultOnError retries three times.
func defaultOnError(_ context.Context, _ Event, _ error, attempt int) Decision {
	if attempt <= 3 {
		return Retry
	}
	return Fail
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
// and take over when it ends. A lease that was lost and a database that can't be reached end
// nothing: Run goes on when it can. No lock is held on the lease while handlers run. Reading goes
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
	for failures := 1; ; failures++ {
		r.target, err = s.backend.lastPosition(ctx)
		if err == nil {
			break
		}
		if !passing(err) || sleep(ctx, pauseAfter(failures)) != nil {
			return cp, cmp.Or(ctx.Err(), err)
		}
	}
	if err := r.run(ctx); err != nil {
		return cp, err
	}
	return Checkpoint[S]{r.position, f.state}, nil
}

// Load returns what is stored of the projection. If it has never run, or has been deleted:
// [ErrProjectionNotFound].
func (p *Projection[S]) Load(ctx context.Context, s *Store) (Checkpoint[S], error) {
	var cp Checkpoint[S]
	if err := checkName("Projection.Name", p.Name); err != nil {
		return cp, err
	}
	row, found, err := s.backend.projection(ctx, p.Name)
	switch {
	case err != nil:
		return cp, err
	case !found || row.status == StatusDeleting:
		return cp, notFound(p.Name)
	}
	f := &projector[S]{projection: p, store: s}
	if err := f.restore(row.state); err != nil {
		return cp, fmt.Errorf("eventstore: state of projection %q: %w", p.Name, err)
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
	if err := checkName("Projection.Name", p.Name); err != nil {
		return err
	}
	poll := p.Poll
	if poll == 0 {
		poll = defaultPoll
	}
	wait := newWaiter(s.moves, poll)
	for {
		wait.listen()
		row, found, err := s.backend.projection(ctx, p.Name)
		switch {
		case err != nil && !passing(err):
			return err
		case err == nil && found && row.position >= at && row.status != StatusResetting && row.status != StatusDeleting:
			return nil
		}
		if err := wait.wait(ctx, true); err != nil {
			return err
		}
	}
}

// Reset begins the projection at the first event again: its state, its read model's rows, its
// parked events and the stream that it emits to are gone. Runners go on from there at once. If it
// has never run, or has been deleted: [ErrProjectionNotFound].
func (p *Projection[S]) Reset(ctx context.Context, s *Store) error {
	r, _, err := p.runner(s)
	if err != nil {
		return err
	}
	return s.resetProjection(ctx, r)
}

// Delete removes the projection with its read model, and, if emitted, the stream that it emits to;
// its runs end with nil. If it has never run: [ErrProjectionNotFound].
func (p *Projection[S]) Delete(ctx context.Context, s *Store, emitted bool) error {
	r, _, err := p.runner(s)
	if err != nil {
		return err
	}
	return s.deleteProjection(ctx, r, emitted)
}

// runner checks the definition and returns what runs it.
func (p *Projection[S]) runner(s *Store) (*runner, *projector[S], error) {
	if err := checkRunner("Projection", p.Name, p.From, p.BatchSize, p.Poll, p.Lease); err != nil {
		return nil, nil, err
	}
	if s.inTx {
		return nil, nil, fmt.Errorf("eventstore: a projection inside a transaction: %w", errors.ErrUnsupported)
	}
	if _, memory := s.backend.(*memBackend); memory && p.ReadModel != nil {
		return nil, nil, fmt.Errorf("eventstore: projection %q: a read model on a memory store: %w", p.Name, errors.ErrUnsupported)
	}
	f := &projector[S]{projection: p, store: s}
	for i, h := range p.When {
		if h == nil {
			return nil, nil, invalid("Projection.When[%d] is nil", i)
		}
		e := h.handler()
		if e.problem != nil {
			return nil, nil, within(fmt.Sprintf("Projection.When[%d]", i), e.problem)
		}
		f.handlers.add(e.name, e)
	}
	r := newRunner(s, p.Name, p.From, s.storedNames(f.handlers.names()), p.BatchSize, p.Poll, p.Lease)
	r.follower, r.readModel = f, p.ReadModel
	f.runner = r
	return r, f, nil
}

// projector is a projection's follower.
type projector[S any] struct {
	projection *Projection[S]
	store      *Store
	runner     *runner
	handlers   byName[*entry[S]]
	state      S
	stored     []byte // the state, as stored
	touched    bool   // a handler has run since
}

func (f *projector[S]) restore(state []byte) error {
	f.stored, f.touched = state, false
	var s S
	if state == nil {
		if f.projection.Init != nil {
			s = f.projection.Init()
		}
		f.state = s
		return nil
	}
	err := f.store.codec.Unmarshal(state, &s)
	f.state = s
	return err
}

func (f *projector[S]) encode() ([]byte, error) {
	if !f.touched {
		return nil, nil
	}
	state, err := f.store.codec.Marshal(f.state)
	if err != nil {
		return nil, err
	}
	if err := checkData(f.store.codec.Codec, "state", state); err != nil {
		return nil, err
	}
	f.touched = false
	if bytes.Equal(state, f.stored) {
		return nil, nil
	}
	f.stored = state
	return state, nil
}

func (f *projector[S]) handle(ctx context.Context, w *work, rows []record) (done int, err error) {
	turns := f.store.turns(func(t *turn) error { return f.turn(ctx, w, t) })
	for i := range rows {
		r := &rows[i]
		if len(f.runner.parked) > 0 && f.runner.parked[aggregateKey{r.stream, r.aggregateID}] {
			if err := w.park(r, ""); err != nil {
				return i, err
			}
			continue
		}
		err := turns.take(ctx, r)
		if err == nil {
			// A handler may have hidden it. At once, because on MySQL a deadlock has ended the
			// transaction, and what other handlers did behind it would be stored by itself.
			err = cmp.Or(w.fault, ctx.Err())
		}
		if err != nil {
			return i, err
		}
		if w.stopped {
			return i + 1, nil
		}
	}
	return len(rows), nil
}

func (f *projector[S]) turn(ctx context.Context, w *work, t *turn) error {
	var step *Step[S] // of all the event's effects
	for _, e := range f.handlers.entries(t.payload.name) {
		f.touched = true
		var err error
		if e.fold != nil {
			err = e.fold(&f.state, t)
		} else {
			if step == nil {
				step = &Step[S]{State: &f.state, work: w, record: t.record}
			}
			err = e.effect(ctx, step, t)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *projector[S]) decide(ctx context.Context, r *record, err error, attempt int) Decision {
	onError := f.projection.OnError
	if onError == nil {
		onError = defaultOnError
	}
	return onError(ctx, f.store.eventOf(r), err, attempt)
}

func (f *projector[S]) fatal(r *record, err error) error {
	return &ProjectionError{Name: f.projection.Name, Event: f.store.eventOf(r), Err: err}
}

// eventOf returns a record as an Event for somebody who is told of a failure, which may be that
// its metadata can't be read.
func (s *Store) eventOf(r *record) Event {
	ev, err := s.event(r)
	if err != nil {
		ev = Event{Position: r.position, ID: r.id, Stream: r.stream, AggregateID: r.aggregateID, Version: r.version, Name: r.name, RecordedAt: r.recordedAt, codec: s.codec}
	}
	return ev
}

// checkRunner finds what is wrong with what projections and relays have in common.
func checkRunner(kind, name string, from Selection, batchSize int, poll, lease time.Duration) error {
	if err := checkName(kind+".Name", name); err != nil {
		return err
	}
	if err := checkFrom(kind+".From", from); err != nil {
		return err
	}
	switch {
	case batchSize < 0:
		return invalid("%s.BatchSize %d", kind, batchSize)
	case poll < 0:
		return invalid("%s.Poll %v", kind, poll)
	case lease != 0 && lease < shortestLease:
		return invalid("%s.Lease %v: want at least %v", kind, lease, shortestLease)
	}
	return nil
}

func newRunner(s *Store, name string, from Selection, names []string, batchSize int, poll, lease time.Duration) *runner {
	r := &runner{store: s, name: name, from: from, names: names, batchSize: batchSize, poll: poll, term: lease, target: noTarget}
	if r.batchSize == 0 {
		r.batchSize = defaultBatchSize
	}
	if r.poll == 0 {
		r.poll = defaultPoll
	}
	if r.term == 0 {
		r.term = defaultLease
	}
	return r
}
