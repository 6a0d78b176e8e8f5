// The seam between the store and what keeps its rows, a database or memory: the interfaces, and
// the rows that pass them.

package eventstore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/google/uuid"
)

// backend is where a store keeps its rows: a database, or memory. It sees encoded bytes, valid
// names and IDs, and nothing of Go payloads; what is done with them exists once, above this seam.
type backend interface {
	install(context.Context) error
	writeSchema(io.Writer) error
	withTx(*sql.Tx) backend

	// beginTx begins a transaction for Store.Transact. The context ends it.
	beginTx(context.Context) (callerTx, error)

	// createStream makes a stream, unless there is one. emittedBy is the projection whose Emit makes
	// it, or "".
	createStream(ctx context.Context, name string, metadata []byte, emittedBy string, at time.Time) (created bool, err error)
	// streamEmitter returns the projection whose Emit has made a stream, "" if another hand has, or nil
	// if an earlier version of this package did not note it. Inside a transaction the stream can't be
	// deleted before that ends.
	streamEmitter(ctx context.Context, name string) (emittedBy *string, found bool, err error)
	// disownStream notes of a stream whose maker is not known that no projection has made it.
	disownStream(ctx context.Context, name string) error
	deleteStream(ctx context.Context, name string) (found bool, err error)
	hasStream(ctx context.Context, name string) (bool, error)
	streams(ctx context.Context, prefix string) ([]streamRow, error)
	setStreamMetadata(ctx context.Context, name string, metadata []byte) (found bool, err error)

	// append stores rows as the next versions of an aggregate, all or none, and completes them
	// with version, position and time. errVersion says that the aggregate was not at the expected
	// version, or that something else is in the way that diagnose can tell; errRetry that the same
	// call can succeed now.
	append(ctx context.Context, a *appendRequest) error

	// diagnose finds out why an append failed with errVersion.
	diagnose(ctx context.Context, a *appendRequest) (conflictCause, error)

	// seal moves the sealed position as far as it can and returns it. If it is not settled, another
	// look soon may get further.
	seal(ctx context.Context) (p Position, settled bool, err error)

	// stats tells what sealing has come to and how far projections are, without any Lag.
	stats(context.Context) (Stats, error)

	// readPage returns the next rows that a page asks for, in its order, and whether more may follow
	// them. It moves q past them, so that the same q asks for the next page. There are up to limit of
	// them, fewer if they are large, and perhaps none although more follow. They are at least those that
	// the selection picks: the caller drops what it does not pick.
	readPage(ctx context.Context, q *page) (rows []record, more bool, err error)

	// readAggregate returns up to limit of an aggregate's rows, by version, fewer if they are large,
	// and whether more may follow them.
	readAggregate(ctx context.Context, stream, aggregateID string, after int64, limit int) (rows []record, more bool, err error)

	// readSnapshot returns the aggregate's snapshot of this schema, if its event is there, as a row
	// without a name. After it come the rows that readAggregate would return from there on.
	readSnapshot(ctx context.Context, stream, aggregateID string, schema int64, limit int) (rows []record, more bool, err error)

	// saveSnapshot stores a snapshot, unless a later one is stored or its event is gone.
	saveSnapshot(ctx context.Context, sn *snapshot) error

	// deleteAggregate deletes an aggregate's rows and its snapshot. It reports whether the stream is
	// there, and how many rows there were.
	deleteAggregate(ctx context.Context, stream, aggregateID string) (found bool, n int64, err error)

	projectionBackend
	documentBackend
}

var (
	errVersion = errors.New("eventstore: the aggregate is not as expected")
	errRetry   = errors.New("eventstore: the statement can be retried")
	errLost    = errors.New("eventstore: the connection to the database is lost")

	errUnavailable = errors.New("eventstore: the database does not take the statement for now")
	errDenied      = errors.New("eventstore: the database does not take the statement")

	// errEnded is a caller's failure: its transaction is not the one that it was given.
	errEnded = errors.New("the transaction was ended before its commit: by a statement that defines data, by COMMIT or ROLLBACK, or by a deadlock whose error was not returned")
)

// statementError is an error of the database that says nothing about what the store has asked for: an
// errRetry, errLost, errUnavailable or errDenied. All but the last need not come back when it is asked
// again.
type statementError struct {
	op   string
	err  error
	kind error
}

func (e *statementError) Error() string {
	return prefix + e.op + ": " + unprefixed{e.err}.Error()
}

func (e *statementError) Unwrap() error { return e.err }

func (e *statementError) Is(target error) bool { return target == e.kind }

