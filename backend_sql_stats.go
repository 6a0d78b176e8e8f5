// Statistics from a database.

package eventstore

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"strings"
	"time"
)

// recordedAgo is when an event was recorded, as time that has gone by since.
type recordedAgo struct {
	position Position
	ago      time.Duration
}

func (b *sqlBackend) stats(ctx context.Context) (st Stats, err error) {
	// What is read behind this can only be further on than what sealing has seen.
	sealed, stalled := b.sealer.state()
	err = b.run(ctx, "stats", func(c conn) error {
		st = Stats{Sealed: sealed, Hole: stalled.at, Waited: stalled.waited}
		if _, err := c.row(ctx, []any{&st.Last}, b.text.read.lastPosition); err != nil {
			return err
		}
		infos, err := b.listProjections(ctx, c)
		if err != nil {
			return err
		}
		var behind []Position
		for _, info := range infos {
			st.Projections = append(st.Projections, ProjectionStats{ProjectionInfo: info})
			if info.Position < sealed {
				behind = append(behind, info.Position)
			}
		}
		next, err := b.nextEvents(ctx, c, behind, sealed)
		if err != nil {
			return err
		}
		for i := range st.Projections {
			// Each of these is an event, and the next one of every projection is among them: so the
			// first behind a projection is its next.
			p := &st.Projections[i]
			n, _ := slices.BinarySearchFunc(next, p.Position+1, recordedAt)
			if n < len(next) {
				p.Behind = max(0, next[n].ago)
			}
		}
		return nil
	})
	return st, err
}

const (
	nextAtOnce = 32   // positions that nextEvents asks for with one statement
	nextWindow = 1000 // positions behind each in which that statement looks for an event
)

// nextEvents returns the event that comes next after each of the positions, if there is one up to a
// last position, in order.
func (b *sqlBackend) nextEvents(ctx context.Context, c conn, after []Position, last Position) (out []recordedAgo, err error) {
	slices.Sort(after)
	after = slices.Compact(after)
	find := func(after []Position, last func(Position) Position) error {
		text, args := b.nextStatement(after, last)
		return c.query(ctx, func(rows *sql.Rows) error {
			var r recordedAgo
			var micros int64
			err := rows.Scan(&r.position, &micros)
			r.ago = time.Duration(micros) * time.Microsecond
			out = append(out, r)
			return err
		}, text, args...)
	}
	window := func(p Position) Position { return min(last, p+nextWindow) }
	for i, p := range after {
		after[i] = b.sealer.eventless.skip(p)
	}
	for after := range slices.Chunk(slices.Compact(after), nextAtOnce) {
		if err := find(after, window); err != nil {
			return nil, err
		}
	}
	near := slices.Clone(out)
	slices.SortFunc(near, byRecordedPosition)
	for _, p := range after {
		if n, _ := slices.BinarySearchFunc(near, p+1, recordedAt); window(p) == last || n < len(near) && near[n].position <= window(p) {
			continue
		}
		// There may be any number of gap rows, but no more than once.
		from := b.sealer.eventless.skip(p)
		found := len(out)
		if err := find([]Position{from}, func(Position) Position { return last }); err != nil {
			return nil, err
		}
		if c.tx == nil {
			to := last
			if len(out) > found {
				to = out[found].position - 1
			}
			b.sealer.eventless.add(span{from + 1, to})
		}
	}
	slices.SortFunc(out, byRecordedPosition)
	return out, nil
}

func byRecordedPosition(x, y recordedAgo) int { return cmp.Compare(x.position, y.position) }

func recordedAt(r recordedAgo, at Position) int { return cmp.Compare(r.position, at) }

// nextStatement asks for each position by a SELECT of its own, with the position as a constant. As a
// column of the projections MySQL and MariaDB would not look it up: they read all events before it.
func (b *sqlBackend) nextStatement(after []Position, last func(Position) Position) (string, []any) {
	var args []any
	for _, p := range after {
		args = append(args, int64(p), int64(last(p)))
	}
	for n := len(after); n&(n-1) != 0; n++ { // few texts for all numbers, which stay prepared
		args = append(args, args[0], args[1])
	}
	return strings.TrimSuffix(strings.Repeat(b.text.read.nextEvent+"\nUNION ALL\n", len(args)/2), "\nUNION ALL\n"), args
}
