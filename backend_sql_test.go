package eventstore

import (
	"strings"
	"time"

	"github.com/google/uuid"
)

// SetSealingClock gives a store over a database the clock by which it tells how long sealing has
// been waiting.
func SetSealingClock(s *Store, now func() time.Time) {
	z := s.backend.(*sqlBackend).sealer
	<-z.turn
	z.now = now
	z.turn <- struct{}{}
}

// Statement is one of a store's statements, bound and with arguments, for tests of plans.
type Statement struct {
	Text     string
	Args     []any
	ByStream bool // it has to go by the index on streams and positions
	InOrder  bool // on Postgres its rows have to come by an index, unsorted
}

// Statements returns the statements of appends, reads and sealing as they run for stream
// "accounts", aggregate "big".
func Statements(s *Store) map[string]Statement {
	b := s.backend.(*sqlBackend)
	out := map[string]Statement{}
	add := func(what, text string, args ...any) {
		out[what] = Statement{b.dialect.bind(b.prefix, text), args, false, false}
	}
	row := func(n int) []record {
		rows := make([]record, n)
		for i := range rows {
			rows[i] = record{id: uuid.New(), name: "n", data: []byte("{}"), metadata: noMetadata}
		}
		return rows
	}
	a := &appendRequest{stream: "accounts", aggregateID: "big", lastEvent: lastEvent{expected: 50_000}, rows: row(1)}
	others := []*appendRequest{a, {stream: "accounts", aggregateID: "new", rows: row(2)}, {stream: "accounts", aggregateID: "any", lastEvent: lastEvent{expected: AnyVersion}, rows: row(1)}, {stream: "accounts", aggregateID: "big2", lastEvent: lastEvent{70, 49_000}, rows: row(1)}}
	if b.dialect.returning {
		text, args := b.valuesInsert(a.rows)
		add("append", text, append(append([]any{a.stream, a.aggregateID, nil}, args...), 0, 1<<40, 0)...)
		add("append of many", b.text.returning.arrays, append(append([]any{a.stream, a.aggregateID, nil}, arrayArgs(row(20))...), 0, 1<<40, 0)...)
		add("append to a known stream", b.text.returning.known+b.text.returning.knownPrevious, 1, "big", 50_001, b.dialect.eventID(a.rows[0].id), "n", "{}", "{}", nil, 1, 1, "big", 50_000)
		text, args = b.arrayGroup(others, groupRows(others))
		add("several appends", text, args...)
		others[1].rows = row(1)
		text, args = b.arrayGroup(others, groupRows(others))
		add("several appends of one row", text, args...)
	} else {
		text, args, _ := b.guardedGroup(others, []appendHint{{stream: 1, version: 50_000}, {stream: 1}, {stream: 2, version: 7}, {stream: 2, version: 70, position: 49_000}}, []bool{true, true, true, true})
		_, text, _ = strings.Cut(text, "FOR\n") // EXPLAIN has its place behind it
		add("several appends", text, args...)
		for n, what := range map[int]string{1: "append", 2: "append of several"} {
			text, args = b.guardedInsert(a, row(n), appendHint{stream: 1})
			add("first "+what, text, args...)
			text, args = b.guardedInsert(a, row(n), appendHint{stream: 1, version: 50_000})
			add(what, text, args...)
			text, args = b.guardedInsert(a, row(n), appendHint{stream: 1, version: 50_000, position: 50_000})
			add(what+" in a transaction", text, args...)
		}
	}
	add("state", b.text.append.state, "big", "big", "accounts")
	add("seal span", limited(b.text.seal.span, sealWindow), 49_000)
	add("positions behind", b.text.seal.positionsAfter, 49_000, 100)
	add("seal positions", limited(b.text.seal.positions, sealWindow), 49_000)
	add("last position", b.text.read.lastPosition)
	text, args := b.nextStatement([]Position{0, 25_000, 49_000}, func(Position) Position { return 50_000 })
	add("next events", text, args...)
	add("versions", b.text.aggregates.versions, 1, "big", 49_000)
	add("positions of a stream", b.text.streams.positions, 1, 25_000, eraseAtOnce)
	add("snapshot", limited(b.text.aggregates.load, firstPage), "big", 1, "accounts", "big", 1, "big", "accounts")
	for what, q := range map[string]*page{
		"read":                     {from: FromAll(), after: 25_000, limit: 100},
		"read backward":            {from: FromAll(), before: 25_000, limit: 100, backward: true},
		"read of a stream":         {from: FromStream("accounts"), after: 25_000, limit: 100},
		"read of another stream":   {from: FromStream("orders"), limit: 100},
		"read of positions":        {from: FromAll(), after: 25_000, before: 25_100, limit: 100},
		"read of one aggregate ID": {from: FromStream("accounts", ByAggregateID.Equals("big")), after: 25_000, limit: 100},
		"read of one name":         {from: FromStream("accounts"), names: []string{"account.opened"}, after: 25_000, limit: 100},
	} {
		text, args := b.pageStatement(q)
		add(what, text, args...)
	}
	byStream := func(what, text string, args []any) {
		add(what, text, args...)
		st := out[what]
		st.ByStream = true
		out[what] = st
	}
	streams := []*cursor{{id: 1, at: 25_000}, {id: 2, at: 50_000}}
	for _, name := range []string{"accounts", "orders"} {
		for what, q := range map[string]*page{
			"first page":           {limit: firstPage},
			"next page":            {limit: maxPage, after: 25_000},
			"backward":             {limit: firstPage, backward: true},
			"next page backward":   {limit: maxPage, backward: true, before: 25_000},
			"one name":             {limit: firstPage, names: []string{"account.opened"}},
			"one name, backward":   {limit: firstPage, names: []string{"account.opened"}, backward: true},
			"up to what is sealed": {limit: firstPage, names: []string{"account.opened"}, before: 51_001, newest: true},
		} {
			q.from = FromStream(name)
			text, args := b.pageStatement(q)
			byStream(name+": "+what, text, args)
			q.from = FromStreams("accounts", "orders")
			text, args = b.streamsStatement(q, &where{}, streams, 500)
			byStream("both streams: "+what, text, args)
		}
	}
	for what, q := range map[string]*page{
		"first page":         {limit: firstPage},
		"next page":          {limit: maxPage, after: 25_000, perRow: 1},
		"next page backward": {limit: maxPage, before: 25_000, backward: true, perRow: 1},
		"one name":           {limit: firstPage, after: 25_000, names: []string{"account.opened"}},
	} {
		q.from = FromStreams("accounts", "orders")
		low, high, _ := q.scanBounds()
		text, args := b.scanStatement(q, low, high)
		add("both streams by position: "+what, text, args...)
		st := out["both streams by position: "+what]
		st.InOrder = true
		out["both streams by position: "+what] = st
	}
	w := &where{text: b.text.read.aggregate, args: []any{"accounts", "accounts", "big", int64(100)}}
	w.order(" ORDER BY e.version", firstPage)
	add("read of an aggregate", w.text, w.args...)
	return out
}
