package projections_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

func TestProjectionCatchUp(t *testing.T) {
	storetest.ForEachDefinitionsStore(t, func(t *testing.T, s *es.Store, k storetest.Kind) {
		storetest.CreateStream(t, s, "accounts", "cards")
		p := k.TotalsOf("totals")
		if _, err := p.Load(t.Context(), s); !errors.Is(err, es.ErrProjectionNotFound) {
			t.Errorf("load before the first run: %v, want ErrProjectionNotFound", err)
		}
		if cp := storetest.CatchUp(t, p, s); cp.Position != 0 || cp.State.Events != 0 || cp.State.Accounts == nil {
			t.Errorf("of nothing: %+v, want the state of Init", cp)
		}
		var last es.Position
		want := storetest.NewTotals()
		for i := range 30 {
			id := fmt.Sprint("a", i%3)
			evs := storetest.MustAppend(t, s, "accounts", id, es.AnyVersion, storetest.Deposits(1+i%4, int64(i))...)
			for k := range evs {
				want.Accounts[id] += int64(i + k)
				want.Events++
			}
			last = storetest.MustAppend(t, s, "cards", id, es.AnyVersion, storetest.Deposits(1, 1)...)[0].Position
			if i%10 == 0 {
				storetest.MustAppend(t, s, "accounts", id, es.AnyVersion, es.NewEvent{Payload: storetest.Opened{Owner: "ann"}})
			}
			if i%7 == 0 {
				storetest.CatchUp(t, p, s)
			}
		}
		for range 2 {
			cp := storetest.CatchUp(t, p, s)
			if cp.Position < last || cp.State.Events != want.Events || !maps.Equal(cp.State.Accounts, want.Accounts) {
				t.Errorf("caught up to %+v, want %+v behind %d", cp, want, last)
			}
		}
		loaded, err := p.Load(t.Context(), s)
		if err != nil || loaded.Position < last || !maps.Equal(loaded.State.Accounts, want.Accounts) {
			t.Errorf("loaded %+v (%v), want %+v", loaded, err, want)
		}
		if got := storetest.Info(t, s, "totals"); got.Status != es.StatusIdle || got.Owner != "" || got.Lag != 0 || got.Position < last {
			t.Errorf("listed as %+v, want it idle behind %d", got, last)
		}
	})
}

// TestProjectionRun follows live appends, through batches of every size.
func TestProjectionRun(t *testing.T) {
	storetest.ForEachDefinition(t, storetest.SomeLanes, storetest.AnyLane, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		for _, size := range []int{1, 2, 0} {
			p := k.TotalsOf(fmt.Sprint("totals", size))
			p.BatchSize = size
			end := storetest.Running(t, p, s)
			var last es.Position
			for i := range 20 {
				stored := storetest.MustAppend(t, s, "accounts", fmt.Sprint("a", i%3), es.AnyVersion, storetest.Deposits(2, 1)...)
				last = stored[1].Position
			}
			if err := p.Wait(t.Context(), s, last); err != nil {
				t.Fatal(err)
			}
			cp, err := p.Load(t.Context(), s)
			if err != nil || cp.Position < last {
				t.Errorf("after Wait at %d (%v), want %d", cp.Position, err, last)
			}
			if got := storetest.Info(t, s, p.Name); got.Status != es.StatusRunning || got.Owner == "" {
				t.Errorf("listed as %+v while it runs", got)
			}
			if err := end(); !errors.Is(err, context.Canceled) {
				t.Errorf("Run returned %v, want context.Canceled", err)
			}
			if got := storetest.Info(t, s, p.Name); got.Status != es.StatusIdle || got.Owner != "" {
				t.Errorf("listed as %+v after its end", got)
			}
			storetest.WantIdle(t, l, "after Run")
		}
		if cp := storetest.CatchUp(t, k.TotalsOf("totals1"), s); cp.State.Events != 120 {
			t.Errorf("%d events, want 120", cp.State.Events)
		}
	})
}

