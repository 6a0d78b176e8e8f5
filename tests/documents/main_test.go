package documents_test

import (
	"os"
	"testing"

	"example.com/eventstore/internal/storetest"
)

// TestMain runs the tests, or a process that keeps documents.
func TestMain(m *testing.M) {
	if text := os.Getenv(memberVariable); text != "" {
		os.Exit(memberMain(text))
	}
	storetest.Main(m)
}
