package scale_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

type tally struct{ N int }

// tallies counts the events that fall to each of so many keys. Neighbours in the log have keys far apart.
func tallies(name string, keys int, heap *uint64) *es.Documents[tally] {
	return &es.Documents[tally]{
		Name: name, From: es.FromAll(),
		Key: func(ev es.Event) string { return fmt.Sprintf("%07d", 1+int(ev.Position)*7919%keys) },
		When: []es.Handler[tally]{es.OnAny(func(c *tally, ev es.Event) {
			c.N++
			if ev.Position%1000 == 0 {
				*heap = max(*heap, inUse())
			}
		})},
		Labels: func(_ string, c *tally) []string {
			if c.N == 1000 {
				return []string{"rare"}
			}
			return nil
		},
	}
}

// inUse returns how many bytes of memory the process uses.
func inUse() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// TestDocumentScale takes in events with ten thousand and with a million documents: at the same cost for each, and in
// little memory. Reads go through what they return, and no more than a page beyond.
func TestDocumentScale(t *testing.T) {
	const few, many, events, most = 10_000, 1_000_000, 10_000, 64 << 20
	storetest.ForEachProcess(t, storetest.AnyKind, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		if l.Dialect == es.Postgres {
			for _, table := range []string{"documents", "labels"} { // so that there are no statistics at first
				l.Exec(t, "ALTER TABLE "+prefix+table+" SET (autovacuum_enabled = false)")
			}
		}
		at := l.FillRuns(t, s, prefix, 0, storetest.EventRun{Streams: []string{"accounts"}, Events: 1})
		var heap uint64
		small, large := tallies("small", few, &heap), tallies("large", many, &heap)
		for ds, keys := range map[*es.Documents[tally]]int{small: few, large: many} {
			catchUp(t, ds, s)
			l.Exec(t, "DELETE FROM "+prefix+"documents WHERE projection = '"+ds.Name+"'")
			l.FillDocuments(t, prefix, ds.Name, keys, 1000, `{"N": 1}`)
		}
		var took [2]time.Duration
		for round := range 4 { // the first does not count
			at = l.FillRuns(t, s, prefix, at, storetest.EventRun{Streams: []string{fmt.Sprintf("accounts-%d", round)}, Events: events})
			for i := range took {
				i = (i + round) % 2
				d := catchUp(t, []*es.Documents[tally]{small, large}[i], s)
				if round > 0 {
					took[i] += d
				}
			}
		}
		t.Logf("%d events took %v with %d documents and %v with %d: %.2f times as long, in at most %d MB", 3*events, took[0], few, took[1], many, took[1].Seconds()/took[0].Seconds(), heap>>20)
		if took[1] > 2*took[0]+time.Second {
			t.Errorf("%v with %d documents, %v with %d", took[1], many, took[0], few)
		}

		documentCosts(t, l, s, prefix, large)
		if l.Dialect == es.Postgres {
			l.Exec(t, "ANALYZE "+prefix+"documents, "+prefix+"labels")
			documentCosts(t, l, s, prefix, large)
		}

		n := 0
		for _, err := range large.All(t.Context(), s, es.DocumentOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			if n++; n%1000 == 0 {
				heap = max(heap, inUse())
			}
		}
		t.Logf("all %d documents were read in at most %d MB", n, heap>>20)
		if n != many || heap > most {
			t.Errorf("%d documents, want %d; %d MB in use, want less than %d", n, many, heap>>20, most>>20)
		}
	})
}

// documentCosts counts what the server reads for pages and single documents.
func documentCosts(t *testing.T, l storetest.Lane, s *es.Store, prefix string, large *es.Documents[tally]) {
	t.Helper()
	for _, c := range []struct {
		what string
		opts es.DocumentOptions
		want int
	}{
		{"first", es.DocumentOptions{Limit: 100}, 100},
		{"from the middle", es.DocumentOptions{After: "0500000", Limit: 1000}, 1000},
		{"backward from the middle", es.DocumentOptions{After: "0500000", Limit: 1000, Backward: true}, 1000},
		{"last", es.DocumentOptions{Limit: 1, Backward: true}, 1},
		{"prefix", es.DocumentOptions{Prefix: "05000"}, 100},
		{"prefix of none", es.DocumentOptions{Prefix: "x"}, 0},
		{"label", es.DocumentOptions{Label: "rare", Limit: 100}, 100},
		{"label from the middle", es.DocumentOptions{Label: "rare", After: "0500000", Limit: 100}, 100},
		{"label, backward", es.DocumentOptions{Label: "rare", Limit: 100, Backward: true}, 100},
		{"label of none", es.DocumentOptions{Label: "none"}, 0},
	} {
		n := 0
		cost := l.ReadCost(t, s, prefix, func(s *es.Store) {
			for _, err := range large.All(t.Context(), s, c.opts) {
				if err != nil {
					t.Fatal(err)
				}
				n++
			}
		})
		if n != c.want || cost > 15*n+1500 {
			t.Errorf("All, %s: %d documents for %d rows, entries of indexes and blocks, want %d documents", c.what, n, cost, c.want)
		}
	}
	cost := l.ReadCost(t, s, prefix, func(s *es.Store) {
		if _, err := large.Get(t.Context(), s, "0500000"); err != nil {
			t.Fatal(err)
		}
	})
	if cost > 100 {
		t.Errorf("Get: %d rows, entries and blocks", cost)
	}
}

func catchUp(t *testing.T, ds *es.Documents[tally], s *es.Store) time.Duration {
	t.Helper()
	began := time.Now()
	if _, err := ds.CatchUp(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}
