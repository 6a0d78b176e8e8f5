package ownership_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// emitting returns a projection of stream "accounts" that emits each event that it takes in.
func emitting(name string) *es.Projection[storetest.Totals] {
	return storetest.TotalsOf(name, es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
		return step.Emit(ctx, es.NewEvent{Payload: e})
	}))
}

// TestNameIsNotOwnership resets and deletes projections and relays that have the name of a stream
// which they have not made.
func TestNameIsNotOwnership(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts", "shipped", "cards")
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(3, 1)...)
		storetest.MustAppend(t, s, "shipped", "b", es.AnyVersion, storetest.Deposits(2, 1)...)
		reader := storetest.TotalsOf("accounts")
		linker := storetest.TotalsOf("linker", es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
			return step.LinkTo(ctx, "linked")
		}))
		storetest.CatchUp(t, linker, s)
		relayed := 0
		relay := es.Relay{Name: "shipped", From: es.FromStream("shipped"), Poll: 10 * time.Millisecond, Publish: func(_ context.Context, events []es.Event) error {
			relayed += len(events)
			return nil
		}}
		runRelay := func() {
			rctx, cancel := context.WithCancel(ctx)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- relay.Run(rctx, s) }()
			storetest.Eventually(t, "the relay", func() bool { return storetest.Info(t, s, "shipped").Position >= 5 })
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("relay: %v", err)
			}
		}
		begin := map[string]func(){
			"accounts": func() { storetest.CatchUp(t, reader, s) },
			"linked":   func() { storetest.CatchUp(t, storetest.TotalsOf("linked"), s) }, // of the name of links that another has made
			"cards":    func() { storetest.CatchUp(t, storetest.TotalsOf("cards"), s) },  // an empty stream
			"shipped":  runRelay,
		}
		calls := map[string]func(name string) error{
			"reset by name":  func(name string) error { return s.ResetProjection(ctx, name) },
			"delete by name": func(name string) error { return s.DeleteProjection(ctx, name, true) },
			"reset": func(name string) error {
				if name == "shipped" {
					return s.ResetProjection(ctx, name)
				}
				return storetest.TotalsOf(name).Reset(ctx, s)
			},
			"delete": func(name string) error {
				if name == "shipped" {
					return s.DeleteProjection(ctx, name, true)
				}
				return storetest.TotalsOf(name).Delete(ctx, s, true)
			},
		}
		want := storetest.Everything(t, s)
		streams := storetest.StreamNames(t, s, "")
		for name, run := range begin {
			for call, control := range calls {
				run()
				if err := control(name); err != nil {
					t.Errorf("%s of %q: %v", call, name, err)
				}
			}
		}
		storetest.SameEvents(t, "after resets and deletes", storetest.Everything(t, s), want)
		if got := storetest.StreamNames(t, s, ""); !slices.Equal(got, streams) {
			t.Errorf("streams %q, want %q", got, streams)
		}
	})
}

// TestRelayOwnsNothing has a relay take the name of a projection that has emitted.
func TestRelayOwnsNothing(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(3, 1)...)
		p := emitting("emitted")
		storetest.CatchUp(t, p, s)
		relay := es.Relay{Name: "emitted", From: es.FromStream("accounts"), Poll: 10 * time.Millisecond, Publish: func(context.Context, []es.Event) error { return nil }}
		storetest.WantInvalid(t, "a relay of a projection's name", relay.Run(ctx, s), "emitted")
		if err := p.Delete(ctx, s, false); err != nil {
			t.Fatal(err)
		}
		want := storetest.Everything(t, s)
		done := make(chan error, 1)
		go func() { done <- relay.Run(ctx, s) }()
		storetest.Eventually(t, "the relay", func() bool { return storetest.Info(t, s, "emitted").Position >= 3 })
		for what, err := range map[string]error{
			"run": storetest.Second(p.CatchUp(ctx, s)), "reset": p.Reset(ctx, s), "delete": p.Delete(ctx, s, true),
			"load": storetest.Second(p.Load(ctx, s)), "wait": p.Wait(ctx, s, 1),
		} {
			storetest.WantInvalid(t, what+" of a projection of a relay's name", err, "emitted")
		}
		if err := s.ResetProjection(ctx, "emitted"); err != nil {
			t.Fatal(err)
		}
		if err := s.DeleteProjection(ctx, "emitted", true); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		storetest.SameEvents(t, "after the relay", storetest.Everything(t, s), want)
	})
}