// TestProjectionStateTyped shows that a state comes back in its own types.
func TestProjectionStateTyped(t *testing.T) {
	type state struct {
		Big  int64
		At   time.Time
		ByID map[int64][]float64
	}
	storetest.ForEachDefinitionsStore(t, func(t *testing.T, s *es.Store, k storetest.Kind) {
		storetest.CreateStream(t, s, "accounts")
		p := storetest.Define(k, &es.Projection[state]{Name: "typed", From: es.FromAll(), When: []es.Handler[state]{
			es.OnEvent(func(st *state, e storetest.Deposited, ev es.Event) {
				st.Big += e.Cents
				st.At = ev.RecordedAt
				if st.ByID == nil {
					st.ByID = map[int64][]float64{}
				}
				st.ByID[ev.Version] = append(st.ByID[ev.Version], 1)
			}),
		}})
		const big = 1<<53 + 1
		for i := range 4 {
			stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, es.NewEvent{Payload: storetest.Deposited{Cents: []int64{big, 1, 1, 1}[i]}})
			cp := storetest.CatchUp(t, p, s)
			if cp.State.Big != big+int64(i) || !cp.State.At.Equal(stored[0].RecordedAt) || len(cp.State.ByID) != i+1 {
				t.Errorf("after %d events: %+v", i+1, cp.State)
			}
		}
	})
}

func TestProjectionInvalid(t *testing.T) {
	storetest.ForEachDefinitionsStore(t, func(t *testing.T, s *es.Store, k storetest.Kind) {
		for field, change := range map[string]func(*storetest.Definition[storetest.Totals]){
			"Projection.Name":      func(p *storetest.Definition[storetest.Totals]) { p.Name = "" },
			"Projection.From":      func(p *storetest.Definition[storetest.Totals]) { p.From = nil },
			"Projection.When[0]":   func(p *storetest.Definition[storetest.Totals]) { p.When[0] = nil },
			"Projection.When[1]":   func(p *storetest.Definition[storetest.Totals]) { p.When = append(p.When, es.Fold[storetest.Totals]{}) },
			"Projection.BatchSize": func(p *storetest.Definition[storetest.Totals]) { p.BatchSize = -1 },
			"Projection.Poll":      func(p *storetest.Definition[storetest.Totals]) { p.Poll = -1 },
			"Projection.Lease":     func(p *storetest.Definition[storetest.Totals]) { p.Lease = time.Millisecond },
			"DoAny": func(p *storetest.Definition[storetest.Totals]) {
				p.When = append(p.When, es.DoAny[storetest.Totals](nil))
			},
			"zero Effect": func(p *storetest.Definition[storetest.Totals]) {
				p.When = append(p.When, es.Effect[storetest.Totals]{})
			},
		} {
			p := k.TotalsOf("totals")
			change(p)
			if k == storetest.Documents {
				field = strings.Replace(field, "Projection.", "Documents.", 1)
			}
			storetest.WantInvalid(t, "Run with a bad "+field, p.Run(t.Context(), s), field)
			_, err := p.CatchUp(t.Context(), s)
			storetest.WantInvalid(t, "CatchUp with a bad "+field, err, field)
		}
		for _, err := range []error{
			s.StopProjection(t.Context(), ""), s.ResetProjection(t.Context(), ""), s.DeleteProjection(t.Context(), "", false),
			s.RetryParked(t.Context(), ""), s.DropParked(t.Context(), "", 1),
		} {
			storetest.WantInvalid(t, "control without a name", err, "projection name")
		}
		for _, err := range []error{
			s.StopProjection(t.Context(), "none"), s.ResetProjection(t.Context(), "none"), s.DeleteProjection(t.Context(), "none", true),
			s.RetryParked(t.Context(), "none"), s.DropParked(t.Context(), "none", 1),
			k.TotalsOf("none").Reset(t.Context(), s), k.TotalsOf("none").Delete(t.Context(), s, true),
		} {
			storetest.WantErr(t, "control of a projection that never ran", err, es.ErrProjectionNotFound)
		}
	})
}

func TestProjectionStep(t *testing.T) {
	storetest.ForEachDefinitionsStore(t, func(t *testing.T, s *es.Store, k storetest.Kind) {
		storetest.CreateStream(t, s, "accounts")
		stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(5, 1)...)
		p := k.TotalsOf("stopping", es.Do(func(_ context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
			if step.Event.Version == 3 {
				step.Stop()
			}
			step.State.Names = append(step.State.Names, step.Event.Name)
			return nil
		}))
		cp := storetest.CatchUp(t, p, s)
		if cp.Position != stored[2].Position || cp.State.Events != 3 || len(cp.State.Names) != 3 {
			t.Errorf("stopped at %+v, want it behind the third event, at %d", cp, stored[2].Position)
		}
		// Running it again goes on behind that event, and stops at the next such one.
		storetest.MustAppend(t, s, "accounts", "b", es.AnyVersion, storetest.Deposits(4, 1)...)
		if err := p.Run(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if cp, err := p.Load(t.Context(), s); err != nil || cp.State.Events != 8 {
			t.Errorf("stopped at %+v (%v), want it behind 8 events", cp, err)
		}
	})
}

