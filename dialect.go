package eventstore

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
)

// Dialect is what one kind of database needs said in its own words: the text of statements and
// the meaning of error codes. [Postgres] and [MySQL] are the ones there are; they never change and
// can be shared by any number of stores.
//
// Statements are written with ? for a parameter and {streams}, {events} and so on for the store's
// tables; they are put into the database's form when first used. Nothing else is ever
// interpolated, but for the number of rows or values in a list.
type Dialect struct {
	name string

	// numbered says that parameters are $1, $2 and so on.
	numbered bool
	// prepares says that the driver sends a statement in one round trip only once it has been
	// prepared, so that the store keeps prepared statements.
	prepares bool
	// returning says that INSERT returns what it stored; the append statement then finds the
	// stream's id and the aggregate's version by itself.
	returning bool
	// twoGroups says that two statements of group commit may be in flight at once: they do not meet in
	// locks of gaps.
	twoGroups bool

	// schema are the steps from nothing to today's tables; they are only ever added to. A
	// database's schema version says how many of them it has.
	schema     [][]string
	statements statements

	// timeLayout formats a time in UTC as a parameter.
	timeLayout string
	// eventID returns an event ID as a parameter.
	eventID func(id [16]byte) any
	// classify says what an error of the driver means.
	classify func(err error) fault
}

// statements are a dialect's texts. A name says what a statement does; backend_sql.go says when.
type statements struct {
	// Installing.
	lockSchema    string // parameter: a name; waits for the lock
	unlockSchema  string // "": with the transaction
	encoding      string // one row: the text encoding in use, and whether it will do
	createMeta    string
	schemaVersion string
	setVersion    string // parameter: version

	// Streams.
	createStream      string // name, metadata, time; 0 rows: it exists
	lockStream        string // name; one row: id
	streamID          string // name; one row: id
	deleteStream      string // id
	deleteSnapshots   string // id
	deleteSealed      string // id; deletes a stream's events up to the sealed position of which all know
	eraseStream       string // id; makes a stream's other events gap rows
	oweErase          string // id, id; notes a stream down of which the transaction may not have seen all; "": it has
	owedErases        string // rows: id of a stream noted down
	eraseDone         string // id
	hasStream         string // name
	listStreams       string // prefix, prefix
	setStreamMetadata string // metadata, name

	// Aggregates.
	lockLast       string // stream id, aggregate id; one row: the last version, locked against appends, or none
	claimVersion   string // stream id, aggregate id, version, event ID; 0 rows: it is taken; "": lockLast sees the latest, whatever the isolation
	deleteSealedOf string // stream id, aggregate id; deleteSealed for an aggregate
	eraseOf        string // stream id, aggregate id; eraseStream for an aggregate
	claimSnapshot  string // stream id, aggregate id; fails if there is one that deleteSnapshot would not see; "": not needed
	deleteSnapshot string // stream id, aggregate id
	saveSnapshot   string // version, schema, state, stream, position, aggregate id, version; leaves alone what is later
	loadSnapshot   string // aggregate id, schema, stream, aggregate id, schema, aggregate id, stream; the snapshot and up to {limit} events, in any order

	// Appending.
	insert    string // up to the rows
	insertRow string // one row of VALUES
	// Only where !returning, the first row of VALUES.
	insertOne   string // if it is the only one: id
	insertOneV  string // the same: id, id, aggregate id, version
	insertOneP  string // the same: id, position, id, aggregate id, version
	insertMany  string // otherwise: id, id
	insertManyV string // the same: id, id, id, aggregate id, version
	insertManyP string // the same: id, id, position, id, aggregate id, version
	// Only where !returning, and only for MariaDB: put before the statement, which then fails where
	// it would wait for a lock; and behind it, which then returns positions.
	insertNoWait    string
	insertReturning string
	insertTail      string // behind the rows
	insertArrays    string // the whole statement for many rows, which come as arrays; "": there is none
	insertKnown     string // one row: stream id, aggregate id, version, event ID, name, data, metadata, time, stream id; "": there is none
	insertKnownV    string // put behind it if the version has one before it: stream id, aggregate id, that version
	// Several appends. Where returning, rows come as arrays, of each append: stream id, aggregate id,
	// lowest and highest version to go on from (NULL: the same), time (NULL: the database's); of each
	// row: number of the append, number within it, event ID, name, data, metadata. Elsewhere it is id,
	// then up to the list of ids.
	insertGroup       string
	insertGroupOfOnes string // the same without the two numbers, where each append has one row; only where returning
	groupPrevious     string // Only where !returning, behind the ids: how many, then up to the list of id, aggregate id, version
	groupValues       string // behind the last of the lists: how many, and the first row without its id
	groupValuesV      string // the same behind groupPrevious
	insertShared      string // put behind the statement inside a caller's transaction
	state             string // aggregate id, aggregate id, name; one row: stream id, version, its position, the database's time, step between positions, whether it is MariaDB
	positionOf        string // event ID; only where !returning
	versionTaken      string // name, aggregate id, version; at the latest, whatever the isolation
	dropEvents        string // up to the list of positions

	// Sealing.
	sealedMark      string // one row: the sealed position that the database was told, or none
	setSealedMark   string // position, position; never back
	sealSpan        string // position; one row: how many of the next {limit} positions there are, the last of them, and what sealedMark is
	sealPositions   string // position; the next {limit} positions
	positionsBehind string // the same: position, limit
	writers         string // the transactions that write events, and whether they are prepared; "": the database can't tell
	lockedSpans     string // up to the spans; fails if an uncommitted row is in one of them; "": not needed
	lockedSpan      string // from, to
	lockedTail      string // behind the spans
	insertGaps      string // up to the rows
	gapRow          string // position, minus position, event ID
	insertGapsTail  string // leaves alone what exists

	// Projections.
	lastPosition     string // one row: the highest position that exists, or 0
	createProjection string // name, epoch, generation; leaves alone what exists
	projection       string // name
	listProjections  string
	nextEvent        string // position, last position; one row: the first event between them, microseconds since it was recorded; in brackets
	takeLease        string // owner, has a read model, microseconds, name, epoch, owner; 0 rows: somebody else has it
	renewLease       string // microseconds, name, epoch; 0 rows: it is lost
	holdsLease       string // name, epoch; no row: it is lost
	releaseLease     string // error, status, name, owner
	failedTry        string // error, name, epoch
	checkpoint       string // position, microseconds, name, epoch; clears the error; 0 rows: the lease is lost
	checkpointState  string // position, microseconds, state, name, epoch
	stopProjection   string // name; ends all of its runs
	resetProjection  string // name; the next to take the lease has to empty what it has written; 0 rows: it has been deleted
	resumed          string // name, epoch; what was asked for has been done
	deleteProjection string // name; ends all of its runs
	removeProjection string // name, epoch
	retryParked      string // name; the next to take the lease has to try parked events again; 0 rows: it has been deleted
	fenceProjection  string // name; whoever has the lease has to take it, and all that belongs to it, anew; 0 rows: it has been deleted
	park             string // projection, position, stream, aggregate id, error
	unpark           string // projection, position
	dropParked       string // projection
	listParked       string // projection

	// Tables of read models.
	upsert      string // behind an INSERT of a row, up to the assignments; {key}: the key's columns
	upsertValue string // the row's value of {column}

	// Reading.
	columns     string // of an event e in a stream s
	streamName  string // a parameter in place of the stream's name among the columns
	fromAll     string // e and s, driven by e
	ofAggregate string // a condition: aggregate id, version; e is one of its events behind that
	lockRead    string // put behind a read to see the latest, whatever the isolation; "": not needed
	metadataHas string // a condition: e's metadata hold a text
	timeValue   string // a time as a parameter
	idValue     string // an event ID as a parameter
}

