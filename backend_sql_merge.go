// Reads of several streams from a database: each by its own index, merged here; or by position, where
// most of the events are theirs.

package eventstore

import (
	"context"
	"database/sql"
	"math"
	"slices"
	"strconv"
	"strings"
)

// merge reads several streams as one. Each stream is read once, from where its reading ended: a page
// costs a look at the streams that have run short and the rows that come, wherever in the log these lie
// and however rare they are among the streams' events.
type merge struct {
	groups  []group   // of streams with the same conditions
	cursors []*cursor // those that have not been handed out to their end
	ready   []record  // to be handed out next, in order
	cut     bool      // the last fetch ended before it came to all streams
	dense   bool      // it ends with what is ready: what follows is read by position
}

// cursor is one stream of a merge. In a backward read "up to" means down to.
type cursor struct {
	id    int64
	name  string
	group int
	at    Position // all that is wanted up to here is in rows, or has been handed out
	rows  []record
	chunk int  // how many rows were last asked for
	done  bool // there is nothing that is wanted after rows
}

const (
	// While at least one of denseShare events at some place is of the streams, that place is read by
	// position: in one piece, without the streams' ids, for at most denseShare times the rows.
	denseShare = 4
	// fewStreams are so few that one may be dense among many that are not, which is fetched more of.
	fewStreams = 4
	// minChunk is the least that is fetched of a stream.
	minChunk = 4
	// mergeBytes bounds what it keeps. What is more is fetched again when it is due.
	mergeBytes = 2 * pageBytes
	// mergeStreams is how many streams are fetched by one statement that has a SELECT for each.
	mergeStreams = 64
	// mergeLists is how many are where they are given as lists.
	mergeLists = 5000
)

// readPage reads a page: of one source with one statement, of several streams as readStreams does.
func (b *sqlBackend) readPage(ctx context.Context, q *page) (out []record, more bool, err error) {
	if q.from.all() || slices.ContainsFunc(q.from, Source.anyStream) || len(q.from) == 1 && (q.from[0].Stream != "" || q.from[0].lookUp(fieldEventID) != nil) {
		return b.readOnce(ctx, q)
	}
	return b.readStreams(ctx, q)
}

// readStreams reads a page of several streams: by position where their events lie dense, else merged.
func (b *sqlBackend) readStreams(ctx context.Context, q *page) (out []record, more bool, err error) {
	short := q.before > 0 && q.before-q.after <= denseShare*firstPage
	if q.kept == nil && (!q.sparse || short) && (!q.backward || q.before > 0) {
		q.sparse = false
		at := *q
		out, more, err = b.scanStreams(ctx, q)
		if err != nil || !q.sparse {
			return out, more, err
		}
		at.sparse = true
		*q = at
	}
	err = b.run(ctx, "read", func(c conn) error {
		m, _ := q.kept.(*merge)
		if m == nil {
			var err error
			if m, err = b.newMerge(ctx, c, q); err != nil {
				return err
			}
			q.kept = m
		}
		var err error
		out, more, err = b.mergePage(ctx, c, m, q)
		return err
	})
	return out, more, err
}

// scanStreams looks at the next few positions, whatever stream they are of, and for whether the log
// goes on after them: that comes as a row without a name. It sets q.sparse where there is too little.
func (b *sqlBackend) scanStreams(ctx context.Context, q *page) (out []record, more bool, err error) {
	first := q.first()
	low, high, span := q.scanBounds()
	whole := low == q.after && high == q.end()
	text, args := b.scanStatement(q, low, high)
	err = b.run(ctx, "read", func(c conn) error {
		rows, cut, err := b.pageRows(ctx, c, q.sizeHint, text, args...)
		if err != nil {
			return err
		}
		goesOn := false
		rows = slices.DeleteFunc(rows, func(r record) bool {
			goesOn = goesOn || r.name == ""
			return r.name == ""
		})
		full := cut || len(rows) == q.limit
		more = full || !whole && goesOn
		q.sparse = more && !full && Position(2*denseShare*len(rows)) < span
		out, cut, err = b.complete(ctx, c, rows)
		switch {
		case err != nil || !more && !cut:
		case (full || cut) && len(out) > 0:
			more = true
			q.advance(out[len(out)-1].position)
			q.perRow = float64(q.step(q.first()-first)) / float64(len(out))
		case full || cut: // all of them have been deleted meanwhile
		case q.backward:
			q.advance(low + 1)
		default:
			q.advance(high - 1)
		}
		return err
	})
	return out, more, err
}

