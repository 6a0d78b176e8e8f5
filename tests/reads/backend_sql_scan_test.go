package reads_test

import (
	"fmt"
	"testing"
	"unsafe"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestNamesShared reads events of more names and streams than rows in a row have, and finds each
// name in memory once for each page.
func TestNamesShared(t *testing.T) {
	storetest.ForEach(t, 1, storetest.AnyDatabase, func(t *testing.T, l storetest.Lane) {
		const names, streams, each = 12, 8, 10
		s := l.Open(t, nil)
		for i := range streams {
			storetest.CreateStream(t, s, fmt.Sprintf("stream-%d", i))
		}
		for i := range each * names {
			storetest.MustAppend(t, s, fmt.Sprintf("stream-%d", i%streams), "a", es.AnyVersion, es.NewEvent{Payload: storetest.Raw{Name: fmt.Sprintf("name.%d", i%names), Text: "{}"}})
		}
		seen := map[string]*byte{}
		for _, ev := range storetest.Everything(t, s) {
			for _, text := range []string{ev.Name, ev.Stream} {
				at := unsafe.StringData(text)
				if before, ok := seen[text]; ok && before != at {
					t.Fatalf("position %d has a copy of its own of %q", ev.Position, text)
				}
				seen[text] = at
			}
		}
	})
}
