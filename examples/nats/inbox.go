package main

import (
	"context"
	"database/sql"
	"fmt"

	"example.com/eventstore"
)

// inbox is a consumer's position in the consumer's own database, which need not be the store's.
type inbox struct {
	db      *sql.DB
	advance string
}

// newInbox makes the table of positions unless it is there, and a consumer's row in it. The table's
// name is written into statements.
func newInbox(ctx context.Context, db *sql.DB, dialect *eventstore.Dialect, table, consumer string) (*inbox, error) {
	create := "CREATE TABLE IF NOT EXISTS " + table + " (consumer varchar(64) PRIMARY KEY, position bigint NOT NULL)"
	insert := "INSERT IGNORE INTO " + table + " (consumer, position) VALUES (?, 0)"
	in := &inbox{db, "UPDATE " + table + " SET position = ? WHERE consumer = ? AND position < ?"}
	if dialect == eventstore.Postgres {
		insert = "INSERT INTO " + table + " (consumer, position) VALUES ($1, 0) ON CONFLICT DO NOTHING"
		in.advance = "UPDATE " + table + " SET position = $1 WHERE consumer = $2 AND position < $3"
	}
	if _, err := db.ExecContext(ctx, create); err != nil {
		return nil, fmt.Errorf("create the table %s: %w", table, err)
	}
	if _, err := db.ExecContext(ctx, insert, consumer); err != nil {
		return nil, fmt.Errorf("begin the inbox of %s: %w", consumer, err)
	}
	return in, nil
}

// apply moves a consumer's position up to an event, and has do what is to be done about the event,
// in one transaction. The row stays locked until its end: whoever is given the same event at the
// same time waits, and then has seen it.
func (in *inbox) apply(ctx context.Context, consumer string, ev eventstore.Event, do func(context.Context, *sql.Tx) error) (seen bool, err error) {
	tx, err := in.db.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback() }() // does nothing behind a commit
	res, err := tx.ExecContext(ctx, in.advance, ev.Position, consumer, ev.Position)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	if n == 0 || err != nil {
		return err == nil, err
	}
	if err := do(ctx, tx); err != nil {
		return false, err
	}
	return false, tx.Commit()
}
