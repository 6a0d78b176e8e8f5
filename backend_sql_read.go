// Reads from a database: the statement of a page and of an aggregate's events, rows as they come,
// and large events, which are fetched by themselves.

package eventstore

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"strings"
)

// readOnce reads a page with one statement.
func (b *sqlBackend) readOnce(ctx context.Context, q *page) (out []record, more bool, err error) {
	text, args := b.pageStatement(q)
	err = b.run(ctx, "read", func(c conn) error {
		var cut, short bool
		var err error
		if out, cut, err = b.pageRows(ctx, c, q.sizeHint, text, args...); err != nil {
			return err
		}
		came := len(out)
		out = q.inside(out)
		more = len(out) == came && (cut || came == q.limit)
		out, short, err = b.complete(ctx, c, out)
		more = more || short
		return err
	})
	if err == nil && len(out) > 0 {
		last := &out[len(out)-1]
		q.advance(last.position)
		q.kept = last.version
	}
	return out, more, err
}

func (b *sqlBackend) readAggregate(ctx context.Context, stream, aggregateID string, after int64, limit int) (out []record, more bool, err error) {
	w := &where{text: b.text.read.aggregate, args: []any{stream, stream, aggregateID, after}}
	w.order("\nORDER BY e.version", limit)
	sizeHint := 0
	if limit > firstPage {
		sizeHint = limit // it is not the first page, and those before were full
	}
	err = b.run(ctx, "read aggregate", func(c conn) error {
		var cut, short bool
		var err error
		if out, cut, err = b.pageRows(ctx, c, sizeHint, w.text, w.args...); err != nil {
			return err
		}
		more = cut || len(out) == limit
		out, short, err = b.complete(ctx, c, out)
		more = more || short
		return err
	})
	return out, more, err
}

// fewPositions are so few that a statement may look at all of them, whatever it then returns. Within
// them any plan is good.
const fewPositions = 4 * maxPage

// narrowRange reports whether a page may look at all positions between its bounds.
func (q *page) narrowRange() bool {
	return q.window || q.before > 0 && q.before-q.after <= fewPositions
}

// pageStatement returns the statement of a page whose selection has one stream as its source, or
// one of all streams and perhaps others.
func (b *sqlBackend) pageStatement(q *page) (string, []any) {
	texts := &b.text.read
	if len(q.from) == 1 {
		src := &q.from[0]
		q = q.within(src)
		switch {
		case src.lookUp(fieldEventID) != nil:
			return b.byIDStatement(q, src)
		case src.Stream != "" && src.lookUp(fieldAggregateID) != nil && !q.narrowRange():
			return b.aggregateStatement(q, src)
		case src.Stream != "":
			return b.streamStatement(q, src)
		}
	}
	w := &where{text: texts.scan, hide: texts.hidden, args: []any{int64(q.after), int64(q.end())}}
	switch {
	case !q.backward && q.before == 0:
		w.text, w.args = texts.scanForward, w.args[:1]
	case q.backward && q.after == 0:
		w.text, w.args = texts.scanBackward, w.args[1:]
	}
	if !q.from.all() {
		b.narrowToAny(w, q.from)
	}
	b.narrowNames(w, q.names)
	w.order(by("e.position", q.backward), q.limit)
	return w.text, w.args
}

// within returns the page with the bounds that a source's matches of positions leave.
func (q *page) within(src *Source) *page {
	after, before := q.after, q.end()
	for i := range src.Match {
		m := &src.Match[i]
		if m.field.kind != fieldPosition || len(m.values) != 1 {
			continue
		}
		n, ok := m.values[0].(int64)
		if !ok || n == math.MaxInt64 {
			continue
		}
		p := Position(max(n, 0)) // positions begin at 1
		switch m.op {
		case opEquals:
			after, before = max(after, p-1), min(before, p+1)
		case opGreaterThan:
			after = max(after, p)
		case opAtLeast:
			after = max(after, p-1)
		case opLessThan:
			before = min(before, max(p, 1))
		case opAtMost:
			before = min(before, p+1)
		}
	}
	if after == q.after && before == q.end() {
		return q
	}
	within := *q
	within.after = after
	if before < math.MaxInt64 {
		within.newest = q.newest && before == q.before
		within.before = before
	}
	return &within
}

