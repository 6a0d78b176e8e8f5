package eventstore

import (
	"context"
	"database/sql"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// readPage reads a page with one statement: one SELECT for each source, in position order and no
// longer than the page, so that each can walk an index, and the pages' union cut to size.
func (b *sqlBackend) readPage(ctx context.Context, q *page) (out []record, more bool, err error) {
	text, args := b.pageStatement(q)
	err = b.run(ctx, "read", func(c conn) (err error) {
		out, err = b.expect(ctx, c, q.expected, text, args...)
		return err
	})
	more = len(out) == q.limit
	// An event that two sources pick comes twice.
	out = slices.CompactFunc(out, func(x, y record) bool { return x.position == y.position })
	return out, more, err
}

func (b *sqlBackend) readAggregate(ctx context.Context, stream, aggregateID string, after int64, limit int) (out []record, err error) {
	w := b.from(&Source{Stream: stream})
	w.and(b.text.ofAggregate, aggregateID, after)
	w.order("\nORDER BY e.version", limit)
	expected := 0
	if limit > firstPage {
		expected = limit // it is not the first page, and those before were full
	}
	err = b.run(ctx, "read aggregate", func(c conn) (err error) {
		out, err = b.expect(ctx, c, expected, w.text, w.args...)
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

// where is a SELECT whose conditions are being collected.
type where struct {
	text string
	args []any
}

func (w *where) and(condition string, args ...any) {
	w.text += "\nAND " + condition
	w.args = append(w.args, args...)
}

// order ends a SELECT whose other parameters make no difference to which plan is good: the limits of
// most pages stand in the text.
func (w *where) order(by string, limit int) {
	if limit == firstPage || limit == maxPage {
		w.text += limited(by+" LIMIT {limit}", limit)
		return
	}
	w.text += by + " LIMIT ?"
	w.args = append(w.args, limit)
}

// limited puts one of the store's own limits into a text. As a parameter, which makes a plan that
// knows it seem much better than one that does not, Postgres would plan the statement anew for each
// execution: for short ones that is most of what they take, and more of it the longer the log is.
func limited(text string, limit int) string {
	return strings.Replace(text, "{limit}", strconv.Itoa(limit), 1)
}

// from begins a SELECT over a source's streams. One stream's id is looked up by a subquery, which
// leaves the planner the index on (stream_id, position) in order; a join would not.
func (b *sqlBackend) from(src *Source) *where {
	switch {
	case src.Stream != "":
		columns := strings.Replace(b.text.columns, "s.name", b.text.streamName, 1)
		return &where{
			text: "SELECT " + columns + " FROM {events} e\nWHERE e.stream_id = (SELECT id FROM {streams} WHERE name = ?)",
			args: []any{src.Stream, src.Stream},
		}
	case src.Category != "":
		// What begins with "order-" sorts from "order-" up to, and without, "order.".
		return &where{
			text: "SELECT " + b.text.columns + " FROM " + b.text.fromAll + "\nWHERE s.name >= ? AND s.name < ?",
			args: []any{src.Category + "-", src.Category + "."},
		}
	}
	return &where{text: "SELECT " + b.text.columns + " FROM " + b.text.fromAll + "\nWHERE e.stream_id > 0"}
}

// records runs a statement that returns events.
func (b *sqlBackend) records(ctx context.Context, c conn, text string, args ...any) ([]record, error) {
	return b.expect(ctx, c, 0, text, args...)
}

// expect is records with room for as many as probably come.
func (b *sqlBackend) expect(ctx context.Context, c conn, n int, text string, args ...any) ([]record, error) {
	out := make([]record, 0, max(n, minPage))
	scanner := newRowScanner()
	err := c.query(ctx, func(rows *sql.Rows) error {
		out = append(out, record{})
		return scanner.scan(rows, &out[len(out)-1])
	}, text, args...)
	return out, err
}

// maxList is the longest list of values that is sent to the database.
const maxList = 200

// narrow adds to a SELECT a condition that every event for which the match holds fulfils. Where
// SQL could see a value otherwise than Go, the condition is weaker than the match, or missing.
func (b *sqlBackend) narrow(w *where, m *Match) {
	if len(m.values) > maxList {
		return
	}
	switch m.field.kind {
	case fieldAggregateID:
		b.narrowBy(w, m, "e.aggregate_id", "?", textArg)
	case fieldEventName:
		b.narrowBy(w, m, "e.name", "?", textArg)
	case fieldEventID:
		b.narrowBy(w, m, "e.event_id", b.text.idValue, func(v any) (any, bool) { return b.dialect.eventID(v.(uuid.UUID)), true })
	case fieldVersion:
		b.narrowBy(w, m, "e.version", "?", wholeArg)
	case fieldPosition:
		b.narrowBy(w, m, "e.position", "?", wholeArg)
	case fieldRecordedAt:
		b.narrowBy(w, m, "e.recorded_at", b.text.timeValue, b.instantArg)
	case fieldMeta:
		b.narrowMeta(w, m)
	}
}

// narrowBy adds a comparison of a column, if arg can turn every value into a parameter that SQL
// compares just as Go does.
func (b *sqlBackend) narrowBy(w *where, m *Match, column, param string, arg func(any) (any, bool)) {
	args := make([]any, len(m.values))
	for i, v := range m.values {
		var ok bool
		if args[i], ok = arg(v); !ok {
			return
		}
	}
	list := strings.TrimSuffix(strings.Repeat(param+", ", len(args)), ", ")
	switch m.op {
	case opEquals:
		w.and(column+" = "+param, args...)
	case opNotEquals:
		w.and(column+" <> "+param, args...)
	case opGreaterThan:
		w.and(column+" > "+param, args...)
	case opAtLeast:
		w.and(column+" >= "+param, args...)
	case opLessThan:
		w.and(column+" < "+param, args...)
	case opAtMost:
		w.and(column+" <= "+param, args...)
	case opIn:
		if len(args) == 0 {
			w.and("1 = 0")
		} else {
			w.and(column+" IN ("+list+")", args...)
		}
	case opNotIn:
		if len(args) > 0 {
			w.and(column+" NOT IN ("+list+")", args...)
		}
	}
}

// textArg leaves out what Postgres does not take in text, and no stored name or ID holds: NUL, and
// what is not UTF-8.
func textArg(v any) (any, bool) {
	s := v.(string)
	return s, strings.IndexByte(s, 0) < 0 && utf8.ValidString(s)
}

func wholeArg(v any) (any, bool) {
	if f, ok := v.(float64); ok {
		if f != math.Trunc(f) || math.Abs(f) > 1<<53 {
			return nil, false
		}
		return int64(f), true
	}
	return v, true
}

// instantArg leaves out times between microseconds, and years that not every database knows.
func (b *sqlBackend) instantArg(v any) (any, bool) {
	t := v.(time.Time)
	return b.timeArg(t), t.Equal(t.Truncate(time.Microsecond)) && t.Year() >= 1000 && t.Year() <= 9999
}

// narrowMeta looks for the match's key, and where it can for its values too, in the text of the
// metadata. That is sound because Metadata.encode writes them in one form only, and because text
// within a value can't look like a key: its quotes are escaped.
func (b *sqlBackend) narrowMeta(w *where, m *Match) {
	if !utf8.ValidString(m.field.key) {
		w.and("1 = 0") // no metadata have such a key, and Postgres does not take it
		return
	}
	key := string(appendJSONString(nil, m.field.key)) + ":"
	var texts []any
	if m.op == opEquals || m.op == opIn {
		for _, v := range m.values {
			texts = append(texts, key+metaText(v))
		}
	}
	switch {
	case len(texts) > 0:
		w.and("("+strings.TrimSuffix(strings.Repeat(b.text.metadataHas+" OR ", len(texts)), " OR ")+")", texts...)
	case m.op == opIn:
		w.and("1 = 0")
	default:
		w.and(b.text.metadataHas, key)
	}
}

// metaText returns what the text of every value that equals v begins with.
func metaText(v any) string {
	switch v := v.(type) {
	case int64:
		if v != 0 { // which -0.0 equals too
			return string(appendJSONScalar(nil, v))
		}
	case float64:
		if s := string(appendJSONScalar(nil, v)); v != 0 {
			return strings.TrimSuffix(s, ".0") // the integer of the same value has no point
		}
	case string:
		if utf8.ValidString(v) { // or Postgres does not take it, and nothing equals it
			return string(appendJSONString(nil, v))
		}
	case bool:
		return strconv.FormatBool(v)
	}
	return ""
}

func anys[T any](values []T) []any {
	out := make([]any, len(values))
	for i, v := range values {
		out[i] = v
	}
	return out
}
