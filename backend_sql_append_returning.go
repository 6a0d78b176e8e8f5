// The append strategy where INSERT returns what it stored (Postgres): one statement finds the
// stream and the version by itself.

package eventstore

import (
	"context"
	"database/sql"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// insertReturning is for databases where one statement can find the stream and the aggregate's
// version, insert accordingly, and return what it stored. It stores nothing if the aggregate is
// not as expected; a unique key decides races.
func (b *sqlBackend) insertReturning(ctx context.Context, c conn, a *appendRequest, rows []record, after lastEvent) error {
	if id, known := b.hints.stream(a.stream); known && c.tx == nil && len(rows) == 1 && after.expected >= 0 {
		return b.insertKnown(ctx, c, a, id, &rows[0], after)
	}
	low, high := after.expected.bounds()
	text, args := b.valuesInsert(rows)
	if len(rows) > valueRows {
		text, args = b.text.returning.arrays, arrayArgs(rows)
	}
	args = append([]any{a.stream, a.aggregateID, b.timeArg(a.at)}, args...)
	args = append(args, low, high, int64(after.after))
	if c.tx != nil {
		// A unique violation would abort the caller's transaction, so conflicts are skipped, and
		// what was inserted beside them is taken back below.
		text += b.text.returning.skipTaken
	}
	text += "\nRETURNING " + b.text.returning.position + ", version, recorded_at, stream_id"
	args = append(args, b.sealer.floor.Load())

	n := 0
	var id int64
	err := c.query(ctx, func(r *sql.Rows) error {
		row := &rows[n]
		n++
		return r.Scan((*int64)(&row.position), &row.version, (*dbTime)(&row.recordedAt), &id)
	}, text, args...)
	switch fault := b.dialect.classify(err); {
	case fault == faultTaken && c.tx == nil:
		return b.refusal(a, err)
	case fault == faultBelow:
		return b.belowFloor()
	case err != nil:
		return err // in a transaction the store's own keys skip the row
	case n == len(rows):
		if c.tx == nil {
			b.hints.learnStream(a.stream, id)
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
func (b *sqlBackend) insertKnown(ctx context.Context, c conn, a *appendRequest, id int64, r *record, after lastEvent) error {
	version := int64(after.expected)
	text := b.text.returning.known
	args := []any{id, a.aggregateID, version + 1, b.dialect.eventID(r.id), r.name, string(r.data), string(r.metadata), b.timeArg(a.at), id}
	if version > 0 {
		text += b.text.returning.knownPrevious
		args = append(args, id, a.aggregateID, version)
	}
	if version > 0 && after.after > 0 {
		// In one text, a position that may be any would be planned anew for each append.
		text = b.text.returning.known + b.text.returning.knownPreviousAt
		args = append(args, int64(after.after))
	}
	stored, err := c.row(ctx, []any{(*int64)(&r.position), &r.version, (*dbTime)(&r.recordedAt)}, text+"\nRETURNING "+b.text.returning.position+", version, recorded_at", append(args, b.sealer.floor.Load())...)
	switch fault := b.dialect.classify(err); {
	case fault == faultTaken:
		b.hints.forget(a.stream, a.aggregateID)
		return b.refusal(a, err)
	case err == nil && !stored:
		b.hints.forget(a.stream, a.aggregateID)
		return errVersion
	case fault == faultBelow:
		return b.belowFloor()
	}
	return err
}

func (b *sqlBackend) valuesInsert(rows []record) (string, []any) {
	args := make([]any, 0, 5*len(rows)+5)
	for i := range rows {
		r := &rows[i]
		args = append(args, i+1, b.dialect.eventID(r.id), r.name, string(r.data), string(r.metadata))
	}
	list := strings.TrimSuffix(strings.Repeat(b.text.returning.valuesRow+", ", len(rows)), ", ")
	return b.text.returning.values + list + b.text.returning.valuesTail, args
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

// groupRow is a row of one of the appends in a statement.
type groupRow struct {
	*record
	call int // whose it is
	i    int // which of its rows
}

func groupRows(calls []*appendRequest) []groupRow {
	rows := make([]groupRow, 0, len(calls))
	for i, a := range calls {
		for j := range a.rows {
			rows = append(rows, groupRow{&a.rows[j], i, j})
		}
	}
	return rows
}

// groupReturning is for databases where the statement says what it has stored. It leaves out the
// appends whose aggregates are not as expected. One that loses a race after that fails all of them,
// so they get a second chance without it, unless that could store an append of several rows in part.
func (b *sqlBackend) groupReturning(ctx context.Context, calls []*appendRequest) ([]bool, error) {
	rows := groupRows(calls)
	text, args := b.arrayGroup(calls, rows)
	stored, err := b.groupInsert(ctx, text, len(calls), rows, args)
	if len(rows) == len(calls) && b.dialect.classify(err) == faultTaken {
		return b.groupInsert(ctx, text+b.text.returning.skipTaken, len(calls), rows, args)
	}
	return stored, err
}

func (b *sqlBackend) groupInsert(ctx context.Context, text string, calls int, rows []groupRow, args []any) ([]bool, error) {
	stored := make([]bool, calls)
	n := 0
	err := b.conn().query(ctx, func(r *sql.Rows) error {
		var id uuid.UUID
		var position Position
		var version int64
		var at dbTime
		if err := r.Scan(&id, (*int64)(&position), &version, &at); err != nil {
			return err
		}
		// They come in the order of the statement, without those that were left out.
		for n < len(rows) && rows[n].id != id {
			n++
		}
		if n < len(rows) {
			row := rows[n].record
			row.position, row.version, row.recordedAt = position, version, time.Time(at)
			stored[rows[n].call] = true
			n++
		}
		return nil
	}, text+"\nRETURNING event_id, "+b.text.returning.position+", version, recorded_at", append(args, b.sealer.floor.Load())...)
	return stored, err
}

// arrayGroup returns the statement for appends and their rows.
func (b *sqlBackend) arrayGroup(calls []*appendRequest, rows []groupRow) (text string, args []any) {
	ofCalls := func(get func(a *appendRequest) string) any {
		return arrayLiteral(len(calls), func(i int) string { return get(calls[i]) })
	}
	ofRows := func(get func(r *groupRow) string) any {
		return arrayLiteral(len(rows), func(i int) string { return get(&rows[i]) })
	}
	var highest, after, at any
	if slices.ContainsFunc(calls, func(a *appendRequest) bool { return a.expected < 0 }) {
		highest = ofCalls(func(a *appendRequest) string { _, high := a.expected.bounds(); return strconv.FormatInt(high, 10) })
	}
	if slices.ContainsFunc(calls, func(a *appendRequest) bool { return a.after > 0 }) {
		after = ofCalls(func(a *appendRequest) string { return strconv.FormatInt(int64(a.after), 10) })
	}
	if slices.ContainsFunc(calls, func(a *appendRequest) bool { return !a.at.IsZero() }) {
		at = ofCalls(func(a *appendRequest) string {
			if a.at.IsZero() {
				return "now" // the statement's time, to the database
			}
			return a.at.UTC().Format(b.dialect.timeLayout)
		})
	}
	args = []any{
		ofCalls(func(a *appendRequest) string {
			id, _ := b.hints.stream(a.stream) // 0, which none has, if it has been forgotten by now
			return strconv.FormatInt(id, 10)
		}),
		ofCalls(func(a *appendRequest) string { return a.aggregateID }),
		ofCalls(func(a *appendRequest) string { low, _ := a.expected.bounds(); return strconv.FormatInt(low, 10) }),
		highest,
		after,
		at,
	}
	text = b.text.returning.groupOfOnes
	if len(rows) > len(calls) {
		text = b.text.returning.group
		args = append(args,
			ofRows(func(r *groupRow) string { return strconv.Itoa(r.call + 1) }),
			ofRows(func(r *groupRow) string { return strconv.Itoa(r.i + 1) }))
	}
	return text, append(args,
		ofRows(func(r *groupRow) string { return r.id.String() }),
		ofRows(func(r *groupRow) string { return r.name }),
		ofRows(func(r *groupRow) string { return string(r.data) }),
		ofRows(func(r *groupRow) string { return string(r.metadata) }))
}

// valueRows is up to how many rows go as VALUES where arrays are an alternative.
const valueRows = 16
