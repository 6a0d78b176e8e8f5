// Sealing in a database: the argument why no reader misses an event, and the statements that
// carry it out.

package eventstore

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
)

const (
	sealWindow = 10000 // positions looked at with one statement
	markEvery  = 1000  // positions after which the database is told

	lockedAtOnce = 64 // spans of holes that are asked after with one statement
)

// seal looks, moves the sealed position as far as it can, and returns it. It is settled unless a
// hole has been seen for the first time: nearly all of those are filled within milliseconds, so
// they are left for the next look. Inside a caller's transaction it returns what of that has been
// sealed before, and can be seen there.
func (b *sqlBackend) seal(ctx context.Context) (p Position, settled bool, err error) {
	z := b.sealer
	select {
	case <-ctx.Done():
		return 0, false, ctx.Err()
	case <-z.lock:
	}
	var told []notice
	defer func() {
		z.lock <- struct{}{}
		// Not before, since a logger may do anything, and take any time.
		for _, n := range told {
			b.log.WarnContext(ctx, n.text, n.args...)
		}
	}()
	settled = true
	err = b.run(ctx, "seal", func(c conn) (err error) {
		if c.tx != nil {
			p, err = b.sealedInside(ctx, c)
			return err
		}
		if !z.known {
			if _, err := b.readMark(ctx, c); err != nil {
				return err
			}
		}
		if settled, err = b.look(ctx, c); err == nil {
			told = z.watch()
		}
		p = z.sealed
		z.told.Store(int64(z.marked))
		return err
	})
	return p, settled, err
}

// sealedInside returns the highest position up to which a transaction sees all that is sealed. Its
// snapshot may be older than what this process has sealed since, and hold an event at 8 without the
// one at 7, which was committed later. Whoever sees the mark sees all that was committed before it
// was written; from there on every position counts that can be seen, until one is missing.
func (b *sqlBackend) sealedInside(ctx context.Context, c conn) (Position, error) {
	p, err := b.readMark(ctx, c)
	if err != nil || p == b.sealer.sealed {
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
	}, b.text.seal.positionsAfter, int64(p), min(int64(b.sealer.sealed-p), sealWindow))
	return p, err
}

func (b *sqlBackend) readMark(ctx context.Context, c conn) (mark Position, err error) {
	if _, err := c.row(ctx, []any{&mark}, b.text.seal.mark); err != nil {
		return 0, err
	}
	b.sealer.known = true
	b.sealer.sealed, b.sealer.marked = max(b.sealer.sealed, mark), max(b.sealer.marked, mark)
	return mark, nil
}

// look advances the sealed position.
func (b *sqlBackend) look(ctx context.Context, c conn) (settled bool, err error) {
	z := b.sealer
	for {
		var n, last int64
		var mark Position
		if _, err := c.row(ctx, []any{&n, &last, &mark}, limited(b.text.seal.span, sealWindow), int64(z.sealed)); err != nil {
			return false, err
		}
		// What stands here, or stood behind it and is deleted, may have been sealed by another process.
		z.marked = max(z.marked, mark)
		if n == 0 {
			clear(z.holes)
			z.sealed = max(z.sealed, mark)
			return true, nil
		}
		if last-int64(z.sealed) == n {
			clear(z.holes)
			if err := b.advance(ctx, c, max(Position(last), mark)); err != nil || n < sealWindow {
				return true, err
			}
			continue
		}
		filled, settled, err := b.lookAtHoles(ctx, c)
		if err != nil || !filled {
			return settled, err
		}
	}
}

