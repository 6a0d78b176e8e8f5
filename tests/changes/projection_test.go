package changes_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestVersions builds a raised version beside the older one.
func TestVersions(t *testing.T) {
	twoStores(t, func(t *testing.T, k storetest.Kind, old, new *es.Store) {
		emit := es.Do(func(ctx context.Context, step *es.Step[seen], e lost) error {
			return step.Emit(ctx, es.NewEvent{Payload: e})
		})
		at := add(t, old, lent{}, lost{})
		first, second := loans(k, take[lent](), emit), loans(k, take[lent](), take[lost](), emit)
		first.Version, second.Version = 1, 2
		wantCaughtUp(t, "version 1", first, old, at[0])
		wantCaughtUp(t, "version 2", second, new, at...)
		endOld, endNew := storetest.Running(t, first, old), storetest.Running(t, second, new)
		at = append(at, add(t, old, lent{})...)
		for _, p := range []*definition{first, second} {
			if err := p.Wait(t.Context(), new, at[2]); err != nil {
				t.Fatal(err)
			}
		}
		for what, end := range map[string]func() error{"version 1": endOld, "version 2": endNew} {
			if err := end(); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", what, err)
			}
		}
		for name, version := range map[string]int{"loans": 1, "loans@2": 2} {
			if info := storetest.Info(t, new, name); info.Name != name || info.Version != version || info.Status != es.StatusIdle {
				t.Errorf("Projections shows %+v, want version %d as %q", info, version, name)
			}
			storetest.WantHas(t, new, name, true) // what it has emitted
		}
		if err := new.DeleteProjection(t.Context(), "loans", true); err != nil {
			t.Fatal(err)
		}
		storetest.WantErr(t, "version 1 once it is deleted", storetest.Second(first.Load(t.Context(), new)), es.ErrProjectionNotFound)
		storetest.WantHas(t, new, "loans", false)
		storetest.WantHas(t, new, "loans@2", true)
		cp, err := second.Load(t.Context(), new)
		if err != nil {
			t.Fatal(err)
		}
		wantSeen(t, "version 2", cp.State.Positions, at[:3])
		if err := second.Reset(t.Context(), new); err != nil {
			t.Fatal(err)
		}
		if err := second.Delete(t.Context(), new, true); err != nil {
			t.Fatal(err)
		}
		storetest.WantHas(t, new, "loans@2", false)
	})
}

// TestDefinitionsChecked has definitions whose new fields can't be used, in every call.
func TestDefinitionsChecked(t *testing.T) {
	storetest.ForEachDefinitionsStore(t, func(t *testing.T, s *es.Store, k storetest.Kind) {
		storetest.CreateStream(t, s, "copies")
		for field, change := range map[string]func(p *definition){
			"Name":     func(p *definition) { p.Name = "loans@2" },
			"Version":  func(p *definition) { p.Version = -1 },
			"After":    func(p *definition) { p.After = -2 },
			"OnChange": func(p *definition) { p.OnChange = es.ContinueOnChange + 1 },
			"255":      func(p *definition) { p.Name, p.Version = strings.Repeat("x", 254), 2 },
		} {
			p := newer(k)
			change(p)
			for what, err := range map[string]error{
				"Run": p.Run(t.Context(), s), "CatchUp": storetest.Second(p.CatchUp(t.Context(), s)),
				"Reset": p.Reset(t.Context(), s), "Delete": p.Delete(t.Context(), s, false),
			} {
				storetest.WantInvalid(t, what, err, field)
			}
		}
		p := newer(k)
		p.Name, p.Version = strings.Repeat("x", 253), 9
		wantCaughtUp(t, "the longest name", p, s)
		publish := func(context.Context, []es.Event) error { return nil }
		for field, r := range map[string]es.Relay{
			"Name":  {Name: "a@2", From: es.FromAll(), Publish: publish},
			"After": {Name: "a", From: es.FromAll(), Publish: publish, After: -2},
		} {
			storetest.WantInvalid(t, "Relay", r.Run(t.Context(), s), field)
		}
	})
}

