package ownership_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// oldPacked is a Packed under an earlier name.
type oldPacked Packed

func (oldPacked) EventName() string { return "order.packed.v1" }

// spoil changes all that an event's receiver can reach, and says what it found before.
func spoil(ev es.Event) string {
	found := fmt.Sprint(string(ev.Data), ev.Metadata)
	if len(ev.Data) > 0 {
		ev.Data[0] = 'X'
	}
	for key := range ev.Metadata {
		ev.Metadata[key] = "spoilt"
	}
	ev.Metadata["more"] = true
	return found
}

// seen collects what receivers found in the events of one position.
type seen map[es.Position]map[string]int

func (s seen) add(ev es.Event) {
	if s[ev.Position] == nil {
		s[ev.Position] = map[string]int{}
	}
	s[ev.Position][spoil(ev)]++
}

// check fails the test unless all receivers of an event have found the same.
func (s seen) check(t *testing.T, what string, stored []es.Event, want map[es.Position]string) {
	t.Helper()
	for _, ev := range stored {
		if len(s[ev.Position]) != 1 || s[ev.Position][want[ev.Position]] == 0 {
			t.Errorf("%s: receivers of event %d found %v, want %s", what, ev.Position, s[ev.Position], want[ev.Position])
		}
	}
}

// TestReceiversOwnEvents has every receiver of events change what it gets. No other receiver, no later
// attempt and no later read sees that.
func TestReceiversOwnEvents(t *testing.T) {
	for name, opts := range map[string]*es.Options{
		"plain": nil,
		"middleware": {Middleware: []es.Middleware{{Load: func(_ context.Context, ev es.Event) (es.Event, error) {
			was := ev
			was.Data, was.Metadata = append([]byte(nil), ev.Data...), es.Metadata{"by": ev.Metadata["by"]}
			spoil(ev)
			return was, nil
		}}}},
		"upcaster": {Upcasters: []es.Upcaster{es.Split(func(p oldPacked) []es.Payload { return []es.Payload{Packed(p), Packed(p)} })}},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.ForEach(t, storetest.SomeLanes, storetest.Usual, func(t *testing.T, l storetest.Lane) {
				s := l.Open(t, opts)
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				storetest.CreateStream(t, s, "accounts")
				var evs []es.NewEvent
				for i := range 4 {
					var p es.Payload = packed(i)
					if name == "upcaster" {
						p = oldPacked(packed(i))
					}
					evs = append(evs, es.NewEvent{Payload: p, Metadata: es.Metadata{"by": fmt.Sprint("ann ", i)}})
				}
				stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, evs...)
				want := map[es.Position]string{}
				for i, ev := range stored {
					text, err := json.Marshal(evs[i].Payload)
					if err != nil {
						t.Fatal(err)
					}
					want[ev.Position] = fmt.Sprint(string(text), evs[i].Metadata)
					spoil(ev) // what Append has returned is the caller's
				}
				found := seen{}
				failed := map[es.Position]int{}
				attempt := func(ev es.Event) error {
					if failed[ev.Position]++; failed[ev.Position] < 3 {
						return errors.New("not yet")
					}
					return nil
				}
				var payloads []string
				change := func(e Packed) {
					payloads = append(payloads, fmt.Sprint(e.Items, e.Counts, *e.Note))
					e.Items[0], e.Counts["n"], *e.Note = "spoilt", 100, "spoilt"
				}
				onError := func(_ context.Context, ev es.Event, _ error, _ int) es.ErrorAction {
					found.add(ev)
					return es.Retry
				}
				p := es.Projection[int]{
					Name: "p", From: es.FromAll(), OnError: onError,
					When: []es.Handler[int]{
						es.OnEvent(func(_ *int, e Packed, ev es.Event) { found.add(ev); change(e) }),
						es.Do(func(_ context.Context, step *es.Step[int], e Packed) error {
							change(e)
							found.add(step.Event)
							return nil
						}),
						es.Do(func(_ context.Context, step *es.Step[int], e Packed) error {
							change(e)
							position := step.Event
							found.add(step.Event)
							return attempt(position)
						}),
					},
				}
				if _, err := p.CatchUp(ctx, s); err != nil {
					t.Fatal(err)
				}
				found.check(t, "projection", stored, want)
				allowed := map[string]bool{}
				for i := range evs {
					e := packed(i)
					allowed[fmt.Sprint(e.Items, e.Counts, *e.Note)] = true
				}
				for _, payload := range payloads {
					if !allowed[payload] {
						t.Errorf("a handler got the payload %s", payload)
					}
				}

				found, failed = seen{}, map[es.Position]int{}
				relay := es.Relay{Name: "r", From: es.FromAll(), Publish: func(_ context.Context, events []es.Event) error {
					for i, ev := range events {
						found.add(ev)
						if i == 0 {
							if err := attempt(ev); err != nil {
								return err
							}
						}
					}
					return nil
				}}
				rctx, end := context.WithCancel(ctx)
				done := make(chan error, 1)
				go func() { done <- relay.Run(rctx, s) }()
				storetest.Eventually(t, "the relay", func() bool { return storetest.Info(t, s, "r").Position >= stored[3].Position })
				end()
				if err := <-done; !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				found.check(t, "relay", stored, want)

				for range 2 {
					found = seen{}
					for ev, err := range s.Read(ctx, es.FromAll(), es.ReadOptions{}) {
						if err != nil {
							t.Fatal(err)
						}
						found.add(ev)
					}
					found.check(t, "read", stored, want)
					found = seen{}
					for ev, err := range s.ReadAggregate(ctx, "accounts", "a", 0) {
						if err != nil {
							t.Fatal(err)
						}
						found.add(ev)
					}
					found.check(t, "read of the aggregate", stored, want)
					found = seen{}
					query := es.Query[int]{From: es.FromAll(), When: []es.Fold[int]{
						es.OnEvent(func(_ *int, e Packed, ev es.Event) { change(e); found.add(ev) }),
						es.OnEvent(func(_ *int, e Packed, ev es.Event) { change(e); found.add(ev) }),
					}}
					if _, err := query.Run(ctx, s); err != nil {
						t.Fatal(err)
					}
					found.check(t, "query", stored, want)
				}
			})
		})
	}
}