// TestEmitNeedsOwnStream emits to streams that the projection has not made.
func TestEmitNeedsOwnStream(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts", "orders")
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(3, 1)...)
		storetest.MustAppend(t, s, "orders", "b", es.AnyVersion, storetest.Deposits(1, 1)...)
		failing := func(name string) {
			t.Helper()
			p := emitting(name)
			p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Fail }
			_, err := p.CatchUp(ctx, s)
			var failed *es.ProjectionError
			if !errors.As(err, &failed) {
				t.Fatalf("%q: %v", name, err)
			}
			storetest.WantInvalid(t, name, failed.Err, name)
		}
		want := storetest.Everything(t, s)
		failing("orders")
		failing("accounts")
		storetest.SameEvents(t, "after refused emits", storetest.Everything(t, s), want)

		// A stream that it has made, which was deleted and made again by another hand, is not its own.
		p := emitting("made")
		storetest.CatchUp(t, p, s)
		if err := s.DeleteStream(ctx, "made"); err != nil {
			t.Fatal(err)
		}
		storetest.CreateStream(t, s, "made")
		storetest.MustAppend(t, s, "made", "c", es.AnyVersion, storetest.Deposits(1, 1)...)
		want = storetest.Everything(t, s)
		if err := p.Reset(ctx, s); err != nil {
			t.Fatal(err)
		}
		failing("made")
		storetest.SameEvents(t, "after the stream was made again", storetest.Everything(t, s), want)

		// Links to the stream of its own name do not keep it from emitting there, and go with it.
		both := storetest.TotalsOf("both", es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
			return errors.Join(step.LinkTo(ctx, "both"), step.Emit(ctx, es.NewEvent{Payload: e}))
		}))
		for range 2 {
			storetest.CatchUp(t, both, s)
			if got := storetest.Collect(t, s.Read(ctx, es.FromStream("both"), es.ReadOptions{})); len(got) != 6 {
				t.Errorf("%d links and events, want 6", len(got))
			}
			if err := both.Reset(ctx, s); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestEmittedOfUpgrade upgrades tables of which it is not known who has made the streams.
func TestEmittedOfUpgrade(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(3, 1)...)
		p := emitting("emitted")
		storetest.CatchUp(t, p, s)
		l.Exec(t, "UPDATE "+prefix+"streams SET emitted_by = NULL")
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
		storetest.CatchUp(t, p, s)
		want := storetest.Everything(t, s)
		if len(want) != 8 {
			t.Fatalf("%d events, want 8", len(want))
		}
		if err := p.Reset(ctx, s); err != nil {
			t.Fatal(err)
		}
		storetest.SameEvents(t, "after the reset", storetest.Everything(t, s), want)
		p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Fail }
		_, err := p.CatchUp(ctx, s)
		storetest.WantInvalid(t, "emitting what is there", err, "emitted")
		if err := s.DeleteStream(ctx, "emitted"); err != nil {
			t.Fatal(err)
		}
		storetest.CatchUp(t, p, s)
		if got := storetest.Collect(t, s.Read(ctx, es.FromStream("emitted"), es.ReadOptions{})); len(got) != 4 {
			t.Errorf("%d events emitted anew, want 4", len(got))
		}
	})
}

