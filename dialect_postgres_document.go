// Postgres: statements of documents.

package eventstore

var postgresDocuments = documentStatements{
	get: `
SELECT p.kind, d.state, d.position
FROM {projections} p LEFT JOIN {documents} d
    ON d.projection = p.name AND d.doc_key = ?::text AND p.status NOT IN ('resetting', 'deleting')
WHERE p.name = ?::text`,
	listed: `
SELECT d.doc_key, d.state, d.position, d.labels
FROM unnest(?::text::text[]) l (doc_key) CROSS JOIN LATERAL (
    SELECT * FROM {documents} WHERE projection = ?::text AND doc_key = l.doc_key LIMIT 1) d`,
	forward: `
SELECT doc_key, state, position FROM {documents}
WHERE projection = ?::text AND doc_key >= ?::text AND doc_key < ?::text AND doc_key <> ?::text
ORDER BY doc_key LIMIT ?::bigint`,
	backward: `
SELECT doc_key, state, position FROM {documents}
WHERE projection = ?::text AND doc_key >= ?::text AND doc_key < ?::text AND doc_key <> ?::text
ORDER BY doc_key DESC LIMIT ?::bigint`,
	labelledForward:  postgresLabelled(""),
	labelledBackward: postgresLabelled(" DESC"),
	put: `
INSERT INTO {documents} (projection, doc_key, position, state, labels)
VALUES `,
	putRow:  `(?::text, ?::text, ?::bigint, ?::json, ?::text)`,
	putTail: postgresPutDocument,
	putLists: `
INSERT INTO {documents} (projection, doc_key, position, state, labels)
SELECT p.name, v.doc_key, v.position, v.state::json, v.labels
FROM unnest(?::text::text[], ?::text::bigint[], ?::text::text[], ?::text::text[]) v (doc_key, position, state, labels)
CROSS JOIN (SELECT ?::text) p (name)` + postgresPutDocument,
	drop: `DELETE FROM {documents} WHERE doc_key = ANY (?::text::text[]) AND projection = ?::text`,
	label: `
INSERT INTO {labels} (projection, label, doc_key)
SELECT p.name, v.label, v.doc_key
FROM unnest(?::text::text[], ?::text::text[]) v (label, doc_key) CROSS JOIN (SELECT ?::text) p (name)
ON CONFLICT (projection, label, doc_key) DO NOTHING`,
	unlabel: `
DELETE FROM {labels} l USING unnest(?::text::text[], ?::text::text[]) v (label, doc_key)
WHERE l.projection = ?::text AND l.label = v.label AND l.doc_key = v.doc_key`,
	dropAll:    `DELETE FROM {documents} WHERE projection = ?::text`,
	unlabelAll: `DELETE FROM {labels} WHERE projection = ?::text`,
}

const postgresPutDocument = `
ON CONFLICT (projection, doc_key) DO UPDATE SET position = EXCLUDED.position, state = EXCLUDED.state, labels = EXCLUDED.labels`

// postgresLabelled returns a page by label. The keys are cut to the page before their documents are looked up one
// by one, so that no plan can go through the documents of the projection instead.
func postgresLabelled(direction string) string {
	return `
SELECT d.doc_key, d.state, d.position
FROM (
    SELECT projection, doc_key FROM {labels}
    WHERE projection = ?::text AND label = ?::text AND doc_key >= ?::text AND doc_key < ?::text AND doc_key <> ?::text
    ORDER BY doc_key` + direction + ` LIMIT ?::bigint) l
CROSS JOIN LATERAL (
    SELECT * FROM {documents} WHERE projection = l.projection AND doc_key = l.doc_key LIMIT 1) d
ORDER BY d.doc_key` + direction
}
