package storetest

import es "example.com/eventstore"

// Opened is an event of the tests' domain: a bank account was opened.
type Opened struct {
	Owner string `json:"owner"`
}

// Deposited is an event of the tests' domain: money was paid into an account.
type Deposited struct {
	Cents int64 `json:"cents"`
}

// EventName is the payload's name.
func (Opened) EventName() string { return "account.opened" }

// EventName is the payload's name.
func (Deposited) EventName() string { return "account.deposited" }

// Account is the state of a bank account.
type Account struct {
	Owner    string
	Cents    int64
	Deposits int
}

// Accounts is the aggregate of bank accounts, in stream "accounts".
var Accounts = es.Aggregate[Account]{
	Stream: "accounts",
	When: []es.Fold[Account]{
		es.On(func(a *Account, e Opened) { a.Owner = e.Owner }),
		es.On(func(a *Account, e Deposited) { a.Cents += e.Cents; a.Deposits++ }),
	},
	Attempts: 1000,
}

// Deposits returns n new events, deposits of from cents, from+1 and so on.
func Deposits(n int, from int64) []es.NewEvent {
	out := make([]es.NewEvent, n)
	for i := range out {
		out[i].Payload = Deposited{from + int64(i)}
	}
	return out
}

// Ledger is a state that depends on the order of all events.
type Ledger struct {
	Owner   string
	Cents   int64
	History []int64
}

// Ledgers returns an aggregate over the events of Accounts that takes snapshots.
func Ledgers(every, schema int) *es.Aggregate[Ledger] {
	return &es.Aggregate[Ledger]{
		Stream: "accounts",
		When: []es.Fold[Ledger]{
			es.On(func(l *Ledger, e Opened) { l.Owner = e.Owner }),
			es.On(func(l *Ledger, e Deposited) { l.Cents += e.Cents; l.History = append(l.History, e.Cents) }),
		},
		Snapshot: es.Snapshot{Every: every, Schema: schema},
		Attempts: 1000,
	}
}
