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

	createStream(ctx context.Context, name string, metadata []byte, at time.Time) (created bool, err error)
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
}

var (
	errVersion = errors.New("eventstore: the aggregate is not as expected")
	errRetry   = errors.New("eventstore: the statement can be retried")
	errLost    = errors.New("eventstore: the connection to the database is lost")
)

// transientError is an error of the database that need not come back when it is asked again: an
// errRetry or an errLost.
type transientError struct {
	op   string
	err  error
	kind error
}

func (e *transientError) Error() string { return prefix + e.op + ": " + e.err.Error() }

func (e *transientError) Unwrap() error { return e.err }

func (e *transientError) Is(target error) bool { return target == e.kind }

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

// aggregateKey identifies an aggregate.
type aggregateKey struct{ stream, id string }

// appendRequest is an append as a backend sees it.
type appendRequest struct {
	stream, aggregateID string
	expected            ExpectedVersion
	at                  time.Time // zero: the backend's clock
	rows                []record

	one [1]record // room for rows, if there is one
}

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
	found  bool     // the stream exists
	actual int64    // the aggregate's version
	taken  bool     // the next version is taken, though actual, in an older snapshot, does not show it
	stored []record // what is stored under the append's IDs, by version, of whatever aggregate
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

	// createProjection makes a projection's row, unless there is one.
	createProjection(ctx context.Context, name string) error
	projection(ctx context.Context, name string) (row projectionRow, found bool, err error)
	projections(context.Context) ([]ProjectionInfo, error)

	// takeLease takes the lease that row has seen free, and begins the next epoch.
	takeLease(ctx context.Context, name, owner string, row *projectionRow, readModel bool, term time.Duration) (taken bool, err error)
	renewLease(ctx context.Context, name string, epoch int64, term time.Duration) (held bool, err error)
	releaseLease(ctx context.Context, name, owner string, status ProjectionStatus, errText string) error

	// noteError notes why the last try of a runner has failed, until its next checkpoint, if the epoch
	// is still this.
	noteError(ctx context.Context, name string, epoch int64, errText string) error

	// control changes a projection by its name.
	control(ctx context.Context, name string, c control) (found bool, err error)
	removeProjection(ctx context.Context, name string, epoch int64) error
	parked(ctx context.Context, name string) ([]parkedRow, error)

	// begin begins what a runner does for one batch. The context ends it.
	begin(context.Context) backendTx
}

// projectionRow is what is stored of a projection.
type projectionRow struct {
	position   Position
	state      []byte // nil: none yet
	status     ProjectionStatus
	owner      string
	epoch      int64
	generation int64 // changes when all runs of the projection have to end
	held       bool  // the lease has not run out
	readModel  bool  // the last holder of the lease has a read model
	retry      bool  // parked events wait to be tried again
	errText    string
}

// free reports whether a runner can take the lease.
func (p *projectionRow) free(owner string) bool {
	switch p.status {
	case StatusIdle, StatusFailed, StatusStopping:
		return true
	}
	return !p.held || p.owner == owner
}

// ProjectionInfo describes a projection or a relay.
type ProjectionInfo struct {
	Name     string
	Status   ProjectionStatus
	Position Position // the last that it has taken in or passed over
	Lag      int64    // sealed position minus Position: an upper bound of the events to come, without counting
	Owner    string   // who holds the lease, as host/process/run; empty: nobody runs it
	Parked   int      // events set aside

	// Error is why it has failed; while it runs, why the last try of an event that it is still
	// trying has. Empty: there is nothing wrong.
	Error string
}

// ProjectionStatus says what becomes of a projection.
type ProjectionStatus string

const (
	StatusIdle      ProjectionStatus = "idle"      // nobody runs it
	StatusRunning   ProjectionStatus = "running"   // somebody holds the lease
	StatusStopping  ProjectionStatus = "stopping"  // its runner can't write any more, and has not noticed yet
	StatusResetting ProjectionStatus = "resetting" // its next runner empties its read model
	StatusDeleting  ProjectionStatus = "deleting"  // its next runner drops its read model
	StatusFailed    ProjectionStatus = "failed"    // a handler has failed for good
)

// seen returns what is stored as it is to be seen: a runner whose lease has run out is none.
func (p ProjectionInfo) seen(held bool) ProjectionInfo {
	if !held {
		p.Owner = ""
		if p.Status == StatusRunning || p.Status == StatusStopping {
			p.Status = StatusIdle
		}
	}
	return p
}

// lag is how many positions a projection is behind the sealed one. It may be before it, if another
// process has sealed further.
func (p *ProjectionInfo) lag(sealed Position) int64 { return max(0, int64(sealed-p.Position)) }

