package eventstore

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
)

// Rows per statement: as many as parameters are allowed (65,535 on both databases), and no more
// bytes than a server takes in one packet (16 MiB on MariaDB, unless it was told otherwise).
const (
	maxRows      = 5000
	maxArrayRows = 50000
	maxRowBytes  = 4 << 20
	valueRows    = 16 // up to so many rows go as VALUES where arrays are an alternative
)

// append stores an append's rows, alone or together with those of others.
func (b *sqlBackend) append(ctx context.Context, a *appendCall) error {
	if b.shares(a) {
		return b.groups.append(ctx, a)
	}
	return b.appendAlone(ctx, a)
}

// appendAlone stores an append's rows with one statement, or, where one can't hold them all, with
// several in a transaction.
func (b *sqlBackend) appendAlone(ctx context.Context, a *appendCall) error {
	chunks := b.chunks(a.rows)
	if len(chunks) == 1 {
		c := b.conn()
		return b.failed("append", b.insert(ctx, c, a, a.rows, a.expected))
	}
	if b.tx != nil {
		return b.failed("append", b.insertChunks(ctx, b.conn(), a, chunks))
	}
	tx, err := b.db.BeginTx(ctx, nil)
	if err != nil {
		return b.failed("append", err)
	}
	if err := b.insertChunks(ctx, conn{b: b, tx: tx}, a, chunks); err != nil {
		// The error that matters is the first: a rollback fails only with a connection that is gone.
		_ = tx.Rollback()
		return b.failed("append", err)
	}
	return b.failed("append", tx.Commit())
}

func (b *sqlBackend) chunks(rows []record) [][]record {
	most := maxRows
	if b.text.insertArrays != "" {
		most = maxArrayRows
	}
	var out [][]record
	for len(rows) > 0 {
		n, bytes := 0, 0
		for n < len(rows) && n < most {
			if bytes += len(rows[n].data) + len(rows[n].metadata); bytes > maxRowBytes && n > 0 {
				break
			}
			n++
		}
		out, rows = append(out, rows[:n]), rows[n:]
	}
	return out
}

