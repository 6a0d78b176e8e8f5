package changes_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestLookGoesOn looks for passed-over events in a long log. A look that is interrupted is taken up where it was,
// and a refused one is not done again.
func TestLookGoesOn(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "accounts")
		const n, rare = 80_000, 70_000
		l.Fill(t, prefix, n, rare)
		storetest.SealUpTo(t, s, n)
		type none struct{}
		deposits := es.On(func(*none, storetest.Deposited) {})
		p := es.Projection[none]{Name: "p", From: es.FromAll(), When: []es.Handler[none]{deposits}}
		if cp, err := p.CatchUp(t.Context(), s); err != nil || cp.Position < n {
			t.Fatalf("the older definition is at %d, %v", cp.Position, err)
		}
		p.When = append(p.When, es.On(func(*none, storetest.Opened) {}))

		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var pages atomic.Int64
		counted := func(at int64, then func()) *es.Store {
			pages.Store(0)
			return l.Injected(t, 5, func(text string) error {
				if strings.Contains(text, prefix+"events") && strings.Contains(text, "aggregate_id") && pages.Add(1) == at {
					then()
				}
				return nil
			}).OpenIn(t, prefix, nil)
		}
		checked := func() (to int64) {
			lines := strings.Join(l.Lines(t, "SELECT taken FROM "+prefix+"projections WHERE name = 'p'"), "")
			if _, err := fmt.Sscanf(lines[strings.LastIndex(lines, `"upTo":`)+1:], `upTo":%d}]`, &to); err != nil {
				t.Fatalf("%q: %v", lines, err)
			}
			return to
		}
		if err := p.Run(ctx, counted(2, cancel)); !errors.Is(err, context.Canceled) {
			t.Fatalf("the interrupted look: %v", err)
		}
		first := checked()
		if first < 1000 || first >= rare {
			t.Fatalf("the interrupted look has stored that it is at %d", first)
		}
		refused := func() int64 {
			err := p.Run(t.Context(), counted(0, nil))
			if !errors.Is(err, es.ErrProjectionChanged) || !strings.Contains(err.Error(), fmt.Sprint(rare)) {
				t.Fatalf("error is %v, want that event %d was passed over", err, rare)
			}
			if to := checked(); to != rare-1 {
				t.Errorf("the look has stored that it is at %d, want %d", to, rare-1)
			}
			return pages.Load()
		}
		if n := refused(); n == 0 {
			t.Error("the look has read no page")
		}
		if n := refused(); n != 1 {
			t.Errorf("the look was done again: it has read %d pages", n)
		}
		// Another match is another look, but what the first one has found refuses this one too.
		p.From[0].Match = []es.Match{es.ByRecordedAt.AtLeast(time.Unix(0, 0))}
		if n := refused(); n != 1 {
			t.Errorf("with another match %d pages were read", n)
		}
	})
}

// TestLookForOtherMatches has a definition refused after one with other matches: it does not go on from where the
// other's look has ended.
func TestLookForOtherMatches(t *testing.T) {
	twoStores(t, func(t *testing.T, k storetest.Kind, old, new *es.Store) {
		at := add(t, old, lent{}, returned{})
		other := addTo(t, old, "copies", "c2", returned{}, returned{})
		wantCaughtUp(t, "the older definition", older(k), old, at[0])
		refused := func(what string, p *definition, at es.Position) {
			t.Helper()
			_, err := p.CatchUp(t.Context(), new)
			if !errors.Is(err, es.ErrProjectionChanged) || !strings.Contains(err.Error(), fmt.Sprintf("event %d,", at)) {
				t.Errorf("%s: error is %v, want that event %d was passed over", what, err, at)
			}
		}
		p := newer(k)
		p.From[0].Match = []es.Match{es.ByAggregateID.Equals("c2")}
		refused("with matches", p, other[0])
		if err := old.DeleteAggregate(t.Context(), "copies", "c2"); err != nil {
			t.Fatal(err)
		}
		refused("without matches", newer(k), at[1])
	})
}

