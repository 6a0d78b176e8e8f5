// Package eventstoretest helps applications test what they build on package eventstore: aggregates
// by given, when, then; projections and queries by the state that a history gives them, documents by
// what they are then; and stores with a history in them, that fail, or that record what happens to them.
package eventstoretest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"example.com/eventstore"
)

// Scenario is one aggregate's given, when, then. It belongs to the goroutine of its test.
type Scenario[S any] struct {
	t         testing.TB
	aggregate *eventstore.Aggregate[S]
	store     *eventstore.Store
	id        string
	root      *eventstore.Root[S]
	recorded  []eventstore.Event
	err       error
	ran       bool
	checked   bool // somebody has looked at err
}

// Given begins a scenario in which history has happened to an aggregate. It is kept in a memory
// store, so that payloads pass through JSON as they do in production.
//
//	eventstoretest.Given(t, &accounts, Opened{Owner: "Ann"}, Deposited{Cents: 500}).
//		When(func(r *eventstore.Root[Account]) error { return withdraw(r, 300) }).
//		Then(Withdrawn{Cents: 300}).
//		ThenState(Account{Owner: "Ann", Cents: 200})
func Given[S any](t testing.TB, a *eventstore.Aggregate[S], history ...eventstore.Payload) *Scenario[S] {
	t.Helper()
	return given(t, eventstore.NewMemStore(nil), a, "scenario", history)
}

// GivenOn is [Given] on a store of the caller's, of any kind: with its upcasters, codec, clock and middleware. It
// makes the stream if it is missing. Each scenario has an aggregate of its own, with a fresh ID, and leaves it in the
// store. History may be in an earlier shape, which the store's upcasters know.
//
// [Scenario.Then] compares payloads as the store's codec writes them. A codec that writes one payload in several
// ways, such as one that encrypts, fails the test there: use [Scenario.ThenState].
func GivenOn[S any](t testing.TB, s *eventstore.Store, a *eventstore.Aggregate[S], history ...eventstore.Payload) *Scenario[S] {
	t.Helper()
	if s == nil {
		t.Fatal("GivenOn: the store is nil")
	}
	return given(t, s, a, "scenario-"+uuid.NewString(), history)
}

func given[S any](t testing.TB, s *eventstore.Store, a *eventstore.Aggregate[S], id string, history []eventstore.Payload) *Scenario[S] {
	t.Helper()
	sc := &Scenario[S]{t: t, aggregate: a, store: s, id: id}
	Append(t, s, On(a.Stream, id, history...))
	// An error of When that no ThenError asks about must not go unseen.
	t.Cleanup(func() {
		if sc.err != nil && !sc.checked {
			t.Errorf("When failed, and nothing asked about it: %v", sc.err)
		}
	})
	return sc
}

// When lets decide record events on the aggregate as the history has made it, and saves them. It
// may be called again: the next decision sees what the one before has recorded.
func (sc *Scenario[S]) When(decide func(*eventstore.Root[S]) error) *Scenario[S] {
	sc.t.Helper()
	return sc.run(func(ctx context.Context) (*eventstore.Root[S], error) {
		return sc.aggregate.Execute(ctx, sc.store, sc.id, decide)
	})
}

// WhenCommand is When with a command that the aggregate handles.
func (sc *Scenario[S]) WhenCommand(command any) *Scenario[S] {
	sc.t.Helper()
	return sc.run(func(ctx context.Context) (*eventstore.Root[S], error) {
		return sc.aggregate.Handle(ctx, sc.store, sc.id, command)
	})
}

func (sc *Scenario[S]) run(fn func(context.Context) (*eventstore.Root[S], error)) *Scenario[S] {
	sc.t.Helper()
	if sc.err != nil && !sc.checked {
		sc.t.Fatalf("the When before failed, and nothing asked about it: %v", sc.err)
	}
	before := int64(len(sc.events(0)))
	sc.root, sc.err = fn(sc.t.Context())
	sc.ran, sc.checked = true, false
	sc.recorded = sc.events(before)
	return sc
}

// events returns the aggregate's events behind a version.
func (sc *Scenario[S]) events(after int64) []eventstore.Event {
	sc.t.Helper()
	var out []eventstore.Event
	for ev, err := range sc.store.ReadAggregate(sc.t.Context(), sc.aggregate.Stream, sc.id, after) {
		if err != nil {
			sc.t.Fatalf("read what was recorded: %v", err)
		}
		out = append(out, ev)
	}
	return out
}

