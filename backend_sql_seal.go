// Sealing in a database: the argument why no reader misses an event, and the statements that
// carry it out.

package eventstore

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	sealWindow = 10000 // positions looked at with one statement
	markEvery  = 1000  // positions after which the database is told

	// maxGapRows is how many gap rows a look inserts before it lets others have their turn.
	maxGapRows = 10000
	// spanPatience is how long a long span waits to be passed over, if it is short enough for gap rows.
	spanPatience = 200 * time.Millisecond
)

// seal looks, moves the sealed position as far as it can, and returns it. It is settled unless
// another look soon can get further: a hole has been seen for the first time, and nearly all of those
// are filled within milliseconds; or the look had enough to do. Calls that wait while a look is under
// way share the next one. Inside a caller's transaction seal returns what of that has been sealed
// before, and can be seen there.
func (b *sqlBackend) seal(ctx context.Context) (p Position, settled bool, err error) {
	if b.tx != nil {
		err = b.run(ctx, "seal", func(c conn) (err error) {
			p, err = b.sealedInside(ctx, c)
			return err
		})
		return p, true, err
	}
	leave, err := b.enter(ctx)
	if err != nil {
		return 0, false, err
	}
	defer leave()
	z := b.sealer
	before := z.begun.Load()
	select {
	case <-ctx.Done():
		return 0, false, ctx.Err()
	case <-z.turn:
	}
	var told []notice
	defer func() {
		z.turn <- struct{}{}
		// Not before, since a logger may do anything, and take any time.
		for _, n := range told {
			b.log.WarnContext(ctx, n.text, n.args...)
		}
	}()
	if z.last.number > before {
		return z.last.sealed, z.last.settled, nil
	}
	number := z.begun.Add(1)
	err = b.run(ctx, "seal", func(c conn) (err error) {
		defer z.publish()
		if !z.known {
			if err := b.readMark(ctx, c); err != nil {
				return err
			}
		}
		if settled, err = b.look(ctx, c); err == nil {
			told = z.watch()
			z.last = lookOutcome{number, z.sealed, settled}
		}
		p = z.sealed
		z.told.Store(int64(z.marked))
		return err
	})
	return p, settled, err
}

// sealedInside returns the highest position up to which a transaction sees all that is sealed. Its
// snapshot may be older than what this process has sealed since, and hold an event at 8 without the
// one at 7, which was committed later. A transaction that sees the mark sees all that was committed
// before it was written; from there on every position counts that can be seen, until one is missing.
func (b *sqlBackend) sealedInside(ctx context.Context, c conn) (p Position, err error) {
	sealed, _ := b.sealer.state()
	if _, err := c.row(ctx, []any{&p}, b.text.seal.mark); err != nil || p >= sealed {
		return p, err
	}
	missing := false
	// No more of them than are sealed: where reads take locks, they would wait for what is in flight.
	err = c.query(ctx, func(rows *sql.Rows) error {
		var next Position
		if err := rows.Scan(&next); err != nil {
			return err
		}
		if missing = missing || next != p+1; !missing {
			p = next
		}
		return nil
	}, b.text.seal.positionsAfter, int64(p), min(int64(sealed-p), sealWindow))
	return p, err
}

func (b *sqlBackend) readMark(ctx context.Context, c conn) error {
	z := b.sealer
	var mark Position
	if _, err := c.row(ctx, []any{&mark}, b.text.seal.mark); err != nil {
		return err
	}
	if err := b.checkMark(mark, true); err != nil {
		return err
	}
	z.known = true
	z.sealed, z.marked = max(z.sealed, mark), max(z.marked, mark)
	return nil
}

// checkMark returns an error if a mark that has just been read, and whether the event or gap row at the
// sealed position is there, say that the tables are not those in which positions were sealed: the mark only
// grows, and no row above it is ever deleted.
func (b *sqlBackend) checkMark(mark Position, there bool) error {
	z := b.sealer
	if mark >= z.marked && (there || mark >= z.sealed) {
		return nil
	}
	return inconsistent("position %d was sealed, and the tables %sevents and %smeta don't have it: they were emptied or restored while this store was in use. What is stored anew would be skipped: end what uses the store and open it anew", max(z.sealed, z.marked), b.prefix, b.prefix)
}

