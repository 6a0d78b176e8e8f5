// MySQL and MariaDB: the texts of reads, each with one plan that is sensible.

package eventstore

var mysqlRead = readStatements{
	// The first comment is MySQL's, the second MariaDB's; neither knows the other's variable in all
	// versions.
	uncommitted:  `SELECT /*!80000 @@transaction_isolation *//*M! @@tx_isolation */ = 'READ-UNCOMMITTED'`,
	lastPosition: `SELECT COALESCE(MAX(position), 0) FROM {events}`,
	nextEvent: `
(SELECT position, TIMESTAMPDIFF(MICROSECOND, recorded_at, UTC_TIMESTAMP(6))
 FROM {events} FORCE INDEX (PRIMARY) WHERE position > ? AND position <= ? AND stream_id > 0
 ORDER BY position LIMIT 1)`,
	columns:      `e.position, s.name AS stream, e.aggregate_id, e.version, e.event_id, e.name, e.data, e.metadata, CAST(e.recorded_at AS CHAR) AS recorded_at`,
	inline:       `IF(LENGTH(e.data) <= 65536, e.data, NULL)`,
	streamName:   `CAST(? AS BINARY)`, // MariaDB strips the spaces behind a text parameter in a UNION
	fromAll:      `{events} e STRAIGHT_JOIN {streams} s ON s.id = e.stream_id`,
	data:         `SELECT position, data FROM {events} FORCE INDEX (PRIMARY) WHERE position IN (`,
	scan:         mysqlScan + `e.position > ? AND e.position < ?`,
	scanForward:  mysqlScan + `e.position > ?`,
	scanBackward: mysqlScan + `e.position < ?`,
	scanNarrow:   mysqlScan + `e.position > ? AND e.position < ?`,
	mark: `
SELECT position, '', '', 0, event_id, '', 'null', '{}', CAST(recorded_at AS CHAR) FROM {events} e FORCE INDEX (PRIMARY)
WHERE position > ? AND position < ?`,
	byID: `
SELECT {page} FROM {events} e FORCE INDEX (event_id) STRAIGHT_JOIN {streams} s ON s.id = e.stream_id
WHERE e.position > ? AND e.position < ?`,
	aggregate: `
SELECT {named} FROM {events} e FORCE INDEX (stream_id)
WHERE e.stream_id = (SELECT id FROM {streams} WHERE name = ?) AND e.aggregate_id = ? AND e.version > ?`,
	streamForward:  mysqlStream,
	streamBackward: mysqlStream,
	streamNarrow:   mysqlStream,
	streamIDs:      `SELECT id, name FROM {streams} WHERE name IN (`,
	categoryIDs:    `SELECT id, name FROM {streams} WHERE name >= ? AND name < ?`,
	// Ranges of both columns of an index take values that are known before the statement is planned: a
	// stream that another table names is read from its first event on.
	streamByID: shape{from: `
SELECT {page} FROM {events} e FORCE INDEX (stream_id_2) STRAIGHT_JOIN {streams} s ON s.id = e.stream_id
WHERE e.stream_id = ? AND e.position > ? AND e.position < ?`, by: `e.position`},
	metadataHas: `LOCATE(?, e.metadata) > 0`,
	timeValue:   `CAST(? AS DATETIME(6))`,
	idValue:     `?`,
}

// mysqlScan reads the log by position, up to the positions.
const mysqlScan = `
SELECT {page} FROM {events} e FORCE INDEX (PRIMARY) STRAIGHT_JOIN {streams} s ON s.id = e.stream_id
WHERE `

// mysqlStream reads a stream by the index on (stream_id, position), which it names: by what it knows of
// streams, the database would choose it or the primary key. The stream is read before the statement is
// planned, and so is a constant by then.
var mysqlStream = shape{from: `
SELECT {named} FROM {events} e FORCE INDEX (stream_id_2)
WHERE e.position > ? AND e.position < ? AND e.stream_id = (SELECT id FROM {streams} WHERE name = ?)`, by: `e.position`}