// TestNewerDoNotContend starts two runners of a newer definition, the second while the first looks at the log: it
// waits for the first one's decision, instead of taking the lease from it.
func TestNewerDoNotContend(t *testing.T) {
	storetest.ForEachDefinition(t, storetest.SomeLanes, storetest.AnyKind, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "copies")
		at := add(t, s, lent{}, returned{})
		end := storetest.Running(t, older(k), s)
		eventuallyIn(t, older(k), s, at[1])
		looking, goOn := make(chan struct{}), make(chan struct{})
		var once, reads atomic.Int64
		first := l.Injected(t, 5, func(text string) error {
			if strings.Contains(text, prefix+"events") && strings.Contains(text, "aggregate_id") && once.Add(1) == 1 {
				close(looking)
				<-goOn
			}
			return nil
		}).OpenIn(t, prefix, nil)
		p := newer(k)
		p.OnChange = es.RebuildOnChange
		endFirst := storetest.Running(t, p, first)
		<-looking
		holder := storetest.Info(t, s, "loans").Owner
		second := l.Injected(t, 5, func(text string) error {
			if strings.Contains(text, "lease_until >") && strings.Contains(text, prefix+"projections") {
				reads.Add(1)
			}
			return nil
		}).OpenIn(t, prefix, nil)
		endSecond := storetest.Running(t, p, second)
		storetest.Eventually(t, "the second to look at the row several times", func() bool { return reads.Load() >= 5 })
		if now := storetest.Info(t, s, "loans").Owner; now != holder || holder == "" {
			t.Errorf("the lease has gone from %q to %q", holder, now)
		}
		close(goOn)
		at = append(at, add(t, s, returned{})...)
		eventuallyIn(t, p, s, at[2])
		for _, end := range []func() error{end, endFirst, endSecond} {
			wantCancelled(t, "Run", end())
		}
		wantCaughtUp(t, "then", p, s, at...)
	})
}

// TestRefusedLeavesOlderAlone calls refused definitions in a loop, in turn: after its first look none of them takes
// the lease again, which would undo the older one's batches.
func TestRefusedLeavesOlderAlone(t *testing.T) {
	twoStores(t, func(t *testing.T, k storetest.Kind, old, new *es.Store) {
		at := add(t, old, lent{}, returned{}, lost{})
		wantCaughtUp(t, "the older definition", older(k), old, at[0])
		refused := []struct {
			p  *definition
			at es.Position
		}{
			{newer(k), at[1]},
			{loans(k, take[lent](), take[lost]()), at[2]},
			{loans(k, take[lent](), take[returned](), take[lost]()), at[1]},
		}
		for _, r := range refused {
			storetest.WantErr(t, "the first time", storetest.Second(r.p.CatchUp(t.Context(), new)), es.ErrProjectionChanged)
		}
		end := storetest.Running(t, older(k), old)
		var holder string
		storetest.Eventually(t, "the older definition to run", func() bool {
			holder = storetest.Info(t, old, "loans").Owner
			return holder != ""
		})
		leftAlone := func(p *definition, at es.Position) {
			t.Helper()
			err := p.Run(t.Context(), new)
			if !errors.Is(err, es.ErrProjectionChanged) || !strings.Contains(err.Error(), fmt.Sprintf("event %d,", at)) {
				t.Errorf("error is %v, want that event %d was passed over", err, at)
			}
			if now := storetest.Info(t, old, "loans").Owner; now != holder {
				t.Fatalf("the lease has gone from %q to %q", holder, now)
			}
		}
		for range 10 {
			for _, r := range refused {
				leftAlone(r.p, r.at)
			}
		}
		// A match that differs with each call has not been looked for yet, but wants an event that others found.
		for i := range 10 {
			p := newer(k)
			p.From[0].Match = []es.Match{es.ByRecordedAt.AtLeast(time.Unix(int64(i), 0))}
			leftAlone(p, at[1])
		}
		// When the events are gone nothing is left to refuse.
		if err := old.DeleteAggregate(t.Context(), "copies", "c1"); err != nil {
			t.Fatal(err)
		}
		next := add(t, old, lent{})
		eventuallyIn(t, older(k), old, next[0])
		wantCaughtUp(t, "once the event is gone", newer(k), new, at[0], next[0])
		wantCancelled(t, "Run", end())
	})
}