// TestDeleteRaces deletes a projection from several processes while others run it anew: what it has
// emitted and the position are of one life.
func TestDeleteRaces(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, other := l.OpenTwice(t)
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts")
		stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(5, 1)...)
		end := stored[len(stored)-1].Position
		for round := range 15 {
			p := emitting("emitted")
			storetest.CatchUp(t, p, s)
			for i, err := range storetest.Race(4, func(i int) error {
				from := []*es.Store{s, other}[i%2]
				if i < 2 {
					err := p.Delete(ctx, from, true)
					if errors.Is(err, es.ErrProjectionNotFound) {
						err = nil
					}
					return err
				}
				_, err := emitting("emitted").CatchUp(ctx, from)
				return err
			}) {
				if err != nil {
					t.Fatalf("round %d, %d: %v", round, i, err)
				}
			}
			emitted := len(storetest.Collect(t, s.Read(ctx, es.FromStream("emitted"), es.ReadOptions{})))
			cp, err := p.Load(ctx, s)
			switch {
			case errors.Is(err, es.ErrProjectionNotFound):
				if emitted != 0 {
					t.Fatalf("round %d: %d events left of a projection that was deleted", round, emitted)
				}
			case err != nil:
				t.Fatal(err)
			case cp.Position >= end && emitted != len(stored):
				t.Fatalf("round %d: at %d with %d events emitted, want %d", round, cp.Position, emitted, len(stored))
			case cp.Position < end && emitted > 0:
				t.Fatalf("round %d: at %d with %d events emitted", round, cp.Position, emitted)
			}
			if err == nil {
				if err := p.Delete(ctx, s, true); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// held is a read model whose Delete or Reset stops before its statement, as a process that is stopped does.
type held struct {
	*es.Table
	stop    bool
	reached chan struct{}
	goOn    chan struct{}
}

func (h *held) pause() {
	if h.stop {
		close(h.reached)
		<-h.goOn
	}
}

func (h *held) Delete(_ context.Context, tx *sql.Tx) error {
	h.pause()
	_, err := tx.Exec("DROP TABLE IF EXISTS " + h.Name)
	return err
}

func (h *held) Reset(_ context.Context, tx *sql.Tx) error {
	h.pause()
	_, err := tx.Exec("TRUNCATE TABLE " + h.Name)
	return err
}

// TestStoppedErrands has a process stop just before it drops or empties a read model. Another one
// takes over meanwhile, and what the first does when it goes on must not touch the successor's table.
func TestStoppedErrands(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		for _, errand := range []string{"delete", "reset"} {
			t.Run(errand, func(t *testing.T) {
				s, prefix := l.Beside(t).OpenPrefixed(t)
				other := l.Beside(t).OpenIn(t, prefix, nil)
				ctx := t.Context()
				storetest.CreateStream(t, s, "accounts")
				storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(5, 1)...)
				rows := storetest.NewRows(t, l)
				projection := func(stop bool) (*es.Projection[storetest.Totals], *held) {
					p := storetest.TotalsOf("rows", rows.Insert())
					h := &held{Table: rows.Table(), stop: stop, reached: make(chan struct{}), goOn: make(chan struct{})}
					p.ReadModel = h
					return p, h
				}
				call := func(p *es.Projection[storetest.Totals], s *es.Store) error {
					if errand == "delete" {
						return p.Delete(ctx, s, true)
					}
					return p.Reset(ctx, s)
				}
				p, _ := projection(false)
				storetest.CatchUp(t, p, s)
				stopped, h := projection(true)
				done := make(chan error, 1)
				go func() { done <- call(stopped, s) }()
				<-h.reached
				if err := call(p, other); err != nil {
					t.Fatal(err)
				}
				storetest.CatchUp(t, p, other)
				close(h.goOn)
				if err := <-done; err != nil {
					t.Logf("the process that was stopped: %v", err)
				}
				if got := rows.Positions(t); len(got) != 5 {
					t.Errorf("rows %v in the successor's table, want 5", got)
				}
				storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
				if cp := storetest.CatchUp(t, p, s); cp.State.Events != 6 {
					t.Errorf("state %+v, want 6 events", cp.State)
				}
				if got := fmt.Sprint(len(rows.Positions(t))); got != "6" {
					t.Errorf("%s rows at the end, want 6", got)
				}
			})
		}
	})
}
