package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// streamName is the JetStream stream that keeps the events.
const streamName = "EVENTS"

// startServer starts a NATS server in this process, with JetStream's files in dir. A port of -1 is
// any that is free.
func startServer(dir string, port int) (*server.Server, error) {
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
	})
	if err != nil {
		return nil, err
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		s.Shutdown()
		return nil, errors.New("the NATS server does not accept connections")
	}
	return s, nil
}

// connect connects to a NATS server, for good: when the server goes away, it is looked for until it
// returns.
func connect(url string) (*nats.Conn, jetstream.JetStream, error) {
	nc, err := nats.Connect(url,
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100*time.Millisecond),
		// What can't be sent is to fail now, and be repeated by the relay, not to be sent later.
		nats.ReconnectBufSize(-1),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { slog.Warn("NATS", "error", err) }),
	)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to NATS: %w", err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return nc, js, nil
}

// createStream makes the stream that keeps the events. The server drops messages with an ID that it
// has seen within the window; consumers cope with those that come later.
func createStream(ctx context.Context, js jetstream.JetStream, window time.Duration) error {
	_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:       streamName,
		Subjects:   []string{subjectRoot + ".>"},
		Storage:    jetstream.FileStorage,
		Duplicates: window,
	})
	if err != nil {
		return fmt.Errorf("create the JetStream stream: %w", err)
	}
	return nil
}
