package main

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"testing"
	"time"

	"example.com/eventstore/internal/testserver"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
)

// broker is a NATS server behind a proxy.
type broker struct {
	url        string
	proxy      *testserver.Proxy
	away, back func() // the server goes away, and returns
}

// newBroker returns a broker without messages: one in this process, which goes away by being shut
// down, or that of the environment, which can only be made out of reach.
func newBroker(t *testing.T) *broker {
	t.Helper()
	target := os.Getenv("EVENTSTORE_TEST_NATS")
	b := &broker{}
	if target != "" {
		b.away = func() {
			b.proxy.SetHook(func(*testserver.Conn, testserver.Direction, []byte) testserver.Action { return testserver.CutBefore })
			b.proxy.CutAll()
		}
		b.back = func() { b.proxy.SetHook(nil) }
	} else {
		dir, port := t.TempDir(), -1
		var s *server.Server
		b.back = func() {
			t.Helper()
			var err error
			if s, err = startServer(dir, port); err != nil {
				t.Fatal(err)
			}
		}
		b.away = func() {
			s.Shutdown()
			s.WaitForShutdown()
		}
		b.back()
		t.Cleanup(func() { b.away() })
		target, port = s.ClientURL(), s.Addr().(*net.TCPAddr).Port
	}
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	if b.proxy, err = testserver.NewProxy(u.Host); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.proxy.Close() })
	u.Host = b.proxy.Addr()
	b.url = u.String()
	b.clear(t)
	if os.Getenv("EVENTSTORE_TEST_NATS") != "" {
		t.Cleanup(func() { b.clear(t) })
	}
	return b
}

// clear removes the messages of this and earlier tests.
func (b *broker) clear(t *testing.T) {
	t.Helper()
	nc, js, err := connect(b.url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := js.DeleteStream(context.Background(), streamName); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Fatal(err)
	}
}

// connect returns a connection of its own, as another process would have it.
func (b *broker) connect(t *testing.T) jetstream.JetStream {
	t.Helper()
	nc, js, err := connect(b.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return js
}

// stored returns how many messages the server keeps.
func stored(t *testing.T, js jetstream.JetStream) int {
	t.Helper()
	stream, err := js.Stream(t.Context(), streamName)
	if err != nil {
		t.Fatal(err)
	}
	return int(stream.CachedInfo().State.Msgs)
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 60 s for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
