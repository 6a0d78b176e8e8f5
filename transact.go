// Store.Transact: a transaction of the store's own, which is run again when it loses a race.

package eventstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// transactRuns is how often Transact runs a transaction.
const transactRuns = 10

// Transact begins a transaction, calls fn with a store whose calls are part of it, and commits if fn
// returns nil. Any other outcome rolls it back, a panic and a [runtime.Goexit] included, which go on.
// What fn stores through tx becomes visible as a whole or not at all. It works on every store.
//
// A lost race has fn run again in a new transaction, with jittered back-off, up to 10 times in all:
//
//   - a [*ConflictError] or an [ErrRetryTx] that fn returns, wrapped or not,
//   - a deadlock or a serialisation failure, also of a statement of fn's own on [Store.Tx],
//   - a failed statement that fn has hidden, if the database refuses to commit for it,
//   - a connection that is lost before the COMMIT is sent.
//
// So fn decides on what it reads through tx, and has no effects elsewhere. After the last run Transact
// returns the error of that. Every other error of fn comes back as it is, at once, unless a call through tx
// has lost a race before: then fn has decided on what was out of date, and runs again. If the answer to the
// COMMIT is lost, the transaction may or may not be stored: Transact returns the connection's error, and
// does not run fn again. If ctx ends, the transaction is rolled back.
//
// The isolation is the default of the database's connections. On a memory store it is read committed: each
// call through tx sees what was committed when the call began, and what fn itself has done. Nobody waits
// for the transaction there: of two that change one aggregate the second to commit loses. On databases
// what [Store.WithTx] says of other writers holds. Readers never wait.
//
// Through tx, [Aggregate.Execute] and [Aggregate.Handle] try once, reads see what fn has appended, and no
// snapshots are stored. tx is for one goroutine at a time, and ends with fn: after that its calls return
// an error that wraps [sql.ErrTxDone]. Inside a transaction ([Store.WithTx], [Step.Store], tx itself) Transact
// returns [errors.ErrUnsupported].
//
// fn may also call s. That is outside the transaction and stays if it is rolled back. It must not append
// through s to an aggregate that it has changed through tx: on a database the append waits for the
// transaction, and in memory it makes the transaction lose. In a database a call of s needs a connection
// beside the transaction's. If transactions and handlers hold all connections that the pool may open, and
// all of them wait in such calls, a call returns [ErrInvalid]. That is noticed in the goroutine that called
// Transact; in others the call waits until its context ends.
func (s *Store) Transact(ctx context.Context, fn func(tx *Store) error) error {
	switch {
	case s.inTx:
		return fmt.Errorf("eventstore: Transact inside a transaction: %w", errors.ErrUnsupported)
	case fn == nil:
		return invalid("fn is nil")
	}
	for run := 1; ; run++ {
		again, err := s.transactOnce(ctx, fn)
		if !again || run == transactRuns || ctx.Err() != nil {
			return err
		}
		s.opts.Logger.DebugContext(ctx, "transaction repeated", "run", run, "error", err)
		if sleep(ctx, transactPause(run)) != nil {
			return &retriesEndedError{ctx.Err(), err}
		}
	}
}

// transactPause is how long to wait after a run: up to 10, 20, 40 ... 250 ms. A transaction takes several
// round trips, so that the pauses are longer than those of appends.
func transactPause(run int) time.Duration {
	return rand.N(min(250*time.Millisecond, 5*time.Millisecond<<run))
}

// transactOnce runs a transaction. If it returns an error, again reports whether nothing is stored and
// another run can succeed.
func (s *Store) transactOnce(ctx context.Context, fn func(tx *Store) error) (again bool, err error) {
	inner, err := s.backend.beginTx(ctx)
	if err != nil {
		return lostRace(err), err
	}
	defer inner.rollback()
	var lost lostNote
	err = fn(s.inside(inner.backend(lost.note), inner.sqlTx))
	switch hidden := lost.first(); {
	case hidden != nil:
		if err == nil {
			err = retryTx(hidden)
		}
		return runAgain(inner, hidden, err)
	case err != nil && (errors.Is(err, ErrConflict) || errors.Is(err, ErrRetryTx) || inner.raced(err)):
		return runAgain(inner, err, err)
	case err != nil:
		return false, err
	}
	if again, err = inner.commit(); err == nil {
		s.appended.publish()
	}
	return again, err
}

// runAgain reports that fn can run again, as a race is lost, unless it has ended the transaction itself.
func runAgain(inner callerTx, race, err error) (bool, error) {
	if gone := inner.endedInside(race); gone != nil {
		return false, fmt.Errorf("eventstore: transaction: %w: %w", gone, err)
	}
	return true, err
}

// lostNote remembers why a transaction can't be committed any more, also where fn does not pass it on.
type lostNote struct {
	mu  sync.Mutex
	err error
}

func (n *lostNote) note(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err == nil && lostRace(err) {
		n.err = err
	}
}

func (n *lostNote) first() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

// inside returns a store whose calls are those of a backend inside a transaction.
func (s *Store) inside(b backend, sqlTx func() (*sql.Tx, error)) *Store {
	t := *s
	t.backend, t.sqlTx, t.inTx, t.appended = b, sqlTx, true, newBroadcast()
	return &t
}

// Tx returns the transaction that a store from [Store.WithTx], [Store.Transact] or [Step.Store] works in,
// for the caller's own statements. It is not the caller's to end, except after WithTx. On a store that is in
// no transaction it returns [ErrInvalid]; in a memory store's transaction [errors.ErrUnsupported]. In
// Transact and in a step a transaction that was ended all the same, by a COMMIT or, on MySQL and MariaDB,
// by a statement that defines data, is noticed before the commit and is an error. What was stored up to
// that end stays.
func (s *Store) Tx() (*sql.Tx, error) {
	if s.sqlTx == nil {
		return nil, invalid("the store is in no transaction: Store.WithTx, Store.Transact and Step.Store return one that is")
	}
	return s.sqlTx()
}

// conflict tells whoever has to know of a conflict or a lost race of an append.
func (s *Store) conflict(err error) {
	if s.conflicted != nil {
		s.conflicted(err)
	}
}
