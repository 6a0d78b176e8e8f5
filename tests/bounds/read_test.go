package bounds_test

import (
	"fmt"
	"math"
	"slices"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

func TestReadBounds(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		ctx := t.Context()
		for _, n := range []int{0, 1, 2, 1700} {
			if n > 2 && l.Odd {
				n = 300
			} else if n < 2 && l.Odd {
				continue // enough elsewhere
			}
			s := l.Open(t, nil)
			all := storetest.FillLog(t, s, n)
			at := func(i int) es.Position {
				switch {
				case n == 0 || i < 0:
					return 0
				case i >= n:
					return all[n-1].Position + 1000
				}
				return all[i].Position
			}
			for k, from := range []struct {
				sel   es.Selection
				picks func(es.Event) bool
			}{
				{es.FromAll(), func(es.Event) bool { return true }},
				{es.FromStream("cards"), func(ev es.Event) bool { return ev.Stream == "cards" }},
				{es.FromCategory("order"), func(ev es.Event) bool { return ev.Stream != "cards" }},
				{es.FromStreams("cards", "cards", "order-us", "no such"), func(ev es.Event) bool { return ev.Stream != "order-eu" }},
				{append(es.FromCategory("order"), es.FromAll(es.ByVersion.AtMost(100))...), func(ev es.Event) bool { return ev.Stream != "cards" || ev.Version <= 100 }},
				{append(es.FromAll(es.ByVersion.AtLeast(3)), es.FromAll()...), func(es.Event) bool { return true }},
				{es.FromCategory("orde"), func(es.Event) bool { return false }},
				{nil, func(es.Event) bool { return false }},
			} {
				for j, bounds := range [][2]int{{-1, -1}, {0, -1}, {-1, n - 1}, {n / 3, n / 2}, {n / 2, n / 3}, {n - 1, -1}, {n, -1}, {-1, 0}, {n / 2, n/2 + 1}, {-1, n}} {
					if l.Odd && (k+j)%3 > 0 {
						continue
					}
					for _, limit := range []int{0, 1, 2, 256, 257, 1257, 5000} {
						if limit > 2 && (n <= 2 || l.Odd || bounds != [2]int{-1, -1} && bounds != [2]int{n / 3, n / 2}) {
							continue // enough with these
						}
						for _, backward := range []bool{false, true} {
							opts := es.ReadOptions{After: at(bounds[0]), Before: at(bounds[1]), Limit: limit, Backward: backward, Sealed: limit == 1}
							var want []es.Event
							for _, ev := range all {
								if from.picks(ev) && ev.Position > opts.After && (opts.Before == 0 || ev.Position < opts.Before) {
									want = append(want, ev)
								}
							}
							if backward {
								slices.Reverse(want)
							}
							if limit > 0 {
								want = want[:min(limit, len(want))]
							}
							got := storetest.Collect(t, s.Read(ctx, from.sel, opts))
							if len(got) != len(want) || storetest.Ranks(got) != storetest.Ranks(want) {
								t.Fatalf("%d events, %+v, %+v: got %d events, want %d", n, from.sel, opts, len(got), len(want))
							}
						}
					}
				}
			}
			storetest.WantIdle(t, l, "after reads")
		}
	})
}

func TestReadAggregateBounds(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts", "cards")
		all := storetest.MustAppend(t, s, "accounts", "a", es.MustNotExist, storetest.Deposits(1500, 1)...)
		storetest.MustAppend(t, s, "cards", "a", es.MustNotExist, storetest.Deposits(3, 1)...)
		for _, after := range []int64{0, 1, 255, 256, 257, 1243, 1244, 1499, 1500, 1501, math.MaxInt64} {
			storetest.SameEvents(t, fmt.Sprint("after ", after), storetest.Collect(t, s.ReadAggregate(ctx, "accounts", "a", after)), all[min(after, 1500):])
		}
		again := s.ReadAggregate(ctx, "accounts", "a", 10)
		storetest.SameEvents(t, "for the first time", storetest.Collect(t, again), all[10:])
		storetest.SameEvents(t, "for the second time", storetest.Collect(t, again), all[10:])
		for _, name := range [][2]string{{"accounts", "b"}, {"accounts", "A"}, {"account", "a"}} {
			if got := storetest.Collect(t, s.ReadAggregate(ctx, name[0], name[1], 0)); len(got) != 0 {
				t.Errorf("ReadAggregate of %v yields %d events, want none", name, len(got))
			}
		}
		if got := storetest.Collect(t, s.Read(ctx, es.FromStream("account"), es.ReadOptions{})); len(got) != 0 {
			t.Errorf("Read of an unknown stream yields %d events, want none", len(got))
		}
		storetest.WantIdle(t, l, "after reads")
	})
}
