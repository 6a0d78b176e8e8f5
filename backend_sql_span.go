// Sealing over long spans of missing positions, which get no gap rows: the argument why no event can
// appear in them, and the statements that carry it out.

package eventstore

import (
	"context"
	"database/sql/driver"
	"slices"
	"strings"
	"time"
)

// A bulk load that is rolled back, a sequence that jumps at a fail-over, or auto_increment_increment
// leave spans of millions of positions, for which gap rows would take minutes and fill the table. A
// span is passed over without rows: the mark is written behind its end, and all sealers go on from
// there. What has to hold is that no transaction can commit a row in the span any more.
//
// The generator only grows, and a position behind the span exists. So each number of the span was handed
// out, if ever, before the span was first seen; what is left are transactions that were in flight then.
//
// On Postgres a number is handed out while its transaction has the events table locked, since the
// statement takes that lock before it runs, and keeps it until its end. All that had the lock when the
// span was first seen are known from pg_locks, and when they are over, what is still missing stays
// missing. A sequence that has been set back, or whose sessions keep numbers for later (CACHE), would
// break this: it is looked at before a span is passed over.
//
// On InnoDB a number is handed out to a statement that may insert its row much later, and leaves no trace
// until then. But each append first locks the row of its stream, in share mode and until its transaction
// ends, and only then is given numbers: the same lock that keeps a stream from being deleted under it. A
// moment at which another transaction can lock the stream's row exclusively is one at which no append to
// the stream is in flight. A proof collects such a moment for each stream, all of them after the span was
// first seen; they need not be the same one, since later appends are given numbers behind the span. The
// range of all ids is covered, so that a stream that was made in a transaction in flight counts too.
//
// That is about appends of this package, on the one server that is written to. Rows that others insert by hand,
// or that a prepared transaction has inserted before the server crashed, are found by a locking read of the
// span: it comes after the proof, and before the look reads what is missing, so that a row which is committed
// in between is seen there.

const (
	// longSpan is the length above which a span of dead positions is passed over without gap rows.
	longSpan = 100

	lockedAtOnce = 64 // spans that are asked after with one statement

	allIDs = 1<<63 - 1
	// maxProbes is how many ranges of ids a look asks after.
	maxProbes = 64
	// probePause is how long a proof goes without waiting for a lock, which holds up appends to the
	// stream for as long as it waits.
	probePause    = 250 * time.Millisecond
	longestProbes = time.Minute
)

// prove gets on with the proof for the long holes that were known before this look, where the database
// needs one.
func (b *sqlBackend) prove(ctx context.Context, c conn) error {
	z := b.sealer
	if b.text.seal.lockStreams == "" {
		return nil
	}
	var holes []*hole
	for _, g := range z.holes {
		if g.size() > longSpan && !g.proven && !slices.Contains(holes, g.hole) {
			holes = append(holes, g.hole)
		}
	}
	switch {
	case len(holes) == 0:
		z.proof = nil // other sealers have passed them over, or they have gap rows
		return nil
	case z.proof == nil:
		z.proof = &proof{holes: holes, pending: []idRange{{0, allIDs}}, waitAt: z.now().Add(probePause), pause: 10 * probePause}
	}
	p := z.proof
	if err := b.probe(ctx, c, p); err != nil {
		return err
	}
	if len(p.pending) > 0 && !z.now().Before(p.waitAt) {
		if err := b.waitForStreams(ctx, p); err != nil {
			return err
		}
		p.waitAt = z.now().Add(p.pause)
		p.pause = min(2*p.pause, longestProbes)
	}
	if len(p.pending) > 0 {
		return nil
	}
	var spans []span
	for _, g := range z.holes {
		if g.size() > longSpan && slices.Contains(p.holes, g.hole) {
			spans = append(spans, g.span)
		}
	}
	for some := range slices.Chunk(spans, lockedAtOnce) {
		if alive, err := b.spansInFlight(ctx, c, some); err != nil || alive {
			return err
		}
	}
	for _, h := range p.holes {
		h.proven = true
	}
	z.proof = nil
	return nil
}

// spansInFlight reports whether a row stands in one of the spans, or next to it, that is not yet committed.
func (b *sqlBackend) spansInFlight(ctx context.Context, c conn, spans []span) (bool, error) {
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

// probe asks, without waiting, which of the pending ranges are free of appends at this moment. A range
// that is not is asked after in parts.
func (b *sqlBackend) probe(ctx context.Context, c conn, p *proof) error {
	var left []idRange
	todo := p.pending
	for probes := 0; len(todo) > 0; probes++ {
		r := todo[0]
		todo = todo[1:]
		if probes == maxProbes {
			left = append(append(left, r), todo...)
			break
		}
		_, err := c.row(ctx, []any{new(int64)}, b.text.seal.lockStreams+b.text.seal.lockTail, r.from, r.to)
		if err == nil {
			continue
		}
		if b.dialect.classify(err) != faultRetry {
			return err
		}
		var low, high int64
		if _, err := c.row(ctx, []any{&low, &high}, b.text.seal.streamIDs, r.from, r.to); err != nil {
			return err
		}
		parts := r.split(low, high)
		if len(parts) == 1 {
			left = append(left, r)
			continue
		}
		todo = append(parts, todo...)
	}
	p.pending = left
	return nil
}

// waitForStreams locks all that is pending at once, and waits for the appends that are in flight; others to
// these streams wait meanwhile. It gives up after a second, which is the shortest time that a server can be
// told: a caller's transaction may stay open for longer. The time is the connection's, which does not go
// back to the pool.
func (b *sqlBackend) waitForStreams(ctx context.Context, p *proof) error {
	one, err := b.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() {
		_ = one.Raw(func(any) error { return driver.ErrBadConn })
		_ = one.Close() // fails, since the connection is gone
	}()
	c := conn{b: b, one: one}
	if _, err := c.exec(ctx, b.text.seal.waitShortly); err != nil {
		return err
	}
	for len(p.pending) > 0 {
		// One by one: of each range one moment is enough.
		r := p.pending[0]
		_, err := c.row(ctx, []any{new(int64)}, b.text.seal.lockStreams+b.text.seal.lockWaiting, r.from, r.to)
		if err != nil {
			if b.dialect.classify(err) == faultRetry {
				return nil
			}
			return err
		}
		p.pending = p.pending[1:]
	}
	return nil
}
