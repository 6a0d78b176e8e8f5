// Postgres: statements of projections.

package eventstore

var postgresProjections = projectionStatements{
	create: `
INSERT INTO {projections} (name, position, began, replay_to, status, owner, epoch, generation, lease_until, read_model, retry, error)
VALUES (?::text, ?::bigint, ?::bigint, ?::bigint, 'idle', '', ?::bigint, ?::bigint, clock_timestamp(), false, false, '')
ON CONFLICT (name) DO NOTHING`,
	get: `
SELECT position, state, status, owner, epoch, generation, lease_until > clock_timestamp(), read_model, retry, error, kind, delete_emitted,
       began, replay_to, wants, paused, changing = epoch,
       EXISTS (SELECT 1 FROM {verdicts} WHERE projection = name)
FROM {projections} WHERE name = ?::text`,
	definition: `SELECT wanted, taken FROM {projections} WHERE name = ?::text`,
	define: `
UPDATE {projections} SET wants = ?::text, wanted = ?::text, taken = ?::text, changing = 0
WHERE name = ?::text AND epoch = ?::bigint`,
	noteLooks: `UPDATE {projections} SET taken = ?::text WHERE name = ?::text AND epoch = ?::bigint`,
	list: `
SELECT p.name, p.position, p.status, p.owner, p.lease_until > clock_timestamp(), p.error, p.paused,
       p.lease_until, p.control, p.control_by, p.control_position, COALESCE(p.control_at, p.lease_until),
       (SELECT count(*) FROM {parked} WHERE projection = p.name),
       (SELECT count(*) FROM {verdicts} WHERE projection = p.name)
FROM {projections} p ORDER BY p.name`,
	takeLease: `
UPDATE {projections}
SET error = CASE WHEN owner = ?::text THEN error ELSE '' END,
    changing = CASE WHEN ?::boolean THEN epoch + 1 ELSE 0 END,
    owner = ?::text, epoch = epoch + 1, kind = ?::text, read_model = ?::boolean,
    lease_until = clock_timestamp() + ?::bigint * interval '1 microsecond',
    status = CASE WHEN status IN ('resetting', 'deleting') THEN status ELSE 'running' END
WHERE name = ?::text AND epoch = ?::bigint
AND (lease_until <= clock_timestamp() OR owner = ?::text OR status IN ('idle', 'failed', 'stopping') OR wants <> '' AND wants = ?::text AND changing <> epoch)`,
	renewLease: `
UPDATE {projections} SET lease_until = clock_timestamp() + ?::bigint * interval '1 microsecond'
WHERE name = ?::text AND epoch = ?::bigint`,
	holdsLease: `SELECT 1 FROM {projections} WHERE name = ?::text AND epoch = ?::bigint`,
	releaseLease: `
UPDATE {projections}
SET owner = '', epoch = epoch + 1, lease_until = clock_timestamp(), error = ?::text,
    status = CASE WHEN status IN ('resetting', 'deleting') THEN status ELSE ?::text END
WHERE name = ?::text AND owner = ?::text`,
	noteError: `UPDATE {projections} SET error = ?::text WHERE name = ?::text AND epoch = ?::bigint`,
	checkpoint: `
UPDATE {projections}
SET position = ?::bigint, error = '', lease_until = clock_timestamp() + ?::bigint * interval '1 microsecond'
WHERE name = ?::text AND epoch = ?::bigint`,
	checkpointState: `
UPDATE {projections}
SET position = ?::bigint, error = '', lease_until = clock_timestamp() + ?::bigint * interval '1 microsecond', state = ?::json
WHERE name = ?::text AND epoch = ?::bigint`,
	stop: `
UPDATE {projections}
SET epoch = epoch + 1, generation = generation + 1, control = ?::text, control_by = ?::text, control_position = ?::bigint, control_at = clock_timestamp(),
    status = CASE WHEN status <> 'running' THEN status
                  WHEN lease_until > clock_timestamp() THEN 'stopping' ELSE 'idle' END
WHERE name = ?::text`,
	reset: `
UPDATE {projections}
SET epoch = epoch + 1, replay_to = GREATEST(?::bigint, position), began = 0, taken = NULL,
    status = 'resetting', position = 0, state = NULL, retry = false, error = '', control = ?::text, control_by = ?::text, control_position = ?::bigint, control_at = clock_timestamp(),
    lease_until = clock_timestamp()
WHERE name = ?::text AND status <> 'deleting'`,
	rebuild: `
UPDATE {projections}
SET replay_to = GREATEST(?::bigint, position), began = 0, wants = ?::text, wanted = ?::text, taken = NULL,
    status = 'resetting', position = 0, state = NULL, retry = false, error = '', changing = 0
WHERE name = ?::text AND epoch = ?::bigint`,
	resumed:    `UPDATE {projections} SET status = 'running', retry = false WHERE name = ?::text AND epoch = ?::bigint`,
	retried:    `UPDATE {parked} SET retry = false WHERE projection = ?::text AND retry`,
	dropParked: `DELETE FROM {parked} WHERE projection = ?::text`,
	delete: `
UPDATE {projections}
SET epoch = epoch + 1, generation = generation + 1, status = 'deleting', paused = false, lease_until = clock_timestamp(),
    delete_emitted = delete_emitted OR ?::boolean, control = ?::text, control_by = ?::text, control_position = ?::bigint, control_at = clock_timestamp()
WHERE name = ?::text`,
	emptied:     `UPDATE {projections} SET delete_emitted = false WHERE name = ?::text AND epoch = ?::bigint`,
	remove:      `DELETE FROM {projections} WHERE name = ?::text AND epoch = ?::bigint`,
	retryParked: `UPDATE {projections} SET epoch = epoch + 1, retry = true, control = ?::text, control_by = ?::text, control_position = ?::bigint, control_at = clock_timestamp() WHERE name = ?::text AND status <> 'deleting'`,
	fence:       `UPDATE {projections} SET epoch = epoch + 1, control = ?::text, control_by = ?::text, control_position = ?::bigint, control_at = clock_timestamp() WHERE name = ?::text AND status <> 'deleting'`,
	pause: `
UPDATE {projections}
SET epoch = epoch + 1, paused = ?::boolean, control = ?::text, control_by = ?::text, control_position = ?::bigint, control_at = clock_timestamp(), lease_until = clock_timestamp(),
    status = CASE WHEN status = 'running' THEN 'idle' ELSE status END
WHERE name = ?::text AND status <> 'deleting' AND paused <> ?::boolean`,
	accept: `
UPDATE {projections}
SET epoch = epoch + 1, wants = '', wanted = NULL, taken = NULL, control = ?::text, control_by = ?::text, control_position = ?::bigint, control_at = clock_timestamp(), lease_until = clock_timestamp()
WHERE name = ?::text AND status <> 'deleting'`,
	park: `
INSERT INTO {parked} (projection, position, stream, aggregate_id, error)
VALUES (?::text, ?::bigint, ?::text, ?::text, ?::text)
ON CONFLICT (projection, position) DO UPDATE SET error = EXCLUDED.error`,
	unpark:     `DELETE FROM {parked} WHERE projection = ?::text AND position = ?::bigint`,
	askRetry:   `UPDATE {parked} SET retry = true WHERE projection = ?::text AND stream = ?::text AND aggregate_id = ?::text`,
	askRetries: `UPDATE {parked} SET retry = true WHERE projection = ?::text`,
	listParked: `SELECT position, stream, aggregate_id, error, retry FROM {parked} WHERE projection = ?::text ORDER BY position`,
	judge: `
INSERT INTO {verdicts} (projection, position, action) VALUES (?::text, ?::bigint, ?::text)
ON CONFLICT (projection, position) DO UPDATE SET action = EXCLUDED.action`,
	verdicts:     `SELECT position, action FROM {verdicts} WHERE projection = ?::text ORDER BY position`,
	dropVerdicts: `DELETE FROM {verdicts} WHERE projection = ?::text AND position <= ?::bigint`,
	guard:        []string{`SAVEPOINT es_batch`},
	checkGuard:   `RELEASE SAVEPOINT es_batch`,
}
