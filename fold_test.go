package eventstore_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestFoldAllocations counts what a fold of an event allocates in memory: what decoding its payload
// does and nothing else, whatever its metadata.
func TestFoldAllocations(t *testing.T) {
	const n = 250
	s := es.NewMemStore(nil)
	storetest.CreateStream(t, s, "accounts")
	evs := storetest.Deposits(n, 1)
	for i := range evs {
		evs[i].Metadata = es.Metadata{"user": "ann", "request": int64(i)}
	}
	storetest.MustAppend(t, s, "accounts", "a", 0, evs...)

	text := []byte(`{"cents": 1}`)
	decode := testing.AllocsPerRun(100, func() {
		var e storetest.Deposited
		if err := json.Unmarshal(text, &e); err != nil {
			t.Fatal(err)
		}
	})
	runs := 0
	for what, run := range map[string]func() error{
		"an aggregate": func() error { _, err := storetest.Accounts.Load(t.Context(), s, "a"); return err },
		"a query": func() error {
			_, err := (&es.Query[storetest.Account]{From: es.FromAll(), When: storetest.Accounts.When}).Run(t.Context(), s)
			return err
		},
		"a projection": func() error {
			runs++
			p := &es.Projection[storetest.Account]{Name: fmt.Sprint("p", runs), From: es.FromAll(), When: []es.Handler[storetest.Account]{storetest.Accounts.When[0], storetest.Accounts.When[1]}}
			_, err := p.CatchUp(context.WithoutCancel(t.Context()), s)
			return err
		},
	} {
		got := testing.AllocsPerRun(10, func() {
			if err := run(); err != nil {
				t.Fatal(err)
			}
		})
		// What one run takes by itself, for its definition, pages and checkpoint, is less than one
		// for each event.
		if most := n*decode + n; got >= most {
			t.Errorf("%s: %v allocations for %d events, want less than %v", what, got, n, most)
		}
	}
}
