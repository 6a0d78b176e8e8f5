package eventstore_test

import (
	"context"
	"errors"
	"fmt"

	"example.com/eventstore"
)

type Opened struct{ Owner string }
type Withdrawn struct{ Cents int64 }
type Deposited struct{ Cents int64 }

func (Opened) EventName() string    { return "account.opened" }
func (Deposited) EventName() string { return "account.deposited" }
func (Withdrawn) EventName() string { return "account.withdrawn" }

type Account struct {
	Owner string
	Cents int64
}

var Accounts = eventstore.Aggregate[Account]{
	Stream: "accounts",
	When: []eventstore.Fold[Account]{
		eventstore.On(func(a *Account, e Opened) { a.Owner = e.Owner }),
		eventstore.On(func(a *Account, e Deposited) { a.Cents += e.Cents }),
		eventstore.On(func(a *Account, e Withdrawn) { a.Cents -= e.Cents }),
	},
}

func Example() {
	ctx := context.Background()
	store := eventstore.NewMemStore(nil) // or eventstore.Open(db, eventstore.Postgres, nil)
	err := errors.Join(store.Install(ctx), store.CreateStream(ctx, "accounts", nil))

	_, err2 := Accounts.Execute(ctx, store, "A-1", func(r *eventstore.Root[Account]) error {
		r.Record(Opened{Owner: "Ann"})
		r.Record(Deposited{Cents: 1000})
		return nil
	})
	account, err3 := Accounts.Execute(ctx, store, "A-1", func(r *eventstore.Root[Account]) error {
		if r.State().Cents < 300 {
			return errors.New("not enough money")
		}
		r.Record(Withdrawn{Cents: 300})
		return nil
	})
	if err := errors.Join(err, err2, err3); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(account.State().Owner, account.State().Cents, "at version", account.Version())

	for ev, err := range store.Read(ctx, eventstore.FromStream("accounts"), eventstore.ReadOptions{}) {
		fmt.Println(ev.Position, ev.Name, string(ev.Data), err)
	}
	// Output:
	// Ann 700 at version 3
	// 1 account.opened {"Owner":"Ann"} <nil>
	// 2 account.deposited {"Cents":1000} <nil>
	// 3 account.withdrawn {"Cents":300} <nil>
}
