package eventstoretest

import (
	"context"
	"slices"
	"sync"
	"testing"

	"example.com/eventstore"
)

// Happened is a piece of history for [Store]: what happened to one aggregate.
type Happened struct {
	Stream, AggregateID string
	Payloads            []eventstore.Payload
}

// On says what happened to an aggregate.
func On(stream, aggregateID string, payloads ...eventstore.Payload) Happened {
	return Happened{stream, aggregateID, payloads}
}

// Store returns a memory store in which this has happened, in order; streams are made as they are
// named. Whatever fails ends the test. A projection or a query is tested in a line or two:
//
//	store := eventstoretest.Store(t, nil, eventstoretest.On("accounts", "A-1", Opened{Owner: "Ann"}))
//	balances, err := balances.CatchUp(t.Context(), store)
//
// A memory store has no tables: a projection that asks for [eventstore.Step.Tx] is tested likewise on
// a store in a database, with [Append].
func Store(t testing.TB, opts *eventstore.Options, history ...Happened) *eventstore.Store {
	t.Helper()
	s := eventstore.NewMemStore(opts)
	Append(t, s, history...)
	return s
}

// Append lets more happen in a store, of any kind.
func Append(t testing.TB, s *eventstore.Store, history ...Happened) {
	t.Helper()
	for _, h := range history {
		has, err := s.HasStream(t.Context(), h.Stream)
		if err == nil && !has {
			err = s.CreateStream(t.Context(), h.Stream, nil)
		}
		events := make([]eventstore.NewEvent, len(h.Payloads))
		for i, p := range h.Payloads {
			events[i].Payload = p
		}
		if err == nil {
			_, err = s.Append(t.Context(), h.Stream, h.AggregateID, eventstore.AnyVersion, events...)
		}
		if err != nil {
			t.Fatalf("what has happened to %q in stream %q: %v", h.AggregateID, h.Stream, err)
		}
	}
}

// FailAppends returns middleware that has the next n appends fail with err, before anything is
// stored. Later ones succeed. It is safe for concurrent use.
func FailAppends(n int, err error) eventstore.Middleware {
	var mu sync.Mutex
	return eventstore.Middleware{
		Append: func(ctx context.Context, b eventstore.Batch, next func(context.Context, eventstore.Batch) ([]eventstore.Event, error)) ([]eventstore.Event, error) {
			mu.Lock()
			fail := n > 0
			n--
			mu.Unlock()
			if fail {
				return nil, err
			}
			return next(ctx, b)
		},
	}
}

// LoseAnswers returns middleware that has the next n appends fail with err although their events
// are stored, as when the connection breaks behind a commit. It is safe for concurrent use.
func LoseAnswers(n int, err error) eventstore.Middleware {
	var mu sync.Mutex
	return eventstore.Middleware{
		Append: func(ctx context.Context, b eventstore.Batch, next func(context.Context, eventstore.Batch) ([]eventstore.Event, error)) ([]eventstore.Event, error) {
			stored, failed := next(ctx, b)
			mu.Lock()
			lose := n > 0 && failed == nil
			if lose {
				n--
			}
			mu.Unlock()
			if lose {
				return nil, err
			}
			return stored, failed
		},
	}
}

// Recorder remembers what a store that has its Middleware has appended and read. The zero value is
// ready, and safe for concurrent use.
type Recorder struct {
	mu       sync.Mutex
	appended []eventstore.Event
	read     []eventstore.Event
	refused  []error
}

// Middleware returns what to put into [eventstore.Options].
func (r *Recorder) Middleware() eventstore.Middleware {
	return eventstore.Middleware{
		Append: func(ctx context.Context, b eventstore.Batch, next func(context.Context, eventstore.Batch) ([]eventstore.Event, error)) ([]eventstore.Event, error) {
			stored, err := next(ctx, b)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.appended = append(r.appended, stored...)
			if err != nil {
				r.refused = append(r.refused, err)
			}
			return stored, err
		},
		Load: func(_ context.Context, ev eventstore.Event) (eventstore.Event, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.read = append(r.read, ev)
			return ev, nil
		},
	}
}

// Appended returns the events that appends have returned, in order.
func (r *Recorder) Appended() []eventstore.Event { return recorded(r, &r.appended) }

// Read returns the events that have been read, in order.
func (r *Recorder) Read() []eventstore.Event { return recorded(r, &r.read) }

// Refused returns the errors of appends that have failed, in order.
func (r *Recorder) Refused() []error { return recorded(r, &r.refused) }

// Reset forgets everything.
func (r *Recorder) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.appended, r.read, r.refused = nil, nil, nil
}

func recorded[T any](r *Recorder, list *[]T) []T {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(*list)
}
