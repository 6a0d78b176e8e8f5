package main

import (
	"context"
	"sync"

	"example.com/eventstore"
)

// The events of the example: bank accounts.

type opened struct {
	Owner string `json:"owner"`
}

type deposited struct {
	Cents int64 `json:"cents"`
}

func (opened) EventName() string    { return "account.opened" }
func (deposited) EventName() string { return "account.deposited" }

// ledger is what the consumer makes of the events: what each account holds. It stands for a
// consumer's own database, and its lock for a transaction there (inbox.go has one).
type ledger struct {
	mu       sync.Mutex
	position eventstore.Position
	cents    map[string]int64
}

func newLedger() *ledger { return &ledger{cents: map[string]int64{}} }

func (l *ledger) apply(_ context.Context, ev eventstore.Event) (seen bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ev.Position <= l.position {
		return true, nil
	}
	switch ev.Name {
	case opened{}.EventName():
		l.cents[ev.AggregateID] += 0
	case deposited{}.EventName():
		e, err := eventstore.Decode[deposited](ev)
		if err != nil {
			return false, err
		}
		l.cents[ev.AggregateID] += e.Cents
	}
	l.position = ev.Position
	return false, nil
}
