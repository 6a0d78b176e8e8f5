// Reads from a database: the statement of a page, and of an aggregate's events.

package eventstore

import (
	"context"
	"database/sql"
	"slices"
	"strings"
)

// readPage reads a page with one statement: one SELECT for each source, in position order and no
// longer than the page, so that each can walk an index, and the pages' union cut to size.
func (b *sqlBackend) readPage(ctx context.Context, q *page) (out []record, more bool, err error) {
	text, args := b.pageStatement(q)
	err = b.run(ctx, "read", func(c conn) (err error) {
		out, err = b.records(ctx, c, q.sizeHint, text, args...)
		return err
	})
	more = len(out) == q.limit
	// An event that two sources pick comes twice.
	out = slices.CompactFunc(out, func(x, y record) bool { return x.position == y.position })
	return out, more, err
}

func (b *sqlBackend) readAggregate(ctx context.Context, stream, aggregateID string, after int64, limit int) (out []record, err error) {
	w := b.from(&Source{Stream: stream})
	w.and(b.text.read.ofAggregate, aggregateID, after)
	w.order("\nORDER BY e.version", limit)
	sizeHint := 0
	if limit > firstPage {
		sizeHint = limit // it is not the first page, and those before were full
	}
	err = b.run(ctx, "read aggregate", func(c conn) (err error) {
		out, err = b.records(ctx, c, sizeHint, w.text, w.args...)
		return err
	})
	return out, err
}

func (b *sqlBackend) pageStatement(q *page) (string, []any) {
	sources := q.from
	if sources.all() {
		sources = FromAll()
	}
	order := " ORDER BY position"
	if q.backward {
		order = " ORDER BY position DESC"
	}
	var texts []string
	var args []any
	for i := range sources {
		w := b.from(&sources[i])
		w.and("e.position > ?", int64(q.after))
		if q.before > 0 {
			w.and("e.position < ?", int64(q.before))
		}
		if len(q.names) > 0 && len(q.names) <= maxList {
			w.and("e.name IN ("+placeholders(len(q.names))+")", anys(q.names)...)
		}
		for j := range sources[i].Match {
			b.narrow(w, &sources[i].Match[j])
		}
		if len(sources) == 1 && len(q.names) == 0 && len(sources[i].Match) == 0 {
			w.order(order, q.limit)
			return w.text, w.args
		}
		texts = append(texts, w.text+order+" LIMIT ?")
		args = append(append(args, w.args...), q.limit)
	}
	if len(texts) == 1 {
		return texts[0], args
	}
	return "(" + strings.Join(texts, ")\nUNION ALL\n(") + ")" + order + " LIMIT ?", append(args, q.limit)
}

// from begins a SELECT over a source's streams. One stream's id is looked up by a subquery, which
// leaves the planner the index on (stream_id, position) in order; a join would not.
func (b *sqlBackend) from(src *Source) *where {
	switch {
	case src.Stream != "":
		columns := strings.Replace(b.text.read.columns, "s.name", b.text.read.streamName, 1)
		return &where{
			text: "SELECT " + columns + " FROM {events} e\nWHERE e.stream_id = (SELECT id FROM {streams} WHERE name = ?)",
			args: []any{src.Stream, src.Stream},
		}
	case src.Category != "":
		// What begins with "order-" sorts from "order-" up to, and without, "order.".
		return &where{
			text: "SELECT {event} FROM " + b.text.read.fromAll + "\nWHERE s.name >= ? AND s.name < ?",
			args: []any{src.Category + "-", src.Category + "."},
		}
	}
	return &where{text: "SELECT {event} FROM " + b.text.read.fromAll + "\nWHERE e.stream_id > 0"}
}

// records runs a statement that returns events; sizeHint is how many probably come, or zero.
func (b *sqlBackend) records(ctx context.Context, c conn, sizeHint int, text string, args ...any) ([]record, error) {
	out := make([]record, 0, max(sizeHint, minPage))
	scanner := newRowScanner()
	err := c.query(ctx, func(rows *sql.Rows) error {
		out = append(out, record{})
		return scanner.scan(rows, &out[len(out)-1])
	}, text, args...)
	return out, err
}

func anys[T any](values []T) []any {
	out := make([]any, len(values))
	for i, v := range values {
		out[i] = v
	}
	return out
}