// Then checks that the last When has recorded exactly these payloads, in order; none means that it
// has recorded nothing. Payloads are compared as the store's codec writes them.
func (sc *Scenario[S]) Then(recorded ...eventstore.Payload) *Scenario[S] {
	sc.t.Helper()
	sc.succeeded("Then")
	got := make([]string, len(sc.recorded))
	for i, ev := range sc.recorded {
		got[i] = line(ev.Name, ev.Data)
	}
	want := sc.encoded(recorded)
	if d := diff(got, want); d != "" {
		sc.t.Errorf("the events recorded are not those wanted (-want +got):\n%s", d)
	}
	return sc
}

// ThenState checks the state behind the last When, or behind the history if there was none.
func (sc *Scenario[S]) ThenState(want S) *Scenario[S] {
	sc.t.Helper()
	if sc.ran {
		sc.succeeded("ThenState")
	}
	root, err := sc.aggregate.Load(sc.t.Context(), sc.store, sc.id)
	if errors.Is(err, eventstore.ErrAggregateNotFound) {
		root, err = sc.aggregate.New(sc.id), nil
	}
	if err != nil {
		sc.t.Fatalf("load the aggregate: %v", err)
	}
	if got := root.State(); !reflect.DeepEqual(got, want) {
		sc.t.Errorf("the state is not the one wanted (-want +got):\n%s", diff(lines(got), lines(want)))
	}
	return sc
}

// ThenError checks that the last When has failed with an error that [errors.Is] finds to be target
// (nil: with any error), and has recorded nothing.
func (sc *Scenario[S]) ThenError(target error) *Scenario[S] {
	sc.t.Helper()
	sc.checked = true
	switch {
	case !sc.ran:
		sc.t.Fatal("ThenError without a When")
	case sc.err == nil:
		sc.t.Errorf("When has succeeded, want the error: %v", target)
	case target != nil && !errors.Is(sc.err, target):
		sc.t.Errorf("When has failed with: %v\nwant: %v", sc.err, target)
	}
	if len(sc.recorded) > 0 {
		sc.t.Errorf("When has recorded %d events, want none", len(sc.recorded))
	}
	return sc
}

// errEncoded ends encoded's decision before it is saved.
var errEncoded = errors.New("encoded")

// encoded returns payloads as the store would keep them, without storing any: a root of the store encodes what it
// records, and its folds get that.
func (sc *Scenario[S]) encoded(payloads []eventstore.Payload) []string {
	sc.t.Helper()
	recorder := eventstore.Aggregate[[]string]{
		Stream: sc.aggregate.Stream,
		When: []eventstore.Fold[[]string]{
			eventstore.OnAny(func(out *[]string, ev eventstore.Event) { *out = append(*out, line(ev.Name, ev.Data)) }),
		},
	}
	var out, again []string
	for _, to := range []*[]string{&out, &again} {
		_, err := recorder.Execute(sc.t.Context(), sc.store, "encoded-"+uuid.NewString(), func(r *eventstore.Root[[]string]) error {
			for i, p := range payloads {
				if r.Record(p); len(r.State()) != i+1 {
					return fmt.Errorf("payload %d, a %T, can't be encoded", i, p)
				}
			}
			*to = r.State()
			return errEncoded
		})
		if !errors.Is(err, errEncoded) {
			sc.t.Fatalf("Then: %v", err)
		}
	}
	if !slices.Equal(out, again) {
		sc.t.Fatal("Then: the store's codec writes one payload in several ways: use ThenState")
	}
	return out
}

// succeeded stops the test if there is nothing to look at.
func (sc *Scenario[S]) succeeded(what string) {
	sc.t.Helper()
	if !sc.ran {
		sc.t.Fatalf("%s without a When", what)
	}
	if sc.err != nil {
		sc.checked = true
		sc.t.Fatalf("%s: When has failed: %v", what, sc.err)
	}
}

func line(name string, data []byte) string { return name + " " + string(data) }

// lines returns a value in a form that can be compared line by line.
func lines(v any) []string {
	if text, err := json.MarshalIndent(v, "", "  "); err == nil && !strings.HasPrefix(string(text), "{}") {
		return strings.Split(string(text), "\n")
	}
	return []string{fmt.Sprintf("%+v", v)}
}
