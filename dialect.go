// Dialect: texts and error codes of one kind of database. A new database is a Dialect, which
// chooses the append strategy; a new column goes where the comment on statements lists.

package eventstore

import (
	"context"
	"database/sql"
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
// Statements are written with ? for a parameter, {streams}, {events} and so on for the store's
// tables, and {columns} and {event} for the columns of an event; they are put into the database's
// form when first used. Nothing else is ever interpolated, but for the number of rows or values in a
// list.
type Dialect struct {
	name string

	// dollarParameters says that parameters are $1, $2 and so on.
	dollarParameters bool
	// prepares says that the driver sends a statement in one round trip only once it has been
	// prepared, so that the store keeps prepared statements.
	prepares bool
	// returning says that INSERT returns what it stored; the append statement then finds the
	// stream's id and the aggregate's version by itself.
	returning bool
	// twoGroups says that two statements of group commit may be in flight at once: they do not meet in
	// locks of gaps.
	twoGroups bool

	// maxPacket is how many bytes a statement can hold where no setting says so, and packetSetting the
	// name of the setting where one does.
	maxPacket     int
	packetSetting string

	// schema are the steps from nothing to today's tables; they are only ever added to. A
	// database's schema version says how many of them it has.
	schema     [][]string
	statements statements

	// timeLayout formats a time in UTC as a parameter.
	timeLayout string
	// brackets enclose a list of numbers that is one parameter.
	brackets string
	// lists returns lists of texts of the same length as parameters: each as one, or all together as one.
	lists func(columns ...[]string) []any
	// eventID returns an event ID as a parameter.
	eventID func(id [16]byte) any
	// classify says what an error of the driver means.
	classify func(err error) fault
	// violated says whose unique key a faultTaken of a statement on one of the store's tables is about,
	// as far as the text of err tells, and, for the databases where appends in transactions meet one, which
	// key of the events.
	violated func(table string, err error) (keyOwner, uniqueKey)
}

// statements are a dialect's texts, by what the store does with them. A comment names a text's
// parameters in their order, then its rows. A name that says "up to" or "behind" is a part of a
// statement; every other text is whole.
//
// An event's columns stand in eventColumns, which {columns} stands for, and in read.columns. Besides
// these a new column needs the schema, the texts that make gap rows (seal.gapRow, erase.blank),
// aggregates.load, and rowScanner.
type statements struct {
	install     installStatements
	streams     streamStatements
	aggregates  aggregateStatements
	append      appendStatements
	erase       eraseStatements
	returning   returningStatements // only where Dialect.returning
	numbered    numberedStatements  // only where not
	seal        sealStatements
	projections projectionStatements
	documents   documentStatements
	read        readStatements
	readModel   readModelStatements
}

// eventColumns are the columns of an event that an INSERT fills, in the order of its values. The
// database numbers positions itself.
const eventColumns = "stream_id, aggregate_id, version, event_id, name, data, metadata, recorded_at"

// installStatements make the tables and bring them up to date.
type installStatements struct {
	lock       string // name; waits for the lock
	unlock     string // "": with the transaction
	settings   string // rows: a setting of the connection that loses or garbles data, its value, what the store needs, whether that is so only if clock can't be read
	clock      string // one row: a time
	packet     string // one row: how many bytes a statement can hold; "": Dialect.maxPacket
	createMeta string
	version    string
	setVersion string // version

	generators     string // one row: what positions have to be raised to, whether sessions keep some for later, what stream ids have to be raised to; zero: they need not be
	lockGenerators string // holds up all that would be handed out numbers; "": raising does without
	uncache        string // sessions keep no positions any more; positions have to be raised then
	raisePositions string // the last position; "": a gap row does it
	raiseStreams   string // the next id, in the text
}

// streamStatements are about streams as such.
type streamStatements struct {
	create          string // name, metadata, who emits it, time; 0 rows: it exists
	emitter         string // name; one row: who emits it, NULL if that is not known; locked against its deletion
	disown          string // name
	createTaken     string // name; no row: what refused create is another key; "": nothing else does
	id              string // name; one row: id
	exists          string // name
	list            string // prefix, prefix
	setMetadata     string // metadata, id
	delete          string // id, name; 0 rows: it is gone
	positions       string // id, position, limit; the positions of a stream's events after that one
	snapshots       string // id; the aggregate ids, in hexadecimal, of a stream's snapshots; "": deleteSnapshots locks nothing else
	deleteSnapshots string // id
	deleteListed    string // list of aggregate ids in hexadecimal, id; deleteSnapshots for these
	queueErase      string // id, id; queues a deleted stream whose events are still to be erased
	queuedErases    string // rows: id of a queued stream
	eraseDone       string // id
}

// aggregateStatements are about single aggregates and their snapshots.
type aggregateStatements struct {
	lockFirst      string // stream id, aggregate id; locks its first version, for an aggregate that exists: 1
	lockLast       string // stream id, aggregate id; one row: the last version, locked against appends, or none; at read committed
	lockAll        string // stream id, aggregate id; one row: how many versions, all locked; "": to appends a lock is a change
	versions       string // stream id, aggregate id, version; the versions after that one, with their positions
	lockPosition   string // position, stream id, aggregate id; one row, locked against appends after it
	raise          string // position; makes its version the next one, which fails if that is taken
	lockVersion    string // stream id, aggregate id, version; lockPosition by version; "": appends lock what lockPosition does
	hasSnapshot    string // stream id, aggregate id
	claimSnapshot  string // stream id, aggregate id; makes one to be deleted, or finds the one that deleteSnapshot would not see
	deleteSnapshot string // stream id, aggregate id
	saveSnapshot   string // version, schema, state, stream, position, aggregate id, version; leaves alone what is later
	load           string // aggregate id, schema, stream, aggregate id, schema, aggregate id, stream; the snapshot and up to {limit} events, in any order
}

// appendStatements go with every append, whatever the strategy.
type appendStatements struct {
	state      string // aggregate id, aggregate id, name; one row: stream id, version, its position, the database's time, step between positions, whether it is MariaDB, which has capabilities
	eventIDOf  string // name, aggregate id, version; the event ID of a version that is known to exist, whatever the isolation
	committed  string // list of positions; one row: how many of them are committed, for which it waits; "": a read shows nothing else
	positionOf string // event ID; only where not Dialect.returning
	savepoint  string
	rollbackTo string
	release    string
}

// eraseStatements remove events, by lists of their positions. Every one of these exists, or has been
// removed by the same transaction.
type eraseStatements struct {
	begin  string // marks a caller's transaction as one that erases, so that it is no writer for that; "": not needed
	remove string // list of positions
	blank  string // list of positions; makes them gap rows
}

// returningStatements append where an INSERT returns what it has stored.
type returningStatements struct {
	values          string // up to the rows: name, aggregate id, time
	valuesRow       string // one row: number, event ID, name, data, metadata
	valuesTail      string // behind the rows: lowest and highest version to go on from, its position or 0
	arrays          string // name, aggregate id, time, arrays of the rows' event IDs, names, data, metadata, lowest and highest version, position or 0
	known           string // one row: stream id, aggregate id, version, event ID, name, data, metadata, time, stream id
	knownPrevious   string // behind it if the version has one before it: stream id, aggregate id, that version
	knownPreviousAt string // the same where its position is known: and that
	position        string // behind RETURNING: highest position that is sealed; the row's, or the statement fails if it is not above that
	skipTaken       string // behind any of these: conflicts of unique keys skip the row instead of failing the statement

	// Several appends, as arrays. Of each append: stream id, aggregate id, lowest and highest version to
	// go on from (NULL: the same), its position (NULL or 0: any), time (NULL: the database's); of each row: number of the append,
	// number within it, event ID, name, data, metadata.
	group       string
	groupOfOnes string // the same without the two numbers, where each append has one row
}

// numberedStatements append where the store numbers versions, and positions follow from the first.
type numberedStatements struct {
	insert    string // up to the rows
	row       string // one row but the first
	one       guardedRow
	many      guardedRow
	noWait    string // before a statement, which then fails where it would wait for a lock; only on MariaDB
	inFlight  string // stream id, aggregate id, version; fails where there is one that is not committed
	await     string // stream id, aggregate id, version; waits for such a one, at read committed
	positions string // behind a statement, which then returns positions; only on MariaDB

	// For appends in a caller's transaction, only on MySQL. claim looks at an event, and locks it with claimLock behind
	// it: stream id, aggregate id, version, event ID, stream id, aggregate id, version; none or how many events after
	// the first version have that ID.
	claim, claimLock string
	// ahead, with or without aheadNoWait, aheadIDs, a list of event IDs, aheadTail: stream id, aggregate id, version;
	// as uniqueKeys, what of these is taken. With aheadNoWait it fails where that version is not committed.
	ahead, aheadNoWait, aheadIDs, aheadTail string

	// Several appends, in this order. Each list is followed by how many different entries it has.
	group          string // id of the first row, up to the list of stream ids
	groupStreams   string // after the list of stream ids
	groupVersions  string // up to the list of (id, aggregate id, version) that appends go on from
	groupPositions string // up to the list of (position, id, aggregate id, version) that appends go on from
	groupLocked    string // after either of these lists
	groupFirst     string // the first row without its id
}

// guardedRow is the first row of an INSERT, which fails the statement if the stream, or the version
// that the append goes on from, is missing.
type guardedRow struct {
	first         string // the aggregate's first version: id, and id once more where there are many rows
	afterVersion  string // then: id, aggregate id, version
	afterPosition string // then, where that version's position is known: position, id, aggregate id, version
}

// sealStatements move the sealed position.
type sealStatements struct {
	mark           string // one row: the sealed position that the database was told, or none
	setMark        string // position, position; never back
	span           string // position; one row: how many of the next {limit} positions there are from it on, the first and the last of them, and what mark is
	positions      string // position; the next {limit} positions
	positionsAfter string // the same: position, limit
	generator      string // one row: the last position handed out, or -1: the role may not see it; its CACHE; the highest position stored or sealed; "": it can't fall behind
	writers        string // the transactions that may have been given positions, and whether they are prepared; "": the database can't tell
	lockSpans      string // up to the spans; fails if an uncommitted row is in one of them; "": not needed
	lockSpan       string // from, to
	lockTail       string // behind the spans, or behind lockStreams: fails at once instead of waiting
	lockStreams    string // up to lockTail or lockWaiting: lowest and highest id; locks streams against appends; "": not needed
	lockWaiting    string // behind lockStreams: waits
	waitShortly    string // has the connection wait for locks for no longer than a second
	streamIDs      string // lowest and highest id; one row: the lowest and the highest stream's id between them, or zeros
	insertGaps     string // up to the rows
	gapRow         string // position, minus position, event ID
	insertGapsTail string // behind the rows: leaves alone what exists
}

// readStatements are parts of reads, which are put together from what a Selection asks for, and
// statements of statistics.
type readStatements struct {
	uncommitted string // one row: whether a read outside of transactions sees what is not committed; "": it never does
	columns     string // of an event e in a stream s, as rowScanner scans them; {event} stands for them
	inline      string // an event's data, or NULL from 64 KiB on, which are fetched as far as the page's bytes allow; {page} stands for the columns with this instead
	streamName  string // a parameter in place of the stream's name; {named} stands for {page} with this instead
	fromAll     string // e and s, driven by e
	data        string // up to the list of positions; rows: position, data

	// SELECTs up to further conditions. Each leaves one plan that is sensible, whatever statistics say:
	// which stream's events lie where in the log is nothing that they know.
	scan                      string // position, position; the events between them, by position
	scanForward, scanBackward string // position; the events after it, before it
	scanNarrow                string // the same as scan, where all between the positions may be looked at
	byID                      string // the same, which further conditions look up by event ID
	mark                      string // the same, as rows without a name, for any positions that exist
	aggregate                 string // stream, stream, aggregate id, version; the aggregate's events after that, by version
	hidden                    string // a {condition} that a plan can't be chosen for; "": it need not be hidden

	// The events of a stream between two positions: stream, position, position, stream. Forward and
	// backward may go on to the stream's end: see before and after.
	streamForward, streamBackward shape
	streamNarrow                  shape  // either way, where all between the positions may be looked at
	before, after                 string // a condition, position: the far bound; "": the shapes end at it

	// The events of several streams between two positions, in turn: lists of stream ids, lower and upper
	// positions. "": a SELECT for each by streamByID: id, lower and upper position.
	streamsForward, streamsBackward shape
	streamByID                      shape

	streamIDs   string // up to the list of names; rows: id, name of a stream
	categoryIDs string // name, name; the same of all streams from one name up to, and without, another

	metadataHas  string // a condition: e's metadata hold a text
	timeValue    string // a time as a parameter
	idValue      string // an event ID as a parameter
	lastPosition string // one row: the highest position that exists, or 0
	nextEvent    string // position, last position; one row: the first event between them, microseconds since it was recorded; in brackets
}

// shape is a SELECT that is ordered and cut to size within.
type shape struct {
	from string // up to further conditions
	by   string // what orders it
	tail string // after its limit
}

// readModelStatements write the tables of read models.
type readModelStatements struct {
	upsert      string // behind an INSERT of a row, up to the assignments; {key}: the key's columns
	upsertValue string // the row's value of {column}
	upsertsOnce bool   // a statement fails if two of its rows have one key
	lenient     bool   // a NULL where there must be none can be taken for another value, in one row of several

	// What is known of a table: rows of what and of which. Its schema ("": the one that is used) and its name, as
	// often as needed. "plain", with an ID of the table: a write in it touches no row but those that it finds,
	// nor does one elsewhere touch its rows, and values that it has by default do not depend on the order. "strict":
	// lenient does not hold. "unique", with the columns of a key, in any order and with commas between. A keyClass,
	// with a column.
	facts string
}

// fault is what an error means to the store.
type fault int

const (
	faultOther       fault = iota
	faultTaken             // a unique key or a guard of the append statement refused the row
	faultBelow             // returningStatements.position refused a position
	faultRetry             // deadlock, serialisation failure, lock time-out: the transaction can be repeated
	faultNoTable           // a table or a column is missing
	faultAborted           // the transaction takes no statement any more, because an earlier one has failed
	faultLost              // the connection or the server is gone, or not ready
	faultForeign           // the database is one for another dialect
	faultHasColumn         // a column that is to be added is there
	faultDriver            // an error of the driver, or of a caller, without a code of the server
	faultDown              // the server is read-only, or out of space, memory or connections
	faultEnded             // the server has ended the statement, or failed with it in a way that is not known to be for good
	faultDenied            // the statement is not allowed, or not understood
	faultNoSavepoint       // a savepoint is gone, and so is the transaction that it was in
	faultPacket            // the statement or a value in it is larger than the server or the driver takes
)

// keyOwner is whose a unique key is.
type keyOwner int

const (
	someKey    keyOwner = iota // the text does not tell
	ownKey                     // one of that table
	foreignKey                 // that of a table which a trigger writes to, say
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
	case err == nil, errors.Is(err, sql.ErrTxDone), errors.Is(err, sql.ErrConnDone), errors.Is(err, closedPool()):
		return faultOther
	}
	return faultDriver
}

// closedPool returns the error of a *sql.DB that has been closed, which has no name.
func closedPool() error {
	db := sql.OpenDB(noConnector{})
	_ = db.Close() // it has nothing to close
	return db.Ping()
}

// noConnector is of a pool that is never used.
type noConnector struct{}

func (noConnector) Connect(context.Context) (driver.Conn, error) { return nil, driver.ErrBadConn }
func (noConnector) Driver() driver.Driver                        { return nil }

// tables are the names that a statement can hold in braces.
var tables = []string{"meta", "streams", "events", "snapshots", "projections", "parked", "verdicts", "documents", "labels"}

// bind puts a statement into the form in which the database takes it.
func (d *Dialect) bind(prefix, text string) string {
	page := strings.Replace(d.statements.read.columns, "e.data", d.statements.read.inline+" AS data", 1)
	named := strings.Replace(page, "s.name", d.statements.read.streamName, 1)
	pairs := []string{"{columns}", eventColumns, "{event}", d.statements.read.columns, "{page}", page, "{named}", named}
	for _, table := range tables {
		pairs = append(pairs, "{"+table+"}", prefix+table)
	}
	text = strings.NewReplacer(pairs...).Replace(text)
	if !d.dollarParameters {
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