// TestProjectionFailing shows that a step which fails leaves nothing: no state, no row, no emitted
// event, no position; and that what came before it is there.
func TestProjectionFailing(t *testing.T) {
	storetest.ForEachDefinition(t, storetest.SomeLanes, storetest.AnyLane, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(10, 0)...)
		broken := atomic.Bool{}
		broken.Store(true)
		tries := 0
		failure := errors.New("no such luck")
		p := k.TotalsOf("failing",
			es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
				return step.Emit(ctx, es.NewEvent{Payload: e})
			}))
		var table *storetest.Rows
		if l.DB != nil && k == storetest.Projection {
			table = storetest.NewRows(t, l)
			p.ReadModel = table.Table()
			p.When = append(p.When, table.Insert())
		}
		p.When = append(p.When, es.Do(func(_ context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
			step.State.Names = append(step.State.Names, "tried")
			if e.Cents == 6 && broken.Load() {
				tries++
				return failure
			}
			return nil
		}))
		check := func(what string, n int) {
			t.Helper()
			cp, err := p.Load(t.Context(), s)
			if err != nil || cp.State.Events != n || len(cp.State.Names) != n || cp.Position != stored[n-1].Position {
				t.Errorf("%s: %+v (%v), want %d events", what, cp, err, n)
			}
			if got := storetest.Collect(t, s.Read(t.Context(), es.FromStream("failing"), es.ReadOptions{})); len(got) != n {
				t.Errorf("%s: %d events emitted, want %d", what, len(got), n)
			}
			if table != nil {
				if got := table.Positions(t); len(got) != n {
					t.Errorf("%s: %d rows, want %d", what, len(got), n)
				}
			}
		}
		for run := 1; run <= 2; run++ {
			tries = 0
			_, err := p.CatchUp(t.Context(), s)
			var pe *es.ProjectionError
			if !errors.As(err, &pe) || !errors.Is(err, failure) || pe.Name != "failing" || pe.Event.Position != stored[6].Position {
				t.Fatalf("run %d: error is %v, want a *ProjectionError of event %d", run, err, stored[6].Position)
			}
			if tries != 4 {
				t.Errorf("run %d: %d tries, want 4", run, tries)
			}
			check(fmt.Sprint("after failing run ", run), 6)
			if got := storetest.Info(t, s, "failing"); got.Status != es.StatusFailed || !strings.Contains(got.Error, failure.Error()) || got.Owner != "" {
				t.Errorf("listed as %+v, want it failed", got)
			}
			storetest.WantIdle(t, l, "after a failure")
		}
		broken.Store(false)
		if _, err := p.CatchUp(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if cp, err := p.Load(t.Context(), s); err != nil || cp.State.Events != 10 {
			t.Errorf("after mending: %+v (%v)", cp, err)
		}
		if got := storetest.Info(t, s, "failing"); got.Status != es.StatusIdle || got.Error != "" {
			t.Errorf("listed as %+v, want no trace of the failure", got)
		}
		if got := storetest.Collect(t, s.Read(t.Context(), es.FromStream("failing"), es.ReadOptions{})); len(got) != 10 {
			t.Errorf("%d events emitted, want 10", len(got))
		}
	})
}

// TestProjectionHiddenError has a handler go on after its statement has failed, which on Postgres
// turns out at the checkpoint only, or break a constraint that is looked at only there. Either is
// its event's failure, and nobody else's.
func TestProjectionHiddenError(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		if l.Dialect != es.Postgres {
			return // a failed statement leaves the transaction whole, and constraints can't be deferred
		}
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(9, 0)...)
		for name, deferred := range map[string]bool{"hidden": false, "deferred": true} {
			table := storetest.NewRows(t, l)
			model := table.Table()
			model.Create = "CREATE TABLE IF NOT EXISTS " + table.Name + " (position bigint UNIQUE DEFERRABLE INITIALLY DEFERRED, owner varchar(100), cents bigint)"
			p := storetest.TotalsOf(name, table.Insert(), es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
				if e.Cents != 4 {
					return nil
				}
				if deferred {
					return model.Insert(ctx, step, es.Row{"position": int64(step.Event.Position)})
				}
				_ = model.Insert(ctx, step, es.Row{"no_such_column": 1})
				return nil
			}))
			p.ReadModel = model
			var failed []es.Position
			p.OnError = func(_ context.Context, ev es.Event, err error, attempt int) es.ErrorAction {
				failed = append(failed, ev.Position)
				return es.Skip
			}
			cp := storetest.CatchUp(t, p, s)
			if len(failed) != 1 || failed[0] != stored[4].Position || cp.State.Events != 8 || len(table.Positions(t)) != 8 {
				t.Errorf("%s: failed on %v with %d events and %d rows, want only %d to fail", name, failed, cp.State.Events, len(table.Positions(t)), stored[4].Position)
			}
		}
	})
}

