// Postgres: statements of projections.

package eventstore

var postgresProjections = projectionStatements{
	create: `
INSERT INTO {projections} (name, position, status, owner, epoch, generation, lease_until, read_model, retry, error)
VALUES (?::text, 0, 'idle', '', ?::bigint, ?::bigint, clock_timestamp(), false, false, '')
ON CONFLICT (name) DO NOTHING`,
	get: `
SELECT position, state, status, owner, epoch, generation, lease_until > clock_timestamp(), read_model, retry, error, kind, delete_emitted
FROM {projections} WHERE name = ?::text`,
	list: `
SELECT p.name, p.position, p.status, p.owner, p.lease_until > clock_timestamp(), p.error,
       (SELECT count(*) FROM {parked} WHERE projection = p.name)
FROM {projections} p ORDER BY p.name`,
	takeLease: `
UPDATE {projections}
SET error = CASE WHEN owner = ?::text THEN error ELSE '' END,
    owner = ?::text, epoch = epoch + 1, kind = ?::text, read_model = ?::boolean,
    lease_until = clock_timestamp() + ?::bigint * interval '1 microsecond',
    status = CASE WHEN status IN ('resetting', 'deleting') THEN status ELSE 'running' END
WHERE name = ?::text AND epoch = ?::bigint
AND (lease_until <= clock_timestamp() OR owner = ?::text OR status IN ('idle', 'failed', 'stopping'))`,
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
SET epoch = epoch + 1, generation = generation + 1,
    status = CASE WHEN status <> 'running' THEN status
                  WHEN lease_until > clock_timestamp() THEN 'stopping' ELSE 'idle' END
WHERE name = ?::text`,
	reset: `
UPDATE {projections}
SET epoch = epoch + 1, status = 'resetting', position = 0, state = NULL, retry = false, error = '',
    lease_until = clock_timestamp()
WHERE name = ?::text AND status <> 'deleting'`,
	resumed:    `UPDATE {projections} SET status = 'running', retry = false WHERE name = ?::text AND epoch = ?::bigint`,
	dropParked: `DELETE FROM {parked} WHERE projection = ?::text`,
	delete: `
UPDATE {projections}
SET epoch = epoch + 1, generation = generation + 1, status = 'deleting', lease_until = clock_timestamp(),
    delete_emitted = delete_emitted OR ?::boolean
WHERE name = ?::text`,
	emptied:     `UPDATE {projections} SET delete_emitted = false WHERE name = ?::text AND epoch = ?::bigint`,
	remove:      `DELETE FROM {projections} WHERE name = ?::text AND epoch = ?::bigint`,
	retryParked: `UPDATE {projections} SET epoch = epoch + 1, retry = true WHERE name = ?::text AND status <> 'deleting'`,
	fence:       `UPDATE {projections} SET epoch = epoch + 1 WHERE name = ?::text AND status <> 'deleting'`,
	park: `
INSERT INTO {parked} (projection, position, stream, aggregate_id, error)
VALUES (?::text, ?::bigint, ?::text, ?::text, ?::text)
ON CONFLICT (projection, position) DO UPDATE SET error = EXCLUDED.error`,
	unpark:     `DELETE FROM {parked} WHERE projection = ?::text AND position = ?::bigint`,
	listParked: `SELECT position, stream, aggregate_id, error FROM {parked} WHERE projection = ?::text ORDER BY position`,
	guard:      []string{`SAVEPOINT es_batch`},
	checkGuard: `RELEASE SAVEPOINT es_batch`,
}
