// MySQL and MariaDB: statement texts and schema.

package eventstore

// MySQL is the dialect of MySQL 8.0 and later and of MariaDB 10.6 and later, through
// github.com/go-sql-driver/mysql. The connection's character set must be utf8mb4, the driver's
// default. It must commit by itself (autocommit), check unique keys (unique_checks), and not cut
// results short (sql_select_limit). Otherwise every call is [ErrInvalid] with the setting's name.
var MySQL = &mysqlDialect

// mysqlListed is the events of a list of positions. They are looked up one by one, so that exactly their
// records are locked: for a condition with IN a server may go through the whole table, and lock all of
// it.
const mysqlListed = `
JSON_TABLE(?, '$[*]' COLUMNS (position BIGINT PATH '$')) listed
STRAIGHT_JOIN {events} e FORCE INDEX (PRIMARY) ON e.position = listed.position`

var mysqlDialect = Dialect{
	name:          "mysql",
	prepares:      true,
	packetSetting: "max_allowed_packet",
	schema:        mysqlSchema,
	timeLayout:    "2006-01-02 15:04:05.000000", // without a zone, or the server would convert it
	classify:      classifyMySQL,
	violated:      violatedMySQL,
	eventID:       func(id [16]byte) any { return id[:] },
	brackets:      "[]",
	lists:         hexLists,
	statements: statements{
		install: installStatements{
			lock:   `SELECT GET_LOCK(CONCAT(CRC32(DATABASE()), ':', ?), 3600)`,
			unlock: `SELECT RELEASE_LOCK(CONCAT(CRC32(DATABASE()), ':', ?))`,
			// Without autocommit, or with transactions that chain, nothing commits what is not in a transaction.
			// Without unique_checks InnoDB may store what violates a unique key. A result that is cut short
			// looks as if there were no more: the LIMIT is here so that this one is not.
			settings: `
SELECT 'autocommit', '0', '1', 0 FROM DUAL WHERE @@autocommit = 0
UNION ALL SELECT 'completion_type', @@completion_type, 'NO_CHAIN', 0 FROM DUAL WHERE @@completion_type <> 'NO_CHAIN'
UNION ALL SELECT 'character_set_client', @@character_set_client, 'utf8mb4', 0 FROM DUAL WHERE @@character_set_client <> 'utf8mb4'
UNION ALL SELECT 'character_set_connection', @@character_set_connection, 'utf8mb4', 0 FROM DUAL WHERE @@character_set_connection <> 'utf8mb4'
UNION ALL SELECT 'character_set_results', @@character_set_results, 'utf8mb4', 0 FROM DUAL WHERE @@character_set_results NOT IN ('utf8mb4', 'binary')
UNION ALL SELECT 'sql_select_limit', CAST(@@sql_select_limit AS CHAR), 'its default', 0 FROM DUAL WHERE @@sql_select_limit < 4294967295
UNION ALL SELECT 'unique_checks', '0', '1', 0 FROM DUAL WHERE @@unique_checks = 0
LIMIT 10`,
			clock: `SELECT CAST(UTC_TIMESTAMP(6) AS CHAR)`,
			// New connections take the global value, old ones keep theirs.
			packet: `SELECT LEAST(@@session.max_allowed_packet, @@global.max_allowed_packet)`,
			createMeta: `
CREATE TABLE IF NOT EXISTS {meta} (
    name  VARBINARY(64) NOT NULL PRIMARY KEY,
    value BIGINT        NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin`,
			version:    `SELECT value FROM {meta} WHERE name = 'schema'`,
			setVersion: `REPLACE INTO {meta} (name, value) VALUES ('schema', ?)`,
			// InnoDB keeps a generator above all rows that there are.
			generators: `
SELECT IF(sealed > last, sealed, 0), FALSE, IF(used > ids, used, 0)
FROM (SELECT (SELECT COALESCE(MAX(position), 0) FROM {events}) AS last,
             (SELECT COALESCE(MAX(value), 0) FROM {meta} WHERE name = 'sealed') AS sealed,
             (SELECT COALESCE(MAX(id), 0) FROM {streams}) AS ids,
             GREATEST((SELECT COALESCE(MAX(stream_id), 0) FROM {events}), (SELECT COALESCE(MAX(stream_id), 0) FROM {snapshots})) AS used) w`,
			raiseStreams: `ALTER TABLE {streams} AUTO_INCREMENT = ?`,
		},
		streams: streamStatements{
			create: `
INSERT INTO {streams} (name, metadata, emitted_by, created_at)
VALUES (?, ?, ?, COALESCE(?, UTC_TIMESTAMP(6)))`,
			// A stream that a transaction can't see is found too.
			createTaken: `SELECT 1 FROM {streams} WHERE name = ? LOCK IN SHARE MODE`,
			emitter:     `SELECT emitted_by FROM {streams} WHERE name = ? LOCK IN SHARE MODE`,
			disown:      `UPDATE {streams} SET emitted_by = '' WHERE name = ? AND emitted_by IS NULL`,
			id:          `SELECT id FROM {streams} WHERE name = ?`,
			// By the primary key: by its name MariaDB would lock the gap before the stream's too.
			delete: `DELETE FROM {streams} WHERE id = ? AND name = ?`,
			positions: `
SELECT position FROM {events} FORCE INDEX (stream_id_2)
WHERE stream_id = ? AND position > ? ORDER BY position LIMIT ?`,
			snapshots:       `SELECT HEX(aggregate_id) FROM {snapshots} WHERE stream_id = ?`,
			deleteSnapshots: `DELETE FROM {snapshots} WHERE stream_id = ?`,
			deleteListed: mysqlUnsafe + `
DELETE sn FROM JSON_TABLE(?, '$[*]' COLUMNS (id VARCHAR(510) PATH '$')) listed
STRAIGHT_JOIN {snapshots} sn FORCE INDEX (PRIMARY) ON sn.stream_id = ? AND sn.aggregate_id = UNHEX(listed.id)`,
			queueErase: `
INSERT INTO {meta} (name, value) VALUES (CONCAT('erase ', ?), ?)
ON DUPLICATE KEY UPDATE value = VALUES(value)`,
			queuedErases: `SELECT value FROM {meta} WHERE name LIKE 'erase %' AND value NOT IN (SELECT id FROM {streams}) ORDER BY value`,
			eraseDone:    `DELETE FROM {meta} WHERE name = CONCAT('erase ', ?)`,
			exists:       `SELECT 1 FROM {streams} WHERE name = ?`,
			list:         `SELECT name, metadata, CAST(created_at AS CHAR) FROM {streams} WHERE LEFT(name, LENGTH(?)) = ? ORDER BY name`,
			setMetadata:  `UPDATE {streams} SET metadata = ? WHERE id = ?`,
		},
		aggregates: aggregateStatements{
			lockFirst: `
SELECT version FROM {events} FORCE INDEX (stream_id)
WHERE stream_id = ? AND aggregate_id = ? AND version = 1 FOR UPDATE`,
			lockLast: `
SELECT version FROM {events} WHERE stream_id = ? AND aggregate_id = ?
ORDER BY version DESC LIMIT 1 FOR UPDATE`,
			versions: `
SELECT version, position FROM {events} FORCE INDEX (stream_id)
WHERE stream_id = ? AND aggregate_id = ? AND version > ? ORDER BY version`,
			lockPosition: `
SELECT 1 FROM {events} FORCE INDEX (PRIMARY) WHERE position = ? AND stream_id = ? AND aggregate_id = ? FOR UPDATE`,
			raise: `UPDATE {events} SET version = version + 1 WHERE position = ?`,
			lockVersion: `
SELECT 1 FROM {events} FORCE INDEX (stream_id)
WHERE stream_id = ? AND aggregate_id = ? AND version = ? FOR UPDATE`,
			hasSnapshot: `SELECT 1 FROM {snapshots} WHERE stream_id = ? AND aggregate_id = ?`,
			// A DELETE that finds none would lock the gap where it may come to stand.
			claimSnapshot: `
INSERT INTO {snapshots} (stream_id, aggregate_id, version, position, schema_no, state)
VALUES (?, ?, 0, 0, 0, 'null')
ON DUPLICATE KEY UPDATE state = 'null'`,
			deleteSnapshot: `DELETE FROM {snapshots} WHERE stream_id = ? AND aggregate_id = ?`,
			// The event is locked, so that a delete of the aggregate waits for this, or this sees that
			// it is gone. Assignments run from left to right: the position comes last.
			saveSnapshot: `
INSERT INTO {snapshots} (version, schema_no, state, stream_id, aggregate_id, position)
SELECT ?, ?, ?, e.stream_id, e.aggregate_id, e.position
FROM {events} e FORCE INDEX (PRIMARY)
WHERE e.stream_id = (SELECT id FROM {streams} WHERE name = ?)
AND e.position = ? AND e.aggregate_id = ? AND e.version = ?
LOCK IN SHARE MODE
ON DUPLICATE KEY UPDATE
    version = IF(VALUES(position) >= {snapshots}.position, VALUES(version), {snapshots}.version),
    schema_no = IF(VALUES(position) >= {snapshots}.position, VALUES(schema_no), {snapshots}.schema_no),
    state = IF(VALUES(position) >= {snapshots}.position, VALUES(state), {snapshots}.state),
    position = GREATEST({snapshots}.position, VALUES(position))`,
			// All but the last table are read by one value of a unique key each, before the statement is
			// planned: the version that the last begins behind is a constant by then. With a subquery in
			// its place MariaDB reads the whole aggregate. The whole is left unsorted, because MariaDB would
			// put it into a table on disk for that, as it does with rows that hold a LONGTEXT: a millisecond.
			load: `
(SELECT p.position, '' AS stream, p.aggregate_id, p.version, p.event_id, '' AS name, sn.state AS data, '{}' AS metadata,
        CAST(p.recorded_at AS CHAR) AS recorded_at
 FROM {snapshots} sn
 JOIN {streams} s ON s.id = sn.stream_id
 JOIN {events} p ON p.position = sn.position AND p.stream_id = sn.stream_id
     AND p.aggregate_id = sn.aggregate_id AND p.version = sn.version
 WHERE sn.aggregate_id = ? AND sn.schema_no = ? AND s.name = ?)
UNION ALL
(SELECT {page}
 FROM {streams} s
 LEFT JOIN {snapshots} sn ON sn.stream_id = s.id AND sn.aggregate_id = ? AND sn.schema_no = ?
 LEFT JOIN {events} p ON p.position = sn.position AND p.stream_id = sn.stream_id
     AND p.aggregate_id = sn.aggregate_id AND p.version = sn.version
 JOIN {events} e ON e.stream_id = s.id AND e.aggregate_id = ? AND e.version > COALESCE(p.version, 0)
 WHERE s.name = ?
 ORDER BY e.version LIMIT {limit})`,
		},
		append: appendStatements{
			positionOf: `SELECT position FROM {events} WHERE event_id = ?`,
			state: `
SELECT s.id,
       (SELECT COALESCE(MAX(version), 0) FROM {events} WHERE stream_id = s.id AND aggregate_id = ?),
       COALESCE((SELECT position FROM {events} WHERE stream_id = s.id AND aggregate_id = ? ORDER BY version DESC LIMIT 1), 0),
       CAST(UTC_TIMESTAMP(6) AS CHAR), @@auto_increment_increment, VERSION() LIKE '%MariaDB%'
FROM {streams} s WHERE s.name = ?`,
			// MySQL takes the list for a table that it can't lock.
			committed: `
SELECT COUNT(*) FROM` + mysqlListed + `
/*!80000 FOR SHARE OF e *//*M! LOCK IN SHARE MODE */`,
			eventIDOf: `
SELECT event_id FROM {events} FORCE INDEX (stream_id)
WHERE stream_id = (SELECT id FROM {streams} WHERE name = ?) AND aggregate_id = ? AND version = ?
LOCK IN SHARE MODE`,
			savepoint:  `SAVEPOINT eventstore_append`,
			rollbackTo: `ROLLBACK TO SAVEPOINT eventstore_append`,
			release:    `RELEASE SAVEPOINT eventstore_append`,
		},
		erase: eraseStatements{
			remove: mysqlUnsafe + `DELETE e FROM` + mysqlListed,
			blank: mysqlUnsafe + `UPDATE` + mysqlListed + `
SET e.stream_id = 0, e.aggregate_id = '', e.version = -e.position, e.name = '', e.data = 'null', e.metadata = '{}',
    e.event_id = UNHEX(CONCAT('e5e5000000000000', LPAD(HEX(e.position), 16, '0')))`,
		},
		numbered: numberedStatements{
			insert: `
INSERT INTO {events} ({columns})
VALUES `,
			row: `(?, ?, ?, ?, ?, ?, ?, ?)`,
			// MariaDB has a way to run a statement that fails at once where it would have to wait for a
			// lock; MySQL has none for a single statement. The indexes are forced, because a scan of a
			// small table would meet the locks of others.
			noWait: `SET STATEMENT innodb_lock_wait_timeout = 0 FOR`,
			positions: `
RETURNING position`,
			// By the key that an append's guard may go by, which covers it: claimLock locks both rows, the key's and
			// the event's.
			claim: `
SELECT (SELECT COUNT(*) FROM {events} recent FORCE INDEX (stream_id)
        WHERE recent.stream_id = ? AND recent.aggregate_id = ? AND recent.version > ? AND recent.event_id = ?)
FROM {events} FORCE INDEX (stream_id)
WHERE stream_id = ? AND aggregate_id = ? AND version = ?`,
			claimLock: ` FOR UPDATE`,
			ahead: `
(SELECT 1 FROM {events} FORCE INDEX (stream_id) WHERE stream_id = ? AND aggregate_id = ? AND version = ?`,
			aheadNoWait: ` FOR SHARE NOWAIT`,
			aheadIDs: `)
UNION ALL
(SELECT 2 FROM {events} FORCE INDEX (event_id) WHERE event_id IN (`,
			aheadTail: `) LIMIT 1)`,
			// At repeatable read it locks a gap for as long as it takes.
			inFlight: `
SELECT 1 FROM {events} FORCE INDEX (stream_id)
WHERE stream_id = ? AND aggregate_id = ? AND version = ? FOR SHARE NOWAIT`,
			await: `
SELECT 1 FROM {events} FORCE INDEX (stream_id)
WHERE stream_id = ? AND aggregate_id = ? AND version = ? LOCK IN SHARE MODE`,
			group: `
SET STATEMENT innodb_lock_wait_timeout = 0 FOR
INSERT INTO {events} ({columns})
VALUES ((SELECT CAST(? AS SIGNED) UNION ALL
  SELECT 0 FROM DUAL WHERE (SELECT COUNT(*) FROM {streams} FORCE INDEX (PRIMARY) WHERE id IN (`,
			groupStreams: `)) <> ?`,
			groupVersions: `
  UNION ALL
  SELECT 0 FROM DUAL WHERE (SELECT COUNT(*) FROM (
    SELECT 1 FROM {events} FORCE INDEX (stream_id) WHERE (stream_id, aggregate_id, version) IN (`,
			// By the primary key no gap is locked: see afterPosition.
			groupPositions: `
  UNION ALL
  SELECT 0 FROM DUAL WHERE (SELECT COUNT(*) FROM (
    SELECT 1 FROM {events} FORCE INDEX (PRIMARY) WHERE (position, stream_id, aggregate_id, version) IN (`,
			groupLocked: `) LOCK IN SHARE MODE) previous) <> ?`,
			groupFirst:  `), ?, ?, ?, ?, ?, ?, ?)`,
			one: guardedRow{
				// The first row has the guard of all. Both tables are looked at for one value of a unique key and so
				// lock a record, MySQL without a gap. The lock of the event is asked for, and not left to what an
				// INSERT takes by itself at one isolation or another: an aggregate that is being deleted meanwhile
				// would be left with a version and none before it. The previous event can't stand for the stream:
				// who deletes that reads all its rows, by another index, before changing any, and would miss the
				// new one. The guard reads through a derived table with LIMIT, because an INSERT can't name its own
				// table directly.
				//
				// Where something is missing the row's stream is NULL, which is an error in every SQL mode if it is
				// the only row.
				first: `((SELECT id FROM {streams} WHERE id = ?), ?, ?, ?, ?, ?, ?, ?)`,
				afterVersion: `((SELECT id FROM (
  SELECT s.id FROM {streams} s JOIN {events} e
  WHERE s.id = ? AND e.stream_id = ? AND e.aggregate_id = ? AND e.version = ?
  LIMIT 1 LOCK IN SHARE MODE) guard), ?, ?, ?, ?, ?, ?, ?)`,
				// The same, where the previous event's position is known: MariaDB locks the gap before a
				// record that it finds by a unique key which is not the primary one, and so, until a
				// caller's transaction ends, the neighbours' appends.
				afterPosition: `((SELECT id FROM (
  SELECT s.id FROM {streams} s JOIN {events} e FORCE INDEX (PRIMARY)
  WHERE s.id = ? AND e.position = ? AND e.stream_id = ? AND e.aggregate_id = ? AND e.version = ?
  LIMIT 1 LOCK IN SHARE MODE) guard), ?, ?, ?, ?, ?, ?, ?)`,
			},
			many: guardedRow{
				// With several rows the NULL would become 0 if strict mode is off. Here the guard returns two rows
				// where one may be, which is an error in every mode, and takes longer.
				first: `((SELECT CAST(? AS SIGNED) UNION ALL
  SELECT 0 FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM {streams} WHERE id = ?)), ?, ?, ?, ?, ?, ?, ?)`,
				afterVersion: `((SELECT CAST(? AS SIGNED) UNION ALL
  SELECT 0 FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM {streams} WHERE id = ?)
  UNION ALL
  SELECT 0 FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM (
    SELECT 1 FROM {events} WHERE stream_id = ? AND aggregate_id = ? AND version = ? LIMIT 1 LOCK IN SHARE MODE) previous)), ?, ?, ?, ?, ?, ?, ?)`,
				afterPosition: `((SELECT CAST(? AS SIGNED) UNION ALL
  SELECT 0 FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM {streams} WHERE id = ?)
  UNION ALL
  SELECT 0 FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM (
    SELECT 1 FROM {events} FORCE INDEX (PRIMARY)
    WHERE position = ? AND stream_id = ? AND aggregate_id = ? AND version = ? LIMIT 1 LOCK IN SHARE MODE) previous)), ?, ?, ?, ?, ?, ?, ?)`,
			},
		},
		seal: sealStatements{
			mark: `SELECT value FROM {meta} WHERE name = 'sealed'`,
			setMark: `
INSERT INTO {meta} (name, value) VALUES ('sealed', ?)
ON DUPLICATE KEY UPDATE value = GREATEST(value, ?)`,
			span: `
SELECT COUNT(*), COALESCE(MIN(position), 0), COALESCE(MAX(position), 0), COALESCE((SELECT value FROM {meta} WHERE name = 'sealed'), 0)
FROM (SELECT position FROM {events} WHERE position >= ? ORDER BY position LIMIT {limit}) w`,
			positions:      `SELECT position FROM {events} WHERE position > ? ORDER BY position LIMIT {limit}`,
			positionsAfter: `SELECT position FROM {events} WHERE position > ? ORDER BY position LIMIT ?`,
			// FOR UPDATE is the one locking read that both MySQL and MariaDB know with NOWAIT.
			// It has to look at every row of the spans, and by the primary key, or it would meet others'.
			lockSpans: `
SELECT COUNT(*) FROM {events} FORCE INDEX (PRIMARY)
WHERE `,
			lockSpan: `position BETWEEN ? AND ?`,
			lockTail: `
FOR UPDATE NOWAIT`,
			lockStreams: `
SELECT COUNT(*) FROM {streams} FORCE INDEX (PRIMARY)
WHERE id BETWEEN ? AND ?`,
			lockWaiting: `
FOR UPDATE`,
			waitShortly: `SET SESSION innodb_lock_wait_timeout = 1`,
			streamIDs:   `SELECT COALESCE(MIN(id), 0), COALESCE(MAX(id), 0) FROM {streams} WHERE id BETWEEN ? AND ?`,
			insertGaps: `
INSERT INTO {events} (position, {columns})
VALUES `,
			gapRow: `(?, 0, '', ?, ?, '', 'null', '{}', UTC_TIMESTAMP(6))`,
			insertGapsTail: `
ON DUPLICATE KEY UPDATE position = {events}.position`,
		},
		projections: mysqlProjections,
		documents:   mysqlDocuments,
		read:        mysqlRead,
		readModel: readModelStatements{
			upsert:      ` ON DUPLICATE KEY UPDATE `,
			upsertValue: `VALUES({column})`,
			lenient:     true,
			facts:       mysqlTableFacts,
		},
	},
}
