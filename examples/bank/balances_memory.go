package main

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"example.com/eventstore"
)

// memoryBalances are a projection's state: a memory store has no tables.
type memoryBalances struct{ store *eventstore.Store }

var balanceState = eventstore.Projection[map[string]Balance]{
	Name: "balances", From: eventstore.FromStream(accounts.Stream),
	Init: func() map[string]Balance { return map[string]Balance{} },
	When: []eventstore.Handler[map[string]Balance]{
		eventstore.OnEvent(func(all *map[string]Balance, e Opened, ev eventstore.Event) {
			(*all)[ev.AggregateID] = Balance{Account: ev.AggregateID, Owner: e.Owner}
		}),
		eventstore.OnEvent(func(all *map[string]Balance, e Deposited, ev eventstore.Event) {
			addTo(*all, ev.AggregateID, e.Cents)
		}),
		eventstore.OnEvent(func(all *map[string]Balance, e Withdrawn, ev eventstore.Event) {
			addTo(*all, ev.AggregateID, -e.Cents)
		}),
		eventstore.OnEvent(func(all *map[string]Balance, e TransferSent, ev eventstore.Event) {
			addTo(*all, ev.AggregateID, -e.Cents)
		}),
		eventstore.OnEvent(func(all *map[string]Balance, e TransferReceived, ev eventstore.Event) {
			addTo(*all, ev.AggregateID, e.Cents)
		}),
	},
}

func addTo(all map[string]Balance, account string, cents int64) {
	row := all[account]
	row.Cents += cents
	all[account] = row
}

func (b *memoryBalances) run(ctx context.Context) error { return balanceState.Run(ctx, b.store) }

func (b *memoryBalances) wait(ctx context.Context, at eventstore.Position) error {
	return balanceState.Wait(ctx, b.store, at)
}

func (b *memoryBalances) load(ctx context.Context) (map[string]Balance, error) {
	cp, err := balanceState.Load(ctx, b.store)
	if errors.Is(err, eventstore.ErrProjectionNotFound) {
		return nil, nil // it has not run yet
	}
	return cp.State, err
}

func (b *memoryBalances) get(ctx context.Context, account string) (Balance, error) {
	all, err := b.load(ctx)
	row, ok := all[account]
	if err == nil && !ok {
		err = ErrNoAccount
	}
	return row, err
}

func (b *memoryBalances) list(ctx context.Context) ([]Balance, error) {
	all, err := b.load(ctx)
	list := slices.AppendSeq([]Balance{}, maps.Values(all))
	slices.SortFunc(list, func(x, y Balance) int {
		return cmp.Or(cmp.Compare(y.Cents, x.Cents), cmp.Compare(x.Account, y.Account))
	})
	return list[:min(len(list), 100)], err
}
