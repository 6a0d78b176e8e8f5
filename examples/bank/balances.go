package main

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"example.com/eventstore"
)

// Balance is an account as it is shown.
type Balance struct {
	Account string `json:"account"`
	Owner   string `json:"owner"`
	Cents   int64  `json:"cents"`
}

// balances are the read model: a document for each account, by its ID, on every store.
var balances = eventstore.Documents[Balance]{
	Name:    "balances",
	Version: 2, // version 1 was a table: documents can't take its row over
	From:    eventstore.FromStream(accounts.Stream),
	When: []eventstore.Handler[Balance]{
		eventstore.OnEvent(func(b *Balance, e Opened, ev eventstore.Event) { b.Account, b.Owner = ev.AggregateID, e.Owner }),
		eventstore.On(func(b *Balance, e Deposited) { b.Cents += e.Cents }),
		eventstore.On(func(b *Balance, e Withdrawn) { b.Cents -= e.Cents }),
		eventstore.On(func(b *Balance, e TransferSent) { b.Cents -= e.Cents }),
		eventstore.On(func(b *Balance, e TransferReceived) { b.Cents += e.Cents }),
	},
}

// balance returns one account's, or ErrNoAccount.
func (b *bank) balance(ctx context.Context, account string) (Balance, error) {
	doc, err := balances.Get(ctx, b.store, account)
	if errors.Is(err, eventstore.ErrDocumentNotFound) {
		err = ErrNoAccount
	}
	return doc.State, err
}

// largest is how many accounts are listed.
const largest = 100

// list returns the accounts that hold most, the largest first. Documents come in order of their keys, so it
// reads all of them, a page at a time, and keeps those that it needs.
func (b *bank) list(ctx context.Context) ([]Balance, error) {
	list := []Balance{}
	cut := func() {
		slices.SortFunc(list, func(x, y Balance) int {
			return cmp.Or(cmp.Compare(y.Cents, x.Cents), cmp.Compare(x.Account, y.Account))
		})
		list = list[:min(len(list), largest)]
	}
	for doc, err := range balances.All(ctx, b.store, eventstore.DocumentOptions{}) {
		if err != nil {
			return nil, err
		}
		if list = append(list, doc.State); len(list) == 2*largest {
			cut()
		}
	}
	cut()
	return list, nil
}
