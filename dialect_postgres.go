// Postgres: statement texts and schema.

package eventstore

import (
	"encoding/hex"
)

// Postgres is the dialect of PostgreSQL 13 and later, tested through github.com/jackc/pgx/v5/stdlib.
// The database's encoding and the connection's must be UTF8. Otherwise every call is [ErrInvalid] with
// the setting's name.
var Postgres = &postgresDialect

// postgresGuarded is the appends of a group whose aggregates are as expected, with their streams and
// last events locked.
const postgresGuarded = `
    FROM given c
    CROSS JOIN LATERAL (SELECT id FROM {streams} WHERE id = c.stream_id FOR KEY SHARE SKIP LOCKED) stream
    LEFT JOIN LATERAL (
        SELECT version, position FROM {events}
        WHERE stream_id = stream.id AND aggregate_id = c.aggregate_id COLLATE "C"
        ORDER BY version DESC LIMIT 1 FOR KEY SHARE) p ON true
    WHERE COALESCE(p.version, 0) BETWEEN c.low AND COALESCE(c.high, c.low)
    AND COALESCE(c.after, 0) IN (0, COALESCE(p.position, 0))`

// postgresAppendTo is the stream and the aggregate that an append goes to, with its version.
//
// Materialised, or the version would be looked up again for every row, past all the rows that the
// statement has inserted before it. The event of that version is locked against its deletion, which
// appends to the same aggregate do not mind: or else one that was in flight while the aggregate was
// deleted would leave a version without those before it. The stream is locked as a foreign key would,
// so that its deletion leaves no event behind; and first, as the deletion has it.
const postgresAppendTo = `
WITH stream AS MATERIALIZED (SELECT id FROM {streams} WHERE name = ?::text FOR KEY SHARE),
s AS MATERIALIZED (
    SELECT stream.id, a.aggregate_id, COALESCE(p.version, 0) AS version, COALESCE(p.position, 0) AS position
    FROM stream CROSS JOIN (SELECT ?::text COLLATE "C" AS aggregate_id) a
    LEFT JOIN LATERAL (
        SELECT version, position FROM {events} WHERE stream_id = stream.id AND aggregate_id = a.aggregate_id
        ORDER BY version DESC LIMIT 1 FOR KEY SHARE) p ON true)`