// control is a change to a projection that is asked for by its name. Each begins an epoch, so that
// the holder of the lease can't commit any more without having seen it.
type control struct {
	kind     controlKind
	position Position // of the event to drop
}

type controlKind int

const (
	controlStop controlKind = iota
	controlReset
	controlDelete
	controlRetryParked
	controlDropParked
)

// parkedRow is an event that has been set aside.
type parkedRow struct {
	position            Position
	stream, aggregateID string
	errText             string // empty: it waits behind another
}

// checkpoint is how far a projection is.
type checkpoint struct {
	name     string
	epoch    int64
	position Position
	state    []byte // nil: as it was
	term     time.Duration
	resumed  bool // what had been asked for has been done
}

// backendTx is what commits together with a checkpoint.
type backendTx interface {
	// sqlTx returns the transaction, which begins when it is first asked for.
	sqlTx() (*sql.Tx, error)
	// backend is a backend whose calls are part of the transaction.
	backend() (backend, error)
	// holds reports whether the epoch is still this.
	holds(name string, epoch int64) (bool, error)
	park(name string, row parkedRow) error
	unpark(name string, p Position) error
	dropParked(name string) error
	// databaseFault returns an error of kind errRetry or errLost if err, which a handler has returned, or
	// the state of the transaction, is due to the database and not to what the handler did.
	databaseFault(err error) error
	// isAftermath reports whether err only says that something before it has failed.
	isAftermath(err error) bool
	// commit stores all of it, if the epoch is still the checkpoint's.
	commit(c checkpoint) (held bool, err error)
	// rollback undoes a transaction that has not been committed; behind a commit it does nothing.
	rollback()
}

// brokenBackend fails every call with the same error: it stands in where there is no backend, and
// no call to say so in time.
type brokenBackend struct{ err error }

func (b *brokenBackend) install(context.Context) error { return b.err }

func (b *brokenBackend) writeSchema(io.Writer) error { return b.err }

func (b *brokenBackend) withTx(*sql.Tx) backend { return b }

func (b *brokenBackend) createStream(context.Context, string, []byte, time.Time) (bool, error) {
	return false, b.err
}

func (b *brokenBackend) deleteStream(context.Context, string) (bool, error) { return false, b.err }

func (b *brokenBackend) hasStream(context.Context, string) (bool, error) { return false, b.err }

func (b *brokenBackend) streams(context.Context, string) ([]streamRow, error) {
	return nil, b.err
}

func (b *brokenBackend) setStreamMetadata(context.Context, string, []byte) (bool, error) {
	return false, b.err
}

func (b *brokenBackend) deleteAggregate(context.Context, string, string) (bool, int64, error) {
	return false, 0, b.err
}

func (b *brokenBackend) readSnapshot(context.Context, string, string, int64, int) ([]record, bool, error) {
	return nil, false, b.err
}

func (b *brokenBackend) saveSnapshot(context.Context, *snapshot) error { return b.err }

func (b *brokenBackend) append(context.Context, *appendRequest) error { return b.err }

func (b *brokenBackend) diagnose(context.Context, *appendRequest) (conflictCause, error) {
	return conflictCause{}, b.err
}

func (b *brokenBackend) seal(context.Context) (Position, bool, error) { return 0, true, b.err }

func (b *brokenBackend) readPage(context.Context, *page) ([]record, bool, error) {
	return nil, false, b.err
}

func (b *brokenBackend) readAggregate(context.Context, string, string, int64, int) ([]record, bool, error) {
	return nil, false, b.err
}

func (b *brokenBackend) lastPosition(context.Context) (Position, error) { return 0, b.err }

func (b *brokenBackend) createProjection(context.Context, string) error { return b.err }

func (b *brokenBackend) projections(context.Context) ([]ProjectionInfo, error) { return nil, b.err }

func (b *brokenBackend) stats(context.Context) (Stats, error) { return Stats{}, b.err }

func (b *brokenBackend) projection(context.Context, string) (projectionRow, bool, error) {
	return projectionRow{}, false, b.err
}

func (b *brokenBackend) takeLease(context.Context, string, string, *projectionRow, bool, time.Duration) (bool, error) {
	return false, b.err
}

func (b *brokenBackend) renewLease(context.Context, string, int64, time.Duration) (bool, error) {
	return false, b.err
}

func (b *brokenBackend) releaseLease(context.Context, string, string, ProjectionStatus, string) error {
	return b.err
}

func (b *brokenBackend) noteError(context.Context, string, int64, string) error { return b.err }

func (b *brokenBackend) control(context.Context, string, control) (bool, error) { return false, b.err }

func (b *brokenBackend) removeProjection(context.Context, string, int64) error { return b.err }

func (b *brokenBackend) parked(context.Context, string) ([]parkedRow, error) { return nil, b.err }

func (b *brokenBackend) begin(context.Context) backendTx { return nil }
