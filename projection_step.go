// Handlers and effects: Do and DoAny, and the Step that they are given.

package eventstore

import (
	"context"
	"database/sql"
	"fmt"
)

// Handler takes in an event on behalf of a [Projection] or of [Documents]: a [Fold], an [Effect], or what [OnKey],
// [OnKeyEvent] and [Drop] return, which only Documents take.
type Handler[S any] interface{ handler() *entry[S] }

// entry is a handler as projections run it: a fold or an effect.
type entry[S any] struct {
	name   string // "": any event that no other entry names
	err    error
	fold   func(*S, *delivery) error
	effect func(ctx context.Context, step *Step[S], d *delivery) error

	// Of Documents only, with fold or instead of it.
	keys func(*delivery) ([]string, error) // of the documents that it changes, instead of the event's own
	drop bool                              // it deletes the document
}

func (f Fold[S]) handler() *entry[S] {
	return &entry[S]{name: f.name, err: f.check(), fold: f.apply}
}

// Effect does more than change the state: it writes to the database or emits events, and it can
// fail. [Do] and [DoAny] make it.
type Effect[S any] struct{ entry entry[S] }

func (e Effect[S]) handler() *entry[S] {
	if e.entry.effect == nil && e.entry.err == nil {
		e.entry.err = invalid("the zero Effect")
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
	effect := func(ctx context.Context, step *Step[S], d *delivery) error {
		e, err := payloadAs[E](d.codec, d.payload)
		if err != nil {
			return err
		}
		if step.Event, err = d.event(); err != nil {
			return err
		}
		return fn(ctx, step, e)
	}
	return Effect[S]{entry[S]{name: name, err: checkEntry[E]("Do", name, fn == nil), effect: effect}}
}

// DoAny handles the events that no other entry of the list names, otherwise like [Do].
func DoAny[S any](fn func(ctx context.Context, step *Step[S]) error) Effect[S] {
	var err error
	if fn == nil {
		err = invalid("DoAny: its function is nil")
	}
	effect := func(ctx context.Context, step *Step[S], d *delivery) (err error) {
		if step.Event, err = d.event(); err != nil {
			return err
		}
		return fn(ctx, step)
	}
	return Effect[S]{entry[S]{err: err, effect: effect}}
}

// Step is one event's turn in a projection. It belongs to the handler until that returns.
type Step[S any] struct {
	State *S    // the projection's or the document's, with the events before; changes are stored with the position
	Event Event // as it is stored; [Do] has it decoded

	// Replay reports whether the event was sealed before this version of the projection first ran, or was
	// last reset. Handlers with effects elsewhere, such as mail, leave those out then. A parked event
	// that is retried has the Replay of its first turn.
	Replay bool

	tx     *batchTx
	record *record
}

// Tx returns the transaction that also stores state and position, at read committed. It is for
// reading and writing, and not the handler's to end. A handler should return the errors of its
// statements. If it hides a deadlock, which on MySQL and MariaDB undoes the whole transaction, the batch
// is undone and its events are handled one by one. It first makes the writes of a [Table] that wait, and those of the
// handler that come after it do not wait.
//
// A statement that defines data commits the transaction on MySQL and MariaDB, as COMMIT does everywhere.
// That is noticed before the checkpoint and counts as the event's failure. But what the steps before it
// in the batch wrote stays committed and comes again with their retry, and on Postgres so does what
// comes after a COMMIT or ROLLBACK. Create tables in [ReadModel].Init.
//
// If another runner has taken over: [ErrLeaseLost], as far as this one can know; what it has not
// noticed, its commit does. On a memory store: [errors.ErrUnsupported].
//
// A parameter of a query that is a driver.Valuer must not panic: the run survives that, but database/sql counts the
// connection as in use from then on.
//
// The transaction holds a connection of the pool. A call of the store outside it, with the handler's context,
// needs another one: if handlers hold all that the pool may open, and wait, it returns [ErrInvalid].
func (st *Step[S]) Tx() (*sql.Tx, error) { return st.tx.sqlTx() }

func (st *Step[S]) gather(ctx context.Context, w *tableWrite) (kept bool, err error) {
	return st.tx.gather(ctx, w)
}

func (st *Step[S]) flushed() (*sql.Tx, error) { return st.tx.flushed() }

// Store returns the projection's store inside the step's transaction, on every store. Commands, decisions and
// appends through it commit together with state and position: a process manager that executes commands
// through it carries out each of them exactly once. Reads through it see what the batch has done before.
// [Aggregate.Execute] and [Aggregate.Handle] try once.
//
// If a command or an append loses a race (a [*ConflictError] or an [ErrRetryTx]), the batch is handled again,
// whether or not the handler returns that error, and OnError is not asked. An event that loses ten times
// running, alone in its batch, has failed: then it is no race, but [MustNotExist] on something that is there, say.
//
// What the commands of a batch have locked stays locked until the batch commits. Give a process manager a
// small BatchSize, and have it change aggregates in the order in which others do.
//
// The result is the handler's until that returns, in one goroutine at a time. If another runner has taken over:
// [ErrLeaseLost], as from [Step.Tx].
func (st *Step[S]) Store() (*Store, error) { return st.tx.commands() }

// Emit appends events, together with state and position, to the stream named as the projection,
// which is created if it is not there, and to the aggregate there that has the ID of the step's own.
// The stream is the projection's own: a reset deletes it. A stream of that name that the projection
// has not created is [ErrInvalid], and nothing is ever stored in it or deleted from it. A projection
// whose From picks its own stream sees the events too. If another runner has taken over:
// [ErrLeaseLost].
func (st *Step[S]) Emit(ctx context.Context, events ...NewEvent) error {
	if len(events) == 0 {
		return nil
	}
	b := Batch{Stream: st.tx.name, AggregateID: st.record.aggregateID, Expected: AnyVersion, Events: events}
	return st.tx.emit(ctx, b)
}

// LinkTo puts the step's event into another stream too, which is made if it is not there: with the
// same aggregate ID, name, data and metadata plus "$link.stream" and "$link.position", which say
// where it comes from, and the keys of [Options].Metadata that the event lacks, as the next version
// there, under an ID derived from the event's and the stream's name: linking again changes nothing, nor
// does linking an event to the stream it is in. It commits together with state and position. If another runner has taken over: [ErrLeaseLost].
func (st *Step[S]) LinkTo(ctx context.Context, stream string) error {
	r := st.record
	if stream == r.stream {
		return st.tx.ensureHeld()
	}
	md, err := decodeMetadata(r.metadata)
	if err != nil {
		return fmt.Errorf("eventstore: metadata of event %d: %w", r.position, err)
	}
	md["$link.stream"], md["$link.position"] = r.stream, int64(r.position)
	link := NewEvent{ID: linkID(r.id, stream), Payload: storedPayload{r.name, r.data}, Metadata: md}
	return st.tx.link(ctx, Batch{Stream: stream, AggregateID: r.aggregateID, Expected: AnyVersion, Events: []NewEvent{link}})
}

// Stop ends the run after this event, which still counts: Run returns nil, and CatchUp how far the
// projection has come.
func (st *Step[S]) Stop() { st.tx.stopped = true }
