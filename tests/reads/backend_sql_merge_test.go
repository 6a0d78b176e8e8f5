package reads_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestReadSeveralStreams reads selections of many streams at random from a log in which their events lie
// dense, rare and in turn, and compares with what of the whole log they pick.
func TestReadSeveralStreams(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		defer func() {
			if t.Failed() {
				t.Log("seed", seed)
			}
		}()
		r := rand.New(rand.NewPCG(seed, 1))
		s, prefix := l.OpenPrefixed(t)
		var streams []string
		for i := range 40 {
			streams = append(streams, fmt.Sprintf("%s-%d", []string{"s", "t", "u"}[i%3], i))
		}
		var runs []storetest.EventRun
		for range 15 {
			r.Shuffle(len(streams), func(i, j int) { streams[i], streams[j] = streams[j], streams[i] })
			runs = append(runs, storetest.EventRun{Streams: slices.Clone(streams[:1+r.IntN([]int{1, 5, 40}[r.IntN(3)])]), Events: 1 + r.IntN([]int{10, 300, 2500}[r.IntN(3)]), Rare: 1 + r.IntN(400)})
		}
		for i, at := 0, es.Position(0); i < len(runs); i++ {
			at = l.FillRuns(t, s, prefix, at, storetest.EventRun{Streams: runs[i].Streams, Events: runs[i].Events, Rare: runs[i].Rare})
			l.Exec(t, fmt.Sprintf("UPDATE %sevents SET aggregate_id = 'run %d' WHERE position > %d", prefix, i, at-es.Position(runs[i].Events)))
		}
		all := storetest.Everything(t, s)
		selections := 40
		if l.Odd {
			selections = 8 // enough, where only the connection is another
		}
		for range selections {
			var sel es.Selection
			var picks []func(es.Event) bool
			for range 1 + r.IntN([]int{2, 6, 30}[r.IntN(3)]) {
				src, of := es.Source{}, func(es.Event) bool { return true }
				switch k := r.IntN(20); {
				case k < 14:
					src.Stream = streams[r.IntN(len(streams))]
					of = func(ev es.Event) bool { return ev.Stream == src.Stream }
				case k < 19:
					src.Category = []string{"s", "t", "u", "none"}[r.IntN(4)]
					of = func(ev es.Event) bool { return strings.HasPrefix(ev.Stream, src.Category+"-") }
				default:
					src.Match = append(src.Match, es.ByVersion.AtMost(1))
					of = func(ev es.Event) bool { return ev.Version <= 1 }
				}
				match := func(es.Event) bool { return true }
				switch r.IntN(8) {
				case 0:
					src.Match = append(src.Match, es.ByEventName.Equals("account.opened"))
					match = func(ev es.Event) bool { return ev.Name == "account.opened" }
				case 1:
					id := fmt.Sprint("run ", r.IntN(len(runs)))
					src.Match = append(src.Match, es.ByAggregateID.Equals(id))
					match = func(ev es.Event) bool { return ev.AggregateID == id }
				case 2:
					from := r.IntN(len(all))
					src.Match = append(src.Match, es.ByPosition.AtLeast(from))
					match = func(ev es.Event) bool { return int(ev.Position) >= from }
				}
				sel = append(sel, src)
				picks = append(picks, func(ev es.Event) bool { return of(ev) && match(ev) })
			}
			opts := es.ReadOptions{Backward: r.IntN(2) == 0}
			if r.IntN(2) == 0 {
				opts.After = es.Position(r.IntN(len(all)))
			}
			if r.IntN(2) == 0 {
				opts.Before = es.Position(r.IntN(len(all)))
			}
			if r.IntN(3) == 0 {
				opts.Limit = 1 + r.IntN(2000)
			}
			opts.Sealed = r.IntN(4) == 0
			var want []es.Event
			for _, ev := range all {
				if ev.Position > opts.After && (opts.Before == 0 || ev.Position < opts.Before) && slices.ContainsFunc(picks, func(p func(es.Event) bool) bool { return p(ev) }) {
					want = append(want, ev)
				}
			}
			if opts.Backward {
				slices.Reverse(want)
			}
			if opts.Limit > 0 {
				want = want[:min(opts.Limit, len(want))]
			}
			got := storetest.Collect(t, s.Read(t.Context(), sel, opts))
			if !slices.EqualFunc(got, want, func(x, y es.Event) bool { return x.Position == y.Position }) {
				t.Fatalf("%+v, %+v: %d events, want %d", sel, opts, len(got), len(want))
			}
		}
	})
}

// TestReadThousandsOfStreams reads a selection of as many streams as there may be, and is refused one
// of more before anything is asked of the database.
func TestReadThousandsOfStreams(t *testing.T) {
	names := make([]string, 20_001)
	for i := range names {
		names[i] = fmt.Sprintf("stream %d", i)
	}
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		some := []int{3, 4000, 9999, 13_999, 19_999}
		for _, i := range some {
			storetest.CreateStream(t, s, names[i])
			storetest.MustAppend(t, s, names[i], "a", es.MustNotExist, storetest.Deposits(300, 1)...)
		}
		for _, backward := range []bool{false, true} {
			if got := storetest.Collect(t, s.Read(t.Context(), es.FromStreams(names[:20_000]...), es.ReadOptions{Backward: backward})); len(got) != 1500 {
				t.Errorf("%d events, want 1500", len(got))
			}
		}
		p := &es.Projection[int]{Name: "many", From: es.FromStreams(names[:14_000]...), When: []es.Handler[int]{es.OnAny(func(n *int, _ es.Event) { *n++ })}}
		if cp := storetest.CatchUp(t, p, s); cp.State != 1200 {
			t.Errorf("the projection has seen %d events, want 1200", cp.State)
		}
		for _, err := range s.Read(t.Context(), es.FromStreams(names...), es.ReadOptions{}) {
			storetest.WantErr(t, "20,001 streams", err, es.ErrInvalid)
		}
		p.From = es.FromStreams(names...)
		_, err := p.CatchUp(t.Context(), s)
		storetest.WantErr(t, "a projection of 20,001 streams", err, es.ErrInvalid)
	})
}
