package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"example.com/eventstore"
)

// sqlEmails are addresses in a table of the service's database.
type sqlEmails struct {
	db    *sql.DB
	store *eventstore.Store
	table *eventstore.Table // no read model here, but its statements are ready
	owner string            // the query for who has an address
}

func newSQLEmails(db *sql.DB, dialect *eventstore.Dialect, store *eventstore.Store, prefix string) *sqlEmails {
	name := prefix + "emails"
	return &sqlEmails{
		db: db, store: store,
		table: &eventstore.Table{
			Dialect: dialect, Name: name, Key: []string{"email"},
			Create: "CREATE TABLE IF NOT EXISTS " + name + " (email varchar(200) PRIMARY KEY, account varchar(64) NOT NULL)",
		},
		owner: bind(dialect, "SELECT account FROM "+name+" WHERE email = ?"),
	}
}

func (e *sqlEmails) install(ctx context.Context) error {
	return e.transact(ctx, func(tx *sql.Tx) error { return e.table.Init(ctx, tx) })
}

// claimAttempts is how often a transaction is tried that others get in the way of.
const claimAttempts = 10

func (e *sqlEmails) claim(ctx context.Context, email, account string, record func(*eventstore.Store) error) error {
	for attempt := 1; ; attempt++ {
		err := e.try(ctx, email, account, record)
		again := errors.Is(err, eventstore.ErrRetryTx) || errors.Is(err, eventstore.ErrConflict) || errors.Is(err, errRaced)
		if !again || attempt == claimAttempts {
			return err
		}
	}
}

// errRaced says that an insert has failed, and not because the address is another account's.
var errRaced = errors.New("the address could not be claimed")

func (e *sqlEmails) try(ctx context.Context, email, account string, record func(*eventstore.Store) error) error {
	row := eventstore.Row{"email": email, "account": account}
	var failed error // the insert
	err := e.transact(ctx, func(tx *sql.Tx) error {
		if err := record(e.store.WithTx(tx)); err != nil {
			return err
		}
		if mine, err := e.table.Exists(ctx, inTx{tx}, row); mine || err != nil {
			return err // a request that comes again
		}
		failed = e.table.Insert(ctx, inTx{tx}, row)
		return failed
	})
	if failed == nil {
		return err
	}
	// A key that is taken is reported by each database in its own way; asking who has it says it in
	// all of them. The transaction is over.
	var owner string
	err = e.db.QueryRowContext(ctx, e.owner, email).Scan(&owner)
	if err == nil && owner != account {
		return ErrEmailTaken
	}
	return fmt.Errorf("%w: %w", errRaced, failed)
}

// transact runs fn in a transaction.
func (e *sqlEmails) transact(ctx context.Context, fn func(*sql.Tx) error) error {
	tx, err := e.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// inTx lets an [eventstore.Table] work in a transaction of the service's own.
type inTx struct{ tx *sql.Tx }

func (t inTx) Tx() (*sql.Tx, error) { return t.tx, nil }
