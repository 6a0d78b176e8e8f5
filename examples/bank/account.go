package main

import (
	"context"
	"errors"

	"example.com/eventstore"
	"github.com/google/uuid"
)

// Account is the state of one account, on which commands decide.
type Account struct {
	Owner string
	Cents int64

	// Requests are those that have changed the account, with what each did to the balance: a
	// request that comes again does nothing, even if by now it would be refused.
	Requests map[uuid.UUID]int64
}

// Commands.
type (
	Open     struct{ Owner, Email string }
	Deposit  struct{ Cents int64 }
	Withdraw struct{ Cents int64 }
	Send     struct {
		To    string
		Cents int64
	}
	Receive struct {
		From  string
		Cents int64
	}
)

// What an account refuses.
var (
	ErrAccountExists  = errors.New("the account exists already")
	ErrNoAccount      = errors.New("there is no such account")
	ErrEmailTaken     = errors.New("another account has this e-mail address")
	ErrNotEnoughMoney = errors.New("the account does not hold that much")
	ErrKeyReused      = errors.New("the Idempotency-Key belongs to another request")
)

var accounts = eventstore.Aggregate[Account]{
	Stream: "accounts",
	Init:   func() Account { return Account{Requests: map[uuid.UUID]int64{}} },
	When: []eventstore.Fold[Account]{
		eventstore.OnEvent(func(a *Account, e Opened, ev eventstore.Event) { a.Owner = e.Owner; a.change(ev, 0) }),
		eventstore.OnEvent(func(a *Account, e Deposited, ev eventstore.Event) { a.change(ev, e.Cents) }),
		eventstore.OnEvent(func(a *Account, e Withdrawn, ev eventstore.Event) { a.change(ev, -e.Cents) }),
		eventstore.OnEvent(func(a *Account, e TransferSent, ev eventstore.Event) { a.change(ev, -e.Cents) }),
		eventstore.OnEvent(func(a *Account, e TransferReceived, ev eventstore.Event) { a.change(ev, e.Cents) }),
	},
	Commands: []eventstore.Command[Account]{
		eventstore.OnCommand(func(ctx context.Context, r *eventstore.Root[Account], c Open) error {
			if done, err := r.State().has(ctx, 0); done {
				return err
			}
			if r.Version() > 0 {
				return ErrAccountExists
			}
			record(ctx, r, Opened(c))
			return nil
		}),
		eventstore.OnCommand(func(ctx context.Context, r *eventstore.Root[Account], c Deposit) error {
			if done, err := r.State().has(ctx, c.Cents); done {
				return err
			}
			if r.Version() == 0 {
				return ErrNoAccount
			}
			record(ctx, r, Deposited(c))
			return nil
		}),
		eventstore.OnCommand(func(ctx context.Context, r *eventstore.Root[Account], c Withdraw) error {
			if done, err := r.State().has(ctx, -c.Cents); done {
				return err
			}
			if err := covers(r, c.Cents); err != nil {
				return err
			}
			record(ctx, r, Withdrawn(c))
			return nil
		}),
		eventstore.OnCommand(func(ctx context.Context, r *eventstore.Root[Account], c Send) error {
			if done, err := r.State().has(ctx, -c.Cents); done {
				return err
			}
			if err := covers(r, c.Cents); err != nil {
				return err
			}
			record(ctx, r, TransferSent(c))
			return nil
		}),
		eventstore.OnCommand(func(ctx context.Context, r *eventstore.Root[Account], c Receive) error {
			if done, err := r.State().has(ctx, c.Cents); done {
				return err
			}
			if r.Version() == 0 {
				return ErrNoAccount
			}
			record(ctx, r, TransferReceived(c))
			return nil
		}),
	},
}

// covers says what is in the way of taking money from an account.
func covers(r *eventstore.Root[Account], cents int64) error {
	switch {
	case r.Version() == 0:
		return ErrNoAccount
	case r.State().Cents < cents:
		return ErrNotEnoughMoney
	}
	return nil
}

// record is Root.Record for an event of the request that ctx carries, if it carries one. Each request
// is one event of an account.
func record(ctx context.Context, r *eventstore.Root[Account], p eventstore.Payload) {
	ev := eventstore.NewEvent{Payload: p}
	if key, ok := requestKey(ctx); ok {
		ev.ID = eventID(key)
	}
	r.RecordEvent(ev)
}

func (a *Account) change(ev eventstore.Event, cents int64) {
	a.Cents += cents
	a.Requests[ev.ID] = cents
}

// has says whether the request that ctx carries has been carried out.
func (a Account) has(ctx context.Context, cents int64) (bool, error) {
	key, ok := requestKey(ctx)
	if !ok {
		return false, nil
	}
	was, done := a.Requests[eventID(key)]
	if done && was != cents {
		return true, ErrKeyReused
	}
	return done, nil
}
