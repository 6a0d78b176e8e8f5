// The generators of positions and of stream ids: how it is noticed that one has fallen behind what is
// stored, and how Install raises it.

package eventstore

import (
	"context"
	"strconv"
	"strings"
	"time"
)

// A generator falls behind where tables are restored in part, copied, or replicated without it. Then a
// position is handed out once more that was sealed before, and that no reader looks at again. Where a row
// stands at it, the primary key refuses it. Where none does (events were deleted, or a span was passed over)
// it is below the mark. So each process knows a floor, which is the mark, or what it has sealed itself since,
// and no append is given a position at or below it. The mark is asked for at most once a minute; what was
// sealed meanwhile has rows, unless it was deleted or passed over within that minute.
const (
	floorAge = time.Minute
	// spareConnTime is how long an append in a transaction waits for a connection to ask for the floor.
	spareConnTime  = 50 * time.Millisecond
	spareConnPause = 10 * time.Second // until the next tries
)

// learnFloor finds out the floor for appends, if that was long ago, and whether positions are handed out in
// order. For an append in a transaction it asks outside, and does without if no connection is free: read in
// the transaction, the mark would be locked until its end, or make it fail, at the highest isolation level.
func (b *sqlBackend) learnFloor(ctx context.Context) error {
	z := b.sealer
	now := time.Since(z.began)
	if due := z.floorDue.Load(); int64(now) < due {
		return nil
	}
	c := conn{b: b}
	if b.tx != nil {
		if st := b.db.Stats(); st.MaxOpenConnections > 0 && st.InUse >= st.MaxOpenConnections {
			return nil
		}
		limited, cancel := context.WithTimeout(ctx, spareConnTime)
		defer cancel()
		one, err := b.db.Conn(limited)
		if err != nil {
			z.floorDue.Store(int64(now + spareConnPause))
			return nil //nolint:nilerr // the append itself finds out what is wrong, if anything is
		}
		defer func() { _ = one.Close() }() // gives it back
		c.one = one
	}
	if err := b.readFloor(ctx, c); err != nil {
		if c.one != nil && b.dialect.classify(err) == faultLost {
			// A driver whose time runs out in the moment when it has opened a connection may close that again.
			// The transaction has a connection of its own.
			z.floorDue.Store(int64(now + spareConnPause))
			return nil
		}
		return err
	}
	z.floorDue.Store(int64(now + floorAge))
	return nil
}

func (b *sqlBackend) readFloor(ctx context.Context, c conn) error {
	var mark Position
	if _, err := c.row(ctx, []any{&mark}, b.text.seal.mark); err != nil {
		return err
	}
	b.sealer.raiseFloor(mark)
	_, err := b.checkGenerator(ctx, c)
	return err
}

// checkGenerator returns an error if what hands out positions is not in order: if it is behind what is
// stored, or has numbers that sessions keep for later. It reports whether the role may know the former.
func (b *sqlBackend) checkGenerator(ctx context.Context, c conn) (known bool, err error) {
	if b.text.seal.generator == "" {
		return true, nil
	}
	var last, highest, cache int64
	found, err := c.row(ctx, []any{&last, &cache, &highest}, b.text.seal.generator)
	switch {
	case err != nil || !found: // positions have a default of the caller's
		return false, err
	case cache > 1:
		return false, inconsistent("the sequence of %sevents.position has CACHE %d, which hands out an aggregate's positions in another order than its versions: call Store.Install, which sets CACHE 1", b.prefix, cache)
	case last >= 0 && last < highest:
		return false, inconsistent("the sequence of %sevents.position stands at %d, below position %d, which has been in use: call Store.Install, which raises it", b.prefix, last, highest)
	}
	return last >= 0, nil
}

// belowFloor is the error of an append that was given a position at or below the floor.
func (b *sqlBackend) belowFloor() error {
	return inconsistent("an append was given a position below %d, up to which all is sealed, so that no projection would see its events: call Store.Install, which raises the generator of positions", b.sealer.floor.Load()+1)
}

// idTaken is the error of a new stream whose id is another's.
func (b *sqlBackend) idTaken() error {
	return inconsistent("a new stream was given an id that is in use: call Store.Install, which raises the generator of ids")
}

// raiseGenerators raises generators above what is stored and sealed.
func (b *sqlBackend) raiseGenerators(ctx context.Context, c conn) error {
	behind, err := b.behind(ctx, c)
	if b.dialect.classify(err) == faultDenied && c.tx == nil {
		return nil // a role that may make tables, and not look at them
	}
	if err != nil || behind == (generators{}) {
		return err
	}
	if b.text.install.lockGenerators != "" {
		// Appends go on until here, and none comes in between.
		if _, err := c.exec(ctx, b.text.install.lockGenerators); err != nil {
			return err
		}
		if behind, err = b.behind(ctx, c); err != nil {
			return err
		}
	}
	if behind.cached {
		if _, err := c.exec(ctx, b.text.install.uncache); err != nil {
			return err
		}
	}
	if behind.positions > 0 {
		text, args := b.text.install.raisePositions, []any{behind.positions}
		if text == "" {
			text = b.text.seal.insertGaps + b.text.seal.gapRow + b.text.seal.insertGapsTail
			args = append(args, -behind.positions, b.dialect.eventID(gapID(Position(behind.positions))))
		}
		if _, err := c.exec(ctx, text, args...); err != nil {
			return err
		}
	}
	if behind.streams > 0 {
		// A statement that defines data takes no parameters.
		_, err = c.exec(ctx, strings.ReplaceAll(b.text.install.raiseStreams, "?", strconv.FormatInt(behind.streams+1, 10)))
	}
	return err
}

// generators are the numbers that generators have to be raised to, zero for one that is in order, and whether
// sessions keep positions for later.
type generators struct {
	positions, streams int64
	cached             bool
}

func (b *sqlBackend) behind(ctx context.Context, c conn) (g generators, err error) {
	_, err = c.row(ctx, []any{&g.positions, &g.cached, &g.streams}, b.text.install.generators)
	return g, err
}