// refusedError is an errVersion with what the database said.
type refusedError struct {
	err error
	own bool // one of the store's keys has refused, and no other
}

func (e *refusedError) Error() string { return errVersion.Error() + ": " + e.err.Error() }

func (e *refusedError) Unwrap() error { return e.err }

func (e *refusedError) Is(target error) bool { return target == errVersion }

// record is an event as it is stored. Its bytes are never changed once it has been handed out.
type record struct {
	position    Position
	id          uuid.UUID
	stream      string
	aggregateID string
	version     int64
	name        string
	data        []byte
	metadata    []byte
	recordedAt  time.Time

	decoded Metadata // of metadata, once it has been asked for
}

// size returns how many bytes of data and metadata the record has.
func (r *record) size() int { return len(r.data) + len(r.metadata) }

// meta returns the record's metadata, decoded once.
func (r *record) meta() (Metadata, error) {
	if r.decoded == nil {
		md, err := decodeMetadata(r.metadata)
		if err != nil {
			return nil, fmt.Errorf("eventstore: metadata of event %d: %w", r.position, err)
		}
		r.decoded = md
	}
	return r.decoded, nil
}

// byPosition compares records for sorting.
func byPosition(x, y record) int { return cmp.Compare(x.position, y.position) }

// streamRow is a stream as it is stored.
type streamRow struct {
	name      string
	metadata  []byte
	createdAt time.Time
}

// appendRequest is an append as a backend sees it.
type appendRequest struct {
	stream, aggregateID string
	lastEvent                     // that the append goes on from
	at                  time.Time // zero: the backend's clock
	rows                []record

	// refused is the unique key that has refused it last, where the backend can tell.
	refused uniqueKey
	next    int64 // the version of its first event, as it was refused

	one [1]record // room for rows, if there is one
}

// lastEvent is the event that an append expects to be its aggregate's last.
type lastEvent struct {
	expected ExpectedVersion
	after    Position // of the event at the expected version; zero: any
}

// admits reports whether an append may go on from an aggregate whose last event is this.
func (l lastEvent) admits(version int64, position Position) bool {
	return l.expected.admits(version) && (l.after == 0 || l.after == position)
}

// uniqueKey is one of the keys of an event.
type uniqueKey int

const (
	keyUnknown uniqueKey = iota
	keyVersion           // of its aggregate
	keyEventID
)

// size is how many bytes of data and metadata an append has.
func (a *appendRequest) size() int {
	n := 0
	for i := range a.rows {
		n += a.rows[i].size()
	}
	return n
}

// conflictCause is what stood in an append's way.
type conflictCause struct {
	found    bool     // the stream exists
	actual   int64    // the aggregate's version
	position Position // of that version's event
	taken    bool     // the next version is taken, though actual, in an older snapshot, does not show it
	stored   []record // what is stored under the append's IDs, by version, of whatever aggregate
}

// page is one step of a read.
type page struct {
	from          Selection
	names         []string // nil: all; else only events stored under these names matter
	after, before Position // exclusive; zero: none
	limit         int
	backward      bool
	window        bool // the caller has chosen bounds within which all may be looked at
	newest        bool // before is after the sealed position: little in the log comes after it
	sizeHint      int  // how many rows probably come; zero: it is not known

	// How a database reads several streams. Memory does not need it. The first two are worth knowing for
	// other pages near this one.
	sparse bool    // few of the events at this place are of these streams
	perRow float64 // positions for each row in the last page where they were not; zero: not known
	kept   any     // of one page for the next
}

// advance moves q past a row, or past all rows up to a position.
func (q *page) advance(p Position) {
	if q.backward {
		q.before = p
	} else {
		q.after = p
	}
}

// end returns the exclusive upper bound, also where there is none.
func (q *page) end() Position {
	if q.before == 0 {
		return math.MaxInt64
	}
	return q.before
}

// snapshot is a state as it is stored. The position is that of the event of its version: since
// positions are never used again, it tells an aggregate from another one that had the same ID.
type snapshot struct {
	stream, aggregateID string
	version             int64
	position            Position
	schema              int64
	state               []byte
}