// lookAtHoles advances to the first hole and deals with all of them. It reports whether it filled
// any, so that another look gets further at once.
func (b *sqlBackend) lookAtHoles(ctx context.Context, c conn) (filled, settled bool, err error) {
	z := b.sealer
	// What another process has sealed may have been deleted since.
	if _, err := b.readMark(ctx, c); err != nil {
		return false, false, err
	}
	// The order of these two statements matters: a writer that is over by the first has made its
	// row visible to the second, if it ever will.
	writers, err := b.writers(ctx, c)
	if err != nil {
		return false, false, err
	}
	missing, first, err := b.missing(ctx, c)
	if err != nil {
		return false, false, err
	}
	if err := b.advance(ctx, c, first); err != nil || len(missing) == 0 {
		return len(missing) == 0, true, err
	}

	var fresh, dead []Position
	var narrowed *hole // positions that were first seen at once follow each other
	known := make(map[Position]*hole, len(missing))
	for _, p := range missing {
		h, seen := z.holes[p]
		if !seen {
			fresh = append(fresh, p)
			continue
		}
		if h != narrowed {
			h.narrow(writers)
			narrowed = h
		}
		if len(h.writers) == 0 {
			dead = append(dead, p)
		}
		known[p] = h
	}
	z.holes = known
	if len(fresh) > 0 {
		if writers, err = b.writers(ctx, c); err != nil {
			return false, false, err
		}
		h := &hole{writers: writers, seen: z.now()}
		for _, p := range fresh {
			z.holes[p] = h
		}
	}
	// Holes can be as many as events: where numbers are handed out in steps, as in a cluster of
	// several writers, nearly all are never used.
	for spans := range slices.Chunk(ranges(dead), lockedAtOnce) {
		spans, err := b.notInFlight(ctx, c, spans)
		if err != nil {
			return false, false, err
		}
		if err := b.fill(ctx, c, spans); err != nil {
			return false, false, err
		}
		filled = filled || len(spans) > 0
	}
	return filled, len(fresh) == 0, nil
}

// missing returns the positions of the window that do not exist, and the last before the first of
// them.
func (b *sqlBackend) missing(ctx context.Context, c conn) (missing []Position, first Position, err error) {
	first = b.sealer.sealed
	next := first + 1
	err = c.query(ctx, func(rows *sql.Rows) error {
		var p Position
		if err := rows.Scan(&p); err != nil {
			return err
		}
		if len(missing) == 0 && p == next {
			first = p
		}
		for ; next < p; next++ {
			missing = append(missing, next)
		}
		next = p + 1
		return nil
	}, limited(b.text.seal.positions, sealWindow), int64(first))
	return missing, first, err
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
	alive, err := b.inFlight(ctx, c, spans)
	if err != nil || !alive {
		return spans, err
	}
	var out []span
	for i := range spans {
		if len(spans) > 1 { // or else it has just been asked
			if alive, err = b.inFlight(ctx, c, spans[i:i+1]); err != nil {
				return nil, err
			}
		}
		if !alive {
			out = append(out, spans[i])
		}
	}
	return out, nil
}

func (b *sqlBackend) inFlight(ctx context.Context, c conn, spans []span) (bool, error) {
	var args []any
	for _, r := range spans {
		args = append(args, int64(r.from), int64(r.to))
	}
	for n := len(spans); n > 1 && n < lockedAtOnce; n++ { // two texts for all, which stay prepared
		args = append(args, args[0], args[1])
	}
	list := strings.TrimSuffix(strings.Repeat(b.text.seal.lockSpan+" OR ", len(args)/2), " OR ")
	_, err := c.row(ctx, []any{new(int64)}, b.text.seal.lockSpans+list+b.text.seal.lockTail, args...)
	if b.dialect.classify(err) == faultRetry {
		return true, nil
	}
	return false, err
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

func (b *sqlBackend) advance(ctx context.Context, c conn, p Position) error {
	z := b.sealer
	z.sealed = max(z.sealed, p)
	if z.sealed-z.marked < markEvery {
		return nil
	}
	if _, err := c.exec(ctx, b.text.seal.setMark, int64(z.sealed), int64(z.sealed)); err != nil {
		return err
	}
	z.marked = z.sealed
	return nil
}
