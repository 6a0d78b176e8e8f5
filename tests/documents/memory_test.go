package documents_test

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// peak returns how much memory the process has in use at most while fn runs.
func peak(fn func()) (most uint64) {
	debug.FreeOSMemory() // what was before does not count
	done, sampled := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sampled)
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse+m.StackInuse)
			select {
			case <-done:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	fn()
	close(done)
	<-sampled
	return most
}

// TestMemory keeps large documents, and many small ones: a run holds those of one batch, and of large ones not even
// those.
func TestMemory(t *testing.T) {
	const most, many, large = 64 << 20, 20_000, 60
	storetest.ForEachProcess(t, storetest.AnyKind, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		measure := func(what string, ds *es.Documents[page]) {
			t.Helper()
			began := time.Now()
			used := peak(func() {
				if _, err := ds.CatchUp(t.Context(), s); err != nil {
					t.Fatal(err)
				}
			})
			t.Logf("%s: %d MB in %v", what, used>>20, time.Since(began))
			if used > most {
				t.Errorf("%s: %d MB in use, want less than %d", what, used>>20, most>>20)
			}
		}
		keys := func(n int) func(es.Event) string {
			return func(ev es.Event) string {
				return fmt.Sprintf("%0200d", decoded[storetest.Deposited](t, ev).Cents%int64(n))
			}
		}
		for i := range many / 1000 {
			storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1000, int64(1000*i))...)
		}
		small := &es.Documents[page]{
			Name: "small", From: es.FromStream("accounts"), Key: keys(many),
			When:   []es.Handler[page]{es.On(func(p *page, e storetest.Deposited) { p.Puts++ })},
			Labels: func(string, *page) []string { return []string{"all"} },
		}
		measure("small", small)
		latest := func(name string, when es.Handler[page]) *es.Documents[page] {
			return &es.Documents[page]{Name: name, From: es.FromStream("accounts"), After: es.Latest, When: []es.Handler[page]{when}}
		}
		fanned := latest("fanned", es.OnKey(func(storetest.Deposited) []string {
			keys := make([]string, many)
			for i := range keys {
				keys[i] = fmt.Sprint("k", i)
			}
			return keys
		}, func(p *page, _ storetest.Deposited) { p.Puts++ }))
		grow := latest("large", es.On(func(p *page, e storetest.Deposited) {
			p.Puts++
			p.Text = strings.Repeat(string(rune('a'+e.Cents%7)), 1<<20)
		}))
		grow.Key = keys(large)
		for _, ds := range []*es.Documents[page]{fanned, grow} {
			if _, err := ds.CatchUp(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		storetest.MustAppend(t, s, "accounts", "b", es.AnyVersion, storetest.Deposits(1, 0)...)
		measure("one event of many documents", fanned)
		for range 2 {
			storetest.MustAppend(t, s, "accounts", "c", es.AnyVersion, storetest.Deposits(large, 0)...)
			measure("large", grow)
		}
		n := 0
		used := peak(func() {
			for d, err := range grow.All(t.Context(), s, es.DocumentOptions{}) {
				if err != nil || len(d.State.Text) != 1<<20 || d.State.Puts < 2 {
					t.Fatalf("%s: %d bytes, %d events, %v", d.Key, len(d.State.Text), d.State.Puts, err)
				}
				n++
			}
		})
		t.Logf("read: %d MB", used>>20)
		if n != large || used > most {
			t.Errorf("%d documents read in %d MB, want %d in %d", n, used>>20, large, most>>20)
		}
	})
}
