// The seam for projections and relays: their rows, leases, control by name, and the transaction of a
// batch.

package eventstore

import (
	"context"
	"database/sql"
	"time"
)

// projectionBackend is the part of a backend that keeps projections.
type projectionBackend interface {
	// lastPosition returns the highest position that can be seen, whatever the order below it.
	lastPosition(context.Context) (Position, error)

	// createProjection makes a projection's row, unless there is one.
	createProjection(ctx context.Context, name string) error
	projection(ctx context.Context, name string) (row projectionRow, found bool, err error)
	projections(context.Context) ([]ProjectionInfo, error)

	// takeLease takes the lease that row has seen free, and begins the next epoch.
	takeLease(ctx context.Context, row *projectionRow, c leaseClaim) (taken bool, err error)
	renewLease(ctx context.Context, name string, epoch int64, term time.Duration) (held bool, err error)
	releaseLease(ctx context.Context, name, owner string, status ProjectionStatus, errText string) error

	// noteError notes why the last try of a runner has failed, until its next checkpoint, if the epoch
	// is still this.
	noteError(ctx context.Context, name string, epoch int64, errText string) error

	// control changes a projection by its name.
	control(ctx context.Context, name string, c control) (found bool, err error)
	parked(ctx context.Context, name string) ([]parkedRow, error)

	// begin begins what a runner does for one batch. The context ends it.
	begin(context.Context) backendTx
}

// leaseClaim is what a runner takes a lease with.
type leaseClaim struct {
	name, owner string
	kind        runnerKind
	readModel   bool // the runner has a read model
	term        time.Duration
}

// runnerKind is what a name belongs to.
type runnerKind string

const (
	kindProjection runnerKind = "projection"
	kindRelay      runnerKind = "relay"
)

// projectionRow is what is stored of a projection.
type projectionRow struct {
	kind       runnerKind // "": it has not run since an earlier version of this package made the row
	position   Position
	state      []byte // nil: none yet
	status     ProjectionStatus
	owner      string
	epoch      int64
	generation int64 // changes when all runs of the projection have to end
	held       bool  // the lease has not run out
	readModel  bool  // the last holder of the lease has a read model
	retry      bool  // parked events wait to be tried again
	emitted    bool  // of one to be deleted: with the stream that it has emitted
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

	// Error is why it has failed; while it runs, why its last try has, be it an event's failure or the
	// database's. Empty: there is nothing wrong.
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
	emitted  bool     // of a delete: with the stream that it has emitted
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
	removed  bool // the projection, with its parked events
	emptied  bool // what it has emitted has been deleted
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
	// backend is a backend whose calls are part of the transaction.
	backend() (backend, error)
	// holds reports whether the epoch is still this.
	holds(name string, epoch int64) (bool, error)
	park(name string, row parkedRow) error
	unpark(name string, p Position) error
	dropParked(name string) error
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
