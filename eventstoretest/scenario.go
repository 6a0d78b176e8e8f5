// Package eventstoretest helps applications test what they build on package eventstore: aggregates
// by given, when, then; projections and queries on a memory store with a history in it; and stores
// that fail, or record what happens to them.
package eventstoretest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"example.com/eventstore"
)

// Scenario is one aggregate's given, when, then. It belongs to the goroutine of its test.
type Scenario[S any] struct {
	t         testing.TB
	aggregate *eventstore.Aggregate[S]
	store     *eventstore.Store
	root      *eventstore.Root[S]
	recorded  []eventstore.Event
	err       error
	ran       bool
	checked   bool // somebody has looked at err
}

// scenarioID is the ID of a scenario's aggregate.
const scenarioID = "scenario"

// Given begins a scenario in which history has happened to an aggregate. It is kept in a memory
// store, so that payloads pass through JSON as they do in production.
//
//	eventstoretest.Given(t, &accounts, Opened{Owner: "Ann"}, Deposited{Cents: 500}).
//		When(func(r *eventstore.Root[Account]) error { return withdraw(r, 300) }).
//		Then(Withdrawn{Cents: 300}).
//		ThenState(Account{Owner: "Ann", Cents: 200})
func Given[S any](t testing.TB, a *eventstore.Aggregate[S], history ...eventstore.Payload) *Scenario[S] {
	t.Helper()
	sc := &Scenario[S]{t: t, aggregate: a}
	sc.store = Store(t, nil, On(a.Stream, scenarioID, history...))
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
		return sc.aggregate.Execute(ctx, sc.store, scenarioID, decide)
	})
}

// WhenCommand is When with a command that the aggregate handles.
func (sc *Scenario[S]) WhenCommand(command any) *Scenario[S] {
	sc.t.Helper()
	return sc.run(func(ctx context.Context) (*eventstore.Root[S], error) {
		return sc.aggregate.Handle(ctx, sc.store, scenarioID, command)
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
	for ev, err := range sc.store.ReadAggregate(sc.t.Context(), sc.aggregate.Stream, scenarioID, after) {
		if err != nil {
			sc.t.Fatalf("read what was recorded: %v", err)
		}
		out = append(out, ev)
	}
	return out
}

// Then checks that the last When has recorded exactly these payloads, in order; none means that it
// has recorded nothing. Payloads are compared as they are stored.
func (sc *Scenario[S]) Then(recorded ...eventstore.Payload) *Scenario[S] {
	sc.t.Helper()
	sc.succeeded("Then")
	got := make([]string, len(sc.recorded))
	for i, ev := range sc.recorded {
		got[i] = line(ev.Name, ev.Data)
	}
	want := make([]string, len(recorded))
	for i, p := range recorded {
		data, err := json.Marshal(p)
		if err != nil {
			sc.t.Fatalf("Then: payload %d can't be encoded: %v", i, err)
		}
		want[i] = line(p.EventName(), data)
	}
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
	root, err := sc.aggregate.Load(sc.t.Context(), sc.store, scenarioID)
	if errors.Is(err, eventstore.ErrAggregateNotFound) {
		root, err = sc.aggregate.New(scenarioID), nil
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
