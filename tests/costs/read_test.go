package costs_test

import (
	"fmt"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

func names(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	return out
}

// skewed is a log of which statistics tell little: streams that end early, begin late, pause, or
// are few among many.
func skewed() []storetest.EventRun {
	return []storetest.EventRun{
		{Streams: []string{"ended", "gone"}, Events: 2000},
		{Streams: []string{"big"}, Events: 40_000, Rare: 1000},
		{Streams: []string{"late"}, Events: 1000, Rare: 100},
		{Streams: names("ten", 10), Events: 100},
		{Streams: []string{"a", "b", "c", "d"}, Events: 9000, Rare: 500},
		{Streams: []string{"big"}, Events: 30_000, Rare: 1000},
		{Streams: names("many", 200), Events: 4000},
		{Streams: []string{"one"}, Events: 1},
		{Streams: []string{"big"}, Events: 10_000, Rare: 1000},
	}
}

const last = 96_101 // its length

// TestReadCosts counts what a database reads for reads of a skewed log, with statistics that are
// fresh, of the log when it was short, or missing: in proportion to what they return and to how many
// streams they go through, and never the rest of the log.
func TestReadCosts(t *testing.T) {
	opened := es.ByEventName.Equals("account.opened")
	cases := []struct {
		what    string
		from    es.Selection
		opts    es.ReadOptions
		want    int // events
		streams int // that are looked at
		passed  int // events of these streams that a match drops, or fewer positions than a page's
	}{
		{"late", es.FromStream("late"), es.ReadOptions{}, 1000, 1, 0},
		{"late, first", es.FromStream("late"), es.ReadOptions{Limit: 1}, 1, 1, 0},
		{"late, backward", es.FromStream("late"), es.ReadOptions{Backward: true}, 1000, 1, 0},
		{"late, from its middle", es.FromStream("late"), es.ReadOptions{After: 42_500}, 500, 1, 0},
		{"late, up to its middle", es.FromStream("late"), es.ReadOptions{Before: 42_501}, 500, 1, 0},
		{"late, sealed", es.FromStream("late"), es.ReadOptions{Before: last + 1}, 1000, 1, 0},
		{"ended", es.FromStream("ended"), es.ReadOptions{}, 1000, 1, 0},
		{"ended, backward", es.FromStream("ended"), es.ReadOptions{Backward: true}, 1000, 1, 0},
		{"ended, its last, backward", es.FromStream("ended"), es.ReadOptions{Backward: true, Limit: 1}, 1, 1, 0},
		{"ended, from the middle of the log", es.FromStream("ended"), es.ReadOptions{After: 50_000}, 0, 1, 0},
		{"one event", es.FromStream("one"), es.ReadOptions{}, 1, 1, 0},
		{"one event, backward", es.FromStream("one"), es.ReadOptions{Backward: true}, 1, 1, 0},
		{"big, a few", es.FromStream("big"), es.ReadOptions{Limit: 10}, 10, 1, 0},
		{"big, a few from its middle", es.FromStream("big"), es.ReadOptions{After: 30_000, Limit: 10}, 10, 1, 0},
		{"big, across its pause", es.FromStream("big"), es.ReadOptions{After: 41_900, Limit: 300}, 300, 1, 0},
		{"big, across its pause, backward", es.FromStream("big"), es.ReadOptions{Before: 52_200, Backward: true, Limit: 300}, 300, 1, 0},
		{"big, its end, backward", es.FromStream("big"), es.ReadOptions{Limit: 10, Backward: true}, 10, 1, 0},
		{"no stream", es.FromStream("none"), es.ReadOptions{}, 0, 1, 0},
		{"a deleted stream", es.FromStream("gone"), es.ReadOptions{}, 0, 1, 0},
		{"a name in a late stream", es.FromStream("late", opened), es.ReadOptions{}, 10, 1, 1000},
		{"no such metadata in a late stream", es.FromStream("late", es.Meta("k").Equals("v")), es.ReadOptions{}, 0, 1, 1000},
		{"a late aggregate", es.FromStream("big", es.ByAggregateID.Equals("r8")), es.ReadOptions{Limit: 300}, 300, 1, 0},
		{"a late aggregate, backward", es.FromStream("big", es.ByAggregateID.Equals("r1")), es.ReadOptions{Limit: 300, Backward: true}, 300, 1, 0},
		{"no such aggregate", es.FromStream("big", es.ByAggregateID.Equals("none")), es.ReadOptions{}, 0, 1, 0},
		{"positions", es.FromAll(es.ByPosition.AtLeast(96_000), es.ByPosition.AtMost(96_010)), es.ReadOptions{}, 11, 1, 0},
		{"all, a few from the middle", es.FromAll(), es.ReadOptions{After: 50_000, Limit: 10}, 10, 1, 0},
		{"all, the last, backward", es.FromAll(), es.ReadOptions{Limit: 10, Backward: true}, 10, 1, 0},
		{"all, a name, a few from the middle", es.FromAll(opened), es.ReadOptions{After: 42_000, Limit: 10}, 10, 1, 1000},
		{"all, a name, the last", es.FromAll(opened), es.ReadOptions{Limit: 1, Backward: true}, 1, 1, 1000},
		{"ten", es.FromCategory("ten"), es.ReadOptions{}, 100, 10, 0},
		{"ten, backward", es.FromCategory("ten"), es.ReadOptions{Backward: true}, 100, 10, 0},
		{"ten, the first", es.FromCategory("ten"), es.ReadOptions{Limit: 1}, 1, 10, 0},
		{"ten, from the end of the log", es.FromCategory("ten"), es.ReadOptions{After: 80_000}, 0, 10, 0},
		{"ten, from the end of the log, backward", es.FromCategory("ten"), es.ReadOptions{Before: 1000, Backward: true}, 0, 10, 0},
		{"four", es.FromStreams("a", "b", "c", "d"), es.ReadOptions{}, 9000, 4, 0},
		{"four, backward", es.FromStreams("a", "b", "c", "d"), es.ReadOptions{Backward: true}, 9000, 4, 0},
		{"four, a name", append(append(es.FromStream("a", opened), es.FromStream("b", opened)...), append(es.FromStream("c", opened), es.FromStream("d", opened)...)...), es.ReadOptions{}, 18, 4, 9000},
		{"an early and a late one", es.FromStreams("ended", "late"), es.ReadOptions{}, 2000, 2, 0},
		{"an early and a late one, backward", es.FromStreams("ended", "late"), es.ReadOptions{Backward: true}, 2000, 2, 0},
		{"small ones beside a big one", es.FromStreams("ended", "big", "late", "one"), es.ReadOptions{Limit: 500}, 500, 4, 0},
		{"two categories", append(es.FromCategory("ten"), es.FromCategory("many")...), es.ReadOptions{}, 4100, 210, 0},
		{"many, backward", es.FromCategory("many"), es.ReadOptions{Backward: true, Limit: 1000}, 1000, 200, 0},
		{"no such category", es.FromCategory("none"), es.ReadOptions{}, 0, 1, 0},
	}
	storetest.ForEach(t, storetest.SomeLanes, storetest.AnyKind, func(t *testing.T, l storetest.Lane) {
		for _, statistics := range []string{"fresh", "stale", "none"} {
			s, prefix := l.OpenPrefixed(t)
			if l.Dialect == es.Postgres {
				l.Exec(t, "ALTER TABLE "+prefix+"events SET (autovacuum_enabled = false)")
			}
			runs := skewed()
			at := l.FillRuns(t, s, prefix, 0, runs[0])
			if statistics == "stale" {
				l.Analyze(t, prefix)
			}
			for i, r := range runs[1:] { // an aggregate for each run, by its number
				pad := make([]storetest.EventRun, 0, 1)
				at = l.FillRuns(t, s, prefix, at, append(pad, r)...)
				l.Exec(t, fmt.Sprintf("UPDATE %sevents SET aggregate_id = 'r%d' WHERE position > %d", prefix, i+1, at-es.Position(r.Events)))
			}
			if at != last {
				t.Fatalf("the log ends at %d, want %d", at, last)
			}
			if err := s.DeleteStream(t.Context(), "gone"); err != nil {
				t.Fatal(err)
			}
			if statistics == "fresh" {
				l.Analyze(t, prefix)
			}
			for _, c := range cases {
				n := 0
				cost := l.ReadCost(t, s, prefix, func(s *es.Store) {
					n = len(storetest.Collect(t, s.Read(t.Context(), c.from, c.opts)))
				})
				if n != c.want {
					t.Errorf("%s: %d events, want %d", c.what, n, c.want)
				}
				allowed := 5*c.want + 5*c.passed + 30*c.streams + 100
				if len(c.from) > 1 || c.from[0].Category != "" {
					// Looks at a few thousand positions find out where the events of several streams lie dense.
					allowed += 10_000
					if l.Dialect == es.Postgres {
						allowed += 15_000 // where each counts more than twice
					}
				}
				if cost > allowed {
					t.Errorf("%s, statistics %s: %d rows, entries of indexes and blocks for %d events, want at most %d", c.what, statistics, cost, n, allowed)
				}
			}
			cost := l.ReadCost(t, s, prefix, func(s *es.Store) {
				if n := len(storetest.Collect(t, s.ReadAggregate(t.Context(), "big", "r8", 9000))); n != 1000 {
					t.Errorf("ReadAggregate: %d events, want 1000", n)
				}
			})
			if cost > 5100 {
				t.Errorf("ReadAggregate, statistics %s: %d rows, entries and blocks for 1000 events", statistics, cost)
			}
			id := storetest.Collect(t, s.Read(t.Context(), es.FromStream("one"), es.ReadOptions{}))[0].ID
			for what, from := range map[string]es.Selection{"all": es.FromAll(es.ByEventID.Equals(id)), "stream": es.FromStream("one", es.ByEventID.Equals(id)), "category": es.FromCategory("ten", es.ByEventID.Equals(id))} {
				if cost := l.ReadCost(t, s, prefix, func(s *es.Store) { storetest.Collect(t, s.Read(t.Context(), from, es.ReadOptions{})) }); cost > 50 {
					t.Errorf("an event ID, %s, statistics %s: %d rows, entries and blocks", what, statistics, cost)
				}
			}
		}
	})
}
