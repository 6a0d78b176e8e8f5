package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"example.com/eventstore"
	"github.com/google/uuid"
)

// Transfer is a command that concerns two accounts: both change, or neither.
type Transfer struct {
	To    string
	Cents int64
}

// transfer moves money in one transaction. Its receipt is the sender's; its position is behind both
// accounts' events.
func (b *bank) transfer(ctx context.Context, from string, c Transfer) (Receipt, error) {
	if _, ok := requestKey(ctx); !ok {
		ctx = withRequestKey(ctx, uuid.NewString()) // it can be tried again without doing it twice
	}
	var sender, receiver *eventstore.Root[Account]
	err := b.transact(ctx, c.To, func(ctx context.Context, store *eventstore.Store) (err error) {
		if sender, err = accounts.Handle(ctx, store, from, Send(c)); err != nil {
			return err
		}
		receiver, err = accounts.Handle(receivingKey(ctx), store, c.To, Receive{From: from, Cents: c.Cents})
		return err
	})
	sent, err := receipt(sender, err)
	if err == nil {
		sent.Position = max(sent.Position, receiver.Position())
	}
	return sent, err
}

// receivingKey derives a key for the second event of a request from that of the first. No header
// can hold the zero byte: it can't be a client's key.
func receivingKey(ctx context.Context) context.Context {
	key, _ := requestKey(ctx)
	return withRequestKey(ctx, key+"\x00received")
}

const (
	transferAttempts = 20
	longestPause     = 200 * time.Millisecond
)

// transact runs what sends to an account in a transaction, again if others get in its way. On
// accounts that many use at once that happens often: the pauses grow, and differ.
//
// A memory store has no transactions. It makes do with looking before, because accounts are never
// closed: what was sent can be received, if not at once then by another attempt.
func (b *bank) transact(ctx context.Context, receiver string, fn func(context.Context, *eventstore.Store) error) error {
	try := b.tryTransact
	if b.db == nil {
		_, err := accounts.Load(ctx, b.store, receiver)
		if errors.Is(err, eventstore.ErrAggregateNotFound) {
			return ErrNoAccount
		}
		if err != nil {
			return err
		}
		ctx = context.WithoutCancel(ctx)
		try = func(ctx context.Context, fn func(context.Context, *eventstore.Store) error) error {
			return fn(ctx, b.store)
		}
	}
	for attempt := 1; ; attempt++ {
		err := try(ctx, fn)
		again := errors.Is(err, eventstore.ErrRetryTx) || errors.Is(err, eventstore.ErrConflict)
		if !again || attempt == transferAttempts {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rand.N(min(longestPause, 5*time.Millisecond<<attempt))):
		}
	}
}

func (b *bank) tryTransact(ctx context.Context, fn func(context.Context, *eventstore.Store) error) error {
	tx, err := b.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := fn(ctx, b.store.WithTx(tx)); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}