func (b *sqlBackend) insertChunks(ctx context.Context, c conn, a *appendCall, chunks [][]record) error {
	expected, done := a.expected, 0
	for _, rows := range chunks {
		err := b.insert(ctx, c, a, rows, expected)
		if b.tx != nil && done > 0 && errors.Is(err, errVersion) {
			// The caller's transaction may go on: nothing of the append may stay in it.
			if err := b.dropRows(ctx, c, a.rows[:done]); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		done += len(rows)
		expected = ExpectedVersion(rows[len(rows)-1].version)
	}
	return nil
}

// insert stores rows with one statement and completes them.
func (b *sqlBackend) insert(ctx context.Context, c conn, a *appendCall, rows []record, expected ExpectedVersion) error {
	if b.dialect.returning {
		return b.insertReturning(ctx, c, a, rows, expected)
	}
	return b.insertGuarded(ctx, c, a, rows, expected)
}

// insertReturning is for databases where one statement can find the stream and the aggregate's
// version, insert accordingly, and return what it stored. It stores nothing if the aggregate is
// not as expected; a unique key decides races.
func (b *sqlBackend) insertReturning(ctx context.Context, c conn, a *appendCall, rows []record, expected ExpectedVersion) error {
	if id, known := b.hints.stream(a.stream); known && c.tx == nil && len(rows) == 1 && expected >= 0 {
		return b.insertKnown(ctx, c, a, id, &rows[0], int64(expected))
	}
	low, high := expected.bounds()
	text, args := b.valuesInsert(rows)
	if len(rows) > valueRows {
		text, args = b.text.insertArrays, arrayArgs(rows)
	}
	args = append([]any{a.stream, a.aggregateID, b.timeArg(a.at)}, args...)
	args = append(args, low, high)
	if c.tx != nil {
		// A unique violation would abort the caller's transaction, so conflicts are skipped, and
		// what was inserted beside them is taken back below.
		text += b.text.insertShared
	}
	text += "\nRETURNING position, version, recorded_at, stream_id"

	n := 0
	var id int64
	err := c.query(ctx, func(r *sql.Rows) error {
		row := &rows[n]
		n++
		return r.Scan((*int64)(&row.position), &row.version, (*dbTime)(&row.recordedAt), &id)
	}, text, args...)
	switch {
	case b.dialect.classify(err) == faultTaken:
		return errVersion
	case err != nil:
		return err
	case n == len(rows):
		if c.tx == nil {
			b.hints.know(a.stream, id)
		}
		return nil
	case n > 0:
		if err := b.dropRows(ctx, c, rows[:n]); err != nil {
			return err
		}
	}
	return errVersion
}

// insertKnown is insertReturning for one row of a stream whose id is known.
func (b *sqlBackend) insertKnown(ctx context.Context, c conn, a *appendCall, id int64, r *record, version int64) error {
	text := b.text.insertKnown
	args := []any{id, a.aggregateID, version + 1, b.dialect.eventID(r.id), r.name, string(r.data), string(r.metadata), b.timeArg(a.at), id}
	if version > 0 {
		text += b.text.insertKnownV
		args = append(args, id, a.aggregateID, version)
	}
	stored, err := c.row(ctx, []any{(*int64)(&r.position), &r.version, (*dbTime)(&r.recordedAt)}, text+"\nRETURNING position, version, recorded_at", args...)
	if err == nil && !stored || b.dialect.classify(err) == faultTaken {
		b.hints.forget(a.stream, a.aggregateID)
		return errVersion
	}
	return err
}

func (b *sqlBackend) valuesInsert(rows []record) (string, []any) {
	args := make([]any, 0, 5*len(rows)+5)
	for i := range rows {
		r := &rows[i]
		args = append(args, i+1, b.dialect.eventID(r.id), r.name, string(r.data), string(r.metadata))
	}
	list := strings.TrimSuffix(strings.Repeat(b.text.insertRow+", ", len(rows)), ", ")
	return b.text.insert + list + b.text.insertTail, args
}

// arrayArgs returns the rows' columns as arrays.
func arrayArgs(rows []record) []any {
	column := func(get func(*record) string) any {
		return arrayLiteral(len(rows), func(i int) string { return get(&rows[i]) })
	}
	return []any{
		column(func(r *record) string { return r.id.String() }),
		column(func(r *record) string { return r.name }),
		column(func(r *record) string { return string(r.data) }),
		column(func(r *record) string { return string(r.metadata) }),
	}
}

// arrayLiteral returns an array of n elements as Postgres writes it. As text it passes through
// every driver and protocol mode alike.
func arrayLiteral(n int, element func(i int) string) string {
	var b strings.Builder
	for i := range n {
		s := element(i)
		if i == 0 { // the others may well be like it, if it is not large
			b.Grow(min(n*(len(s)+len(s)/4+3)+2, 64<<10))
		}
		b.WriteByte("{,"[min(i, 1)])
		b.WriteByte('"')
		for from := 0; from < len(s); {
			to := from
			for to < len(s) && s[to] != '"' && s[to] != '\\' {
				to++
			}
			b.WriteString(s[from:to])
			if from = to; from < len(s) {
				b.WriteByte('\\')
				b.WriteByte(s[from])
				from++
			}
		}
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String()
}

// dropRows takes rows back that this very transaction has inserted; their positions become holes
// like those of a rollback.
func (b *sqlBackend) dropRows(ctx context.Context, c conn, rows []record) error {
	for part := range slices.Chunk(rows, 1000) {
		args := make([]any, len(part))
		for i := range part {
			args[i] = int64(part[i].position)
		}
		if _, err := c.exec(ctx, b.text.dropEvents+placeholders(len(args))+")", args...); err != nil {
			return err
		}
	}
	return nil
}

// insertGuarded is for databases where only INSERT ... VALUES hands out consecutive positions and
// says where they begin. Versions are numbered by the caller, on a guard that fails the statement
// if the stream or the version before them is missing; a unique key fails it if they are taken.
// What has to be known for that (the stream's id, with AnyVersion and MustExist the aggregate's
// version, and the database's time) is remembered from earlier statements, and looked up otherwise.
func (b *sqlBackend) insertGuarded(ctx context.Context, c conn, a *appendCall, rows []record, expected ExpectedVersion) error {
	h, known := b.hints.get(a.stream, a.aggregateID, expected, c.tx != nil)
	if !known {
		// A caller's transaction, which nobody repeats, must not fail for what was wrong with a
		// hint: it may have replaced the stream itself.
		if err := b.mustLookUp(ctx, c, a, expected, &h); err != nil {
			return err
		}
	}
	hasty := c.tx == nil && h.mariaDB
	err := b.insertHinted(ctx, c, a, rows, h, hasty)
	if hasty && b.dialect.classify(err) == faultRepeat {
		// It has to wait, with what it has locked by then: on MariaDB that is, of the event before,
		// the gap as well, unless its position is known.
		if err := b.mustLookUp(ctx, c, a, expected, &h); err != nil {
			return err
		}
		err = b.insertHinted(ctx, c, a, rows, h, false)
	}
	if b.dialect.classify(err) == faultTaken {
		return errVersion
	}
	return err
}

// insertHinted runs the statement with what is known, and forgets that if it fails. A hasty one
// fails where it would have to wait for a lock.
func (b *sqlBackend) insertHinted(ctx context.Context, c conn, a *appendCall, rows []record, h appendHint, hasty bool) error {
	text, args := b.guardedInsert(a, rows, h)
	if hasty {
		text = b.text.insertNoWait + text
	}
	at := h.at(a)
	err := b.insertValues(ctx, c, h, text, args, len(rows), func(i int) *record {
		rows[i].version, rows[i].recordedAt = h.version+int64(i)+1, at
		return &rows[i]
	})
	switch {
	case err != nil:
		b.hints.forget(a.stream, a.aggregateID)
	case c.tx == nil:
		b.hints.advance(a.stream, a.aggregateID, h.version+int64(len(rows)))
	}
	return err
}

// insertValues runs an INSERT of n rows, and tells each of them its position.
func (b *sqlBackend) insertValues(ctx context.Context, c conn, h appendHint, text string, args []any, n int, row func(i int) *record) error {
	if h.mariaDB {
		i := 0
		return c.query(ctx, func(r *sql.Rows) error {
			i++
			return r.Scan((*int64)(&row(i - 1).position))
		}, text+b.text.insertReturning, args...)
	}
	res, err := c.exec(ctx, text, args...)
	if err != nil {
		return err
	}
	first, err := b.lastInsertID(ctx, c, res, row(0))
	for i := range n {
		row(i).position = Position(first + int64(i)*h.step)
	}
	return err
}

// lastInsertID returns the position of a statement's first row: as the result knows it, or, where
// that keeps one waiting, as it is found.
func (b *sqlBackend) lastInsertID(ctx context.Context, c conn, res sql.Result, first *record) (int64, error) {
	if c.tx != nil {
		return res.LastInsertId()
	}
	answer := ask(res.LastInsertId)
	t := time.NewTimer(resultPatience)
	defer t.Stop()
	select {
	case id := <-answer:
		return id.value, id.err
	case <-t.C:
	}
	var position int64
	if found, err := c.row(ctx, []any{&position}, b.text.positionOf, b.dialect.eventID(first.id)); found || err != nil {
		return position, err
	}
	id := <-answer // it has been deleted meanwhile
	return id.value, id.err
}

// resultPatience is more than a result takes that need not wait.
const resultPatience = time.Millisecond

func (b *sqlBackend) guardedInsert(a *appendCall, rows []record, h appendHint) (string, []any) {
	args := make([]any, 0, 8*len(rows)+5)
	first, firstV, firstP := b.text.insertOne, b.text.insertOneV, b.text.insertOneP
	if len(rows) > 1 {
		first, firstV, firstP = b.text.insertMany, b.text.insertManyV, b.text.insertManyP
		args = append(args, h.stream)
	}
	args = append(args, h.stream)
	switch {
	case h.position > 0:
		first = firstP
		args = append(args, int64(h.position), h.stream, a.aggregateID, h.version)
	case h.version > 0:
		first = firstV
		args = append(args, h.stream, a.aggregateID, h.version)
	}
	when := h.at(a).Format(b.dialect.timeLayout)
	for i := range rows {
		r := &rows[i]
		if i > 0 {
			args = append(args, h.stream)
		}
		args = append(args, a.aggregateID, h.version+int64(i)+1, b.dialect.eventID(r.id), r.name, string(r.data), string(r.metadata), when)
	}
	return b.text.insert + first + strings.Repeat(", "+b.text.insertRow, len(rows)-1), args
}

// lookUp finds out what an append has to know, and remembers what others can use.
func (b *sqlBackend) lookUp(ctx context.Context, c conn, a *appendCall, h *appendHint) (found bool, err error) {
	var now time.Time
	found, err = c.row(ctx, []any{&h.stream, &h.version, (*int64)(&h.position), (*dbTime)(&now), &h.step, &h.mariaDB}, b.text.state, a.aggregateID, a.aggregateID, a.stream)
	if err == nil && found {
		h.now = now
		b.hints.learn(a.stream, *h)
	}
	return found, err
}

// mustLookUp is lookUp, and errVersion if an append can't go on from what is found.
func (b *sqlBackend) mustLookUp(ctx context.Context, c conn, a *appendCall, expected ExpectedVersion, h *appendHint) error {
	found, err := b.lookUp(ctx, c, a, h)
	if err == nil && (!found || !expected.admits(h.version)) {
		err = errVersion
	}
	return err
}

func (b *sqlBackend) resolve(ctx context.Context, a *appendCall) (verdict, error) {
	var v verdict
	err := b.run(ctx, "resolve conflict", func(c conn) error {
		v = verdict{}
		var h appendHint
		var err error
		if v.found, err = b.lookUp(ctx, c, a, &h); err != nil || !v.found {
			return err
		}
		v.actual = h.version
		lock := ""
		if c.tx != nil && b.text.lockRead != "" {
			// The transaction's snapshot may be older than what refused the append.
			lock = b.text.lockRead
			if v.taken, err = c.row(ctx, []any{new(int64)}, b.text.versionTaken, a.stream, a.aggregateID, h.version+1); err != nil {
				return err
			}
		}
		for part := range slices.Chunk(a.rows, 1000) {
			args := make([]any, len(part))
			for i := range part {
				args[i] = b.dialect.eventID(part[i].id)
			}
			ids := strings.TrimSuffix(strings.Repeat(b.text.idValue+", ", len(args)), ", ")
			rows, err := b.records(ctx, c, "SELECT "+b.text.columns+" FROM "+b.text.fromAll+"\nWHERE e.event_id IN ("+ids+")"+lock, args...)
			if err != nil {
				return err
			}
			v.stored = append(v.stored, rows...)
		}
		slices.SortFunc(v.stored, byPosition)
		return nil
	})
	return v, err
}

// appendHint is what insertGuarded has to know.
type appendHint struct {
	stream  int64 // id
	version int64 // of the aggregate
	// position of that version; zero: not known
	position Position
	now      time.Time
	step     int64 // from one position of a statement to the next: auto_increment_increment
	mariaDB  bool  // the server has RETURNING, and statements that do not wait for locks
}

// at is when an append's events are recorded.
func (h *appendHint) at(a *appendCall) time.Time {
	if a.at.IsZero() {
		return h.now.Truncate(time.Microsecond)
	}
	return a.at
}

// appendHints remember what an append would otherwise look up. None of it has to be right: the
// statement's guard and unique key find out, and what was wrong is forgotten.
type appendHints struct {
	mu       sync.Mutex
	streams  map[string]int64
	versions map[aggregateKey]int64
	now      time.Time // the database's, when learnt was the time here
	learnt   time.Time
	step     int64
	mariaDB  bool
}

const (
	maxHints = 10000
	// maxHintAge bounds how far the clock here can drift from the database's.
	maxHintAge = time.Minute
)

func (h *appendHints) get(stream, id string, expected ExpectedVersion, inTx bool) (appendHint, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	age := time.Since(h.learnt)
	hint := appendHint{version: int64(expected), now: h.now.Add(age), step: h.step, mariaDB: h.mariaDB}
	var ok bool
	if hint.stream, ok = h.streams[stream]; !ok || age > maxHintAge {
		return appendHint{}, false
	}
	if inTx {
		// It may see, or have done, what others have not, and keeps its locks for longer than a
		// statement: the previous event's position is worth another trip.
		return appendHint{}, false
	}
	if expected >= 0 {
		return hint, true
	}
	hint.version, ok = h.versions[aggregateKey{stream, id}]
	return hint, ok && expected.admits(hint.version)
}

func (h *appendHints) learn(stream string, hint appendHint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.streams) >= maxHints || h.streams == nil {
		h.streams = map[string]int64{}
	}
	h.streams[stream] = hint.stream
	h.now, h.learnt, h.step, h.mariaDB = hint.now, time.Now(), hint.step, hint.mariaDB
}

// stream returns a stream's id, as far as it is known.
func (h *appendHints) stream(name string) (id int64, known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id, known = h.streams[name]
	return id, known
}

// know remembers a stream's id.
func (h *appendHints) know(name string, id int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.streams) >= maxHints || h.streams == nil {
		h.streams = map[string]int64{}
	}
	h.streams[name] = id
}

func (h *appendHints) advance(stream, id string, version int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.versions) >= maxHints || h.versions == nil {
		h.versions = map[aggregateKey]int64{}
	}
	h.versions[aggregateKey{stream, id}] = version
}

// ahead says whether an aggregate is known to be past a version.
func (h *appendHints) ahead(stream, id string, version int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.versions[aggregateKey{stream, id}] > version
}

func (h *appendHints) forget(stream, id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.streams, stream)
	delete(h.versions, aggregateKey{stream, id})
}
