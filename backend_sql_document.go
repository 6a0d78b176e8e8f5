// Documents in a database: pages of them, and what a batch reads and writes.

package eventstore

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// lastKey is above every key, which has maxName bytes at most.
var lastKey = strings.Repeat("\U0010FFFF", maxName/4+1)

func (b *sqlBackend) document(ctx context.Context, name, key string) (row documentRow, found bool, kind runnerKind, err error) {
	err = b.run(ctx, "read document", func(c conn) error {
		var position sql.NullInt64
		_, err := c.row(ctx, []any{&kind, &row.state, &position}, b.text.documents.get, key, name)
		row.key, row.position, found = key, Position(position.Int64), position.Valid
		return err
	})
	return row, found, kind, err
}

func (b *sqlBackend) documents(ctx context.Context, q *documentPage) (rows []documentRow, more bool, err error) {
	texts := [2][2]string{
		{b.text.documents.forward, b.text.documents.backward},
		{b.text.documents.labelledForward, b.text.documents.labelledBackward},
	}
	args := []any{q.name}
	labelled, direction := 0, 0
	if q.label != "" {
		labelled, args = 1, append(args, q.label)
	}
	if q.backward {
		direction = 1
	}
	args = append(args, q.from, cmp.Or(q.to, lastKey), q.without, int64(q.limit))
	err = b.run(ctx, "read documents", func(c conn) error {
		rows, more = nil, false
		size := 0
		err := c.query(ctx, func(r *sql.Rows) error {
			if size >= pageBytes {
				return errEnough
			}
			var row documentRow
			err := r.Scan(&row.key, &row.state, &row.position)
			rows, size = append(rows, row), size+row.size()
			return err
		}, texts[labelled][direction], args...)
		more = errors.Is(err, errEnough) || len(rows) == q.limit
		return orEnough(err)
	})
	return rows, more, err
}