// TestProjectionDecisions has every policy decide about one aggregate's event.
func TestProjectionDecisions(t *testing.T) {
	storetest.ForEachDefinitionsStore(t, func(t *testing.T, s *es.Store, k storetest.Kind) {
		storetest.CreateStream(t, s, "accounts")
		var stored []es.Event
		for i := range 4 {
			for _, id := range []string{"good", "bad"} {
				stored = append(stored, storetest.MustAppend(t, s, "accounts", id, es.AnyVersion, storetest.Deposits(1, int64(i))...)...)
			}
		}
		broken := true
		failing := func(name string, decide es.ErrorAction) *storetest.Definition[storetest.Totals] {
			p := k.TotalsOf(name, es.Do(func(_ context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
				if step.Event.AggregateID == "bad" && e.Cents == 1 && broken {
					return errors.New("no such luck")
				}
				step.State.Names = append(step.State.Names, fmt.Sprint(step.Event.AggregateID, step.Event.Version))
				return nil
			}))
			p.OnError = func(_ context.Context, ev es.Event, err error, attempt int) es.ErrorAction {
				if ev.Position != stored[3].Position {
					t.Errorf("OnError is asked about event %d, want %d", ev.Position, stored[3].Position)
				}
				if attempt < 3 {
					return es.Retry
				}
				return decide
			}
			return p
		}
		skip := storetest.CatchUp(t, failing("skip", es.Skip), s)
		if got := strings.Join(skip.State.Names, " "); got != "good1 bad1 good2 good3 bad3 good4 bad4" || skip.State.Events != 7 {
			t.Errorf("skipping: took in %s", got)
		}
		p := failing("park", es.Park)
		park := storetest.CatchUp(t, p, s)
		if got := strings.Join(park.State.Names, " "); got != "good1 bad1 good2 good3 good4" {
			t.Errorf("parking: took in %s", got)
		}
		if got := storetest.Info(t, s, "park"); got.Parked != 3 || got.Status != es.StatusIdle {
			t.Errorf("listed as %+v, want 3 parked", got)
		}
		parked, err := s.ParkedEvents(t.Context(), "park")
		if err != nil || len(parked) != 3 {
			t.Fatalf("%d parked events (%v), want 3", len(parked), err)
		}
		for i, want := range []es.Event{stored[3], stored[5], stored[7]} {
			if storetest.Describe(parked[i].Event) != storetest.Describe(want) || (parked[i].Error != "") != (i == 0) {
				t.Errorf("parked event %d is %+v", i, parked[i])
			}
		}
		// Trying again while it still fails changes nothing; a new event goes behind them.
		if err := s.RetryParked(t.Context(), "park"); err != nil {
			t.Fatal(err)
		}
		storetest.MustAppend(t, s, "accounts", "bad", es.AnyVersion, storetest.Deposits(1, 9)...)
		park = storetest.CatchUp(t, p, s)
		if got := storetest.Info(t, s, "park"); got.Parked != 4 || park.State.Events != 5 {
			t.Errorf("after a vain retry: %+v, %+v", got, park)
		}
		broken = false
		if err := s.RetryParked(t.Context(), "park"); err != nil {
			t.Fatal(err)
		}
		park = storetest.CatchUp(t, p, s)
		if got := strings.Join(park.State.Names, " "); got != "good1 bad1 good2 good3 good4 bad2 bad3 bad4 bad5" {
			t.Errorf("after a retry: took in %s", got)
		}
		if got := storetest.Info(t, s, "park"); got.Parked != 0 {
			t.Errorf("after a retry: %+v", got)
		}
		storetest.MustAppend(t, s, "accounts", "bad", es.AnyVersion, storetest.Deposits(1, 10)...)
		if park = storetest.CatchUp(t, p, s); len(park.State.Names) != 10 {
			t.Errorf("behind a retry: took in %s", park.State.Names)
		}
		// Dropping the one that failed, then trying the rest.
		broken = true
		p = failing("drop", es.Park)
		storetest.CatchUp(t, p, s)
		if err := s.DropParked(t.Context(), "drop", stored[3].Position); err != nil {
			t.Fatal(err)
		}
		if got := storetest.Info(t, s, "drop"); got.Parked != 4 {
			t.Errorf("after a drop: %+v, want 4 parked", got)
		}
		if err := s.RetryParked(t.Context(), "drop"); err != nil {
			t.Fatal(err)
		}
		drop := storetest.CatchUp(t, p, s)
		if got := strings.Join(drop.State.Names, " "); got != "good1 bad1 good2 good3 good4 bad3 bad4 bad5 bad6" {
			t.Errorf("after a drop and a retry: took in %s", got)
		}
	})
}