// scanBounds returns the positions, exclusive, between which scanStreams looks, and how many it would look at.
func (q *page) scanBounds() (low, high, span Position) {
	low, high = q.after, q.end()
	span = Position(denseShare * max(firstPage, q.limit))
	if q.perRow > 0 {
		span = min(span, Position(float64(q.limit)*q.perRow*1.25)+minPage)
	}
	if q.backward {
		low = max(low, high-1-span)
	} else if high-low > span {
		high = low + 1 + span
	}
	return low, high, span
}

// scanStatement asks for a page's events between two positions, and for one more row if the log goes on after them.
func (b *sqlBackend) scanStatement(q *page, low, high Position) (string, []any) {
	w := &where{text: b.text.read.scanNarrow, hide: b.text.read.hidden, args: []any{int64(low), int64(high)}}
	b.narrowToAny(w, q.from)
	b.narrowNames(w, q.names)
	w.order(by("e.position", q.backward), q.limit)
	if low == q.after && high == q.end() {
		return w.text, w.args
	}
	rest := []any{int64(high) - 1, int64(q.end())}
	if q.backward {
		rest = []any{int64(q.after), int64(low) + 1}
	}
	text := "(" + w.text + ")\nUNION ALL\n(" + b.text.read.mark + by("position", q.backward) + " LIMIT 1)"
	return text, append(w.args, rest...)
}

// newMerge finds the streams of a page. They are looked up anew for each read: what is read then is at
// least what was stored when it began.
func (b *sqlBackend) newMerge(ctx context.Context, c conn, q *page) (*merge, error) {
	m := &merge{groups: b.group(q.from)}
	at := q.first()
	for n := range m.groups {
		g := &m.groups[n]
		known := map[int64]bool{}
		scan := func(rows *sql.Rows) error {
			cur := &cursor{group: n, at: at}
			if err := rows.Scan(&cur.id, &cur.name); err != nil {
				return err
			}
			if !known[cur.id] {
				known[cur.id] = true
				m.cursors = append(m.cursors, cur)
			}
			return nil
		}
		for names := range slices.Chunk(g.streams, 256) {
			args := anys(names)
			for n := len(args); n&(n-1) != 0; n++ { // few texts for all numbers, which stay prepared
				args = append(args, args[0])
			}
			if err := c.query(ctx, scan, b.text.read.streamIDs+placeholders(len(args))+")", args...); err != nil {
				return nil, err
			}
		}
		for _, category := range g.categories {
			// What begins with "order-" sorts from "order-" up to, and without, "order.".
			if err := c.query(ctx, scan, b.text.read.categoryIDs, category+"-", category+"."); err != nil {
				return nil, err
			}
		}
	}
	return m, nil
}

