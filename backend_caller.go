// The seam for transactions of Store.Transact.

package eventstore

import "database/sql"

// callerTx is a transaction of Store.Transact.
type callerTx interface {
	// backend is a backend whose calls are part of the transaction. lost is told of failures after which
	// the transaction can't be committed any more, and can be run again.
	backend(lost func(error)) backend
	// sqlTx returns the transaction for statements of the caller's own.
	sqlTx() (*sql.Tx, error)
	// raced reports whether err, which the caller's function has returned, says that the transaction can be
	// run again.
	raced(err error) bool
	// commit stores all of it. If it returns an error, again reports whether nothing is stored and the
	// transaction can be run again.
	commit() (again bool, err error)
	// rollback undoes a transaction that has not been committed.
	rollback()
}
