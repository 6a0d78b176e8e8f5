package eventstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// shares says whether an append may go out in one statement with others.
func (b *sqlBackend) shares(a *appendCall) bool {
	if b.tx != nil || b.text.insertGroup == "" || len(a.rows) > maxSharedRows || a.size() > maxSharedBytes {
		return false
	}
	if b.dialect.returning {
		_, known := b.hints.stream(a.stream)
		return known
	}
	h, known := b.hints.get(a.stream, a.aggregateID, a.expected, false)
	return known && h.mariaDB && !b.hints.ahead(a.stream, a.aggregateID, h.version)
}

// insertGroup stores appends to different aggregates with one statement, each on the condition of
// its own version, and says which of them it has stored. Those that it has not, for whatever
// reason, lose nothing by being decided alone. It waits for nobody's locks, or not for long.
func (b *sqlBackend) insertGroup(ctx context.Context, calls []*appendCall) (stored []bool, err error) {
	if twice(calls) {
		return make([]bool, len(calls)), nil // what is returned for that ID could be either's
	}
	if b.dialect.returning {
		stored, err = b.groupReturning(ctx, calls)
	} else {
		stored, err = b.groupGuarded(ctx, calls)
	}
	switch {
	case err == nil:
		return stored, nil
	case errors.Is(err, driver.ErrBadConn):
		// It has not been sent: the pool had nothing but connections that others' contexts have ended.
	case b.dialect.classify(err) == faultLost || ctx.Err() != nil:
		return nil, b.failed("append", err)
	}
	return make([]bool, len(calls)), nil
}

// twice says whether one event ID is in several appends.
func twice(calls []*appendCall) bool {
	seen := make(map[uuid.UUID]struct{}, len(calls))
	n := 0
	for _, a := range calls {
		for i := range a.rows {
			seen[a.rows[i].id] = struct{}{}
			n++
		}
	}
	return len(seen) < n
}

// groupRow is a row of one of the appends in a statement.
type groupRow struct {
	*record
	call int // whose it is
	i    int // which of its rows
}

func groupRows(calls []*appendCall) []groupRow {
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
func (b *sqlBackend) groupReturning(ctx context.Context, calls []*appendCall) ([]bool, error) {
	rows := groupRows(calls)
	text, args := b.arrayGroup(calls, rows)
	stored, err := b.groupInsert(ctx, text, len(calls), rows, args)
	if len(rows) == len(calls) && b.dialect.classify(err) == faultTaken {
		return b.groupInsert(ctx, text+b.text.insertShared, len(calls), rows, args)
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
	}, text+"\nRETURNING event_id, position, version, recorded_at", args...)
	return stored, err
}

// arrayGroup returns the statement for appends and their rows.
func (b *sqlBackend) arrayGroup(calls []*appendCall, rows []groupRow) (text string, args []any) {
	ofCalls := func(get func(a *appendCall) string) any {
		return arrayLiteral(len(calls), func(i int) string { return get(calls[i]) })
	}
	ofRows := func(get func(r *groupRow) string) any {
		return arrayLiteral(len(rows), func(i int) string { return get(&rows[i]) })
	}
	var highest, at any
	if slices.ContainsFunc(calls, func(a *appendCall) bool { return a.expected < 0 }) {
		highest = ofCalls(func(a *appendCall) string { _, high := a.expected.bounds(); return strconv.FormatInt(high, 10) })
	}
	if slices.ContainsFunc(calls, func(a *appendCall) bool { return !a.at.IsZero() }) {
		at = ofCalls(func(a *appendCall) string {
			if a.at.IsZero() {
				return "now" // the statement's time, to the database
			}
			return a.at.UTC().Format(b.dialect.timeLayout)
		})
	}
	args = []any{
		ofCalls(func(a *appendCall) string {
			id, _ := b.hints.stream(a.stream) // 0, which none has, if it has been forgotten by now
			return strconv.FormatInt(id, 10)
		}),
		ofCalls(func(a *appendCall) string { return a.aggregateID }),
		ofCalls(func(a *appendCall) string { low, _ := a.expected.bounds(); return strconv.FormatInt(low, 10) }),
		highest,
		at,
	}
	text = b.text.insertGroupOfOnes
	if len(rows) > len(calls) {
		text = b.text.insertGroup
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

// groupGuarded is insertGuarded for several appends, with one guard for all of them: either all are
// stored, or none. Those of which something has to be looked up, or is known to be in the way, are
// left out.
func (b *sqlBackend) groupGuarded(ctx context.Context, calls []*appendCall) ([]bool, error) {
	stored := make([]bool, len(calls))
	hints := make([]appendHint, len(calls))
	for i, a := range calls {
		h, known := b.hints.get(a.stream, a.aggregateID, a.expected, false)
		hints[i], stored[i] = h, known && h.mariaDB && !b.hints.ahead(a.stream, a.aggregateID, h.version)
	}
	text, args, rows := b.guardedGroup(calls, hints, stored)
	if len(rows) == 0 {
		return stored, nil
	}
	err := b.insertValues(ctx, b.conn(), appendHint{mariaDB: true}, text, args, len(rows), func(i int) *record { return rows[i] })
	if err != nil {
		return nil, err
	}
	for i, a := range calls {
		if h := &hints[i]; stored[i] {
			for j := range a.rows {
				a.rows[j].version, a.rows[j].recordedAt = h.version+int64(j)+1, h.at(a)
			}
			b.hints.advance(a.stream, a.aggregateID, h.version+int64(len(a.rows)))
		}
	}
	return stored, nil
}

// guardedGroup returns the statement for those of the appends that are wanted, and its rows.
func (b *sqlBackend) guardedGroup(calls []*appendCall, hints []appendHint, wanted []bool) (text string, args []any, rows []*record) {
	var streams []int64
	var ids, previous, values []any
	for i, a := range calls {
		if !wanted[i] {
			continue
		}
		h := &hints[i]
		if !slices.Contains(streams, h.stream) {
			streams = append(streams, h.stream)
			ids = append(ids, h.stream)
		}
		if h.version > 0 {
			previous = append(previous, h.stream, a.aggregateID, h.version)
		}
		when := h.at(a).Format(b.dialect.timeLayout)
		for j := range a.rows {
			r := &a.rows[j]
			values = append(values, h.stream, a.aggregateID, h.version+int64(j)+1, b.dialect.eventID(r.id), r.name, string(r.data), string(r.metadata), when)
			rows = append(rows, r)
		}
	}
	if len(rows) == 0 {
		return "", nil, nil
	}
	// Few texts for all, which stay prepared: what is in a list more than once is found once.
	if len(ids) > 1 {
		ids = padded(ids, 1, len(rows))
	}
	args = append([]any{values[0]}, ids...)
	args = append(args, len(streams))
	text = b.text.insertGroup + placeholders(len(ids))
	if n := len(previous) / 3; n == 0 {
		text += b.text.groupValues
	} else {
		previous = padded(previous, 3, len(rows))
		text += b.text.groupPrevious + strings.TrimSuffix(strings.Repeat("(?, ?, ?), ", len(previous)/3), ", ") + b.text.groupValuesV
		args = append(append(args, previous...), n)
	}
	return text + strings.Repeat(", "+b.text.insertRow, len(rows)-1), append(args, values[1:]...), rows
}

// padded repeats the first n values of a list until it is that of so many rows.
func padded(list []any, n, rows int) []any {
	for len(list) < n*rows {
		list = append(list, list[:n]...)
	}
	return list
}
