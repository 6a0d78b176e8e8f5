// Gathered writes of Tables: they wait in the transaction of a batch, and go out as few statements.

package eventstore

import (
	"context"
	"database/sql"
	"iter"
)

const (
	gatheredWrites = 1000    // go out, even if nothing asks for it
	gatheredBytes  = 1 << 20 // the same

	// sharedWrites is how many writes share a statement at most. It is a power of two, as all their numbers are, so
	// that a driver that keeps statements prepared has few texts to keep.
	sharedWrites = 128
	sharedArgs   = 1 << 15 // servers take twice as many
)

// gathering keeps the writes of a batch's handlers.
type gathering struct {
	facts  *factsOfTables
	writes []*tableWrite
	bytes  int
	err    error // what has made the writes fail, or nil
}

// add keeps a write, unless it is one that can't wait. The write's columns are then gathering's.
func (g *gathering) add(w *tableWrite) bool {
	if !keepValues(w.set.values) || !keepValues(w.where.values) {
		return false
	}
	g.writes = append(g.writes, w)
	g.bytes += w.size()
	return true
}

func (w *tableWrite) size() int { return statementSize(w.set.values) + statementSize(w.where.values) }

func (g *gathering) empty() bool { return g == nil || len(g.writes) == 0 }

func (g *gathering) full() bool { return len(g.writes) >= gatheredWrites || g.bytes >= gatheredBytes }

// failure is what has made writes fail. They are several handlers' then, and it is not known whose.
func (g *gathering) failure() error {
	if g == nil {
		return nil
	}
	return g.err
}

// flush makes all writes.
func (g *gathering) flush(ctx context.Context, tx *sql.Tx) error {
	if g.empty() || g.err != nil {
		return g.failure()
	}
	writes := g.writes
	g.writes, g.bytes = nil, 0
	g.err = survive(func() error {
		if err := g.facts.ask(ctx, tx, writes); err != nil {
			return err
		}
		for _, group := range groupWrites(writes, g.facts) {
			if err := group.exec(ctx, tx); err != nil {
				return err
			}
		}
		return nil
	})
	return g.err
}

// writeGroup is a list of writes of one shape, which share statements.
type writeGroup struct {
	shape  string
	writes []*tableWrite
	alone  bool            // nothing can be added
	unique bool            // no two writes may be of one row
	rows   map[string]bool // that they write
	moves  bool            // rows tells all that they touch
}

// groupWrites divides writes into groups that come to the same, one after the other, as the writes in their order.
// Writes can change places only if each touches one row that is known, in tables where that is all it touches.
func groupWrites(writes []*tableWrite, facts *factsOfTables) []*writeGroup {
	const most = 32 // groups that a write can go past
	var groups []*writeGroup
	for _, w := range writes {
		f := facts.of(w)
		row, known := f.row(w)
		moves := known && f.plain
		next := &writeGroup{shape: w.shape(), rows: map[string]bool{}, moves: moves}
		next.alone, next.unique = f.shares(w, known)
		for i := len(groups) - 1; i >= max(0, len(groups)-most); i-- {
			g := groups[i]
			if !next.alone && !g.alone && g.shape == next.shape && !(g.unique && g.rows[row]) {
				next = g
			}
			if !moves || !g.moves || g.rows[row] {
				break
			}
		}
		if len(next.writes) == 0 {
			groups = append(groups, next)
		}
		next.writes = append(next.writes, w)
		next.rows[row] = true
		next.moves = next.moves && moves
	}
	return groups
}

// exec makes a group's writes, in order.
func (g *writeGroup) exec(ctx context.Context, tx *sql.Tx) error {
	for writes := range g.shared() {
		if _, err := statementOf(writes).exec(ctx, tx); err != nil {
			return err
		}
	}
	return nil
}

// shared returns the writes in parts that a statement can have.
func (g *writeGroup) shared() iter.Seq[[]*tableWrite] {
	return func(yield func([]*tableWrite) bool) {
		for left := g.writes; len(left) > 0; {
			n := 1
			for n < sharedWrites && n*2 <= len(left) && fits(left[:n*2]) {
				n *= 2
			}
			if !yield(left[:n]) {
				return
			}
			left = left[n:]
		}
	}
}

func fits(writes []*tableWrite) bool {
	args, size := 0, 0
	for _, w := range writes {
		// An update repeats its condition for each column.
		args += len(w.set.values) + len(w.where.values)*(1+len(w.set.values))
		size += w.size()
	}
	return args <= sharedArgs && size <= smallStatement
}
