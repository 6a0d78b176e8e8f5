package execute_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/eventstoretest"
	"example.com/eventstore/internal/storetest"
)

// enveloped is a codec whose text is not that of encoding/json.
type enveloped struct{}

func (enveloped) Marshal(v any) ([]byte, error) { return json.Marshal(map[string]any{"in": v}) }

func (enveloped) Unmarshal(data []byte, v any) error {
	return json.Unmarshal(data, &struct {
		In any `json:"in"`
	}{v})
}

// paid is a deposit as it was once.
type paid struct{ Euros int64 }

func (paid) EventName() string { return "paid" }

// lastDeposit is a state with the time of the last event.
type lastDeposit struct {
	Cents int64
	At    time.Time
}

// TestGivenOn has scenarios run on a store with options of its own: its upcasters, codec, clock and middleware apply,
// scenarios do not see each other, and nothing but their events is stored.
func TestGivenOn(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		at := time.Date(2026, time.May, 4, 3, 2, 1, 0, time.UTC)
		var recorder eventstoretest.Recorder
		s := l.Open(t, &es.Options{
			Codec:      enveloped{},
			Now:        func() time.Time { return at },
			Upcasters:  []es.Upcaster{es.Upcast(func(p paid) storetest.Deposited { return storetest.Deposited{Cents: 100 * p.Euros} })},
			Middleware: []es.Middleware{recorder.Middleware()},
		})
		a := &es.Aggregate[lastDeposit]{Stream: "accounts", When: []es.Fold[lastDeposit]{
			es.OnEvent(func(s *lastDeposit, e storetest.Deposited, ev es.Event) {
				s.Cents, s.At = s.Cents+e.Cents, ev.RecordedAt
			}),
		}}
		deposit := func(cents int64) func(*es.Root[lastDeposit]) error {
			return func(r *es.Root[lastDeposit]) error {
				r.Record(storetest.Deposited{Cents: cents})
				return nil
			}
		}
		refused := errors.New("refused")
		eventstoretest.GivenOn(t, s, a, paid{5}).
			ThenState(lastDeposit{500, at}).
			When(deposit(7)).Then(storetest.Deposited{Cents: 7}).
			When(deposit(1)).Then(storetest.Deposited{Cents: 1}).ThenState(lastDeposit{508, at}).
			When(func(*es.Root[lastDeposit]) error { return refused }).ThenError(refused)
		eventstoretest.GivenOn(t, s, a).When(deposit(2)).Then(storetest.Deposited{Cents: 2}).ThenState(lastDeposit{2, at})
		if n := len(storetest.Everything(t, s)); n != 4 || len(recorder.Appended()) != 4 {
			t.Errorf("%d events stored, and %d that the middleware has seen, want the four of the scenarios", n, len(recorder.Appended()))
		}
	})
}

// TestGivenReading has projections, queries and documents read a history on every store, and, where there are tables,
// a projection write to one.
func TestGivenReading(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		q := &es.Query[int64]{From: es.FromAll(), When: []es.Fold[int64]{es.On(func(n *int64, e storetest.Deposited) { *n += e.Cents })}}
		eventstoretest.GivenQuery(t, s, q, eventstoretest.On("accounts", "a", storetest.Deposited{Cents: 1}, storetest.Deposited{Cents: 2})).ThenState(3)

		p := storetest.TotalsOf("p")
		var rows *storetest.Rows
		if l.DB != nil {
			rows = storetest.NewRows(t, l)
			p.When, p.ReadModel = append(p.When, rows.Insert()), rows.Table()
		}
		state := func(a, b int64, events int) storetest.Totals {
			t := storetest.Totals{Accounts: map[string]int64{"a": a}, Events: events}
			if b > 0 {
				t.Accounts["b"] = b
			}
			return t
		}
		eventstoretest.GivenProjection(t, s, p).ThenState(state(3, 0, 2)).
			When(eventstoretest.On("accounts", "b", storetest.Deposited{Cents: 5})).ThenState(state(3, 5, 3))
		if rows != nil {
			if got := rows.Positions(t); len(got) != 3 {
				t.Errorf("rows of the positions %v, want three", got)
			}
		}
		ds := &es.Documents[int64]{
			Name: "ds", From: es.FromAll(), When: []es.Handler[int64]{es.On(func(n *int64, e storetest.Deposited) { *n += e.Cents })},
			Labels: func(_ string, n *int64) []string {
				return []string{map[bool]string{true: "rich", false: "poor"}[*n > 9]}
			},
		}
		eventstoretest.GivenDocuments(t, s, ds).ThenDocuments(map[string]int64{"a": 3, "b": 5}).ThenLabel("poor", "a", "b").
			When(eventstoretest.On("accounts", "b", storetest.Deposited{Cents: 5})).ThenDocument("b", 10).ThenLabel("rich", "b")

		no := errors.New("no")
		failing := storetest.TotalsOf("failing", es.Do(func(_ context.Context, _ *es.Step[storetest.Totals], e storetest.Deposited) error {
			if e.Cents == 2 {
				return no
			}
			return nil
		}))
		eventstoretest.GivenProjection(t, s, failing).ThenError(no)
		storetest.WantIdle(t, l, "at the end")
	})
}