// look advances the sealed position.
func (b *sqlBackend) look(ctx context.Context, c conn) (settled bool, err error) {
	z := b.sealer
	for rows := maxGapRows; ; {
		var n, first, last int64
		var mark Position
		if _, err := c.row(ctx, []any{&n, &first, &last, &mark}, limited(b.text.seal.span, sealWindow), int64(z.sealed)); err != nil {
			return false, err
		}
		full := n == sealWindow
		there := z.sealed == 0 || first == int64(z.sealed)
		if err := b.checkMark(mark, there); err != nil {
			return false, err
		}
		if there && z.sealed > 0 {
			n-- // what is sealed
		}
		// What stands here, or stood behind it and is deleted, may have been sealed by another process.
		z.marked = max(z.marked, mark)
		if n == 0 {
			z.holes, z.proof = nil, nil
			z.sealed = max(z.sealed, mark)
			return true, nil
		}
		if last-int64(z.sealed) == n {
			z.holes, z.proof = nil, nil
			if err := b.advance(ctx, c, max(Position(last), mark)); err != nil || !full {
				return true, err
			}
			continue
		}
		further, settled, err := b.lookAtHoles(ctx, c, &rows)
		if err != nil || !further {
			return settled, err
		}
		if rows <= 0 {
			return false, nil
		}
	}
}

// lookAtHoles advances to the first hole and deals with all of the window. It reports whether another
// look gets further at once, and takes the gap rows that it has inserted from rows.
func (b *sqlBackend) lookAtHoles(ctx context.Context, c conn, rows *int) (further, settled bool, err error) {
	z := b.sealer
	// What another process has sealed may have been deleted since.
	if err := b.readMark(ctx, c); err != nil {
		return false, false, err
	}
	// The order of these statements matters: a writer that is over by the first two has made its row
	// visible to the third, if it ever will.
	writers, err := b.writers(ctx, c)
	if err == nil {
		err = b.prove(ctx, c)
	}
	if err != nil {
		return false, false, err
	}
	missing, first, last, err := b.missing(ctx, c)
	if err != nil {
		return false, false, err
	}
	if len(missing) == 0 {
		return true, true, b.advance(ctx, c, first)
	}
	gaps, isNew := z.carry(missing)
	for i, g := range gaps {
		// Those that were first seen at once, and follow each other, share what is known of them.
		if g.hole != nil && (i == 0 || g.hole != gaps[i-1].hole) {
			g.narrow(writers)
		}
	}
	var fresh *hole
	if isNew {
		if writers, err = b.writers(ctx, c); err != nil {
			return false, false, err
		}
		fresh = &hole{writers: writers, seen: z.now()}
		for i := range gaps {
			if gaps[i].hole == nil {
				gaps[i].hole = fresh
			}
		}
	}
	z.holes = gaps
	done, waiting, err := b.close(ctx, c, gaps, fresh, rows)
	if err != nil {
		return false, false, err
	}
	n, passed := 0, false
	for ; n < len(gaps) && done[n] != stillOpen; n++ {
		passed = passed || done[n] == passedOver
		first = last
		if n+1 < len(gaps) {
			first = gaps[n+1].from - 1
		}
	}
	further = n > 0 || slices.Contains(done, filled)
	if passed {
		// All sealers have to know this from the mark: there are no rows that tell it.
		return further, !isNew && !waiting, b.setMark(ctx, c, first)
	}
	return further, !isNew && !waiting, b.advance(ctx, c, first)
}

// missing returns the spans of positions of the window that do not exist, the last position before the
// first of them, and the last of the window.
func (b *sqlBackend) missing(ctx context.Context, c conn) (missing []span, first, last Position, err error) {
	first = b.sealer.sealed
	last = first
	err = c.query(ctx, func(rows *sql.Rows) error {
		var p Position
		if err := rows.Scan(&p); err != nil {
			return err
		}
		if p > last+1 {
			missing = append(missing, span{last + 1, p - 1})
		}
		if last = p; len(missing) == 0 {
			first = p
		}
		return nil
	}, limited(b.text.seal.positions, sealWindow), int64(first))
	return missing, first, last, err
}

// closing is what became of a gap.
type closing int

const (
	stillOpen  closing = iota
	filled             // there is a row at each of its positions
	passedOver         // it needs none
)