// TestProjectionEmitAndLink checks what is emitted and linked, and that it stays exact through
// resets.
func TestProjectionEmitAndLink(t *testing.T) {
	storetest.ForEachDefinitionsStore(t, func(t *testing.T, s *es.Store, k storetest.Kind) {
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts", "cards")
		evs := storetest.Deposits(3, 1)
		evs[1].Metadata = es.Metadata{"n": 1<<53 + 1, "by": "ann"}
		stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, evs...)
		stored = append(stored, storetest.MustAppend(t, s, "cards", "b", es.AnyVersion, storetest.Deposits(2, 10)...)...)
		p := k.TotalsOf("emitting", es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
			if err := step.Emit(ctx, es.NewEvent{Payload: storetest.Opened{Owner: fmt.Sprint(e.Cents)}}, es.NewEvent{Payload: e}); err != nil {
				return err
			}
			return errors.Join(step.LinkTo(ctx, "links"), step.LinkTo(ctx, "links"), step.LinkTo(ctx, step.Event.Stream))
		}))
		p.From = es.FromStreams("accounts", "cards")
		for run := range 2 {
			storetest.CatchUp(t, p, s)
			emitted := storetest.Collect(t, s.Read(ctx, es.FromStream("emitting"), es.ReadOptions{}))
			if len(emitted) != 10 {
				t.Fatalf("run %d: %d events emitted, want 10", run, len(emitted))
			}
			for i, ev := range emitted {
				if ev.AggregateID != stored[i/2].AggregateID || ev.Name != []string{"account.opened", "account.deposited"}[i%2] {
					t.Errorf("run %d: emitted %s", run, storetest.Describe(ev))
				}
			}
			links := storetest.Collect(t, s.Read(ctx, es.FromStream("links"), es.ReadOptions{}))
			if len(links) != len(stored) {
				t.Fatalf("run %d: %d links, want %d", run, len(links), len(stored))
			}
			for i, ev := range links {
				want := maps.Clone(stored[i].Metadata)
				want["$link.stream"], want["$link.position"] = stored[i].Stream, int64(stored[i].Position)
				if ev.AggregateID != stored[i].AggregateID || ev.Name != stored[i].Name || string(ev.Data) != string(stored[i].Data) || !maps.Equal(ev.Metadata, want) || ev.Version != stored[i].Version {
					t.Errorf("run %d: link %s of %s", run, storetest.Describe(ev), storetest.Describe(stored[i]))
				}
			}
			if err := p.Reset(ctx, s); err != nil {
				t.Fatal(err)
			}
			if has, err := s.HasStream(ctx, "emitting"); has || err != nil {
				t.Errorf("run %d: the emitted stream is there after a reset (%v)", run, err)
			}
		}
		storetest.CatchUp(t, p, s)
		if err := p.Delete(ctx, s, false); err != nil {
			t.Fatal(err)
		}
		if has, err := s.HasStream(ctx, "emitting"); !has || err != nil {
			t.Errorf("the emitted stream is gone (%v)", err)
		}
		if cp := storetest.CatchUp(t, p, s); cp.State.Events != 5 {
			t.Errorf("begun anew: %+v", cp)
		}
		if err := s.DeleteProjection(ctx, "emitting", true); err != nil {
			t.Fatal(err)
		}
		if has, err := s.HasStream(ctx, "emitting"); has || err != nil {
			t.Errorf("the emitted stream is there after its deletion (%v)", err)
		}
	})
}

