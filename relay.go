// Relay: sealed events handed to a broker, at least once and in order. Its consumer answers each
// error of Publish with Retry.

package eventstore

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Relay hands sealed events to a broker or any other consumer, at least once and in order, and
// remembers how far it is. It is a literal, checked when it runs. Relays and projections share
// their names: [Store.Projections] lists both, and both can be stopped, reset and deleted. A name
// belongs to one of the two; a definition of the other kind is [ErrInvalid]. A relay owns no stream:
// resetting or deleting it deletes no event.
type Relay struct {
	Name string // 1 to 255 bytes, without "@"
	From Selection

	// Publish hands events on, in position order, as they are stored. When it returns nil they
	// are done with. After an error, or if the process dies, they come again, in batches that may
	// be others: a relay never skips an event, and tries for as long as ctx lasts, after pauses of
	// up to two seconds. A panic is an error too. Meanwhile [ProjectionInfo].Error is the last error, and
	// Options.Logger is told of each. ctx ends when another runner takes over.
	Publish func(ctx context.Context, events []Event) error

	// After is the position after which a relay begins that has never run; [Latest] is what is sealed by
	// then. A reset begins at the first event all the same.
	After Position

	BatchSize int           // the most events of a call; zero: 1000
	Poll      time.Duration // the longest wait between looks for new events; zero: 500ms

	// Lease is how long a runner that has died keeps others from taking over. It is renewed while
	// Publish runs. Zero: 10s; at least 1s.
	Lease time.Duration
}

// Run follows the log like [Projection.Run]: it returns ctx.Err() when ctx ends, and nil when it is
// stopped.
func (rl *Relay) Run(ctx context.Context, s *Store) error {
	name, err := checkDefined("Relay", rl.Name, 0)
	if err != nil {
		return err
	}
	c := runnerConfig{name: name, kind: kindRelay, from: rl.From, wanted: newWantedSet(rl.From, nil), after: rl.After, batchSize: rl.BatchSize, poll: rl.Poll, term: rl.Lease, consumer: &publisher{rl, s}}
	if err := c.check("Relay"); err != nil {
		return err
	}
	switch {
	case rl.Publish == nil:
		return invalid("Relay.Publish is nil")
	case s.inTx:
		return fmt.Errorf("eventstore: a relay inside a transaction: %w", errors.ErrUnsupported)
	}
	return newRunner(s, c).run(ctx)
}

// publisher is a relay's consumer.
type publisher struct {
	relay *Relay
	store *Store
}

func (*publisher) restore([]byte) error            { return nil }
func (*publisher) finish(*batchTx) ([]byte, error) { return nil, nil }

func (f *publisher) handle(ctx context.Context, _ *batchTx, rows []record) (int, error) {
	if err := survive(func() error { return f.publish(ctx, rows) }); err != nil {
		return 0, err
	}
	return len(rows), nil
}

func (f *publisher) publish(ctx context.Context, rows []record) error {
	events := make([]Event, len(rows))
	for i := range rows {
		var err error
		if events[i], err = f.store.loadCopy(ctx, &rows[i]); err != nil {
			return err
		}
	}
	return f.relay.Publish(ctx, events)
}

func (*publisher) decide(context.Context, *record, error, int) ErrorAction { return Retry }
func (f *publisher) fatal(r *record, err error) error {
	return &ProjectionError{Name: f.relay.Name, Event: f.store.eventOf(r), Err: err}
}
