// The append strategy where the store numbers the rows (MySQL, MariaDB): a guard fails the
// statement if the version before them is missing.

package eventstore

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"
)

// insertGuarded is for databases where only INSERT ... VALUES hands out consecutive positions and
// says where they begin. Versions are numbered by the caller, on a guard that fails the statement
// if the stream or the version before them is missing; a unique key fails it if they are taken.
// What has to be known for that (the stream's id, with AnyVersion and MustExist the aggregate's
// version, and the database's time) is remembered from earlier statements, and looked up otherwise.
func (b *sqlBackend) insertGuarded(ctx context.Context, c conn, a *appendRequest, rows []record, after lastEvent) error {
	h, known := b.hints.get(a.stream, a.aggregateID, after, c.tx != nil)
	if !known {
		// A caller's transaction, which nobody repeats, must not fail for what was wrong with a
		// hint: it may have replaced the stream itself.
		if err := b.mustLookUp(ctx, c, a, after, &h); err != nil {
			return err
		}
	}
	a.refused, a.next = keyUnknown, h.version+1
	// Once the first rows are stored, nothing is in the way of the others.
	if c.tx != nil && b.tx != nil && !b.ours && !h.can.noWait && &rows[0] == &a.rows[0] {
		if err := b.lookAhead(ctx, c, a, &h); err != nil {
			return err
		}
	}
	err := b.insertPatiently(ctx, c, a, rows, after, h)
	if b.dialect.classify(err) == faultTaken {
		a.refused = b.dialect.refusedBy(err)
		return b.refusal(err)
	}
	return err
}

// insertPatiently runs the statement with what is known, and waits for an append in flight that takes
// the same versions.
//
// An INSERT that waits for a row with its key asks, on InnoDB, for the gap before that row too: for as
// long as it waits, appends that begin aggregates there wait with it. Above an aggregate's version
// there are no others, but its first version is next to another aggregate. So outside of transactions
// such a row is found before that: on MariaDB by a statement that does not wait, on MySQL, where the
// aggregate is new, by a look ahead. It is then waited for at read committed, where that takes no gap.
// A caller's transaction, of which the isolation is not known, has to wait in the INSERT.
func (b *sqlBackend) insertPatiently(ctx context.Context, c conn, a *appendRequest, rows []record, after lastEvent, h appendHint) error {
	for attempt := 1; c.tx == nil && attempt <= 3; attempt++ {
		var err error
		if !h.can.noWait && h.version == 0 {
			_, err = c.row(ctx, []any{new(int64)}, b.text.numbered.inFlight, h.stream, a.aggregateID, h.version+1)
		}
		if err == nil {
			err = b.insertHinted(ctx, c, a, rows, h, h.can.noWait)
		}
		if b.dialect.classify(err) != faultRetry {
			return err
		}
		switch waited := b.readCommitted(ctx, func(c conn) error {
			_, err := c.row(ctx, []any{new(int64)}, b.text.numbered.await, h.stream, a.aggregateID, h.version+1)
			return err
		}); {
		case waited != nil && ctx.Err() != nil:
			return err // which tells what it has waited for
		case waited != nil:
			return waited
		}
		// By its position MariaDB locks the event before without a gap.
		if err := b.mustLookUp(ctx, c, a, after, &h); err != nil {
			return err
		}
	}
	return b.insertHinted(ctx, c, a, rows, h, false)
}

// insertHinted runs the statement with what is known, and forgets that if it fails. With noWait it
// fails where it would have to wait for a lock.
func (b *sqlBackend) insertHinted(ctx context.Context, c conn, a *appendRequest, rows []record, h appendHint, noWait bool) error {
	text, args := b.guardedInsert(a, rows, h)
	if noWait {
		text = b.text.numbered.noWait + text
	}
	at := h.at(a)
	floor := Position(b.sealer.floor.Load())
	err := b.insertValues(ctx, c, h, text, args, len(rows), func(i int) *record {
		rows[i].version, rows[i].recordedAt = h.version+int64(i)+1, at
		return &rows[i]
	})
	if err == nil && rows[0].position <= floor {
		err = b.takeBack(ctx, c, rows)
	}
	switch {
	case err != nil:
		b.hints.forget(a.stream, a.aggregateID)
	case c.tx == nil:
		b.hints.advance(a.stream, a.aggregateID, h.version+int64(len(rows)))
	}
	return err
}

// takeBack deletes rows that were given positions below the floor, which is known only when they are stored.
func (b *sqlBackend) takeBack(ctx context.Context, c conn, rows []record) error {
	err := b.belowFloor()
	if dropped := b.dropRows(context.WithoutCancel(ctx), c, rows); dropped != nil {
		return fmt.Errorf("%w; they are stored nevertheless, from position %d on: %w", err, rows[0].position, dropped)
	}
	return err
}

