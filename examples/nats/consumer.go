package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"example.com/eventstore"
	"github.com/nats-io/nats.go/jetstream"
)

// consumer takes in each event once, in order. The server delivers at least once, and remembers
// IDs for a while only, so the consumer looks at positions: they grow with every event, so that one
// number, the last that it has taken in, tells what it has seen.
type consumer struct {
	name string // of the durable consumer, by which the server knows how far it is

	// apply does what is to be done about an event, and stores its position: both in one
	// transaction, or a crash between them loses or repeats something. If the position that it has
	// stored before is not below, the event was seen, and apply does nothing. That belongs into the
	// transaction too: an event that takes longer than ackWait is given to another consumer of this
	// name while the first is still at it. After an error the event comes again, and none comes
	// before it does.
	apply func(context.Context, eventstore.Event) (seen bool, err error)

	dropped func(eventstore.Event) // told of what was seen before; may be nil

	// ackWait is how long apply may take before the server sends an event again, and so how long
	// one that got lost on its way holds up the rest.
	ackWait time.Duration
}

// retryPause is the pause after something has failed.
const retryPause = 200 * time.Millisecond

// run consumes until ctx ends, and returns its error. It survives a server that is away.
func (c *consumer) run(ctx context.Context, js jetstream.JetStream) error {
	for {
		err := c.follow(ctx, js)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		slog.Warn("consumer begins again", "consumer", c.name, "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryPause):
		}
	}
}

func (c *consumer) follow(ctx context.Context, js jetstream.JetStream) error {
	durable, err := js.CreateOrUpdateConsumer(ctx, streamName, jetstream.ConsumerConfig{
		Durable:   c.name,
		AckPolicy: jetstream.AckExplicitPolicy,
		// With one message on its way at a time the order survives redelivery: the next one stays
		// with the server until this one is acknowledged.
		MaxAckPending: 1,
		AckWait:       c.ackWait,
	})
	if err != nil {
		return err
	}
	// The heartbeat tells a server without news from a request that got lost.
	messages, err := durable.Messages(jetstream.PullMaxMessages(1), jetstream.PullHeartbeat(time.Second))
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		if err := c.take(ctx, msg); err != nil {
			return errors.Join(err, msg.NakWithDelay(retryPause))
		}
		// An acknowledgement that gets lost brings the message back, to be dropped then.
		if err := msg.Ack(); err != nil {
			return err
		}
	}
}

func (c *consumer) take(ctx context.Context, msg jetstream.Msg) error {
	ev, err := readMessage(msg.Headers(), msg.Data())
	if err != nil {
		return fmt.Errorf("message on %s: %w", msg.Subject(), err)
	}
	seen, err := c.apply(ctx, ev)
	if err != nil {
		return fmt.Errorf("event %d: %w", ev.Position, err)
	}
	if seen && c.dropped != nil {
		c.dropped(ev)
	}
	return nil
}
