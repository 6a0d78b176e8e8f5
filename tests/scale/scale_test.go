package scale_test

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestProjectionScale takes in a million events: in little memory, at the same cost for each from
// first to last; and finds the rare ones among them without going through the others. The race
// detector, with which it would take half a minute, sees fewer.
func TestProjectionScale(t *testing.T) {
	const rare, most = 100_000, 200 << 20
	storetest.ForEachProcess(t, storetest.AnyKind, func(t *testing.T, l storetest.Lane) {
		n := 1_000_000
		if l.Dialect != es.Postgres || raceEnabled {
			n = 300_000 // what grows with the log would show by then
		}
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "accounts")
		l.Fill(t, prefix, n, rare)

		debug.FreeOSMemory() // what earlier tests have left does not count
		var first, last time.Duration
		var heap uint64
		at := time.Now()
		p := &es.Projection[int]{Name: "all", From: es.FromAll(), When: []es.Handler[int]{
			es.OnAny(func(seen *int, ev es.Event) {
				if *seen++; *seen%(n/10) != 0 {
					return
				}
				took := time.Since(at)
				if at = time.Now(); first == 0 {
					first = took
				}
				last = took
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				heap = max(heap, m.HeapInuse+m.StackInuse)
			}),
		}}
		if cp := storetest.CatchUp(t, p, s); cp.State != n {
			t.Errorf("%d events, want %d", cp.State, n)
		}
		t.Logf("a tenth took %v at first and %v at last, in at most %d MB", first, last, heap>>20)
		if last > 2*first+time.Second {
			t.Errorf("the last tenth of the events took %v, the first %v", last, first)
		}
		if heap > most {
			t.Errorf("%d MB in use, want less than %d", heap>>20, most>>20)
		}

		var opens int
		sparse := &es.Projection[int]{Name: "rare", From: es.FromAll(), When: []es.Handler[int]{
			es.Do(func(_ context.Context, step *es.Step[int], _ storetest.Opened) error {
				*step.State++
				opens++
				return nil
			}),
		}}
		began := time.Now()
		cp := storetest.CatchUp(t, sparse, s)
		t.Logf("%d rare events took %v", cp.State, time.Since(began))
		if cp.State != n/rare || int(cp.Position) < n {
			t.Errorf("%d rare events up to %d, want %d up to %d", cp.State, cp.Position, n/rare, n)
		}
	})
}