// mergePage returns the next rows of the streams, and whether more may follow.
func (b *sqlBackend) mergePage(ctx context.Context, c conn, m *merge, q *page) (out []record, more bool, err error) {
	bytes := 0
	for i := range m.ready {
		bytes += m.ready[i].size()
	}
	for !m.dense && len(m.ready) < q.limit && bytes < pageBytes && len(m.cursors) > 0 {
		if err := b.refill(ctx, c, m, q); err != nil {
			return nil, false, err
		}
		for _, r := range m.take(q) {
			bytes += r.size()
			m.ready = append(m.ready, r)
		}
	}
	n := min(q.limit, len(m.ready))
	out, cut, err := b.complete(ctx, c, slices.Clone(m.ready[:n]))
	if err != nil {
		return nil, false, err
	}
	if cut {
		last := out[len(out)-1].position
		n, _ = slices.BinarySearchFunc(m.ready, last, func(r record, p Position) int { return int(q.step(r.position - p)) })
		n++
	}
	if n == 0 {
		return nil, false, nil
	}
	first, last := q.first(), m.ready[n-1].position
	if n >= minPage { // enough to tell how dense they are, wherever they begin
		first = m.ready[0].position
	}
	q.advance(last)
	m.ready = slices.Clone(m.ready[n:])
	more = len(m.ready) > 0 || len(m.cursors) > 0
	if covered := q.step(last - first); n == q.limit && covered <= Position(n*denseShare) {
		m.dense, q.sparse, q.perRow = true, false, float64(covered)/float64(n)
	}
	if m.dense && len(m.ready) == 0 {
		q.kept = nil
	}
	return out, more, nil
}

// take returns the rows up to which those of all streams are known, in order, and forgets streams
// that have ended.
func (m *merge) take(q *page) (out []record) {
	bound := Position(math.MaxInt64)
	if q.backward {
		bound = 0
	}
	for _, cur := range m.cursors {
		if !cur.done && q.beyond(bound, cur.at) {
			bound = cur.at
		}
	}
	m.cursors = slices.DeleteFunc(m.cursors, func(cur *cursor) bool {
		n := 0
		for n < len(cur.rows) && !q.beyond(cur.rows[n].position, bound) {
			n++
		}
		out = append(out, cur.rows[:n]...)
		cur.rows = cur.rows[n:]
		return cur.done && len(cur.rows) == 0
	})
	slices.SortFunc(out, func(x, y record) int { return int(q.step(Position(byPosition(x, y)))) })
	// An event that two sources pick comes twice.
	return slices.CompactFunc(out, func(x, y record) bool { return x.position == y.position })
}

// refill fetches further rows of streams that have run short, if one has run out: those of one group
// that are least far.
func (b *sqlBackend) refill(ctx context.Context, c conn, m *merge, q *page) (err error) {
	var short []*cursor
	buffered := 0
	var least *cursor // of those that have run out
	for _, cur := range m.cursors {
		buffered += len(cur.rows)
		if cur.done || len(cur.rows) > cur.chunk/4 {
			continue
		}
		short = append(short, cur)
		if len(cur.rows) == 0 && (least == nil || q.beyond(least.at, cur.at)) {
			least = cur
		}
	}
	if least == nil {
		return nil
	}
	short = slices.DeleteFunc(short, func(cur *cursor) bool { return cur.group != least.group })
	slices.SortStableFunc(short, func(x, y *cursor) int {
		switch {
		case (len(x.rows) == 0) != (len(y.rows) == 0):
			return len(x.rows) - len(y.rows)
		case x.at == y.at:
			return 0
		case q.beyond(x.at, y.at):
			return 1
		}
		return -1
	})
	most := mergeStreams
	if b.text.read.streamByID.from == "" {
		most = mergeLists
	}
	short = short[:min(most, len(short))]
	if m.cut {
		short = []*cursor{least} // or the same streams could come first for ever
	}
	// What the page lacks, in equal parts and a little more: or the one that ends first would end the
	// page. Of a few that keep running short, one may be dense among many that are not.
	need := q.limit - len(m.ready)
	chunk := max(minChunk, min(need, (need-buffered)/len(short)*5/4+1))
	if len(short) <= fewStreams {
		chunk = max(chunk, min(need, 2*least.chunk))
	}
	m.cut, err = b.fetch(ctx, c, q, &m.groups[least.group].where, short, chunk)
	m.shed()
	return err
}