// orEnough returns err, or nil if it only says that enough was read.
func orEnough(err error) error {
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// largeDocument is the size from which on a document is written by a statement of its own: a list of texts is
// up to twice as large as they are.
const largeDocument = 64 << 10

// putBytes is how many bytes of documents are written by one statement.
const putBytes = 2 << 20

// mostListed is how many documents one statement reads or writes.
const mostListed = 5000

// listed returns how many of n rows a list has in one statement, which may take twice their size.
func (u *sqlBatchTx) listed(n int, size func(i int) int) int {
	bytes, most := 0, u.b.limit.cut(putBytes)
	n = min(n, mostListed)
	for i := range n {
		if bytes += 2*size(i) + parameterSize; i > 0 && bytes > most {
			return i
		}
	}
	return n
}

func (u *sqlBatchTx) documents(name string, keys []string, most int) (rows []documentRow, all bool, err error) {
	text := u.b.text.documents.listed
	if u.tx == nil {
		err := u.know(text)
		u.b.puts.Range(func(n, _ any) bool {
			u.b.puts.Delete(n)
			if err == nil {
				err = u.know(u.putText(n.(int)))
			}
			return err == nil
		})
		if err != nil {
			return nil, false, err
		}
	}
	tx, err := u.sqlTx()
	if err != nil {
		return nil, false, err
	}
	size := 0
	for len(keys) > 0 && err == nil {
		part := keys[:u.listed(len(keys), func(i int) int { return len(keys[i]) })]
		keys = keys[len(part):]
		err = conn{b: u.b, tx: tx}.query(u.ctx, func(r *sql.Rows) error {
			var row documentRow
			var labels string
			err := r.Scan(&row.key, &row.state, &row.position, &labels)
			if err == nil && labels != "" {
				err = json.Unmarshal([]byte(labels), &row.labels)
			}
			if size += row.size(); most != noBound && size > most {
				return errEnough
			}
			rows = append(rows, row)
			return err
		}, text, append(u.b.dialect.lists(part), name)...)
	}
	if errors.Is(err, errEnough) {
		return nil, false, nil
	}
	return rows, true, u.b.failed("read documents", err)
}

func (u *sqlBatchTx) changeDocuments(c *documentChanges) error {
	for rows := c.put; len(rows) > 0; {
		n, size := 0, 0
		for n < len(rows) && n < mostListed {
			if size += rows[n].size(); n > 0 && (size > u.b.limit.cut(putBytes)/2 || rows[n].size() > largeDocument) {
				break
			}
			n++
			if rows[n-1].size() > largeDocument {
				break
			}
		}
		if err := u.putDocuments(c.name, rows[:n]); err != nil {
			return err
		}
		rows = rows[n:]
	}
	text := &u.b.text.documents
	for keys := c.drop; len(keys) > 0; {
		part := keys[:u.listed(len(keys), func(i int) int { return len(keys[i]) })]
		keys = keys[len(part):]
		if err := u.exec("delete documents", text.drop, append(u.b.dialect.lists(part), c.name)...); err != nil {
			return err
		}
	}
	if err := u.execLabels(text.unlabel, c.name, c.unlabel); err != nil {
		return err
	}
	return u.execLabels(text.label, c.name, c.label)
}

func (u *sqlBatchTx) execLabels(text, name string, rows []labelRow) error {
	for len(rows) > 0 {
		part := rows[:u.listed(len(rows), func(i int) int { return len(rows[i].label) + len(rows[i].key) })]
		rows = rows[len(part):]
		labels, keys := make([]string, len(part)), make([]string, len(part))
		for i, row := range part {
			labels[i], keys[i] = row.label, row.key
		}
		if err := u.exec("label documents", text, append(u.b.dialect.lists(labels, keys), name)...); err != nil {
			return err
		}
	}
	return nil
}

// putDocuments writes documents with one statement. Prepared statements come in a few sizes, which are enough for any
// number of documents: the smallest document fills up the rest, and changes nothing when it comes again.
func (u *sqlBatchTx) putDocuments(name string, rows []documentRow) error {
	text := &u.b.text.documents
	switch {
	case len(rows) > fewDocuments && text.putLists != "":
		return u.putApart(name, rows)
	case len(rows) > 1 && text.putLists != "":
		return u.exec("store documents", text.putLists, append(u.documentLists(rows), name)...)
	}
	op := "store documents"
	if len(rows) == 1 {
		op = fmt.Sprintf("store document %q", rows[0].key)
	}
	n, filler := len(rows), &rows[0]
	if size := putShape(n); u.b.dialect.prepares && size <= mostPrepared {
		for i := range rows {
			if rows[i].size() < filler.size() {
				filler = &rows[i]
			}
		}
		n = size
		if err := u.preparePut(n); err != nil {
			return err
		}
	}
	args := make([]any, 0, 5*n)
	var projection any = name
	for i := range n {
		row := filler
		if i < len(rows) {
			row = &rows[i]
		}
		args = append(args, projection, row.key, int64(row.position), string(row.state), encodeLabels(row.labels))
	}
	return u.exec(op, u.putText(n), args...)
}

// fewDocuments are written by one statement, whether they are stored or not. Of more it pays to tell them apart: a
// server takes up to twice as long to find that out.
const fewDocuments = 100

// putApart inserts the documents that are not stored, and updates the others.
func (u *sqlBatchTx) putApart(name string, rows []documentRow) error {
	var fresh, stored []documentRow
	for i := range rows {
		if rows[i].fresh {
			fresh = append(fresh, rows[i])
		} else {
			stored = append(stored, rows[i])
		}
	}
	text := &u.b.text.documents
	if len(fresh) > 0 {
		if err := u.exec("store documents", text.insertLists, append(u.documentLists(fresh), name)...); err != nil {
			return err
		}
	}
	if len(stored) == 0 {
		return nil
	}
	tx, err := u.sqlTx()
	if err != nil {
		return err
	}
	args := append(u.documentLists(stored), name)
	res, err := conn{b: u.b, tx: tx}.exec(u.ctx, text.updateLists, args...)
	if err != nil {
		return u.b.failed("store documents", err)
	}
	if n, err := res.RowsAffected(); err == nil && n == int64(len(stored)) {
		return nil
	}
	// Some have been deleted beside the store.
	return u.exec("store documents", text.putLists, args...)
}

// putText returns the statement that writes n documents.
func (u *sqlBatchTx) putText(n int) string {
	if text, ok := u.b.putTexts.Load(n); ok {
		return text.(string)
	}
	parts := &u.b.text.documents
	text := parts.put + strings.TrimSuffix(strings.Repeat(parts.putRow+", ", n), ", ") + parts.putTail
	if n <= mostPrepared {
		u.b.putTexts.Store(n, text)
	}
	return text
}

// mostPrepared is how many documents the largest statement writes that is kept prepared.
const mostPrepared = 1024

// putShape returns the size of the prepared statement that writes n documents: a power of two, or three times one.
func putShape(n int) int {
	size := 1
	for size < n {
		if size >= 2 && size+size/2 >= n {
			return size + size/2
		}
		size *= 2
	}
	return size
}

// preparePut prepares the statement that writes n documents. If the transaction has begun, the next batch prepares it
// before it begins its own.
func (u *sqlBatchTx) preparePut(n int) error {
	if u.tx == nil {
		return u.know(u.putText(n))
	}
	u.b.puts.Store(n, true)
	return nil
}

// know prepares a statement. A pool of one connection can't do that once the transaction has begun.
func (u *sqlBatchTx) know(text string) error {
	st, err := u.b.cache.get(u.ctx, text, true)
	if err != nil {
		return u.b.failed("begin", err)
	}
	st.release()
	return nil
}

func (u *sqlBatchTx) documentLists(rows []documentRow) []any {
	column := func(get func(row *documentRow) string) []string {
		out := make([]string, len(rows))
		for i := range rows {
			out[i] = get(&rows[i])
		}
		return out
	}
	return u.b.dialect.lists(
		column(func(row *documentRow) string { return row.key }),
		column(func(row *documentRow) string { return strconv.FormatInt(int64(row.position), 10) }),
		column(func(row *documentRow) string { return string(row.state) }),
		column(func(row *documentRow) string { return encodeLabels(row.labels) }),
	)
}

// encodeLabels returns labels as they are kept with their document, so that a batch knows which to change.
func encodeLabels(labels []string) string {
	if len(labels) == 0 {
		return ""
	}
	text, _ := json.Marshal(labels) // strings can be encoded
	return string(text)
}

func (u *sqlBatchTx) dropDocuments(name string) error {
	if err := u.exec("delete documents", u.b.text.documents.dropAll, name); err != nil {
		return err
	}
	return u.exec("delete labels", u.b.text.documents.unlabelAll, name)
}
