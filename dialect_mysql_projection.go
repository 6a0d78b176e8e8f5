// MySQL and MariaDB: statements of projections.

package eventstore

var mysqlProjections = projectionStatements{
	create: `
INSERT INTO {projections} (name, position, status, owner, epoch, generation, lease_until, read_model, retry, error)
VALUES (?, 0, 'idle', '', ?, ?, UTC_TIMESTAMP(6), FALSE, FALSE, '')
ON DUPLICATE KEY UPDATE name = {projections}.name`,
	get: `
SELECT position, state, status, owner, epoch, generation, lease_until > UTC_TIMESTAMP(6), read_model, retry, error, kind, delete_emitted
FROM {projections} WHERE name = ?`,
	list: `
SELECT p.name, p.position, p.status, p.owner, p.lease_until > UTC_TIMESTAMP(6), p.error,
       (SELECT COUNT(*) FROM {parked} WHERE projection = p.name)
FROM {projections} p ORDER BY p.name`,
	takeLease: `
UPDATE {projections}
SET error = CASE WHEN owner = ? THEN error ELSE '' END,
    owner = ?, epoch = epoch + 1, kind = ?, read_model = ?,
    lease_until = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND,
    status = CASE WHEN status IN ('resetting', 'deleting') THEN status ELSE 'running' END
WHERE name = ? AND epoch = ?
AND (lease_until <= UTC_TIMESTAMP(6) OR owner = ? OR status IN ('idle', 'failed', 'stopping'))`,
	renewLease: `
UPDATE {projections} SET lease_until = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND
WHERE name = ? AND epoch = ?`,
	holdsLease: `SELECT 1 FROM {projections} WHERE name = ? AND epoch = ?`,
	releaseLease: `
UPDATE {projections}
SET owner = '', epoch = epoch + 1, lease_until = UTC_TIMESTAMP(6), error = ?,
    status = CASE WHEN status IN ('resetting', 'deleting') THEN status ELSE ? END
WHERE name = ? AND owner = ?`,
	noteError: `UPDATE {projections} SET error = ? WHERE name = ? AND epoch = ?`,
	checkpoint: `
UPDATE {projections}
SET position = ?, error = '', lease_until = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND
WHERE name = ? AND epoch = ?`,
	checkpointState: `
UPDATE {projections}
SET position = ?, error = '', lease_until = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, state = ?
WHERE name = ? AND epoch = ?`,
	stop: `
UPDATE {projections}
SET epoch = epoch + 1, generation = generation + 1,
    status = CASE WHEN status <> 'running' THEN status
                  WHEN lease_until > UTC_TIMESTAMP(6) THEN 'stopping' ELSE 'idle' END
WHERE name = ?`,
	reset: `
UPDATE {projections}
SET epoch = epoch + 1, status = 'resetting', position = 0, state = NULL, retry = FALSE, error = '',
    lease_until = UTC_TIMESTAMP(6)
WHERE name = ? AND status <> 'deleting'`,
	resumed:    `UPDATE {projections} SET status = 'running', retry = FALSE WHERE name = ? AND epoch = ?`,
	dropParked: `DELETE FROM {parked} WHERE projection = ?`,
	delete: `
UPDATE {projections}
SET epoch = epoch + 1, generation = generation + 1, status = 'deleting', lease_until = UTC_TIMESTAMP(6),
    delete_emitted = delete_emitted OR ?
WHERE name = ?`,
	emptied:     `UPDATE {projections} SET delete_emitted = FALSE WHERE name = ? AND epoch = ?`,
	remove:      `DELETE FROM {projections} WHERE name = ? AND epoch = ?`,
	retryParked: `UPDATE {projections} SET epoch = epoch + 1, retry = TRUE WHERE name = ? AND status <> 'deleting'`,
	fence:       `UPDATE {projections} SET epoch = epoch + 1 WHERE name = ? AND status <> 'deleting'`,
	park: `
INSERT INTO {parked} (projection, position, stream, aggregate_id, error)
VALUES (?, ?, ?, ?, ?)
ON DUPLICATE KEY UPDATE error = VALUES(error)`,
	unpark:     `DELETE FROM {parked} WHERE projection = ? AND position = ?`,
	listParked: `SELECT position, stream, aggregate_id, error FROM {parked} WHERE projection = ? ORDER BY position`,
	lock:       `SELECT GET_LOCK(SHA2(CONCAT(DATABASE(), CHAR(0), ?), 256), ?)`,
	holder:     `SELECT IS_USED_LOCK(SHA2(CONCAT(DATABASE(), CHAR(0), ?), 256))`,
	unlock:     `SELECT RELEASE_LOCK(SHA2(CONCAT(DATABASE(), CHAR(0), ?), 256))`,
	kill:       `KILL CONNECTION `,
	// A deadlock and a statement that defines data end the transaction. The next statements are
	// in one of their own then, which nothing commits, and the savepoint is gone.
	guard:      []string{`SAVEPOINT es_batch`, `SET SESSION autocommit = 0`},
	checkGuard: `RELEASE SAVEPOINT es_batch`,
	endGuard:   `SET SESSION autocommit = 1`,
}
