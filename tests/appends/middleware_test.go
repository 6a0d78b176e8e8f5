package appends_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

type next = func(context.Context, es.Batch) ([]es.Event, error)

// TestMiddlewareOrder shows which middleware sees what, and when.
func TestMiddlewareOrder(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		var calls []string
		note := func(name string) es.Middleware {
			return es.Middleware{
				Append: func(ctx context.Context, b es.Batch, next next) ([]es.Event, error) {
					calls = append(calls, fmt.Sprintf("%s appends %d to %s/%s at %d with %v", name, len(b.Events), b.Stream, b.AggregateID, b.Expected, b.Events[0].Metadata["by"]))
					if b.Events[0].ID.Version() != 7 {
						t.Errorf("%s: the event has no ID yet", name)
					}
					stored, err := next(ctx, b)
					calls = append(calls, fmt.Sprintf("%s has %d", name, len(stored)))
					return stored, err
				},
				Load: func(_ context.Context, ev es.Event) (es.Event, error) {
					calls = append(calls, fmt.Sprintf("%s loads %d", name, ev.Version))
					return ev, nil
				},
			}
		}
		s := l.Open(t, &es.Options{
			Middleware: []es.Middleware{note("outer"), {}, note("inner")},
			Metadata:   func(context.Context) es.Metadata { return es.Metadata{"by": "ann"} },
		})
		storetest.CreateStream(t, s, "accounts")
		evs := storetest.WithIDs(storetest.Deposits(2, 1))
		storetest.MustAppend(t, s, "accounts", "a", 0, evs...)
		want := []string{
			"outer appends 2 to accounts/a at 0 with ann", "inner appends 2 to accounts/a at 0 with ann", "inner has 2", "outer has 2",
		}
		if !slices.Equal(calls, want) {
			t.Errorf("append: %q, want %q", calls, want)
		}
		calls = nil
		storetest.Everything(t, s)
		// What is stored passes from the innermost out.
		if want := []string{"inner loads 1", "outer loads 1", "inner loads 2", "outer loads 2"}; !slices.Equal(calls, want) {
			t.Errorf("read: %q, want %q", calls, want)
		}
		calls = nil
		storetest.MustAppend(t, s, "accounts", "a", 0, evs...) // again: what it returns has been read
		if n := len(calls); n != 8 {
			t.Errorf("a repeated append: %q", calls)
		}
		calls = nil
		if _, err := s.Append(t.Context(), "accounts", "a", 0); err != nil || len(calls) != 0 {
			t.Errorf("an append of nothing: %v, %q", err, calls)
		}
	})
}

// TestMiddlewareFailing shows what is stored when middleware fails before and after next.
func TestMiddlewareFailing(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		failure := errors.New("no such luck")
		var when string
		s := l.Open(t, &es.Options{Middleware: []es.Middleware{{
			Append: func(ctx context.Context, b es.Batch, next next) ([]es.Event, error) {
				if when == "before" {
					return nil, failure
				}
				stored, err := next(ctx, b)
				if when == "twice" {
					stored, err = next(ctx, b)
				}
				if when == "after" {
					return nil, failure
				}
				return stored, err
			},
			Load: func(_ context.Context, ev es.Event) (es.Event, error) {
				if when == "load" {
					return ev, failure
				}
				return ev, nil
			},
		}}})
		storetest.CreateStream(t, s, "accounts")
		r := storetest.Accounts.New("a")
		r.Record(storetest.Deposited{Cents: 1})
		for _, c := range []struct {
			when   string
			stored int
		}{{"before", 0}, {"after", 1}, {"", 1}} {
			when = c.when
			_, err := storetest.Accounts.Save(t.Context(), s, r)
			if (err != nil) != (c.when != "") || err != nil && err != failure {
				t.Errorf("failing %q: %v", c.when, err)
			}
			when = ""
			if n := len(storetest.Everything(t, s)); n != c.stored {
				t.Errorf("failing %q: %d events are stored, want %d", c.when, n, c.stored)
			}
		}
		when = "twice"
		storetest.MustAppend(t, s, "accounts", "a", 1, storetest.WithIDs(storetest.Deposits(2, 1))...)
		if n := len(storetest.Everything(t, s)); n != 3 {
			t.Errorf("next called twice: %d events are stored, want 3", n)
		}
		when = "load"
		for _, err := range s.Read(t.Context(), es.FromAll(), es.ReadOptions{}) {
			if err != failure {
				t.Errorf("read with a failing Load: %v", err)
			}
		}
		if _, err := storetest.Accounts.Load(t.Context(), s, "a"); !errors.Is(err, failure) {
			t.Errorf("load with a failing Load: %v", err)
		}
		storetest.WantIdle(t, l, "at the end")
	})
}

