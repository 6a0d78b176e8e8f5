package main

import (
	"context"
	"database/sql"
	"errors"
	"strings"

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
	owner := "SELECT account FROM " + name + " WHERE email = ?"
	if dialect == eventstore.Postgres {
		owner = strings.Replace(owner, "?", "$1", 1)
	}
	return &sqlEmails{
		db: db, store: store,
		table: &eventstore.Table{
			Dialect: dialect, Name: name, Key: []string{"email"},
			Create: "CREATE TABLE IF NOT EXISTS " + name + " (email varchar(200) PRIMARY KEY, account varchar(64) NOT NULL)",
		},
		owner: owner,
	}
}

func (e *sqlEmails) install(ctx context.Context) error {
	tx, err := e.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := e.table.Init(ctx, tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

func (e *sqlEmails) claim(ctx context.Context, email, account string, record func(*eventstore.Store) error) error {
	row := eventstore.Row{"email": email, "account": account}
	var failed error // the insert
	err := e.store.Transact(ctx, func(tx *eventstore.Store) error {
		failed = nil
		if err := record(tx); err != nil {
			return err
		}
		if mine, err := e.table.Exists(ctx, tx, row); mine || err != nil {
			return err // a request that comes again
		}
		failed = e.table.Insert(ctx, tx, row)
		return failed
	})
	if failed == nil {
		return err
	}
	// A key that is taken is reported by each database in its own way; asking who has it says it in
	// all of them. The transaction is over.
	var owner string
	if e.db.QueryRowContext(ctx, e.owner, email).Scan(&owner) == nil && owner != account {
		return ErrEmailTaken
	}
	return err
}
