package main

import (
	"context"
	"fmt"
	"time"

	"example.com/eventstore"
	"github.com/nats-io/nats.go/jetstream"
)

// newRelay returns the relay that publishes the events of a selection, in the store's order and at
// least once.
//
// It publishes one event at a time and waits until the server has stored it. Publishing ahead,
// without waiting, would be faster and would lose the order: when the first of two messages gets
// lost on its way and the second does not, the first, sent again, comes behind it. So every event
// reaches JetStream after all earlier ones have, whatever fails; if some come again, as they do
// when a relay dies before it has noted how far it is, their IDs are the same.
func newRelay(js jetstream.JetStream, from eventstore.Selection) *eventstore.Relay {
	return &eventstore.Relay{
		Name: "nats",
		From: from,
		// What a batch has published is published again when the rest of it fails: small ones
		// repeat less.
		BatchSize: 100,
		Publish: func(ctx context.Context, events []eventstore.Event) error {
			for _, ev := range events {
				if err := publish(ctx, js, ev); err != nil {
					return err // and the relay comes back with it
				}
			}
			return nil
		},
	}
}

// publishTimeout is how long to wait for an answer: one that got lost holds up the relay as long.
const publishTimeout = 2 * time.Second

// publish returns nil when the server has stored the event, now or before.
func publish(ctx context.Context, js jetstream.JetStream, ev eventstore.Event) error {
	msg, err := newMessage(ev)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	// Only an answer of this stream counts, not one of another that listens to the same subjects.
	if _, err := js.PublishMsg(ctx, msg, jetstream.WithExpectStream(streamName)); err != nil {
		return fmt.Errorf("publish event %d as %s: %w", ev.Position, msg.Subject, err)
	}
	return nil
}
