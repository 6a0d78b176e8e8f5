// Command nats relays the events of a store to NATS JetStream and consumes them again. See
// README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"example.com/eventstore"
)

func main() {
	natsURL := flag.String("nats", "", "a NATS server with JetStream, nats://host:port (default: one in this process)")
	target := flag.String("store", "memory", "memory, postgres://user:password@host:port/database or mysql://…")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, *natsURL, *target, "nats_example_"); err != nil {
		fmt.Fprintln(os.Stderr, "nats:", err)
		os.Exit(1)
	}
}

// run shows events on their way: appended to the store, relayed to JetStream, and consumed. The names
// of the store's tables begin with prefix.
func run(ctx context.Context, w io.Writer, natsURL, target, prefix string) (err error) {
	if natsURL != "" && target == "memory" {
		// Behind what an earlier run has left there they would look like repetitions.
		return errors.New("-nats wants a -store that lasts: the positions of a memory store begin again with every run")
	}
	if natsURL == "" {
		dir, err := os.MkdirTemp("", "nats-example-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		server, err := startServer(dir, -1)
		if err != nil {
			return err
		}
		defer server.WaitForShutdown()
		defer server.Shutdown()
		natsURL = server.ClientURL()
	}
	nc, js, err := connect(natsURL)
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := createStream(ctx, js, 2*time.Minute); err != nil {
		return err
	}
	store, closeDB, err := openStore(ctx, target, &eventstore.Options{TablePrefix: prefix})
	if err != nil {
		return err
	}
	defer func() { _ = closeDB() }()
	if err := store.CreateStream(ctx, "accounts", nil); err != nil && !errors.Is(err, eventstore.ErrStreamExists) {
		return err
	}

	running, stop := context.WithCancel(ctx)
	relay := newRelay(js, eventstore.FromStream("accounts"))
	relayed := make(chan error, 1)
	go func() { relayed <- relay.Run(running, store) }()

	books := newLedger()
	taken := make(chan eventstore.Event)
	var dropped atomic.Int64
	c := &consumer{
		name:    "ledger",
		ackWait: 10 * time.Second,
		apply: func(ctx context.Context, ev eventstore.Event) (seen bool, err error) {
			if seen, err = books.apply(ctx, ev); seen || err != nil {
				return seen, err
			}
			select {
			case taken <- ev:
			case <-ctx.Done():
			}
			return false, nil
		},
		dropped: func(eventstore.Event) { dropped.Add(1) },
	}
	consumed := make(chan error, 1)
	go func() { consumed <- c.run(running, js) }()
	defer func() {
		stop()
		for _, ended := range []chan error{relayed, consumed} {
			if e := <-ended; err == nil && !errors.Is(e, context.Canceled) {
				err = e
			}
		}
	}()

	last, err := appendSome(ctx, w, store)
	if err != nil {
		return err
	}
	for n, at := 1, eventstore.Position(0); at < last; n++ {
		select {
		case ev := <-taken:
			at = ev.Position
			fmt.Fprintf(w, "consumed  %2d  %-40s %s\n", at, subject(ev), ev.Data)
			if at == last {
				fmt.Fprintf(w, "%d events consumed, %d repetitions dropped\n", n, dropped.Load())
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for _, id := range slices.Sorted(maps.Keys(books.cents)) {
		cents := books.cents[id]
		fmt.Fprintf(w, "account %s holds %d.%02d\n", id, cents/100, cents%100)
	}
	return nil
}

// appendSome appends events to two accounts, and returns the last position.
func appendSome(ctx context.Context, w io.Writer, store *eventstore.Store) (last eventstore.Position, err error) {
	for i, id := range []string{"A-1", "B.2 *", "A-1", "A-1", "B.2 *"} {
		payload := eventstore.Payload(deposited{Cents: 1000 + int64(i)})
		if i < 2 {
			payload = opened{Owner: "Ann"}
		}
		stored, err := store.Append(ctx, "accounts", id, eventstore.AnyVersion, eventstore.NewEvent{Payload: payload})
		if err != nil {
			return 0, err
		}
		last = stored[0].Position
		fmt.Fprintf(w, "appended  %2d  %q %s\n", last, id, stored[0].Name)
	}
	return last, nil
}