// TestProjectionControl calls stop, reset and delete, by name and on the definition, before, during
// and after runs.
func TestProjectionControl(t *testing.T) {
	storetest.ForEachDefinition(t, storetest.SomeLanes, storetest.AnyLane, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		s, other := l.OpenTwice(t)
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(7, 1)...)
		p := k.TotalsOf("controlled")
		var table *storetest.Rows
		if l.DB != nil && k == storetest.Projection {
			table = storetest.NewRows(t, l)
			p.ReadModel = table.Table()
			p.When = append(p.When, table.Insert())
		}
		count := func() int {
			if table == nil {
				return 7
			}
			return len(table.Positions(t))
		}
		for _, from := range []*es.Store{s, other} {
			for name, c := range map[string]struct {
				call func() error
				ends bool
			}{
				"stop":           {func() error { return from.StopProjection(ctx, "controlled") }, true},
				"reset by name":  {func() error { return from.ResetProjection(ctx, "controlled") }, false},
				"reset":          {func() error { return p.Reset(ctx, from) }, false},
				"delete by name": {func() error { return from.DeleteProjection(ctx, "controlled", true) }, true},
				"delete":         {func() error { return p.Delete(ctx, from, true) }, true},
			} {
				storetest.CatchUp(t, p, s)
				for range 2 { // while nobody runs it, twice
					if err := c.call(); err != nil && !(c.ends && errors.Is(err, es.ErrProjectionNotFound)) {
						t.Fatalf("%s: %v", name, err)
					}
				}
				if cp := storetest.CatchUp(t, p, s); cp.State.Events != 7 || count() != 7 {
					t.Errorf("%s while idle: %d events, %d rows, want 7", name, cp.State.Events, count())
				}
				done := make(chan error, 2)
				for range 2 { // a runner and one that stands by
					go func() { done <- p.Run(ctx, s) }()
				}
				storetest.Eventually(t, "the projection to run", func() bool { return storetest.Info(t, s, "controlled").Status == es.StatusRunning })
				if err := c.call(); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if !c.ends {
					storetest.Eventually(t, "the projection to be back", func() bool {
						got := storetest.Info(t, s, "controlled")
						return got.Lag == 0 && got.Status == es.StatusRunning
					})
					if err := s.StopProjection(ctx, "controlled"); err != nil {
						t.Fatal(err)
					}
				}
				// The one that held the lease ends; the other may only have begun by now.
				for ended := range 2 {
					storetest.Eventually(t, "Run to return", func() bool {
						select {
						case err := <-done:
							if err != nil {
								t.Errorf("%s: Run returned %v, want nil", name, err)
							}
							return true
						default:
						}
						if ended == 1 {
							if err := s.StopProjection(ctx, "controlled"); err != nil && !errors.Is(err, es.ErrProjectionNotFound) {
								t.Error(err)
							}
						}
						return false
					})
				}
				if cp := storetest.CatchUp(t, p, s); cp.State.Events != 7 || count() != 7 {
					t.Errorf("%s during a run: %d events, %d rows, want 7", name, cp.State.Events, count())
				}
				if got := storetest.Info(t, s, "controlled"); got.Status != es.StatusIdle {
					t.Errorf("%s: listed as %+v", name, got)
				}
			}
		}
		if err := p.Delete(ctx, s, false); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Load(ctx, s); !errors.Is(err, es.ErrProjectionNotFound) {
			t.Errorf("load after a delete: %v", err)
		}
		if infos, err := s.Projections(ctx); err != nil || len(infos) != 0 {
			t.Errorf("listed after a delete: %+v (%v)", infos, err)
		}
		storetest.WantIdle(t, l, "at the end")
	})
}

