package main

import (
	"context"
	"database/sql"
	"errors"

	"example.com/eventstore"
)

// sqlBalances are a table, which a projection writes and plain SQL reads.
type sqlBalances struct {
	db         *sql.DB
	store      *eventstore.Store
	projection *eventstore.Projection[struct{}]
	one, all   string
}

func newSQLBalances(db *sql.DB, dialect *eventstore.Dialect, store *eventstore.Store, prefix string) *sqlBalances {
	name := prefix + "balances"
	table := &eventstore.Table{
		Dialect: dialect, Name: name, Key: []string{"account"},
		Create: "CREATE TABLE IF NOT EXISTS " + name + " (account varchar(64) PRIMARY KEY, owner varchar(200) NOT NULL, cents bigint NOT NULL)",
	}
	add := bind(dialect, "UPDATE "+name+" SET cents = cents + ? WHERE account = ?")
	change := func(ctx context.Context, step *eventstore.Step[struct{}], cents int64) error {
		tx, err := step.Tx() // which also stores how far the projection is: nothing is added twice
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, add, cents, step.Event.AggregateID)
		return err
	}
	return &sqlBalances{
		db: db, store: store,
		projection: &eventstore.Projection[struct{}]{
			Name: "balances", From: eventstore.FromStream(accounts.Stream), ReadModel: table,
			When: []eventstore.Handler[struct{}]{
				eventstore.Do(func(ctx context.Context, step *eventstore.Step[struct{}], e Opened) error {
					return table.Insert(ctx, step, eventstore.Row{"account": step.Event.AggregateID, "owner": e.Owner, "cents": 0})
				}),
				eventstore.Do(func(ctx context.Context, step *eventstore.Step[struct{}], e Deposited) error {
					return change(ctx, step, e.Cents)
				}),
				eventstore.Do(func(ctx context.Context, step *eventstore.Step[struct{}], e Withdrawn) error {
					return change(ctx, step, -e.Cents)
				}),
				eventstore.Do(func(ctx context.Context, step *eventstore.Step[struct{}], e TransferSent) error {
					return change(ctx, step, -e.Cents)
				}),
				eventstore.Do(func(ctx context.Context, step *eventstore.Step[struct{}], e TransferReceived) error {
					return change(ctx, step, e.Cents)
				}),
			},
		},
		one: bind(dialect, "SELECT account, owner, cents FROM "+name+" WHERE account = ?"),
		all: "SELECT account, owner, cents FROM " + name + " ORDER BY cents DESC, account LIMIT 100",
	}
}

func (b *sqlBalances) run(ctx context.Context) error { return b.projection.Run(ctx, b.store) }

func (b *sqlBalances) wait(ctx context.Context, at eventstore.Position) error {
	return b.projection.Wait(ctx, b.store, at)
}

func (b *sqlBalances) get(ctx context.Context, account string) (Balance, error) {
	var row Balance
	err := b.db.QueryRowContext(ctx, b.one, account).Scan(&row.Account, &row.Owner, &row.Cents)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNoAccount
	}
	return row, err
}

func (b *sqlBalances) list(ctx context.Context) ([]Balance, error) {
	rows, err := b.db.QueryContext(ctx, b.all)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := []Balance{}
	for rows.Next() {
		var row Balance
		if err := rows.Scan(&row.Account, &row.Owner, &row.Cents); err != nil {
			return nil, err
		}
		list = append(list, row)
	}
	return list, rows.Err()
}
