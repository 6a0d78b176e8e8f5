package main

import (
	"fmt"

	es "example.com/eventstore"
)

// deposited is the event of all cases.
type deposited struct {
	Account string `json:"account"`
	Cents   int64  `json:"cents"`
	Note    string `json:"note"`
	Teller  int    `json:"teller"`
}

func (deposited) EventName() string { return "account.deposited" }

func deposit(i int) deposited {
	return deposited{fmt.Sprintf("account-%03d", i%100), int64(i), "paid in at the counter", i % 7}
}

// opened is the rare event among the others.
type opened struct {
	Account string `json:"account"`
}

func (opened) EventName() string { return "account.opened" }

// account is the state that aggregates are loaded into.
type account struct{ Cents, Deposits int64 }

func (a *account) add(e deposited) { a.Cents += e.Cents; a.Deposits++ }

var (
	accounts    = &es.Aggregate[account]{Stream: "accounts", When: []es.Fold[account]{es.On((*account).add)}}
	snapshotted = &es.Aggregate[account]{Stream: "accounts", When: accounts.When, Snapshot: es.Snapshot{Every: logAggregate, Schema: 1}}
)
