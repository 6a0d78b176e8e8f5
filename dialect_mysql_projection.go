// MySQL and MariaDB: statements of projections.

package eventstore

var mysqlProjections = projectionStatements{
	create: `
INSERT INTO {projections} (name, position, began, replay_to, status, owner, epoch, generation, lease_until, read_model, retry, error)
VALUES (?, ?, ?, ?, 'idle', '', ?, ?, UTC_TIMESTAMP(6), FALSE, FALSE, '')
ON DUPLICATE KEY UPDATE name = {projections}.name`,
	get: `
SELECT position, state, status, owner, epoch, generation, lease_until > UTC_TIMESTAMP(6), read_model, retry, error, kind, delete_emitted,
       began, replay_to, wants, paused, changing = epoch,
       EXISTS (SELECT 1 FROM {verdicts} WHERE projection = name)
FROM {projections} WHERE name = ?`,
	definition: `SELECT wanted, taken FROM {projections} WHERE name = ?`,
	define: `
UPDATE {projections} SET wants = ?, wanted = ?, taken = ?, changing = 0
WHERE name = ? AND epoch = ?`,
	noteLooks: `UPDATE {projections} SET taken = ? WHERE name = ? AND epoch = ?`,
	list: `
SELECT p.name, p.position, p.status, p.owner, p.lease_until > UTC_TIMESTAMP(6), p.error, p.paused,
       p.lease_until, p.control, p.control_by, p.control_position, COALESCE(p.control_at, p.lease_until),
       (SELECT COUNT(*) FROM {parked} WHERE projection = p.name),
       (SELECT COUNT(*) FROM {verdicts} WHERE projection = p.name)
FROM {projections} p ORDER BY p.name`,
	takeLease: `
UPDATE {projections}
SET error = CASE WHEN owner = ? THEN error ELSE '' END,
    changing = CASE WHEN ? THEN epoch + 1 ELSE 0 END,
    owner = ?, epoch = epoch + 1, kind = ?, read_model = ?,
    lease_until = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND,
    status = CASE WHEN status IN ('resetting', 'deleting') THEN status ELSE 'running' END
WHERE name = ? AND epoch = ?
AND (lease_until <= UTC_TIMESTAMP(6) OR owner = ? OR status IN ('idle', 'failed', 'stopping') OR wants <> '' AND wants = ? AND changing <> epoch)`,
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
SET epoch = epoch + 1, generation = generation + 1, control = ?, control_by = ?, control_position = ?, control_at = UTC_TIMESTAMP(6),
    status = CASE WHEN status <> 'running' THEN status
                  WHEN lease_until > UTC_TIMESTAMP(6) THEN 'stopping' ELSE 'idle' END
WHERE name = ?`,
	reset: `
UPDATE {projections}
SET epoch = epoch + 1, replay_to = GREATEST(?, position), began = 0, taken = NULL,
    status = 'resetting', position = 0, state = NULL, retry = FALSE, error = '', control = ?, control_by = ?, control_position = ?, control_at = UTC_TIMESTAMP(6),
    lease_until = UTC_TIMESTAMP(6)
WHERE name = ? AND status <> 'deleting'`,
	rebuild: `
UPDATE {projections}
SET replay_to = GREATEST(?, position), began = 0, wants = ?, wanted = ?, taken = NULL,
    status = 'resetting', position = 0, state = NULL, retry = FALSE, error = '', changing = 0
WHERE name = ? AND epoch = ?`,
	resumed:    `UPDATE {projections} SET status = 'running', retry = FALSE WHERE name = ? AND epoch = ?`,
	retried:    `UPDATE {parked} SET retry = FALSE WHERE projection = ? AND retry`,
	dropParked: `DELETE FROM {parked} WHERE projection = ?`,
	delete: `
UPDATE {projections}
SET epoch = epoch + 1, generation = generation + 1, status = 'deleting', paused = FALSE, lease_until = UTC_TIMESTAMP(6),
    delete_emitted = delete_emitted OR ?, control = ?, control_by = ?, control_position = ?, control_at = UTC_TIMESTAMP(6)
WHERE name = ?`,
	emptied:     `UPDATE {projections} SET delete_emitted = FALSE WHERE name = ? AND epoch = ?`,
	remove:      `DELETE FROM {projections} WHERE name = ? AND epoch = ?`,
	retryParked: `UPDATE {projections} SET epoch = epoch + 1, retry = TRUE, control = ?, control_by = ?, control_position = ?, control_at = UTC_TIMESTAMP(6) WHERE name = ? AND status <> 'deleting'`,
	fence:       `UPDATE {projections} SET epoch = epoch + 1, control = ?, control_by = ?, control_position = ?, control_at = UTC_TIMESTAMP(6) WHERE name = ? AND status <> 'deleting'`,
	pause: `
UPDATE {projections}
SET epoch = epoch + 1, paused = ?, control = ?, control_by = ?, control_position = ?, control_at = UTC_TIMESTAMP(6), lease_until = UTC_TIMESTAMP(6),
    status = CASE WHEN status = 'running' THEN 'idle' ELSE status END
WHERE name = ? AND status <> 'deleting' AND paused <> ?`,
	accept: `
UPDATE {projections}
SET epoch = epoch + 1, wants = '', wanted = NULL, taken = NULL, control = ?, control_by = ?, control_position = ?, control_at = UTC_TIMESTAMP(6), lease_until = UTC_TIMESTAMP(6)
WHERE name = ? AND status <> 'deleting'`,
	park: `
INSERT INTO {parked} (projection, position, stream, aggregate_id, error)
VALUES (?, ?, ?, ?, ?)
ON DUPLICATE KEY UPDATE error = VALUES(error)`,
	unpark:     `DELETE FROM {parked} WHERE projection = ? AND position = ?`,
	askRetry:   `UPDATE {parked} SET retry = TRUE WHERE projection = ? AND stream = ? AND aggregate_id = ?`,
	askRetries: `UPDATE {parked} SET retry = TRUE WHERE projection = ?`,
	listParked: `SELECT position, stream, aggregate_id, error, retry FROM {parked} WHERE projection = ? ORDER BY position`,
	judge: `
INSERT INTO {verdicts} (projection, position, action) VALUES (?, ?, ?)
ON DUPLICATE KEY UPDATE action = VALUES(action)`,
	verdicts:     `SELECT position, action FROM {verdicts} WHERE projection = ? ORDER BY position`,
	dropVerdicts: `DELETE FROM {verdicts} WHERE projection = ? AND position <= ?`,
	lock:         `SELECT GET_LOCK(SHA2(CONCAT(DATABASE(), CHAR(0), ?), 256), ?)`,
	holder:       `SELECT IS_USED_LOCK(SHA2(CONCAT(DATABASE(), CHAR(0), ?), 256))`,
	unlock:       `SELECT RELEASE_LOCK(SHA2(CONCAT(DATABASE(), CHAR(0), ?), 256))`,
	kill:         `KILL CONNECTION `,
	// A deadlock and a statement that defines data end the transaction. The next statements are
	// in one of their own then, which nothing commits, and the savepoint is gone.
	guard:      []string{`SAVEPOINT es_batch`, `SET SESSION autocommit = 0`},
	checkGuard: `RELEASE SAVEPOINT es_batch`,
	endGuard:   `SET SESSION autocommit = 1`,
}