// projectionBackend is the part of a backend that keeps projections.
type projectionBackend interface {
	// lastPosition returns the highest position that can be seen, whatever the order below it.
	lastPosition(context.Context) (Position, error)

	// createProjection makes a projection's row, unless there is one. It begins after a position, and what
	// is up to another one it replays.
	createProjection(ctx context.Context, name string, after, replayTo Position) error
	projection(ctx context.Context, name string) (row projectionRow, found bool, err error)
	projections(context.Context) ([]ProjectionInfo, error)

	// definition returns what is kept of a projection's definitions.
	definition(ctx context.Context, name string) (*definition, error)
	// define stores what is kept from now on, if the epoch is still this.
	define(ctx context.Context, name string, epoch int64, d *definition) (held bool, err error)
	// rebuild stores the set of a definition and begins with it at the first event: what control does
	// for a reset, by the holder of the epoch.
	rebuild(ctx context.Context, name string, epoch int64, w *wantedSet, sealed Position) (held bool, err error)
	// noteLooks stores how far definitions have looked for events that were passed over, and nothing else of d.
	noteLooks(ctx context.Context, name string, epoch int64, d *definition) error

	// takeLease takes the lease that row has seen free, or held by a definition that c.over names, and
	// begins the next epoch.
	takeLease(ctx context.Context, row *projectionRow, c leaseClaim) (taken bool, err error)
	renewLease(ctx context.Context, name string, epoch int64, term time.Duration) (held bool, err error)
	releaseLease(ctx context.Context, name, owner string, status ProjectionStatus, errText string) error

	// noteError notes why the last try of a runner has failed, until its next checkpoint, if the epoch
	// is still this.
	noteError(ctx context.Context, name string, epoch int64, errText string) error

	// control changes a projection by its name, if there is something to change, and begins an epoch then.
	control(ctx context.Context, name string, c control) (found, changed bool, err error)
	parked(ctx context.Context, name string) ([]parkedRow, error)
	// verdicts returns what operators have said of events that the projection has not come to: controlSkip
	// or controlPark.
	verdicts(ctx context.Context, name string) (map[Position]controlKind, error)

	// begin begins what a runner does for one batch. The context ends it.
	begin(context.Context) backendTx
}

// backendTx is what commits together with a checkpoint.
type backendTx interface {
	// sqlTx returns the transaction, which begins when it is first asked for.
	sqlTx() (*sql.Tx, error)
	// exclusive keeps other processes from changing a projection's read model until rollback, where a
	// statement that defines data can't be undone. It is called first, by the holder of the lease of
	// this epoch, and takes the place of one who has lost it and has not noticed.
	exclusive(name string, epoch int64) error
	// handlerContext returns the context for a handler. A call of the backend itself with it fails if it would
	// wait for the connection that the transaction holds.
	handlerContext(ctx context.Context) context.Context
	// backend is a backend whose calls are part of the transaction. lost is told of their failures that are
	// not a handler's.
	backend(lost func(error)) (backend, error)
	// holds reports whether the epoch is still this.
	holds(name string, epoch int64) (bool, error)
	park(name string, row parkedRow) error
	unpark(name string, p Position) error
	dropParked(name string) error
	// documents returns those documents of a list of keys that there are, in any order. It is false if they have
	// more bytes than most, and then returns none.
	documents(name string, keys []string, most int) (rows []documentRow, all bool, err error)
	changeDocuments(c *documentChanges) error
	dropDocuments(name string) error
	// keepLease renews the lease as part of the transaction, which keeps others from it until the end. It
	// reports whether the epoch is still this.
	keepLease(name string, epoch int64, term time.Duration) (held bool, err error)
	// guard is called before a handler gets the transaction. From then on commit fails if the handler,
	// or the database behind its back, ends the transaction.
	guard() error
	// databaseFault returns an error of kind errRetry, errLost or errUnavailable if err, which a handler
	// has returned, or the state of the transaction, is due to the database and not to what the handler did.
	databaseFault(err error) error
	// isAftermath reports whether err only says that something before it has failed.
	isAftermath(err error) bool
	// commit stores all of it, if the epoch is still the checkpoint's.
	commit(c checkpoint) (held bool, err error)
	// rollback undoes a transaction that has not been committed; after a commit it only ends exclusive.
	rollback()
}

// callerTx is a transaction of Store.Transact.
type callerTx interface {
	// backend is a backend whose calls are part of the transaction. lost is told of failures after which
	// the transaction can't be committed any more, and can be run again.
	backend(lost func(error)) backend
	// sqlTx returns the transaction for statements of the caller's own.
	sqlTx() (*sql.Tx, error)
	// raced reports whether err, which the caller's function has returned, says that the transaction can be
	// run again.
	raced(err error) bool
	// endedInside returns an error if the caller's function, which has lost a race by err, has ended the transaction
	// itself: part of it may be stored then.
	endedInside(err error) error
	// commit stores all of it. If it returns an error, again reports whether nothing is stored and the
	// transaction can be run again.
	commit() (again bool, err error)
	// rollback undoes a transaction that has not been committed.
	rollback()
}