// fetch appends up to so many rows to each of some streams. It reports whether it had to end before it
// came to all of them.
func (b *sqlBackend) fetch(ctx context.Context, c conn, q *page, conditions *where, streams []*cursor, chunk int) (cut bool, err error) {
	text, args := b.streamsStatement(q, conditions, streams, chunk)
	rows, cut, err := b.pageRows(ctx, c, 0, text, args...)
	if err != nil {
		return false, err
	}
	byName := make(map[string]*cursor, len(streams))
	before := make(map[*cursor]int, len(streams))
	for _, cur := range streams {
		byName[cur.name] = cur
		before[cur] = len(cur.rows)
	}
	for i := range rows {
		cur := byName[rows[i].stream]
		if cur == nil || len(q.inside(rows[i:i+1])) == 0 {
			continue // what is after the bound is the stream's last, and fewer than chunk come before it
		}
		cur.rows = append(cur.rows, rows[i])
		cur.at = rows[i].position
	}
	for _, cur := range streams {
		cur.chunk = chunk
		// Of a page that was cut it is not known which streams have ended.
		cur.done = !cut && len(cur.rows)-before[cur] < chunk
	}
	return cut, nil
}

// shed gives up rows beyond mergeBytes: the last ones of the stream that has most.
func (m *merge) shed() {
	sizes := make([]int, len(m.cursors))
	total := 0
	for i, cur := range m.cursors {
		for j := range cur.rows {
			sizes[i] += cur.rows[j].size()
		}
		total += sizes[i]
	}
	for total > mergeBytes {
		i := 0
		for j := range sizes {
			if len(m.cursors[j].rows) > 1 && (sizes[j] > sizes[i] || len(m.cursors[i].rows) <= 1) {
				i = j
			}
		}
		cur := m.cursors[i]
		if len(cur.rows) <= 1 {
			return
		}
		last := &cur.rows[len(cur.rows)-1]
		sizes[i] -= last.size()
		total -= last.size()
		cur.rows = cur.rows[:len(cur.rows)-1]
		cur.at, cur.done = cur.rows[len(cur.rows)-1].position, false
	}
}

// streamsStatement asks for up to so many rows of each of some streams of one group.
func (b *sqlBackend) streamsStatement(q *page, conditions *where, streams []*cursor, chunk int) (string, []any) {
	texts := &b.text.read
	bounds := func(cur *cursor) (low, high Position) {
		if q.backward {
			return q.after, cur.at
		}
		return cur.at, q.end()
	}
	narrowed := func(w *where, shape shape) string {
		b.narrowNames(w, q.names)
		if conditions.text != "" {
			w.and("1 = 1"+conditions.text, conditions.args...)
		}
		return w.text + by(shape.by, q.backward) + " LIMIT ?" + shape.tail
	}
	if texts.streamByID.from == "" {
		list := func(value func(*cursor) int64) any {
			return arrayLiteral(len(streams), func(i int) string { return strconv.FormatInt(value(streams[i]), 10) })
		}
		w := &where{hide: texts.hidden, args: []any{
			list(func(cur *cursor) int64 { return cur.id }),
			list(func(cur *cursor) int64 { low, _ := bounds(cur); return int64(low) }),
			list(func(cur *cursor) int64 { _, high := bounds(cur); return int64(high) }),
		}}
		shape := texts.streamsForward
		if q.backward {
			shape = texts.streamsBackward
		}
		w.text = shape.from
		b.bound(w, q, len(q.names) > 0 || conditions.text != "")
		text := narrowed(w, shape)
		return text, append(w.args, chunk)
	}
	// A SELECT more than once returns nothing more where its bounds leave nothing: so few texts do for
	// all numbers, and stay prepared.
	n := 1
	for n < len(streams) {
		n *= 2
	}
	w := &where{text: texts.streamByID.from, hide: texts.hidden}
	one := "(" + narrowed(w, texts.streamByID) + ")\nUNION ALL\n"
	var args []any
	for i := range n {
		id, low, high := streams[0].id, Position(0), Position(0)
		if i < len(streams) {
			id = streams[i].id
			low, high = bounds(streams[i])
		}
		args = append(append(append(args, id, int64(low), int64(high)), w.args...), chunk)
	}
	return strings.TrimSuffix(strings.Repeat(one, n), "\nUNION ALL\n"), args
}
