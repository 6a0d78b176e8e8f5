package main

import (
	"context"

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
	err := b.store.Transact(ctx, func(tx *eventstore.Store) (err error) {
		if sender, err = accounts.Handle(ctx, tx, from, Send(c)); err != nil {
			return err
		}
		receiver, err = accounts.Handle(receivingKey(ctx), tx, c.To, Receive{From: from, Cents: c.Cents})
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