// TestProjectionFenced has a projection reset within a handler: the step can write nothing any
// more, and nothing of it is stored twice.
func TestProjectionFenced(t *testing.T) {
	storetest.ForEachDefinition(t, storetest.SomeLanes, storetest.AnyLane, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		if l.DB != nil && l.DB.Stats().MaxOpenConnections == 1 {
			return // the handler below needs a connection beside its transaction's
		}
		s, other := l.OpenTwice(t)
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(3, 1)...)
		fenced := 0
		p := k.TotalsOf("fenced", es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
			if err := step.Emit(ctx, es.NewEvent{Payload: e}); err != nil {
				return err
			}
			if e.Cents == 2 && fenced < 2 {
				// First by this process, then by another, which this one has to ask the database about.
				by := []*es.Store{s, other}[fenced]
				fenced++
				if err := by.ResetProjection(context.WithoutCancel(ctx), "fenced"); err != nil {
					t.Error(err)
				}
				time.Sleep(150 * time.Millisecond) // longer than what was known lasts
				_, err := step.Tx()
				storetest.WantErr(t, "Tx", err, es.ErrLeaseLost)
				storetest.WantErr(t, "Emit", step.Emit(ctx, es.NewEvent{Payload: e}), es.ErrLeaseLost)
				storetest.WantErr(t, "LinkTo", step.LinkTo(ctx, "links"), es.ErrLeaseLost)
				return nil
			}
			return nil
		}))
		cp := storetest.CatchUp(t, p, s)
		if cp.State.Events != 3 || fenced != 2 {
			t.Errorf("%d events after %d resets, want 3 after 2", cp.State.Events, fenced)
		}
		if got := storetest.Collect(t, s.Read(t.Context(), es.FromStream("fenced"), es.ReadOptions{})); len(got) != 3 {
			t.Errorf("%d events emitted, want 3", len(got))
		}
	})
}

// TestProjectionMemoryUnsupported names what a memory store can't do.
func TestProjectionMemoryUnsupported(t *testing.T) {
	s := es.NewMemStore(nil)
	storetest.CreateStream(t, s, "accounts")
	storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
	p := storetest.TotalsOf("totals", es.Do(func(_ context.Context, step *es.Step[storetest.Totals], _ storetest.Deposited) error {
		_, err := step.Tx()
		return err
	}))
	p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Fail }
	if _, err := p.CatchUp(t.Context(), s); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Tx on memory: %v, want errors.ErrUnsupported", err)
	}
	p.ReadModel = &es.Table{}
	if _, err := p.CatchUp(t.Context(), s); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a read model on memory: %v, want errors.ErrUnsupported", err)
	}
}

// TestLinkMetadata links events while the store adds metadata: a link has the event's, what it lacks of the store's,
// and where it comes from.
func TestLinkMetadata(t *testing.T) {
	storetest.ForEachDefinition(t, storetest.SomeLanes, storetest.AnyLane, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		linking := false
		s := l.Open(t, &es.Options{Metadata: func(context.Context) es.Metadata {
			if !linking {
				return nil
			}
			return es.Metadata{"service": "linker", "who": "linker", "$link.stream": "wrong"}
		}})
		storetest.CreateStream(t, s, "accounts")
		stored := storetest.MustAppend(t, s, "accounts", "a", 0, es.NewEvent{Payload: storetest.Deposited{Cents: 1}, Metadata: es.Metadata{"who": "ann"}})
		linking = true
		p := k.TotalsOf("links", es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], _ storetest.Deposited) error {
			return step.LinkTo(ctx, "linked")
		}))
		storetest.CatchUp(t, p, s)
		links := storetest.Collect(t, s.Read(t.Context(), es.FromStream("linked"), es.ReadOptions{}))
		want := es.Metadata{"service": "linker", "who": "ann", "$link.stream": "accounts", "$link.position": int64(stored[0].Position)}
		if len(links) != 1 || !maps.Equal(links[0].Metadata, want) {
			t.Errorf("linked %v, want metadata %v", links, want)
		}
	})
}

// TestParkedEventsMany lists more parked events than one statement asks for.
func TestParkedEventsMany(t *testing.T) {
	const n = 1203
	storetest.ForEachDefinition(t, storetest.SomeLanes, storetest.Usual, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		stored := storetest.MustAppend(t, s, "accounts", "a", 0, storetest.Deposits(n, 1)...)
		p := k.TotalsOf("park", es.Do(func(context.Context, *es.Step[storetest.Totals], storetest.Deposited) error { return errors.New("no") }))
		p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Park }
		storetest.CatchUp(t, p, s)
		parked, err := s.ParkedEvents(t.Context(), "park")
		if err != nil || len(parked) != n {
			t.Fatalf("%d parked events (%v), want %d", len(parked), err, n)
		}
		got := make([]es.Event, n)
		for i := range parked {
			got[i] = parked[i].Event
		}
		storetest.SameEvents(t, "parked", got, stored)
	})
}