// fault is what an error means to the store.
type fault int

const (
	faultOther   fault = iota
	faultTaken         // a unique key or a guard of the append statement refused the row
	faultRepeat        // deadlock, serialisation failure, lock time-out: the transaction can be repeated
	faultNoTable       // a table or a column is missing
	faultAborted       // the transaction takes no statement any more, because an earlier one has failed
	faultLost          // the connection or the server is gone, or not ready
	faultForeign       // the database is one for another dialect
)

// classifyConnection recognises, in an error that carries no code of a server, a connection that is
// gone or was never made.
func classifyConnection(err error) fault {
	var network net.Error
	var early interface{ SafeToRetry() bool } // pgx: nothing was sent
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return faultOther
	case errors.Is(err, driver.ErrBadConn), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, net.ErrClosed), errors.As(err, &network), errors.As(err, &early) && early.SafeToRetry():
		return faultLost
	}
	return faultOther
}

// tables are the names that a statement can hold in braces.
var tables = []string{"meta", "streams", "events", "snapshots", "projections", "parked"}

// bind puts a statement into the form in which the database takes it.
func (d *Dialect) bind(prefix, text string) string {
	pairs := make([]string, 0, 2*len(tables))
	for _, table := range tables {
		pairs = append(pairs, "{"+table+"}", prefix+table)
	}
	text = strings.NewReplacer(pairs...).Replace(text)
	if !d.numbered {
		return text
	}
	var b strings.Builder
	n := 0
	for {
		before, after, found := strings.Cut(text, "?")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		n++
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(n))
		text = after
	}
}

// placeholders returns n parameters for a list.
func placeholders(n int) string { return strings.TrimSuffix(strings.Repeat("?, ", n), ", ") }