// lookUp returns a match that leaves few enough events to look them up by a field's own index: one
// aggregate, or some event IDs. nil: there is none.
func (src *Source) lookUp(field fieldKind) *Match {
	for i := range src.Match {
		m := &src.Match[i]
		few := m.op == opEquals || m.op == opIn && field == fieldEventID && len(m.values) > 0 && len(m.values) <= maxList
		if m.field.kind != field || !few {
			continue
		}
		if _, ok := m.values[0].(string); ok {
			_, ok = textArg(m.values[0])
			if !ok {
				continue
			}
		}
		return m
	}
	return nil
}

// byIDStatement looks events up by their IDs.
func (b *sqlBackend) byIDStatement(q *page, src *Source) (string, []any) {
	texts := &b.text.read
	w := &where{text: texts.byID, args: []any{int64(q.after), int64(q.end())}}
	if src.Stream != "" {
		w.and("s.name = ?", src.Stream)
	} else if src.Category != "" {
		w.and("s.name >= ? AND s.name < ?", src.Category+"-", src.Category+".")
	}
	b.narrow(w, src.lookUp(fieldEventID))
	w.order(by("e.position", q.backward), q.limit)
	return w.text, w.args
}

// aggregateStatement goes through one aggregate by version, which is the order of positions too. A page
// after the first begins at the version where the one before ended.
func (b *sqlBackend) aggregateStatement(q *page, src *Source) (string, []any) {
	texts := &b.text.read
	id := src.lookUp(fieldAggregateID).values[0]
	version, paged := q.kept.(int64)
	after := version
	if q.backward {
		after = 0
	}
	w := &where{text: texts.aggregate, hide: texts.hidden, args: []any{src.Stream, src.Stream, id, after}}
	if q.backward && paged {
		w.andPlain("e.version < ?", version)
	}
	w.and("e.position > ? AND e.position < ?", int64(q.after), int64(q.end()))
	b.narrowNames(w, q.names)
	for i := range src.Match {
		b.narrow(w, &src.Match[i])
	}
	w.order(by("e.version", q.backward), q.limit)
	return w.text, w.args
}

// streamStatement goes through one stream by position.
func (b *sqlBackend) streamStatement(q *page, src *Source) (string, []any) {
	texts := &b.text.read
	w := &where{hide: texts.hidden, args: []any{src.Stream, int64(q.after), int64(q.end()), src.Stream}}
	shape := texts.streamForward
	switch {
	case q.narrowRange():
		shape = texts.streamNarrow
	case q.backward:
		shape = texts.streamBackward
	}
	w.text = shape.from
	if !q.narrowRange() {
		b.bound(w, q, len(q.names) > 0 || len(src.Match) > 0)
	}
	b.narrowNames(w, q.names)
	for i := range src.Match {
		b.narrow(w, &src.Match[i])
	}
	w.order(by(shape.by, q.backward), q.limit)
	w.text += shape.tail
	return w.text, w.args
}

// bound adds a page's far bound to a SELECT whose shape goes on to the end of the stream. No index can end
// there. Where nothing is passed over, the page's own limit ends it, and rows after the bound are dropped
// when they come. Else an index tells without the rows that they are after it; if little of the
// log is, that is not worth what the bound would tell the planner.
func (b *sqlBackend) bound(w *where, q *page, filtered bool) {
	texts := &b.text.read
	switch {
	case !filtered || texts.before == "":
	case q.backward && q.after > 0:
		w.andPlain(texts.after, int64(q.after))
	case !q.backward && q.newest:
		w.and(texts.before, int64(q.before))
	case !q.backward && q.before > 0:
		w.andPlain(texts.before, int64(q.before))
	}
}

// inside returns the rows up to a page's far bound.
func (q *page) inside(rows []record) []record {
	for i := range rows {
		if p := rows[i].position; p <= q.after || p >= q.end() {
			return rows[:i]
		}
	}
	return rows
}

