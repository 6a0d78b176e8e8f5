package eventstore

import (
	"context"
	"fmt"
	"testing"
)

// TestRelayFatal has what ends a relay for good wrap an error that is transient otherwise: it ends it.
func TestRelayFatal(t *testing.T) {
	s := NewMemStore(nil)
	f := &publisher{&Relay{Name: "broker"}, s}
	for _, err := range []error{context.DeadlineExceeded, errRetry, errLost, ErrRetryTx} {
		failure := f.fatal(&record{position: 7, metadata: noMetadata}, fmt.Errorf("publish: %w", err))
		if transient(failure) || !terminal(failure) {
			t.Errorf("%v counts as transient", failure)
		}
	}
}