// insertValues runs an INSERT of n rows, and tells each of them its position.
func (b *sqlBackend) insertValues(ctx context.Context, c conn, h appendHint, text string, args []any, n int, row func(i int) *record) error {
	if h.can.returning {
		i := 0
		return c.returning(ctx, func(r *sql.Rows) error {
			i++
			return r.Scan((*int64)(&row(i - 1).position))
		}, text+b.text.numbered.positions, args...)
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
	answer := async(res.LastInsertId)
	t := time.NewTimer(resultPatience)
	defer t.Stop()
	select {
	case <-answer.ended:
		id := answer.wait()
		return id.value, id.err
	case <-t.C:
	}
	var position int64
	if found, err := c.row(ctx, []any{&position}, b.text.append.positionOf, b.dialect.eventID(first.id)); found || err != nil {
		return position, err
	}
	id := answer.wait() // it has been deleted meanwhile
	return id.value, id.err
}

// resultPatience is more than a result takes that need not wait.
const resultPatience = time.Millisecond

func (b *sqlBackend) guardedInsert(a *appendRequest, rows []record, h appendHint) (string, []any) {
	args := make([]any, 0, 8*len(rows)+5)
	first, firstV, firstP := b.text.numbered.one.first, b.text.numbered.one.afterVersion, b.text.numbered.one.afterPosition
	if len(rows) > 1 {
		first, firstV, firstP = b.text.numbered.many.first, b.text.numbered.many.afterVersion, b.text.numbered.many.afterPosition
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
	return b.text.numbered.insert + first + strings.Repeat(", "+b.text.numbered.row, len(rows)-1), args
}

// groupGuarded is insertGuarded for several appends, with one guard for all of them: either all are
// stored, or none. Those of which something has to be looked up, or is known to be in the way, are
// left out.
func (b *sqlBackend) groupGuarded(ctx context.Context, calls []*appendRequest) ([]bool, error) {
	stored := make([]bool, len(calls))
	hints := make([]appendHint, len(calls))
	for i, a := range calls {
		h, known := b.hints.get(a.stream, a.aggregateID, a.lastEvent, false)
		hints[i], stored[i] = h, known && h.can.noWait && !b.hints.isPast(a.stream, a.aggregateID, h.version)
	}
	text, args, rows := b.guardedGroup(calls, hints, stored)
	if len(rows) == 0 {
		return stored, nil
	}
	floor := Position(b.sealer.floor.Load())
	err := b.insertValues(ctx, b.conn(), appendHint{can: capabilities{returning: true}}, text, args, len(rows), func(i int) *record { return rows[i] })
	if err == nil && rows[0].position <= floor {
		stored := make([]record, len(rows))
		for i, r := range rows {
			stored[i] = *r
		}
		err = b.takeBack(ctx, b.conn(), stored)
	}
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
func (b *sqlBackend) guardedGroup(calls []*appendRequest, hints []appendHint, wanted []bool) (text string, args []any, rows []*record) {
	var streams []int64
	var ids, versions, positions, values []any // of the streams, of the events before, of the rows
	for i, a := range calls {
		if !wanted[i] {
			continue
		}
		h := &hints[i]
		if !slices.Contains(streams, h.stream) {
			streams = append(streams, h.stream)
			ids = append(ids, h.stream)
		}
		switch {
		case h.position > 0:
			positions = append(positions, int64(h.position), h.stream, a.aggregateID, h.version)
		case h.version > 0:
			versions = append(versions, h.stream, a.aggregateID, h.version)
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
	text = b.text.numbered.group + placeholders(len(ids)) + b.text.numbered.groupStreams
	guard := func(head, key string, previous []any) {
		width := strings.Count(key, "?")
		if n := len(previous) / width; n > 0 {
			previous = padded(previous, width, len(rows))
			text += head + strings.TrimSuffix(strings.Repeat(key+", ", len(previous)/width), ", ") + b.text.numbered.groupLocked
			args = append(append(args, previous...), n)
		}
	}
	guard(b.text.numbered.groupVersions, "(?, ?, ?)", versions)
	guard(b.text.numbered.groupPositions, "(?, ?, ?, ?)", positions)
	text += b.text.numbered.groupFirst + strings.Repeat(", "+b.text.numbered.row, len(rows)-1)
	return text, append(args, values[1:]...), rows
}

// padded repeats the first n values of a list until it is that of so many rows.
func padded(list []any, n, rows int) []any {
	for len(list) < n*rows {
		list = append(list, list[:n]...)
	}
	return list
}
