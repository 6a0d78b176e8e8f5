package changes_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

type (
	lent     struct{ Copy string }
	returned struct{ Copy string }
	lost     struct{ Copy string }
)

func (lent) EventName() string     { return "lent" }
func (returned) EventName() string { return "returned" }
func (lost) EventName() string     { return "lost" }

// seen is the state of these tests' projections: the positions taken in, in order.
type seen struct{ Positions []es.Position }

func take[E es.Payload]() es.Handler[seen] {
	return es.OnEvent(func(s *seen, _ E, ev es.Event) { s.Positions = append(s.Positions, ev.Position) })
}

// definition is a projection or documents.
type definition = storetest.Definition[seen]

// loans returns a definition over stream "copies" that takes in the events of its handlers.
func loans(k storetest.Kind, handlers ...es.Handler[seen]) *definition {
	return storetest.Define(k, &es.Projection[seen]{Name: "loans", From: es.FromStream("copies"), When: handlers, Poll: 20 * time.Millisecond, Lease: 5 * time.Second})
}

func older(k storetest.Kind) *definition { return loans(k, take[lent]()) }
func newer(k storetest.Kind) *definition { return loans(k, take[lent](), take[returned]()) }

// add appends events of one aggregate, and returns their positions.
func add(t testing.TB, s *es.Store, payloads ...es.Payload) []es.Position {
	t.Helper()
	return addTo(t, s, "copies", "c1", payloads...)
}

func addTo(t testing.TB, s *es.Store, stream, id string, payloads ...es.Payload) []es.Position {
	t.Helper()
	evs := make([]es.NewEvent, len(payloads))
	for i, p := range payloads {
		evs[i].Payload = p
	}
	var out []es.Position
	for _, ev := range storetest.MustAppend(t, s, stream, id, es.AnyVersion, evs...) {
		out = append(out, ev.Position)
	}
	return out
}

func wantSeen(t testing.TB, what string, got, want []es.Position) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: has taken in %v, want %v", what, got, want)
	}
}

// wantCaughtUp runs a projection to the end and compares what it has taken in.
func wantCaughtUp(t testing.TB, what string, p *definition, s *es.Store, want ...es.Position) {
	t.Helper()
	cp, err := p.CatchUp(t.Context(), s)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	wantSeen(t, what, cp.State.Positions, want)
}

// eventuallyIn waits until a running projection has taken in an event.
func eventuallyIn(t testing.TB, p *definition, s *es.Store, at es.Position) {
	t.Helper()
	storetest.Eventually(t, fmt.Sprintf("event %d to be in", at), func() bool {
		cp, err := p.Load(t.Context(), s)
		return err == nil && cp.Position >= at
	})
}

// twoStores runs a test with two stores of the same tables, as an older and a newer process have them. In
// memory they are the same store.
func twoStores(t *testing.T, test func(t *testing.T, k storetest.Kind, old, new *es.Store)) {
	storetest.ForEachDefinition(t, storetest.SomeLanes, storetest.AnyLane, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		a, b := l.OpenTwice(t)
		storetest.CreateStream(t, a, "copies")
		test(t, k, a, b)
	})
}
