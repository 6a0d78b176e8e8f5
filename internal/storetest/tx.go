package storetest

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	es "example.com/eventstore"
)

var isolations = []sql.IsolationLevel{sql.LevelReadUncommitted, sql.LevelReadCommitted, sql.LevelRepeatableRead, sql.LevelSerializable}

// ForEachIsolation runs a test on every database at each isolation level.
func ForEachIsolation(t *testing.T, test func(t *testing.T, l Lane, opts *sql.TxOptions)) {
	t.Helper()
	ForEachDatabase(t, func(t *testing.T, l Lane) {
		for _, level := range isolations {
			t.Run(level.String(), func(t *testing.T) { test(t, l, &sql.TxOptions{Isolation: level}) })
		}
	})
}

// InOwnTx calls fn with the store in a new transaction, and commits it unless fn returns an error. The
// error of the commit is a *CommitError.
func InOwnTx(ctx context.Context, l Lane, s *es.Store, opts *sql.TxOptions, fn func(*es.Store) error) error {
	tx, err := l.DB.BeginTx(ctx, opts)
	if err != nil {
		return err
	}
	if err := fn(s.WithTx(tx)); err != nil {
		if rerr := tx.Rollback(); rerr != nil {
			return fmt.Errorf("the transaction has ended: %w", rerr)
		}
		return err
	}
	if err := tx.Commit(); err != nil {
		return &CommitError{err}
	}
	return nil
}

// CommitError is the error of a caller's own commit, in which the store has no part.
type CommitError struct{ err error }

// Error returns what the database said.
func (e *CommitError) Error() string { return "commit: " + e.err.Error() }

// Unwrap returns the database's error.
func (e *CommitError) Unwrap() error { return e.err }
