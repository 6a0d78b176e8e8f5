// Postgres: statements of documents.

package eventstore

import "strings"

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
	forward:          postgresPage(false, ""),
	backward:         postgresPage(false, " DESC"),
	labelledForward:  postgresPage(true, ""),
	labelledBackward: postgresPage(true, " DESC"),
	put: `
INSERT INTO {documents} (projection, doc_key, position, state, labels)
VALUES `,
	putRow:      `(?::text, ?::text, ?::bigint, ?::json, ?::text)`,
	putTail:     postgresPutDocument,
	putLists:    postgresInsertDocuments + postgresPutDocument,
	insertLists: postgresInsertDocuments,
	// What a sub-select returns is to the planner an array of ten. So it looks documents up one by one, unless they
	// are few, and never goes through all those of the projection.
	updateLists: `
UPDATE {documents} d SET position = v.position, state = v.state::json, labels = v.labels
FROM unnest((SELECT ?::text)::text[], (SELECT ?::text)::bigint[], (SELECT ?::text)::text[], (SELECT ?::text)::text[])
    v (doc_key, position, state, labels)
WHERE d.projection = ?::text AND d.doc_key = v.doc_key`,
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

// postgresInsertDocuments inserts documents.
const postgresInsertDocuments = `
INSERT INTO {documents} (projection, doc_key, position, state, labels)
SELECT p.name, v.doc_key, v.position, v.state::json, v.labels
FROM unnest(?::text::text[], ?::text::bigint[], ?::text::text[], ?::text::text[]) v (doc_key, position, state, labels)
CROSS JOIN (SELECT ?::text) p (name)`

const postgresPutDocument = `
ON CONFLICT (projection, doc_key) DO UPDATE SET position = EXCLUDED.position, state = EXCLUDED.state, labels = EXCLUDED.labels`

// postgresPage returns a page, of all documents or by label. A plan that sorts would go through all of them, and
// without statistics it seems as cheap as the one by the primary key. So the index scan has a start only, which is
// estimated to leave many rows, and ends at the limit. What it finds beyond the other bound is left out: that is one
// page at most. A label's documents are looked up one by one, so that no plan can go through the others instead.
func postgresPage(labelled bool, direction string) string {
	start, end := `>= (q.name, q.low)`, `d.doc_key < q.high`
	if direction != "" {
		start, end = `< (q.name, q.high)`, `d.doc_key >= q.low`
	}
	if !labelled {
		return `
SELECT d.doc_key, d.state, d.position
FROM (SELECT ?::text AS name, ?::text AS low, ?::text AS high OFFSET 0) q
CROSS JOIN LATERAL (
    SELECT * FROM {documents}
    WHERE (projection, doc_key) ` + start + ` AND doc_key <> ?::text
    ORDER BY projection` + direction + `, doc_key` + direction + ` LIMIT ?::bigint) d
WHERE d.projection = q.name AND ` + end + `
ORDER BY d.doc_key` + direction
	}
	start, end = strings.Replace(start, "q.name", "q.name, q.label", 1), strings.Replace(end, "d.", "l.", 1)
	return `
SELECT d.doc_key, d.state, d.position
FROM (SELECT ?::text AS name, ?::text AS label, ?::text AS low, ?::text AS high OFFSET 0) q
CROSS JOIN LATERAL (
    SELECT * FROM {labels}
    WHERE (projection, label, doc_key) ` + start + ` AND doc_key <> ?::text
    ORDER BY projection` + direction + `, label` + direction + `, doc_key` + direction + ` LIMIT ?::bigint) l
CROSS JOIN LATERAL (
    SELECT * FROM {documents} WHERE projection = l.projection AND doc_key = l.doc_key LIMIT 1) d
WHERE l.projection = q.name AND l.label = q.label AND ` + end + `
ORDER BY d.doc_key` + direction
}
