// Postgres: the texts of reads, each with one plan that is sensible.

package eventstore

var postgresRead = readStatements{
	lastPosition: `SELECT COALESCE(max(position), 0) FROM {events}`,
	nextEvent: `
(SELECT position, (EXTRACT(EPOCH FROM clock_timestamp() - recorded_at) * 1000000)::bigint
 FROM {events} WHERE position > ?::bigint AND position <= ?::bigint AND stream_id > 0
 ORDER BY position LIMIT 1)`,
	columns:    `e.position, s.name AS stream, e.aggregate_id, e.version, e.event_id, e.name, e.data, e.metadata, e.recorded_at`,
	inline:     `CASE WHEN pg_column_size(e.data) <= 65536 THEN e.data END`,
	streamName: `?::text`,
	fromAll:    `{events} e JOIN {streams} s ON s.id = e.stream_id`,
	data:       `SELECT position, data FROM {events} WHERE position IN (`,
	scan: `
SELECT {page} FROM {events} e JOIN {streams} s ON s.id = e.stream_id
WHERE e.position > ?::bigint AND e.position < ?::bigint`,
	scanForward: `
SELECT {page} FROM {events} e JOIN {streams} s ON s.id = e.stream_id
WHERE e.position > ?::bigint`,
	scanBackward: `
SELECT {page} FROM {events} e JOIN {streams} s ON s.id = e.stream_id
WHERE e.position < ?::bigint`,
	// In brackets these are nothing that a plan could be made for: or it would be made anew each time. They
	// must not be recognised as a pair, which would be estimated to leave few rows: all of them would be
	// joined and sorted. Hence a row comparison for one; no stream has the id 0. So the events come by
	// position, and only as many as the page takes.
	scanNarrow: `
SELECT {page} FROM {events} e JOIN {streams} s ON s.id = e.stream_id
WHERE e.position > (SELECT ?::bigint) AND (e.position, e.stream_id) < ((SELECT ?::bigint), 0)`,
	mark: `
SELECT position, '', '', 0, event_id, '', 'null'::json, '{}'::json, recorded_at FROM {events}
WHERE position > (SELECT ?::bigint) AND position < (SELECT ?::bigint)`,
	byID: `
SELECT {page} FROM {events} e JOIN {streams} s ON s.id = e.stream_id
WHERE e.position > ?::bigint AND e.position < ?::bigint`,
	// Hidden from the planner, which would plan anew, at the price of a short read, wherever what
	// it knows of these values makes that seem better: one index serves them all.
	aggregate: `
SELECT {named} FROM {events} e
WHERE e.stream_id = (SELECT id FROM {streams} WHERE name = ?::text)
AND e.aggregate_id = (SELECT ?::text COLLATE "C") AND e.version > (SELECT ?::bigint)`,
	// Estimated to hold for nearly every row: by how rare the planner takes a name to be, it would prefer
	// to go through all rows and sort those that are left.
	hidden:          `CASE WHEN {condition} THEN 1 END IS NOT NULL`,
	streamForward:   postgresStream(postgresNamed, postgresForward, `e.stream_id, e.position`),
	streamBackward:  postgresStream(postgresNamed, postgresBackward, `e.stream_id, e.position`),
	streamNarrow:    postgresStream(postgresNamed, `e.stream_id = s.id AND e.position > s.low AND e.position < s.high`, `e.position`),
	streamIDs:       `SELECT id, name FROM {streams} WHERE name IN (`,
	categoryIDs:     `SELECT id, name FROM {streams} WHERE name >= ?::text AND name < ?::text`,
	streamsForward:  postgresStream(postgresListed, postgresForward, `e.stream_id, e.position`),
	streamsBackward: postgresStream(postgresListed, postgresBackward, `e.stream_id, e.position`),
	after:           `e.position > (SELECT ?::bigint)`,
	before:          `e.position < (SELECT ?::bigint)`,
	metadataHas:     `strpos(e.metadata::text, ?::text) > 0`,
	timeValue:       `?::timestamptz`,
	idValue:         `?::uuid`,
}

// Streams to be read, and between which positions.
const (
	postgresNamed  = `(SELECT id, ?::bigint AS low, ?::bigint AS high FROM {streams} WHERE name = ?::text) s`
	postgresListed = `(
    SELECT s.id, s.name, c.low, c.high
    FROM unnest(?::text::bigint[], ?::text::bigint[], ?::text::bigint[]) c (id, low, high)
    JOIN {streams} s ON s.id = c.id) s`
)

// A stream's events from a position on, and down from one. Only one plan for it is sensible, by the index
// on (stream_id, position), whatever statistics say: these know how long a stream is, and not where in
// the log it lies.
//
// No other index gives the order of both columns. Stream_id must not be known to be one value, or the
// primary key gives the order too: hence a range of it, from and up to the value. It must not be
// estimated to hold few rows, or finding and sorting all of them seems cheap: hence values that the
// planner can't know. And its bounds must not be recognised as a pair, which would be estimated
// low for other indexes on stream_id: hence a row comparison for one, and ANY for the other. The scan
// begins at the position, and ends with the stream.
const (
	postgresForward  = `(e.stream_id, e.position) > (s.id, s.low) AND e.stream_id <= ANY (ARRAY[s.id])`
	postgresBackward = `(e.stream_id, e.position) < (s.id, s.high) AND e.stream_id >= ANY (ARRAY[s.id])`
)

// postgresStream reads streams one by one.
func postgresStream(streams, condition, by string) shape {
	columns := `{page}`
	if streams == postgresNamed {
		columns = `{named}`
	}
	return shape{from: `
SELECT ` + columns + ` FROM ` + streams + ` CROSS JOIN LATERAL (
SELECT * FROM {events} e
WHERE ` + condition, by: by, tail: `) e`}
}
