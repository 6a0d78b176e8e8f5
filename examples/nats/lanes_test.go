package main

import (
	"io"
	"log/slog"
	"os"
	"testing"

	"example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestMain runs the tests on a real NATS server and on every store, or the victim of one of them.
// EVENTSTORE_TEST_NATS names a NATS with JetStream to use instead of one that is started for the
// run; its stream EVENTS is deleted, before and after.
func TestMain(m *testing.M) {
	if os.Getenv(victimVariable) != "" {
		os.Exit(victim())
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	storetest.Main(m)
}

// forEachLane runs a test on memory and on each database, one after the other: they share NATS.
func forEachLane(t *testing.T, test func(t *testing.T, l storetest.Lane)) {
	t.Helper()
	storetest.ForEach(t, 1, storetest.Usual, test)
}

// openLane returns a fresh store with the stream "accounts", and its table prefix.
func openLane(t *testing.T, l storetest.Lane) (s *eventstore.Store, prefix string) {
	t.Helper()
	if l.DB == nil {
		s = eventstore.NewMemStore(nil)
	} else {
		s, prefix = l.OpenPrefixed(t)
	}
	if err := s.CreateStream(t.Context(), "accounts", nil); err != nil {
		t.Fatal(err)
	}
	return s, prefix
}
