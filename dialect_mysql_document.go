// MySQL and MariaDB: statements of documents.

package eventstore

// mysqlListedDocuments are the documents of a list of keys, which are looked up one by one.
const mysqlListedDocuments = `
JSON_TABLE(?, '$[*]' COLUMNS (doc_key VARCHAR(510) PATH '$[0]')) l
STRAIGHT_JOIN {documents} d FORCE INDEX (PRIMARY) ON d.projection = ? AND d.doc_key = UNHEX(l.doc_key)`

// mysqlListedLabels are a list of labels and keys.
const mysqlListedLabels = `
JSON_TABLE(?, '$[*]' COLUMNS (label VARCHAR(510) PATH '$[0]', doc_key VARCHAR(510) PATH '$[1]')) l`

var mysqlDocuments = documentStatements{
	get: `
SELECT p.kind, d.state, d.position
FROM {projections} p LEFT JOIN {documents} d FORCE INDEX (PRIMARY)
    ON d.projection = p.name AND d.doc_key = ? AND p.status NOT IN ('resetting', 'deleting')
WHERE p.name = ?`,
	listed: `
SELECT d.doc_key, d.state, d.position, d.labels
FROM` + mysqlListedDocuments,
	forward: `
SELECT doc_key, state, position FROM {documents} FORCE INDEX (PRIMARY)
WHERE projection = ? AND doc_key >= ? AND doc_key < ? AND doc_key <> ?
ORDER BY doc_key LIMIT ?`,
	backward: `
SELECT doc_key, state, position FROM {documents} FORCE INDEX (PRIMARY)
WHERE projection = ? AND doc_key >= ? AND doc_key < ? AND doc_key <> ?
ORDER BY doc_key DESC LIMIT ?`,
	labelledForward:  mysqlLabelled(""),
	labelledBackward: mysqlLabelled(" DESC"),
	put: `
INSERT INTO {documents} (projection, doc_key, position, state, labels)
VALUES `,
	putRow: `(?, ?, ?, ?, ?)`,
	putTail: `
ON DUPLICATE KEY UPDATE position = VALUES(position), state = VALUES(state), labels = VALUES(labels)`,
	drop: mysqlUnsafe + `DELETE d FROM` + mysqlListedDocuments,
	label: `
INSERT INTO {labels} (projection, label, doc_key)
SELECT p.name, UNHEX(l.label), UNHEX(l.doc_key)
FROM` + mysqlListedLabels + ` CROSS JOIN (SELECT CAST(? AS BINARY) AS name) p
WHERE TRUE
ON DUPLICATE KEY UPDATE {labels}.label = VALUES(label)`,
	unlabel: mysqlUnsafe + `
DELETE x FROM` + mysqlListedLabels + `
STRAIGHT_JOIN {labels} x FORCE INDEX (PRIMARY)
    ON x.projection = ? AND x.label = UNHEX(l.label) AND x.doc_key = UNHEX(l.doc_key)`,
	dropAll:    `DELETE FROM {documents} WHERE projection = ?`,
	unlabelAll: `DELETE FROM {labels} WHERE projection = ?`,
}

// mysqlLabelled returns a page by label: its documents are looked up one by one.
func mysqlLabelled(direction string) string {
	return `
SELECT d.doc_key, d.state, d.position
FROM {labels} l FORCE INDEX (PRIMARY)
STRAIGHT_JOIN {documents} d FORCE INDEX (PRIMARY) ON d.projection = l.projection AND d.doc_key = l.doc_key
WHERE l.projection = ? AND l.label = ? AND l.doc_key >= ? AND l.doc_key < ? AND l.doc_key <> ?
ORDER BY l.doc_key` + direction + ` LIMIT ?`
}