// close closes gaps that no transaction can fill any more, as far as rows last, but leaves fresh ones
// for the next look. It reports what became of each, and whether some wait for a proof that may come
// soon.
func (b *sqlBackend) close(ctx context.Context, c conn, gaps []knownGap, fresh *hole, rows *int) (done []closing, waiting bool, err error) {
	done = make([]closing, len(gaps))
	var dead, long []int
	for i, g := range gaps {
		switch {
		case g.hole == fresh || len(g.writers) > 0:
		case g.size() <= longSpan:
			dead = append(dead, i)
		default:
			long = append(long, i)
		}
	}
	seen := true
	if len(long) > 0 {
		if seen, err = b.checkGenerator(ctx, c); err != nil {
			return nil, false, err
		}
	}
	for _, i := range long {
		switch g := gaps[i]; {
		case seen && (g.proven || b.text.seal.lockStreams == ""):
			done[i] = passedOver
		case seen && b.sealer.now().Sub(g.seen) < spanPatience:
			waiting = true
		case g.size() <= maxGapRows:
			dead = append(dead, i)
		case !seen:
			return nil, false, inconsistent("the positions from %d to %d are missing, and the role may not see whether the sequence of %sevents.position can still hand them out: grant it SELECT on the sequence", g.from, g.to, b.prefix)
		}
	}
	slices.Sort(dead)
	// Holes can be as many as events: where numbers are handed out in steps, as in a cluster of
	// several writers, nearly all are never used.
	for len(dead) > 0 {
		n, sum := 0, 0
		for n < len(dead) && n < lockedAtOnce && sum+int(gaps[dead[n]].size()) <= *rows {
			sum += int(gaps[dead[n]].size())
			n++
		}
		if n == 0 {
			*rows = 0 // the rest is for the next look
			break
		}
		spans := make([]span, n)
		for i := range spans {
			spans[i] = gaps[dead[i]].span
		}
		free, err := b.notInFlight(ctx, c, spans)
		if err != nil {
			return nil, false, err
		}
		if err := b.fill(ctx, c, free); err != nil {
			return nil, false, err
		}
		for _, i := range dead[:n] {
			if slices.Contains(free, gaps[i].span) {
				done[i] = filled
				*rows -= int(gaps[i].size())
			}
		}
		dead = dead[n:]
	}
	return done, waiting, nil
}

// writers returns the transactions that have the events table locked for writing, where the
// database tells.
func (b *sqlBackend) writers(ctx context.Context, c conn) (out []writer, err error) {
	if b.text.seal.writers == "" {
		return nil, nil
	}
	err = c.query(ctx, func(rows *sql.Rows) error {
		var w writer
		err := rows.Scan(&w.id, &w.prepared)
		out = append(out, w)
		return err
	}, b.text.seal.writers)
	return out, err
}

// notInFlight returns those spans in which no row stands that is not yet committed, where the
// database answers such a question by a lock. It asks without waiting.
func (b *sqlBackend) notInFlight(ctx context.Context, c conn, spans []span) ([]span, error) {
	if b.text.seal.lockSpans == "" {
		return spans, nil
	}
	alive, err := b.spansInFlight(ctx, c, spans)
	if err != nil || !alive {
		return spans, err
	}
	var out []span
	for i := range spans {
		if len(spans) > 1 { // or else it has just been asked
			if alive, err = b.spansInFlight(ctx, c, spans[i:i+1]); err != nil {
				return nil, err
			}
		}
		if !alive {
			out = append(out, spans[i])
		}
	}
	return out, nil
}

// fill puts gap rows in spans, but for positions that exist by now.
func (b *sqlBackend) fill(ctx context.Context, c conn, spans []span) error {
	const most = 500
	var args []any
	for i, r := range spans {
		for p := r.from; p <= r.to; p++ {
			args = append(args, int64(p), int64(-p), b.dialect.eventID(gapID(p)))
			n := len(args) / 3
			if n < most && (p < r.to || i < len(spans)-1) {
				continue
			}
			text := b.text.seal.insertGaps + strings.TrimSuffix(strings.Repeat(b.text.seal.gapRow+", ", n), ", ") + b.text.seal.insertGapsTail
			if _, err := c.exec(ctx, text, args...); err != nil {
				return fmt.Errorf("gap rows up to %d: %w", p, err)
			}
			args = args[:0]
		}
	}
	return nil
}

// advance moves the sealed position, and tells the database from time to time, the first time at once: by
// the mark it is noticed if the tables are emptied.
func (b *sqlBackend) advance(ctx context.Context, c conn, p Position) error {
	z := b.sealer
	if p = max(p, z.sealed); p-z.marked >= markEvery || z.marked == 0 && p > 0 {
		return b.setMark(ctx, c, p)
	}
	z.sealed = p
	return nil
}

// setMark tells the database a sealed position, and then moves to it.
func (b *sqlBackend) setMark(ctx context.Context, c conn, p Position) error {
	if _, err := c.exec(ctx, b.text.seal.setMark, int64(p), int64(p)); err != nil {
		return err
	}
	b.sealer.sealed, b.sealer.marked = p, max(b.sealer.marked, p)
	return nil
}