// TestMiddlewareChanging has middleware change what is stored, and what is seen of it.
func TestMiddlewareChanging(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, &es.Options{Middleware: []es.Middleware{{
			Append: func(ctx context.Context, b es.Batch, next next) ([]es.Event, error) {
				b.AggregateID = "tenant/" + b.AggregateID
				b.Events = append(b.Events, es.NewEvent{ID: storetest.WithIDs(storetest.Deposits(1, 0))[0].ID, Payload: storetest.Opened{Owner: "more"}, Metadata: es.Metadata{"added": true}})
				b.Events[0].Metadata["seen"] = true
				return next(ctx, b)
			},
			Load: func(_ context.Context, ev es.Event) (es.Event, error) {
				if ev.Name == "account.deposited" {
					ev.Data = []byte(`{"cents":1000}`)
				} else {
					ev.Name, ev.Data = "account.deposited", []byte(`{"cents":1}`)
				}
				ev.Metadata["read"] = true
				return ev, nil
			},
		}}})
		storetest.CreateStream(t, s, "accounts")
		md := es.Metadata{"own": 1}
		stored := storetest.MustAppend(t, s, "accounts", "a", 0, es.NewEvent{Payload: storetest.Deposited{Cents: 5}, Metadata: md})
		if len(stored) != 2 || stored[0].AggregateID != "tenant/a" || stored[0].Metadata["seen"] != true || stored[1].Metadata["added"] != true || string(stored[0].Data) != `{"cents":5}` {
			t.Errorf("stored %v", stored)
		}
		if len(md) != 1 {
			t.Errorf("the caller's metadata have become %v", md)
		}
		for _, ev := range storetest.Everything(t, s) {
			if ev.Name != "account.deposited" || ev.Metadata["read"] != true {
				t.Errorf("read %s", storetest.Describe(ev))
			}
		}
		// Folds see what Load makes of events, under the names it gives them.
		r, err := storetest.Accounts.Load(t.Context(), s, "tenant/a")
		if err != nil || r.State().Cents != 1001 || r.State().Owner != "" {
			t.Errorf("aggregate: %+v, %v", r, err)
		}
		q := es.Query[int64]{From: es.FromAll(), When: []es.Fold[int64]{es.On(func(n *int64, e storetest.Deposited) { *n += e.Cents })}}
		if n, err := q.Run(t.Context(), s); n != 1001 || err != nil {
			t.Errorf("query: %d, %v", n, err)
		}
		p := storetest.TotalsOf("totals")
		if cp := storetest.CatchUp(t, p, s); cp.State.Accounts["tenant/a"] != 1001 {
			t.Errorf("projection: %+v", cp)
		}
	})
}

// TestMiddlewareWithoutIDs has middleware add events without IDs, and give the same batch twice: each event gets an
// ID, once.
func TestMiddlewareWithoutIDs(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		var seen []es.NewEvent
		s := l.Open(t, &es.Options{Middleware: []es.Middleware{{
			Append: func(ctx context.Context, b es.Batch, next next) ([]es.Event, error) {
				b.Events[0].ID = uuid.Nil
				b.Events = append(b.Events, es.NewEvent{Payload: storetest.Opened{Owner: "added"}})
				if _, err := next(ctx, b); err != nil {
					return nil, err
				}
				return next(ctx, b)
			},
		}, {
			Append: func(ctx context.Context, b es.Batch, next next) ([]es.Event, error) {
				seen = b.Events
				return next(ctx, b)
			},
		}}})
		storetest.CreateStream(t, s, "accounts")
		stored := storetest.MustAppend(t, s, "accounts", "a", 0, storetest.Deposits(1, 1)...)
		storetest.SameEvents(t, "stored", storetest.Everything(t, s), stored)
		if len(stored) != 2 || stored[0].ID == uuid.Nil || stored[1].ID == uuid.Nil || stored[0].ID == stored[1].ID {
			t.Errorf("stored %v", stored)
		}
		for i, ev := range seen {
			if ev.ID != stored[i].ID {
				t.Errorf("the inner middleware saw ID %v of event %d, want %v", ev.ID, i, stored[i].ID)
			}
		}
	})
}
