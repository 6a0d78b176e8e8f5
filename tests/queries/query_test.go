package queries_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

func TestQuery(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts", "cards", "order-eu", "order-us")
		for i := range 1100 { // more than a page
			evs := storetest.Deposits(1, int64(i))
			evs[0].Metadata = es.Metadata{"odd": i%2 == 1}
			storetest.MustAppend(t, s, []string{"accounts", "cards", "order-eu", "order-us"}[i%4], "a", es.AnyVersion, evs...)
		}
		storetest.MustAppend(t, s, "accounts", "b", es.AnyVersion, es.NewEvent{Payload: storetest.Opened{Owner: "ann"}})
		sum := []es.Fold[int64]{es.On(func(n *int64, e storetest.Deposited) { *n += e.Cents })}
		var all, odd, orders int64
		for i := range int64(1100) {
			all += i
			if i%2 == 1 {
				odd += i
			}
			if i%4 >= 2 {
				orders += i
			}
		}
		for name, c := range map[string]struct {
			q    es.Query[int64]
			want int64
		}{
			"everything":   {es.Query[int64]{From: es.FromAll(), When: sum}, all},
			"with Init":    {es.Query[int64]{From: es.FromAll(), Init: func() int64 { return 1000 }, When: sum}, all + 1000},
			"filtered":     {es.Query[int64]{From: es.FromAll(es.Meta("odd").Equals(true)), When: sum}, odd},
			"a category":   {es.Query[int64]{From: es.FromCategory("order"), When: sum}, orders},
			"two streams":  {es.Query[int64]{From: es.FromStreams("order-us", "order-eu"), When: sum}, orders},
			"until enough": {es.Query[int64]{From: es.FromAll(), When: sum, Until: func(n int64) bool { return n >= 10 }}, 10},
			"several folds, in order": {es.Query[int64]{From: es.FromAll(), When: append(sum[:1:1],
				es.On(func(n *int64, _ storetest.Opened) { *n = -1 }), es.On(func(n *int64, _ storetest.Opened) { *n *= 7 }))}, -7},
			"the rest": {es.Query[int64]{From: es.FromAll(), When: []es.Fold[int64]{
				es.OnAny(func(n *int64, ev es.Event) { *n += 1000 }), es.On(func(*int64, storetest.Deposited) {})}}, 1000},
			"no stream": {es.Query[int64]{From: es.FromStream("none"), When: sum}, 0},
		} {
			for range 2 { // it keeps nothing
				if got, err := c.q.Run(ctx, s); got != c.want || err != nil {
					t.Errorf("%s: %d (%v), want %d", name, got, err, c.want)
				}
			}
		}
		for field, q := range map[string]es.Query[int64]{
			"Query.From":    {When: sum},
			"Query.When[0]": {From: es.FromAll(), When: []es.Fold[int64]{{}}},
			"On":            {From: es.FromAll(), When: []es.Fold[int64]{es.On[storetest.Deposited, int64](nil)}},
		} {
			_, err := q.Run(ctx, s)
			storetest.WantInvalid(t, "a bad "+field, err, field)
		}
		storetest.WantIdle(t, l, "at the end")
	})
}

// TestQuerySeesCommitted runs a query right behind each append: it is in.
func TestQuerySeesCommitted(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, other := l.OpenTwice(t)
		storetest.CreateStream(t, s, "accounts")
		count := es.Query[int]{From: es.FromAll(), When: []es.Fold[int]{es.On(func(n *int, _ storetest.Deposited) { *n++ })}}
		for i, err := range storetest.Race(4, func(i int) error {
			for k := range 10 {
				storetest.MustAppend(t, s, "accounts", fmt.Sprint("a", i), es.ExpectedVersion(k), storetest.Deposits(1, 1)...)
				own := count
				own.From = es.FromAll(es.ByAggregateID.Equals(fmt.Sprint("a", i)))
				n, err := own.Run(t.Context(), other)
				if err != nil {
					return err
				}
				if n != k+1 {
					return fmt.Errorf("%d events, want %d", n, k+1)
				}
			}
			return nil
		}) {
			if err != nil {
				t.Errorf("writer %d: %v", i, err)
			}
		}
	})
}

// TestQueryUntil ends a query while its next page is being read: nothing is left running behind it.
func TestQueryUntil(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", es.MustNotExist, storetest.Deposits(1500, 1)...)
		q := es.Query[int]{From: es.FromAll(), When: []es.Fold[int]{es.On(func(n *int, _ storetest.Deposited) { *n++ })}}
		for _, at := range []int{1, 256, 257, 1255, 1256, 1257, 1500} {
			q.Until = func(n int) bool { return n == at }
			if n, err := q.Run(t.Context(), s); n != at || err != nil {
				t.Errorf("until %d: %d events, %v", at, n, err)
			}
			storetest.WantIdle(t, l, fmt.Sprint("until ", at))
		}
	})
}

// TestSplitIsOneStep has the second of the events that a split makes fail: of the first nothing is
// left, and the checkpoint is before both or behind both.
func TestSplitIsOneStep(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, &es.Options{Upcasters: upcasters})
		storetest.CreateStream(t, s, "accounts")
		stored := storetest.MustAppend(t, s, "accounts", "a", 0, es.NewEvent{Payload: depositV3{5}}, es.NewEvent{Payload: transferV1{100, 1}}, es.NewEvent{Payload: depositV3{7}})
		failing := true
		p := &es.Projection[balance]{Name: "split", From: es.FromAll(), When: []es.Handler[balance]{
			balanceFolds[0], balanceFolds[1],
			es.Do(func(_ context.Context, step *es.Step[balance], e fee) error {
				if failing {
					return errors.New("no such luck")
				}
				step.State.see(-e.Cents, step.Event.Name, step.Event)
				return nil
			}),
		}, OnError: func(context.Context, es.Event, error, int) es.ErrorAction { return es.Fail }}
		if _, err := p.CatchUp(t.Context(), s); err == nil {
			t.Fatal("no error")
		}
		if cp, err := p.Load(t.Context(), s); err != nil || cp.State.Cents != 5 || cp.Position != stored[0].Position {
			t.Errorf("after the failure: %+v (%v), want the first event alone", cp, err)
		}
		failing = false
		if cp := storetest.CatchUp(t, p, s); cp.State.Cents != 5-100-1+7 || cp.Position < stored[2].Position {
			t.Errorf("in the end: %+v", cp)
		}
	})
}