// beyond reports whether a page comes to p later than to q.
func (q *page) beyond(p, bound Position) bool {
	if q.backward {
		return p < bound
	}
	return p > bound
}

// first returns the exclusive bound at which the page begins.
func (q *page) first() Position {
	if q.backward {
		return q.end()
	}
	return q.after
}

// step returns n, counted in the direction of the page.
func (q *page) step(n Position) Position {
	if q.backward {
		return -n
	}
	return n
}

// by returns what orders a SELECT by columns.
func by(columns string, backward bool) string {
	if backward {
		columns = strings.ReplaceAll(columns, ",", " DESC,") + " DESC"
	}
	return "\nORDER BY " + columns
}

// records runs a statement that returns events; sizeHint is how many probably come, or zero.
func (b *sqlBackend) records(ctx context.Context, c conn, sizeHint int, text string, args ...any) ([]record, error) {
	out, _, err := b.scanRecords(ctx, c, sizeHint, noBound, text, args...)
	return out, err
}

// pageRows is records for a page: it leaves rows that come after pageBytes, and reports whether there
// may be any. Large data are missing.
func (b *sqlBackend) pageRows(ctx context.Context, c conn, sizeHint int, text string, args ...any) (out []record, cut bool, err error) {
	return b.scanRecords(ctx, c, sizeHint, pageBytes, text, args...)
}

const noBound = -1

// errEnough ends a query whose further rows are not wanted.
var errEnough = errors.New("eventstore: enough rows")

func (b *sqlBackend) scanRecords(ctx context.Context, c conn, sizeHint, most int, text string, args ...any) (out []record, cut bool, err error) {
	out = make([]record, 0, max(sizeHint, minPage))
	scanner := newRowScanner()
	bytes := 0
	err = c.query(ctx, func(rows *sql.Rows) error {
		if most != noBound && bytes >= most {
			return errEnough
		}
		out = append(out, record{})
		last := &out[len(out)-1]
		err := scanner.scan(rows, last)
		bytes += last.size()
		return err
	}, text, args...)
	if errors.Is(err, errEnough) {
		return out, true, nil
	}
	return out, false, err
}

// largeBytes ends a page that holds large data: drivers and receivers hold copies of them.
const largeBytes = pageBytes / 2

// complete fetches the data that rows of a page lack. It ends the page where its bytes reach
// largeBytes, which it reports, and drops events that have been deleted meanwhile.
func (b *sqlBackend) complete(ctx context.Context, c conn, rows []record) (out []record, cut bool, err error) {
	out = rows[:0]
	most := pageBytes
	bytes, usual := 0, largeBytes // usual: how large those are
	for i := range rows {
		if rows[i].data == nil {
			most = largeBytes
		}
		if bytes >= most {
			return out, true, nil
		}
		if rows[i].data == nil {
			n := max(1, (most-bytes)/usual)
			if err := b.fetchData(ctx, c, rows[i:], n, most-bytes); err != nil {
				return nil, false, err
			}
			if rows[i].data == nil {
				continue
			}
			usual = len(rows[i].data)
		}
		bytes += rows[i].size()
		out = append(out, rows[i])
	}
	return out, false, nil
}

// fetchData fetches the data of the first of rows, and of up to n in all that lack them, until so
// many bytes have come. What is gone stays without.
func (b *sqlBackend) fetchData(ctx context.Context, c conn, rows []record, n, most int) error {
	var missing []*record
	for i := 0; i < len(rows) && len(missing) < n; i++ {
		if rows[i].data == nil {
			missing = append(missing, &rows[i])
		}
	}
	args := make([]any, len(missing))
	for i, r := range missing {
		args[i] = int64(r.position)
	}
	order := by("position", missing[0].position > missing[len(missing)-1].position)
	err := c.query(ctx, func(rows *sql.Rows) error {
		if most <= 0 {
			return errEnough
		}
		var at Position
		var data scanBytes
		if err := rows.Scan(&at, &data); err != nil {
			return err
		}
		most -= len(data)
		for _, r := range missing {
			if r.position == at {
				r.data = data
			}
		}
		return nil
	}, b.text.read.data+placeholders(len(args))+")"+order, args...)
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}
