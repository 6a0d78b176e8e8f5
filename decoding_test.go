package eventstore_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"unsafe"

	es "example.com/eventstore"
)

// TestMetadataDecodedForThoseWhoSeeIt has metadata that nobody can decode: only who asks for them
// finds that out.
func TestMetadataDecodedForThoseWhoSeeIt(t *testing.T) {
	forEachKind(t, func(t *testing.T, l lane) {
		s, prefix := l.openPrefixed(t)
		ctx := t.Context()
		createStream(t, s, "accounts")
		mustAppend(t, s, "accounts", "a", 0, events(3, 1)...)
		if _, err := l.db.ExecContext(ctx, "UPDATE "+prefix+"events SET metadata = '[]'"); err != nil {
			t.Fatal(err)
		}

		runs := 0
		plain := es.On(func(n *int, _ deposited) { *n++ })
		curious := es.OnEvent(func(n *int, _ deposited, _ es.Event) { *n++ })
		for what, run := range map[string]func(es.Fold[int]) (int, error){
			"an aggregate": func(f es.Fold[int]) (int, error) {
				a := es.Aggregate[int]{Stream: "accounts", When: []es.Fold[int]{f}}
				r, err := a.Load(ctx, s, "a")
				if err != nil {
					return 0, err
				}
				return r.State(), nil
			},
			"a query": func(f es.Fold[int]) (int, error) {
				return (&es.Query[int]{From: es.FromAll(), When: []es.Fold[int]{f}}).Run(ctx, s)
			},
			"a projection": func(f es.Fold[int]) (int, error) {
				runs++
				p := &es.Projection[int]{Name: fmt.Sprint("p", runs), From: es.FromAll(), When: []es.Handler[int]{f}}
				p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Fail }
				cp, err := p.CatchUp(ctx, s)
				return cp.State, err
			},
		} {
			if n, err := run(plain); n != 3 || err != nil {
				t.Errorf("%s with On: %d events, %v; want 3", what, n, err)
			}
			if _, err := run(curious); err == nil {
				t.Errorf("%s with OnEvent: no error, want one of metadata", what)
			}
		}
	})
}

// TestNamesShared reads events of more names and streams than rows in a row have, and finds each
// name in memory once for each page.
func TestNamesShared(t *testing.T) {
	forEach(t, 1, anyDatabase, func(t *testing.T, l lane) {
		const names, streams, each = 12, 8, 10
		s := l.open(t, nil)
		for i := range streams {
			createStream(t, s, fmt.Sprintf("stream-%d", i))
		}
		for i := range each * names {
			mustAppend(t, s, fmt.Sprintf("stream-%d", i%streams), "a", es.AnyVersion, es.NewEvent{Payload: raw{fmt.Sprintf("name.%d", i%names), "{}"}})
		}
		seen := map[string]*byte{}
		for _, ev := range everything(t, s) {
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

// TestFoldAllocations counts what a fold of an event allocates in memory: what decoding its payload
// does and nothing else, whatever its metadata.
func TestFoldAllocations(t *testing.T) {
	const n = 250
	s := es.NewMemStore(nil)
	createStream(t, s, "accounts")
	evs := events(n, 1)
	for i := range evs {
		evs[i].Metadata = es.Metadata{"user": "ann", "request": int64(i)}
	}
	mustAppend(t, s, "accounts", "a", 0, evs...)

	text := []byte(`{"cents": 1}`)
	decode := testing.AllocsPerRun(100, func() {
		var e deposited
		if err := json.Unmarshal(text, &e); err != nil {
			t.Fatal(err)
		}
	})
	runs := 0
	for what, run := range map[string]func() error{
		"an aggregate": func() error { _, err := accounts.Load(t.Context(), s, "a"); return err },
		"a query": func() error {
			_, err := (&es.Query[account]{From: es.FromAll(), When: accounts.When}).Run(t.Context(), s)
			return err
		},
		"a projection": func() error {
			runs++
			p := &es.Projection[account]{Name: fmt.Sprint("p", runs), From: es.FromAll(), When: []es.Handler[account]{accounts.When[0], accounts.When[1]}}
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