var postgresDialect = Dialect{
	name:             "postgres",
	dollarParameters: true,
	returning:        true,
	twoGroups:        true,
	maxPacket:        1<<30 - 1, // of a message; a value and a row can have some bytes less
	schema:           postgresSchema,
	timeLayout:       "2006-01-02 15:04:05.000000Z07:00",
	brackets:         "{}",
	lists:            arrayLists,
	classify:         classifyPostgres,
	violated:         violatedPostgres,
	eventID:          func(id [16]byte) any { return hex.EncodeToString(id[:]) },
	statements: statements{
		install: installStatements{
			lock: `SELECT pg_advisory_xact_lock(hashtext(?::text))`,
			// With client_encoding SQL_ASCII nothing is converted. Times come in binary form but for pgx's simple
			// protocol, which reads them in one style: an append would be stored, and then fail.
			settings: `
SELECT 'server_encoding', current_setting('server_encoding'), 'UTF8', false WHERE current_setting('server_encoding') <> 'UTF8'
UNION ALL SELECT 'client_encoding', current_setting('client_encoding'), 'UTF8', false WHERE current_setting('client_encoding') NOT IN ('UTF8', 'SQL_ASCII')
UNION ALL SELECT 'DateStyle', current_setting('DateStyle'), 'ISO', true WHERE current_setting('DateStyle') NOT LIKE 'ISO%'`,
			clock: `SELECT statement_timestamp()`,
			createMeta: `
CREATE TABLE IF NOT EXISTS {meta} (
    name  text   COLLATE "C" PRIMARY KEY,
    value bigint NOT NULL
)`,
			version: `SELECT value FROM {meta} WHERE name = 'schema'`,
			setVersion: `
INSERT INTO {meta} (name, value) VALUES ('schema', ?::bigint)
ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value`,
			generators: `
SELECT COALESCE(max(least) FILTER (WHERE NOT ids AND (last < least OR seqcache > 1)), 0),
       COALESCE(bool_or(seqcache > 1) FILTER (WHERE NOT ids), false),
       COALESCE(max(least) FILTER (WHERE ids AND last < least), 0)
FROM (
    SELECT g.ids, c.seqcache, c.last, CASE WHEN NOT g.ids AND c.seqcache > 1 THEN GREATEST(g.least, c.last, 1) ELSE g.least END AS least
    FROM (SELECT false, pg_get_serial_sequence('{events}', 'position')::regclass,
                 GREATEST((SELECT COALESCE(max(position), 0) FROM {events}), (SELECT COALESCE(max(value), 0) FROM {meta} WHERE name = 'sealed'))
          UNION ALL
          SELECT true, pg_get_serial_sequence('{streams}', 'id')::regclass,
                 GREATEST((SELECT COALESCE(max(id), 0) FROM {streams}), (SELECT COALESCE(max(stream_id), 0) FROM {events}), (SELECT COALESCE(max(stream_id), 0) FROM {snapshots}))
    ) g (ids, sequence, least)
    CROSS JOIN LATERAL (
        SELECT (SELECT seqcache FROM pg_sequence WHERE seqrelid = g.sequence),
               CASE WHEN has_sequence_privilege(g.sequence, 'SELECT, USAGE') THEN COALESCE(pg_sequence_last_value(g.sequence), 0) END
    ) c (seqcache, last)
) w`,
			lockGenerators: `LOCK TABLE {streams}, {events} IN SHARE MODE`,
			// RESTART has sessions forget the numbers that they keep.
			uncache:        `ALTER TABLE {events} ALTER COLUMN position SET CACHE 1 RESTART`,
			raisePositions: `SELECT setval(pg_get_serial_sequence('{events}', 'position'), ?::bigint)`,
			raiseStreams:   `SELECT setval(pg_get_serial_sequence('{streams}', 'id'), ?, false)`,
		},
		streams: streamStatements{
			create: `
INSERT INTO {streams} (name, metadata, emitted_by, created_at)
VALUES (?::text, ?::json, ?::text, COALESCE(?::timestamptz, statement_timestamp()))
ON CONFLICT (name) DO NOTHING`,
			emitter:         `SELECT emitted_by FROM {streams} WHERE name = ?::text FOR KEY SHARE`,
			disown:          `UPDATE {streams} SET emitted_by = '' WHERE name = ?::text AND emitted_by IS NULL`,
			id:              `SELECT id FROM {streams} WHERE name = ?::text`,
			delete:          `DELETE FROM {streams} WHERE id = ?::bigint AND name = ?::text`,
			deleteSnapshots: `DELETE FROM {snapshots} WHERE stream_id = ?::bigint`,
			positions: `
SELECT e.position
FROM (SELECT ?::bigint AS stream_id, ?::bigint AS position) k
JOIN {events} e ON (e.stream_id, e.position) > (k.stream_id, k.position) AND e.stream_id <= k.stream_id
ORDER BY e.stream_id, e.position LIMIT ?::int`,
			queueErase: `
INSERT INTO {meta} (name, value) VALUES ('erase ' || ?::bigint, ?::bigint)
ON CONFLICT (name) DO NOTHING`,
			// A stream that exists has its id back, after a restore of some tables, say: its events are not
			// those that were queued.
			queuedErases: `SELECT value FROM {meta} WHERE name LIKE 'erase %' AND value NOT IN (SELECT id FROM {streams}) ORDER BY value`,
			eraseDone:    `DELETE FROM {meta} WHERE name = 'erase ' || ?::bigint`,
			exists:       `SELECT 1 FROM {streams} WHERE name = ?::text`,
			list:         `SELECT name, metadata, created_at FROM {streams} WHERE left(name, length(?::text)) = ?::text ORDER BY name`,
			setMetadata:  `UPDATE {streams} SET metadata = ?::json WHERE id = ?::bigint`,
		},
		aggregates: aggregateStatements{
			lockFirst: `
SELECT version FROM {events} WHERE stream_id = ?::bigint AND aggregate_id = ?::text AND version = 1 FOR UPDATE`,
			lockAll: `
SELECT count(*) FROM (
    SELECT 1 FROM {events} WHERE stream_id = ?::bigint AND aggregate_id = ?::text ORDER BY version FOR UPDATE) l`,
			lockLast: `
SELECT version FROM {events} WHERE stream_id = ?::bigint AND aggregate_id = ?::text
ORDER BY version DESC LIMIT 1 FOR UPDATE`,
			versions: `
SELECT version, position FROM {events}
WHERE stream_id = ?::bigint AND aggregate_id = ?::text AND version > ?::bigint ORDER BY version`,
			lockPosition: `
SELECT 1 FROM {events} WHERE position = ?::bigint AND stream_id = ?::bigint AND aggregate_id = ?::text FOR UPDATE`,
			raise:       `UPDATE {events} SET version = version + 1 WHERE position = ?::bigint`,
			hasSnapshot: `SELECT 1 FROM {snapshots} WHERE stream_id = ?::bigint AND aggregate_id = ?::text`,
			// A DELETE does not find a row stored since the snapshot of the caller's transaction; this is a
			// serialisation failure then.
			claimSnapshot: `
INSERT INTO {snapshots} (stream_id, aggregate_id, version, position, schema_no, state)
VALUES (?::bigint, ?::text, 0, 0, 0, 'null')
ON CONFLICT (stream_id, aggregate_id) DO UPDATE SET state = 'null'`,
			deleteSnapshot: `DELETE FROM {snapshots} WHERE stream_id = ?::bigint AND aggregate_id = ?::text`,
			// The event is locked, so that a delete of the aggregate waits for this, or this sees that
			// it is gone.
			saveSnapshot: `
INSERT INTO {snapshots} AS sn (stream_id, aggregate_id, version, position, schema_no, state)
SELECT e.stream_id, e.aggregate_id, ?::bigint, e.position, ?::bigint, ?::json
FROM {events} e
WHERE e.stream_id = (SELECT id FROM {streams} WHERE name = ?::text)
AND e.position = ?::bigint AND e.aggregate_id = ?::text AND e.version = ?::bigint
FOR SHARE OF e
ON CONFLICT (stream_id, aggregate_id) DO UPDATE
SET version = EXCLUDED.version, position = EXCLUDED.position, schema_no = EXCLUDED.schema_no, state = EXCLUDED.state
WHERE sn.position < EXCLUDED.position OR sn.position = EXCLUDED.position AND sn.schema_no <> EXCLUDED.schema_no`,
			load: `
(SELECT p.position, '' AS stream, p.aggregate_id, p.version, p.event_id, '' AS name, sn.state AS data, '{}'::json AS metadata, p.recorded_at
 FROM {snapshots} sn
 JOIN {streams} s ON s.id = sn.stream_id
 JOIN {events} p ON p.position = sn.position AND p.stream_id = sn.stream_id
     AND p.aggregate_id = sn.aggregate_id AND p.version = sn.version
 WHERE sn.aggregate_id = ?::text AND sn.schema_no = ?::bigint AND s.name = ?::text)
UNION ALL
(SELECT {page}
 FROM {streams} s
 LEFT JOIN {snapshots} sn ON sn.stream_id = s.id AND sn.aggregate_id = ?::text AND sn.schema_no = ?::bigint
 LEFT JOIN {events} p ON p.position = sn.position AND p.stream_id = sn.stream_id
     AND p.aggregate_id = sn.aggregate_id AND p.version = sn.version
 CROSS JOIN LATERAL (
     SELECT * FROM {events} e
     WHERE e.stream_id = s.id AND e.aggregate_id = ?::text AND e.version > COALESCE(p.version, 0)
     ORDER BY e.version LIMIT {limit}) e
 WHERE s.name = ?::text)`,
		},
		append: appendStatements{
			state: `
SELECT s.id,
       (SELECT COALESCE(max(version), 0) FROM {events} WHERE stream_id = s.id AND aggregate_id = ?::text),
       COALESCE((SELECT position FROM {events} WHERE stream_id = s.id AND aggregate_id = ?::text ORDER BY version DESC LIMIT 1), 0),
       statement_timestamp(), 1, false
FROM {streams} s WHERE s.name = ?::text`,
			savepoint:  `SAVEPOINT eventstore_append`,
			rollbackTo: `ROLLBACK TO SAVEPOINT eventstore_append`,
			release:    `RELEASE SAVEPOINT eventstore_append`,
		},
		erase: eraseStatements{
			begin:  `LOCK TABLE {snapshots} IN ROW SHARE MODE`,
			remove: `DELETE FROM {events} WHERE position = ANY (?::text::bigint[])`,
			blank: `
UPDATE {events}
SET stream_id = 0, aggregate_id = '', version = -position, name = '', data = 'null', metadata = '{}',
    event_id = ('e5e5000000000000' || lpad(to_hex(position), 16, '0'))::uuid
WHERE position = ANY (?::text::bigint[])`,
		},
		returning: returningStatements{
			values: postgresAppendTo + `
INSERT INTO {events} ({columns})
SELECT s.id, s.aggregate_id, s.version + v.n, v.event_id, v.name, v.data, v.metadata,
       COALESCE(?::timestamptz, statement_timestamp())
FROM s CROSS JOIN (VALUES `,
			valuesRow: `(?::bigint, ?::uuid, ?::text, ?::json, ?::json)`,
			valuesTail: `) v (n, event_id, name, data, metadata)
WHERE s.version BETWEEN ?::bigint AND ?::bigint AND ?::bigint IN (0, s.position)
ORDER BY v.n`,
			arrays: postgresAppendTo + `
INSERT INTO {events} ({columns})
SELECT s.id, s.aggregate_id, s.version + v.n, v.event_id, v.name, v.data::json, v.metadata::json,
       COALESCE(?::timestamptz, statement_timestamp())
FROM s CROSS JOIN unnest(?::text::uuid[], ?::text::text[], ?::text::text[], ?::text::text[])
           WITH ORDINALITY v (event_id, name, data, metadata, n)
WHERE s.version BETWEEN ?::bigint AND ?::bigint AND ?::bigint IN (0, s.position)
ORDER BY v.n`,
			// For a stream whose id is known. It takes the same locks in the same order, stores nothing
			// where one of the two rows is missing, and is the cheapest that does: each WITH and each
			// join costs the executor some microseconds.
			known: `
INSERT INTO {events} ({columns})
SELECT ?::bigint, ?::text, ?::bigint, ?::uuid, ?::text, ?::json, ?::json, COALESCE(?::timestamptz, statement_timestamp())
WHERE (SELECT 1 FROM {streams} WHERE id = ?::bigint FOR KEY SHARE) = 1`,
			knownPrevious: `
AND (SELECT 1 FROM {events} WHERE stream_id = ?::bigint AND aggregate_id = ?::text AND version = ?::bigint FOR KEY SHARE) = 1`,
			knownPreviousAt: `
AND (SELECT 1 FROM {events} WHERE stream_id = ?::bigint AND aggregate_id = ?::text AND version = ?::bigint
     AND position = ?::bigint FOR KEY SHARE) = 1`,
			// For appends to streams whose ids are known. It takes the same locks in the same order, and
			// takes aggregates in the order in which they are given. It waits for none of them for
			// longer than lock_timeout says, which is set before anything is locked, and ends with the
			// statement: the rows of "given" come after it. Each append is looked at once, and then
			// stored or not with all of its rows. An array that is NULL makes a column of NULLs.
			group: `
WITH given AS MATERIALIZED (
    SELECT c.*
    FROM (SELECT set_config('lock_timeout', '10ms', true) AS timeout OFFSET 0) w
    CROSS JOIN unnest(?::text::bigint[], ?::text::text[], ?::text::bigint[], ?::text::bigint[], ?::text::bigint[], ?::text::timestamptz[])
        WITH ORDINALITY c (stream_id, aggregate_id, low, high, after, at, n)
    WHERE w.timeout <> ''),
s AS MATERIALIZED (
    SELECT c.n, stream.id, c.aggregate_id, COALESCE(p.version, 0) AS version,
           COALESCE(c.at, statement_timestamp()) AS at` + postgresGuarded + `)
INSERT INTO {events} ({columns})
SELECT s.id, s.aggregate_id, s.version + v.i, v.event_id, v.name, v.data::json, v.metadata::json, s.at
FROM s JOIN unnest(?::text::bigint[], ?::text::bigint[], ?::text::uuid[], ?::text::text[], ?::text::text[], ?::text::text[])
         WITH ORDINALITY v (call, i, event_id, name, data, metadata, n) ON v.call = s.n
ORDER BY v.n`,
			// The same where each append has one row. Rows come out in the order of "given", since the
			// locks have them looked up one by one.
			groupOfOnes: `
WITH given AS MATERIALIZED (
    SELECT c.*
    FROM (SELECT set_config('lock_timeout', '10ms', true) AS timeout OFFSET 0) w
    CROSS JOIN unnest(?::text::bigint[], ?::text::text[], ?::text::bigint[], ?::text::bigint[], ?::text::bigint[], ?::text::timestamptz[],
                      ?::text::uuid[], ?::text::text[], ?::text::text[], ?::text::text[])
        c (stream_id, aggregate_id, low, high, after, at, event_id, name, data, metadata)
    WHERE w.timeout <> '')
INSERT INTO {events} ({columns})
SELECT stream.id, c.aggregate_id, COALESCE(p.version, 0) + 1, c.event_id, c.name, c.data::json, c.metadata::json,
       COALESCE(c.at, statement_timestamp())` + postgresGuarded,
			// By zero the division fails, and with it the statement, so that nothing is stored.
			position: `position / CASE WHEN position > ?::bigint THEN 1 ELSE 0 END`,
			skipTaken: `
ON CONFLICT DO NOTHING`,
		},
		seal: sealStatements{
			mark: `SELECT value FROM {meta} WHERE name = 'sealed'`,
			setMark: `
INSERT INTO {meta} (name, value) VALUES ('sealed', ?::bigint)
ON CONFLICT (name) DO UPDATE SET value = GREATEST({meta}.value, ?::bigint)`,
			// In brackets the position is nothing that a plan could be made for: near the end of a long log
			// one seems so much better that it would be made anew for each look.
			span: `
SELECT count(*), COALESCE(min(position), 0), COALESCE(max(position), 0), COALESCE((SELECT value FROM {meta} WHERE name = 'sealed'), 0)
FROM (SELECT position FROM {events} WHERE position >= (SELECT ?::bigint) ORDER BY position LIMIT {limit}) w`,
			positions:      `SELECT position FROM {events} WHERE position > (SELECT ?::bigint) ORDER BY position LIMIT {limit}`,
			positionsAfter: `SELECT position FROM {events} WHERE position > ?::bigint ORDER BY position LIMIT ?::int`,
			// The numbers are read after the snapshot was taken: the generator only grows.
			generator: `
SELECT CASE WHEN has_sequence_privilege(q.seqrelid, 'SELECT, USAGE') THEN COALESCE(pg_sequence_last_value(q.seqrelid), 0) ELSE -1 END,
       q.seqcache,
       GREATEST((SELECT COALESCE(max(position), 0) FROM {events}), (SELECT COALESCE(max(value), 0) FROM {meta} WHERE name = 'sealed'))
FROM pg_sequence q WHERE q.seqrelid = pg_get_serial_sequence('{events}', 'position')::regclass`,
			// A prepared transaction that has outlived its server goes on under another virtual
			// transaction, of no backend; before 13.5 and 14.1 it did so from when it was prepared.
			//
			// A statement that erases takes the same lock on the events as one that inserts. A transaction that
			// has only erased is told by its mark, a mode in which nothing else locks the snapshots, and by
			// the lack of the lock on the streams that each append takes before it is given positions.
			writers: `
SELECT virtualtransaction, virtualtransaction LIKE '-1/%' FROM pg_locks
WHERE locktype = 'relation' AND mode IN ('RowExclusiveLock', 'RowShareLock') AND granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND relation IN ('{events}'::regclass, '{snapshots}'::regclass, '{streams}'::regclass)
GROUP BY virtualtransaction
HAVING bool_or(relation = '{events}'::regclass AND mode = 'RowExclusiveLock')
AND (bool_or(relation = '{streams}'::regclass AND mode = 'RowShareLock')
  OR NOT bool_or(relation = '{snapshots}'::regclass AND mode = 'RowShareLock'))`,
			insertGaps: `
INSERT INTO {events} (position, {columns})
VALUES `,
			gapRow: `(?::bigint, 0, '', ?::bigint, ?::uuid, '', 'null', '{}', statement_timestamp())`,
			insertGapsTail: `
ON CONFLICT DO NOTHING`,
		},
		projections: postgresProjections,
		documents:   postgresDocuments,
		read:        postgresRead,
		readModel: readModelStatements{
			upsert:      ` ON CONFLICT ({key}) DO UPDATE SET `,
			upsertValue: `EXCLUDED.{column}`,
			upsertsOnce: true,
			facts:       postgresTableFacts,
		},
	},
}