// TestAfter begins projections and relays that have never run behind a position, or the end.
func TestAfter(t *testing.T) {
	storetest.ForEachDefinitionsStore(t, func(t *testing.T, s *es.Store, k storetest.Kind) {
		storetest.CreateStream(t, s, "copies")
		at := add(t, s, lent{}, returned{}, lent{}, returned{})
		p := older(k)
		p.After = at[1]
		wantCaughtUp(t, "after a position", p, s, at[2])
		// What was there before it began was not passed over.
		wider := newer(k)
		wider.After = at[1]
		err := storetest.Second(wider.CatchUp(t.Context(), s))
		if !errors.Is(err, es.ErrProjectionChanged) || !strings.Contains(err.Error(), fmt.Sprint(at[3])) {
			t.Errorf("a wider definition: %v, want that event %d was passed over", err, at[3])
		}
		latest := newer(k)
		latest.Name, latest.After = "latest", es.Latest
		if _, err := s.Sealed(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantCaughtUp(t, "after the latest", latest, s)
		wider = loans(k, take[lent](), take[returned](), take[lost]())
		wider.Name = "latest"
		wantCaughtUp(t, "nothing was passed over", wider, s)
		at = append(at, add(t, s, lent{})...)
		wantCaughtUp(t, "after the latest", wider, s, at[4])
		if err := wider.Reset(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		wider.After = es.Latest
		wantCaughtUp(t, "reset", wider, s, at...)
	})
}

// TestReplay has handlers told which events were there before the projection began or was reset.
func TestReplay(t *testing.T) {
	storetest.ForEachDefinitionsStore(t, func(t *testing.T, s *es.Store, k storetest.Kind) {
		storetest.CreateStream(t, s, "copies")
		var fresh, old []es.Position
		refuse := false
		p := loans(k, es.DoAny(func(_ context.Context, step *es.Step[seen]) error {
			if refuse {
				return errors.New("refused")
			}
			if step.Replay {
				old = append(old, step.Event.Position)
			} else {
				fresh = append(fresh, step.Event.Position)
			}
			return nil
		}))
		p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Park }
		run := func(what string, wantOld, wantFresh []es.Position) {
			t.Helper()
			old, fresh = nil, nil
			if _, err := p.CatchUp(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			wantSeen(t, what+": replayed", old, wantOld)
			wantSeen(t, what+": fresh", fresh, wantFresh)
		}
		at := add(t, s, lent{}, lent{})
		sealedUpTo(t, s, at[1])
		run("first", at, nil)
		at = append(at, add(t, s, lent{})...)
		run("then", nil, at[2:])

		// By definition, by name, and when the definition is rebuilt.
		at = append(at, add(t, s, lent{})...)
		sealedUpTo(t, s, at[3])
		if err := p.Reset(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		at = append(at, add(t, s, lent{})...)
		run("reset", at[:4], at[4:])
		if err := s.ResetProjection(t.Context(), "loans"); err != nil {
			t.Fatal(err)
		}
		at = append(at, add(t, s, lent{})...)
		run("reset by name", at[:5], at[5:])

		// A parked event is told what it was told at first.
		refuse = true
		if err := p.Reset(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		at = append(at, addTo(t, s, "copies", "c2", lent{})...)
		run("refused", nil, nil)
		refuse = false
		if err := s.RetryParked(t.Context(), "loans"); err != nil {
			t.Fatal(err)
		}
		run("retried", at[:6], at[6:])

		q := loans(k, take[lent]())
		q.Name = "rebuilt"
		wantAfter(t, s, q)
		at = append(at, add(t, s, lost{}, lent{})...)
		wantAfter(t, s, q)
		p.Name, p.OnChange, p.From = "rebuilt", es.RebuildOnChange, es.FromStream("copies")
		run("rebuilt", at, nil)
		at = append(at, add(t, s, lent{})...)
		run("rebuilt", nil, at[9:])
	})
}

// sealedUpTo waits until a position is sealed.
func sealedUpTo(t testing.TB, s *es.Store, p es.Position) {
	t.Helper()
	storetest.SealUpTo(t, s, p)
}
