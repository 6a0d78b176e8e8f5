package main

import (
	"io"
	"log/slog"
	"testing"

	"example.com/eventstore/internal/storetest"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	storetest.Main(m)
}

// forEachBank runs a test on a fresh service over every store.
func forEachBank(t *testing.T, test func(t *testing.T, c *client)) {
	t.Helper()
	storetest.ForEach(t, storetest.SomeLanes, storetest.Usual, func(t *testing.T, l storetest.Lane) {
		test(t, startBank(t, l, l.NewPrefix(t, "emails")))
	})
}
