package main

import (
	"context"
	"database/sql"
	"errors"

	"example.com/eventstore"
)

// bank is the service behind the HTTP API: commands go to the events, and questions to the read
// model. It is safe for concurrent use.
type bank struct {
	db     *sql.DB // the service's own pool, which the store shares; nil: memory
	store  *eventstore.Store
	emails emails
	wait   func(context.Context, *eventstore.Store, eventstore.Position) error // for the read model
}

// emails are the service's own table: which account has an e-mail address. No event store can say
// that an address is nowhere else; a table's primary key can.
type emails interface {
	// claim takes an address for an account, and has record store the events that go with it, both
	// or neither. If another account has it: ErrEmailTaken.
	claim(ctx context.Context, email, account string, record func(*eventstore.Store) error) error
}

// openBank opens what a URL names: memory, postgres://… or mysql://…. All tables have names that
// begin with prefix.
func openBank(ctx context.Context, target, prefix string) (*bank, error) {
	opts := &eventstore.Options{TablePrefix: prefix}
	if target == "memory" {
		b := &bank{store: eventstore.NewMemStore(opts), wait: balances.Wait}
		b.emails = &memoryEmails{store: b.store, owner: map[string]string{}}
		return b, b.install(ctx)
	}
	db, dialect, err := openDB(target)
	if err != nil {
		return nil, err
	}
	store, err := eventstore.Open(db, dialect, opts)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	emails := newSQLEmails(db, dialect, store, prefix)
	b := &bank{db, store, emails, balances.Wait}
	if err = b.install(ctx); err == nil {
		err = emails.install(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return b, nil
}

func (b *bank) install(ctx context.Context) error {
	if err := b.store.Install(ctx); err != nil {
		return err
	}
	err := b.store.CreateStream(ctx, accounts.Stream, nil)
	if errors.Is(err, eventstore.ErrStreamExists) {
		return nil
	}
	return err
}

func (b *bank) close() error {
	if b.db == nil {
		return nil
	}
	return b.db.Close()
}

// Receipt is what a command answers.
type Receipt struct {
	Account string `json:"account"`
	Cents   int64  `json:"cents"`
	Version int64  `json:"version"`

	// Position is where the read model has to be for the command to show.
	Position eventstore.Position `json:"position"`
}

// open opens an account: its events and its e-mail address are stored in one transaction.
func (b *bank) open(ctx context.Context, account string, c Open) (Receipt, error) {
	var root *eventstore.Root[Account]
	err := b.emails.claim(ctx, c.Email, account, func(store *eventstore.Store) (err error) {
		root, err = accounts.Handle(ctx, store, account, c)
		return err
	})
	return receipt(root, err)
}

// handle carries out a command that concerns nothing but events.
func (b *bank) handle(ctx context.Context, account string, command any) (Receipt, error) {
	return receipt(accounts.Handle(ctx, b.store, account, command))
}

// receipt is for a command that has made an account what it is, be it an earlier time that the request
// came.
func receipt(root *eventstore.Root[Account], err error) (Receipt, error) {
	if err != nil {
		return Receipt{}, err
	}
	return Receipt{Account: root.ID(), Cents: root.State().Cents, Version: root.Version(), Position: root.Position()}, nil
}
