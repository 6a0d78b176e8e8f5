package costs_test

import (
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestReadDenseCosts counts what a database reads of streams whose events lie one after the other: no more
// than the events, but for looks around them and at each stream where the read has to find these.
func TestReadDenseCosts(t *testing.T) {
	const events, looks = 6000, 4600
	storetest.ForEach(t, storetest.SomeLanes, storetest.AnyKind, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		four, many := names("few", 4), names("many", 200)
		l.FillRuns(t, s, prefix, 0,
			storetest.EventRun{Streams: []string{"before"}, Events: 10_000},
			storetest.EventRun{Streams: four, Events: events},
			storetest.EventRun{Streams: many, Events: events},
			storetest.EventRun{Streams: []string{"behind"}, Events: 10_000})
		l.Analyze(t, prefix)
		each := 1
		if l.Dialect == es.MySQL {
			each = 2 // it counts a row's stream too
		}
		for _, c := range []struct {
			what    string
			from    es.Selection
			streams int
			after   es.Position
		}{
			{"four streams", es.FromStreams(four...), len(four), 10_000},
			{"a category", es.FromCategory("many"), len(many), 10_000 + events},
		} {
			for _, opts := range []es.ReadOptions{
				{After: c.after, Before: c.after + events + 1},
				{After: c.after, Before: c.after + events + 1, Backward: true},
				{},
				{Backward: true},
			} {
				cost := l.ReadCost(t, s, prefix, func(s *es.Store) {
					if n := len(storetest.Collect(t, s.Read(t.Context(), c.from, opts))); n != events {
						t.Errorf("%s, %+v: %d events, want %d", c.what, opts, n, events)
					}
				})
				allowed := each * events * 11 / 10
				if opts.After == 0 {
					allowed += looks + 10*c.streams
				}
				if cost > allowed {
					t.Errorf("%s, %+v: %d rows, entries of indexes and blocks for %d events, want at most %d", c.what, opts, cost, events, allowed)
				}
			}
		}
	})
}
