// What the dialects' statements of projections are given and return.

package eventstore

// projectionStatements keep leases, checkpoints and parked events.
type projectionStatements struct {
	create          string // name, position, began, replay to, epoch, generation; leaves alone what exists
	get             string // name
	definition      string // name; one row: wanted, taken
	define          string // hash, wanted, taken, name, epoch; 0 rows: the lease is lost
	noteLooks       string // taken, name, epoch
	list            string
	takeLease       string // owner, whether the definition is going to change what is stored, owner, kind, has a read model, microseconds, name, epoch, owner, hash of the set whose holder gives way, unless it is changing that; 0 rows: another owner has it
	renewLease      string // microseconds, name, epoch; 0 rows: it is lost
	holdsLease      string // name, epoch; no row: it is lost
	releaseLease    string // error, status, name, owner
	noteError       string // error, name, epoch
	checkpoint      string // position, microseconds, name, epoch; clears the error; 0 rows: the lease is lost
	checkpointState string // position, microseconds, state, name, epoch
	rebuild         string // sealed position, hash, wanted, name, epoch; what reset does, by the holder of the lease
	resumed         string // name, epoch; what was asked for has been done
	emptied         string // name, epoch; the stream that it has emitted has been deleted
	remove          string // name, epoch; 0 rows: the lease is lost
	park            string // projection, position, stream, aggregate id, error
	unpark          string // projection, position; 0 rows: it is not parked
	retried         string // projection; takes back askRetry and askRetries
	dropParked      string // projection
	listParked      string // projection
	verdicts        string // projection; rows: position, action
	dropVerdicts    string // projection, position up to which

	// What operators ask for, by name. Each takes what is noted of it, which is an action, who asks for it and a
	// position, and begins an epoch. 0 rows: there is no such projection, or, but for stop and delete, it has
	// been deleted.
	stop        string // noted, name; ends all of its runs
	reset       string // sealed position, noted, name; the next to take the lease has to empty what it has written
	delete      string // whether with the stream that it has emitted, noted, name; ends all of its runs
	pause       string // whether or no longer, noted, name, the same; 0 rows also: it is so already
	accept      string // noted, name; forgets the definitions
	retryParked string // noted, name; the next to take the lease has to try parked events again
	fence       string // noted, name
	askRetry    string // projection, stream, aggregate id
	askRetries  string // projection
	judge       string // projection, position, action

	// What a handler's transaction is guarded with.
	guard      []string // a savepoint, which ends with the transaction; and that nothing is committed without being told to
	checkGuard string   // fails if the transaction is not the one of guard
	endGuard   string   // on the connection, after the transaction; "": not needed

	// A lock by name, which the connection keeps until it unlocks or ends; "": what defines data is
	// part of a transaction.
	lock   string // name, seconds to wait; one row: 1 if it has the lock
	holder string // name; one row: the connection that has the lock, or NULL
	unlock string // name; one row: 1 if it had the lock
	kill   string // up to the connection
}
