package eventstore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	es "example.com/eventstore"
)

// totals is the state of the projections here: cents by owner of a deposit's account.
type totals struct {
	Accounts map[string]int64
	Events   int
	Names    []string `json:",omitempty"`
}

func newTotals() totals { return totals{Accounts: map[string]int64{}} }

// totalsOf returns a projection that adds up deposits.
func totalsOf(name string, more ...es.Handler[totals]) *es.Projection[totals] {
	return &es.Projection[totals]{
		Name: name,
		From: es.FromStream("accounts"),
		Init: newTotals,
		When: append([]es.Handler[totals]{
			es.OnEvent(func(t *totals, e deposited, ev es.Event) { t.Accounts[ev.AggregateID] += e.Cents; t.Events++ }),
		}, more...),
		Poll:  20 * time.Millisecond,
		Lease: time.Second,
	}
}

func catchUp[S any](t testing.TB, p *es.Projection[S], s *es.Store) es.Checkpoint[S] {
	t.Helper()
	cp, err := p.CatchUp(t.Context(), s)
	if err != nil {
		t.Fatalf("catch up: %v", err)
	}
	return cp
}

// running starts a projection; the function it returns ends it and returns what Run did.
func running[S any](t testing.TB, p *es.Projection[S], s *es.Store) (end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, s) }()
	ended := sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Second):
			return errors.New("Run has not returned within 20 s")
		}
	})
	t.Cleanup(func() { _ = ended() })
	return ended
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func info(t testing.TB, s *es.Store, name string) es.ProjectionInfo {
	t.Helper()
	infos, err := s.Projections(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range infos {
		if p.Name == name {
			return p
		}
	}
	return es.ProjectionInfo{}
}

func TestProjectionCatchUp(t *testing.T) {
	forEachStore(t, func(t *testing.T, s *es.Store) {
		createStream(t, s, "accounts", "cards")
		p := totalsOf("totals")
		if _, err := p.Load(t.Context(), s); !errors.Is(err, es.ErrProjectionNotFound) {
			t.Errorf("load before the first run: %v, want ErrProjectionNotFound", err)
		}
		if cp := catchUp(t, p, s); cp.Position != 0 || cp.State.Events != 0 || cp.State.Accounts == nil {
			t.Errorf("of nothing: %+v, want the state of Init", cp)
		}
		var last es.Position
		want := newTotals()
		for i := range 30 {
			id := fmt.Sprint("a", i%3)
			evs := mustAppend(t, s, "accounts", id, es.AnyVersion, events(1+i%4, int64(i))...)
			for k := range evs {
				want.Accounts[id] += int64(i + k)
				want.Events++
			}
			last = mustAppend(t, s, "cards", id, es.AnyVersion, events(1, 1)...)[0].Position
			if i%10 == 0 {
				mustAppend(t, s, "accounts", id, es.AnyVersion, es.NewEvent{Payload: opened{"ann"}})
			}
			if i%7 == 0 {
				catchUp(t, p, s)
			}
		}
		for range 2 {
			cp := catchUp(t, p, s)
			if cp.Position < last || cp.State.Events != want.Events || !maps.Equal(cp.State.Accounts, want.Accounts) {
				t.Errorf("caught up to %+v, want %+v behind %d", cp, want, last)
			}
		}
		loaded, err := p.Load(t.Context(), s)
		if err != nil || loaded.Position < last || !maps.Equal(loaded.State.Accounts, want.Accounts) {
			t.Errorf("loaded %+v (%v), want %+v", loaded, err, want)
		}
		if got := info(t, s, "totals"); got.Status != es.StatusIdle || got.Owner != "" || got.Lag != 0 || got.Position < last {
			t.Errorf("listed as %+v, want it idle behind %d", got, last)
		}
	})
}

// TestProjectionRun follows live appends, through batches of every size.
func TestProjectionRun(t *testing.T) {
	forEachLane(t, func(t *testing.T, l lane) {
		s := l.open(t, nil)
		createStream(t, s, "accounts")
		for _, size := range []int{1, 2, 0} {
			p := totalsOf(fmt.Sprint("totals", size))
			p.BatchSize = size
			end := running(t, p, s)
			var last es.Position
			for i := range 20 {
				stored := mustAppend(t, s, "accounts", fmt.Sprint("a", i%3), es.AnyVersion, events(2, 1)...)
				last = stored[1].Position
			}
			if err := p.Wait(t.Context(), s, last); err != nil {
				t.Fatal(err)
			}
			cp, err := p.Load(t.Context(), s)
			if err != nil || cp.Position < last {
				t.Errorf("after Wait at %d (%v), want %d", cp.Position, err, last)
			}
			if got := info(t, s, p.Name); got.Status != es.StatusRunning || got.Owner == "" {
				t.Errorf("listed as %+v while it runs", got)
			}
			if err := end(); !errors.Is(err, context.Canceled) {
				t.Errorf("Run returned %v, want context.Canceled", err)
			}
			if got := info(t, s, p.Name); got.Status != es.StatusIdle || got.Owner != "" {
				t.Errorf("listed as %+v after its end", got)
			}
			wantIdle(t, l, "after Run")
		}
		if cp := catchUp(t, totalsOf("totals1"), s); cp.State.Events != 120 {
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
	forEachStore(t, func(t *testing.T, s *es.Store) {
		createStream(t, s, "accounts")
		p := &es.Projection[state]{Name: "typed", From: es.FromAll(), When: []es.Handler[state]{
			es.OnEvent(func(st *state, e deposited, ev es.Event) {
				st.Big += e.Cents
				st.At = ev.RecordedAt
				if st.ByID == nil {
					st.ByID = map[int64][]float64{}
				}
				st.ByID[ev.Version] = append(st.ByID[ev.Version], 1)
			}),
		}}
		const big = 1<<53 + 1
		for i := range 4 {
			stored := mustAppend(t, s, "accounts", "a", es.AnyVersion, es.NewEvent{Payload: deposited{[]int64{big, 1, 1, 1}[i]}})
			cp := catchUp(t, p, s)
			if cp.State.Big != big+int64(i) || !cp.State.At.Equal(stored[0].RecordedAt) || len(cp.State.ByID) != i+1 {
				t.Errorf("after %d events: %+v", i+1, cp.State)
			}
		}
	})
}

func TestProjectionInvalid(t *testing.T) {
	forEachStore(t, func(t *testing.T, s *es.Store) {
		for field, change := range map[string]func(*es.Projection[totals]){
			"Projection.Name":      func(p *es.Projection[totals]) { p.Name = "" },
			"Projection.From":      func(p *es.Projection[totals]) { p.From = nil },
			"Projection.When[0]":   func(p *es.Projection[totals]) { p.When[0] = nil },
			"Projection.When[1]":   func(p *es.Projection[totals]) { p.When = append(p.When, es.Fold[totals]{}) },
			"Projection.BatchSize": func(p *es.Projection[totals]) { p.BatchSize = -1 },
			"Projection.Poll":      func(p *es.Projection[totals]) { p.Poll = -1 },
			"Projection.Lease":     func(p *es.Projection[totals]) { p.Lease = time.Millisecond },
			"DoAny":                func(p *es.Projection[totals]) { p.When = append(p.When, es.DoAny[totals](nil)) },
			"zero Effect":          func(p *es.Projection[totals]) { p.When = append(p.When, es.Effect[totals]{}) },
		} {
			p := totalsOf("totals")
			change(p)
			wantInvalid(t, "Run with a bad "+field, p.Run(t.Context(), s), field)
			_, err := p.CatchUp(t.Context(), s)
			wantInvalid(t, "CatchUp with a bad "+field, err, field)
		}
		for _, err := range []error{
			s.StopProjection(t.Context(), ""), s.ResetProjection(t.Context(), ""), s.DeleteProjection(t.Context(), "", false),
			s.RetryParked(t.Context(), ""), s.DropParked(t.Context(), "", 1),
		} {
			wantInvalid(t, "control without a name", err, "projection name")
		}
		for _, err := range []error{
			s.StopProjection(t.Context(), "none"), s.ResetProjection(t.Context(), "none"), s.DeleteProjection(t.Context(), "none", true),
			s.RetryParked(t.Context(), "none"), s.DropParked(t.Context(), "none", 1),
			totalsOf("none").Reset(t.Context(), s), totalsOf("none").Delete(t.Context(), s, true),
		} {
			wantErr(t, "control of a projection that never ran", err, es.ErrProjectionNotFound)
		}
	})
}

func TestProjectionStep(t *testing.T) {
	forEachStore(t, func(t *testing.T, s *es.Store) {
		createStream(t, s, "accounts")
		stored := mustAppend(t, s, "accounts", "a", es.AnyVersion, events(5, 1)...)
		p := totalsOf("stopping", es.Do(func(_ context.Context, step *es.Step[totals], e deposited) error {
			if step.Event.Version == 3 {
				step.Stop()
			}
			step.State.Names = append(step.State.Names, step.Event.Name)
			return nil
		}))
		cp := catchUp(t, p, s)
		if cp.Position != stored[2].Position || cp.State.Events != 3 || len(cp.State.Names) != 3 {
			t.Errorf("stopped at %+v, want it behind the third event, at %d", cp, stored[2].Position)
		}
		// Running it again goes on behind that event, and stops at the next such one.
		mustAppend(t, s, "accounts", "b", es.AnyVersion, events(4, 1)...)
		if err := p.Run(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if cp, err := p.Load(t.Context(), s); err != nil || cp.State.Events != 8 {
			t.Errorf("stopped at %+v (%v), want it behind 8 events", cp, err)
		}
	})
}

// rows is a table without constraints, so that nothing but the library keeps its rows unique.
type rows struct {
	db   *sql.DB
	l    lane
	name string
}

func newRows(t testing.TB, l lane) *rows {
	r := &rows{db: l.db, l: l, name: fmt.Sprintf("rows_%s", strings.TrimSuffix(l.newPrefix(t), "_"))}
	t.Cleanup(func() {
		if _, err := l.db.Exec("DROP TABLE IF EXISTS " + r.name); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rows) table() *es.Table {
	return &es.Table{Dialect: r.l.dialect, Name: r.name, Create: "CREATE TABLE IF NOT EXISTS " + r.name + " (position bigint, owner varchar(100), cents bigint)"}
}

// positions returns what is in the table, in order.
func (r *rows) positions(t testing.TB) []int64 {
	t.Helper()
	found, err := r.db.Query("SELECT position FROM " + r.name + " ORDER BY position")
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	var out []int64
	for found.Next() {
		var p int64
		if err := found.Scan(&p); err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// insert is an effect that writes the step's event into the table.
func (r *rows) insert() es.Handler[totals] {
	table := r.table()
	return es.Do(func(ctx context.Context, step *es.Step[totals], e deposited) error {
		return table.Insert(ctx, step, es.Row{"position": int64(step.Event.Position), "owner": step.Event.AggregateID, "cents": e.Cents})
	})
}

// TestProjectionFailing shows that a step which fails leaves nothing: no state, no row, no emitted
// event, no position; and that what came before it is there.
func TestProjectionFailing(t *testing.T) {
	forEachLane(t, func(t *testing.T, l lane) {
		s := l.open(t, nil)
		createStream(t, s, "accounts")
		stored := mustAppend(t, s, "accounts", "a", es.AnyVersion, events(10, 0)...)
		broken := atomic.Bool{}
		broken.Store(true)
		tries := 0
		failure := errors.New("no such luck")
		p := totalsOf("failing",
			es.Do(func(ctx context.Context, step *es.Step[totals], e deposited) error {
				return step.Emit(ctx, es.NewEvent{Payload: e})
			}))
		var table *rows
		if l.db != nil {
			table = newRows(t, l)
			p.ReadModel = table.table()
			p.When = append(p.When, table.insert())
		}
		p.When = append(p.When, es.Do(func(_ context.Context, step *es.Step[totals], e deposited) error {
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
			if got := collect(t, s.Read(t.Context(), es.FromStream("failing"), es.ReadOptions{})); len(got) != n {
				t.Errorf("%s: %d events emitted, want %d", what, len(got), n)
			}
			if table != nil {
				if got := table.positions(t); len(got) != n {
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
			if got := info(t, s, "failing"); got.Status != es.StatusFailed || !strings.Contains(got.Error, failure.Error()) || got.Owner != "" {
				t.Errorf("listed as %+v, want it failed", got)
			}
			wantIdle(t, l, "after a failure")
		}
		broken.Store(false)
		if _, err := p.CatchUp(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if cp, err := p.Load(t.Context(), s); err != nil || cp.State.Events != 10 {
			t.Errorf("after mending: %+v (%v)", cp, err)
		}
		if got := info(t, s, "failing"); got.Status != es.StatusIdle || got.Error != "" {
			t.Errorf("listed as %+v, want no trace of the failure", got)
		}
		if got := collect(t, s.Read(t.Context(), es.FromStream("failing"), es.ReadOptions{})); len(got) != 10 {
			t.Errorf("%d events emitted, want 10", len(got))
		}
	})
}

// TestProjectionHiddenError has a handler go on after its statement has failed, which on Postgres
// turns out at the checkpoint only, or break a constraint that is looked at only there. Either is
// its event's failure, and nobody else's.
func TestProjectionHiddenError(t *testing.T) {
	forEachKind(t, func(t *testing.T, l lane) {
		if l.dialect != es.Postgres {
			return // a failed statement leaves the transaction whole, and constraints can't be deferred
		}
		s := l.open(t, nil)
		createStream(t, s, "accounts")
		stored := mustAppend(t, s, "accounts", "a", es.AnyVersion, events(9, 0)...)
		for name, deferred := range map[string]bool{"hidden": false, "deferred": true} {
			table := newRows(t, l)
			model := table.table()
			model.Create = "CREATE TABLE IF NOT EXISTS " + table.name + " (position bigint UNIQUE DEFERRABLE INITIALLY DEFERRED, owner varchar(100), cents bigint)"
			p := totalsOf(name, table.insert(), es.Do(func(ctx context.Context, step *es.Step[totals], e deposited) error {
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
			cp := catchUp(t, p, s)
			if len(failed) != 1 || failed[0] != stored[4].Position || cp.State.Events != 8 || len(table.positions(t)) != 8 {
				t.Errorf("%s: failed on %v with %d events and %d rows, want only %d to fail", name, failed, cp.State.Events, len(table.positions(t)), stored[4].Position)
			}
		}
	})
}

// TestProjectionDecisions has every policy decide about one aggregate's event.
func TestProjectionDecisions(t *testing.T) {
	forEachStore(t, func(t *testing.T, s *es.Store) {
		createStream(t, s, "accounts")
		var stored []es.Event
		for i := range 4 {
			for _, id := range []string{"good", "bad"} {
				stored = append(stored, mustAppend(t, s, "accounts", id, es.AnyVersion, events(1, int64(i))...)...)
			}
		}
		broken := true
		failing := func(name string, decide es.ErrorAction) *es.Projection[totals] {
			p := totalsOf(name, es.Do(func(_ context.Context, step *es.Step[totals], e deposited) error {
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
		skip := catchUp(t, failing("skip", es.Skip), s)
		if got := strings.Join(skip.State.Names, " "); got != "good1 bad1 good2 good3 bad3 good4 bad4" || skip.State.Events != 7 {
			t.Errorf("skipping: took in %s", got)
		}
		p := failing("park", es.Park)
		park := catchUp(t, p, s)
		if got := strings.Join(park.State.Names, " "); got != "good1 bad1 good2 good3 good4" {
			t.Errorf("parking: took in %s", got)
		}
		if got := info(t, s, "park"); got.Parked != 3 || got.Status != es.StatusIdle {
			t.Errorf("listed as %+v, want 3 parked", got)
		}
		parked, err := s.ParkedEvents(t.Context(), "park")
		if err != nil || len(parked) != 3 {
			t.Fatalf("%d parked events (%v), want 3", len(parked), err)
		}
		for i, want := range []es.Event{stored[3], stored[5], stored[7]} {
			if describe(parked[i].Event) != describe(want) || (parked[i].Error != "") != (i == 0) {
				t.Errorf("parked event %d is %+v", i, parked[i])
			}
		}
		// Trying again while it still fails changes nothing; a new event goes behind them.
		if err := s.RetryParked(t.Context(), "park"); err != nil {
			t.Fatal(err)
		}
		mustAppend(t, s, "accounts", "bad", es.AnyVersion, events(1, 9)...)
		park = catchUp(t, p, s)
		if got := info(t, s, "park"); got.Parked != 4 || park.State.Events != 5 {
			t.Errorf("after a vain retry: %+v, %+v", got, park)
		}
		broken = false
		if err := s.RetryParked(t.Context(), "park"); err != nil {
			t.Fatal(err)
		}
		park = catchUp(t, p, s)
		if got := strings.Join(park.State.Names, " "); got != "good1 bad1 good2 good3 good4 bad2 bad3 bad4 bad5" {
			t.Errorf("after a retry: took in %s", got)
		}
		if got := info(t, s, "park"); got.Parked != 0 {
			t.Errorf("after a retry: %+v", got)
		}
		mustAppend(t, s, "accounts", "bad", es.AnyVersion, events(1, 10)...)
		if park = catchUp(t, p, s); len(park.State.Names) != 10 {
			t.Errorf("behind a retry: took in %s", park.State.Names)
		}
		// Dropping the one that failed, then trying the rest.
		broken = true
		p = failing("drop", es.Park)
		catchUp(t, p, s)
		if err := s.DropParked(t.Context(), "drop", stored[3].Position); err != nil {
			t.Fatal(err)
		}
		if got := info(t, s, "drop"); got.Parked != 4 {
			t.Errorf("after a drop: %+v, want 4 parked", got)
		}
		if err := s.RetryParked(t.Context(), "drop"); err != nil {
			t.Fatal(err)
		}
		drop := catchUp(t, p, s)
		if got := strings.Join(drop.State.Names, " "); got != "good1 bad1 good2 good3 good4 bad3 bad4 bad5 bad6" {
			t.Errorf("after a drop and a retry: took in %s", got)
		}
	})
}

// TestProjectionEmitAndLink checks what is emitted and linked, and that it stays exact through
// resets.
func TestProjectionEmitAndLink(t *testing.T) {
	forEachStore(t, func(t *testing.T, s *es.Store) {
		ctx := t.Context()
		createStream(t, s, "accounts", "cards")
		evs := events(3, 1)
		evs[1].Metadata = es.Metadata{"n": 1<<53 + 1, "by": "ann"}
		stored := mustAppend(t, s, "accounts", "a", es.AnyVersion, evs...)
		stored = append(stored, mustAppend(t, s, "cards", "b", es.AnyVersion, events(2, 10)...)...)
		p := totalsOf("emitting", es.Do(func(ctx context.Context, step *es.Step[totals], e deposited) error {
			if err := step.Emit(ctx, es.NewEvent{Payload: opened{fmt.Sprint(e.Cents)}}, es.NewEvent{Payload: e}); err != nil {
				return err
			}
			return errors.Join(step.LinkTo(ctx, "links"), step.LinkTo(ctx, "links"), step.LinkTo(ctx, step.Event.Stream))
		}))
		p.From = es.FromStreams("accounts", "cards")
		for run := range 2 {
			catchUp(t, p, s)
			emitted := collect(t, s.Read(ctx, es.FromStream("emitting"), es.ReadOptions{}))
			if len(emitted) != 10 {
				t.Fatalf("run %d: %d events emitted, want 10", run, len(emitted))
			}
			for i, ev := range emitted {
				if ev.AggregateID != stored[i/2].AggregateID || ev.Name != []string{"account.opened", "account.deposited"}[i%2] {
					t.Errorf("run %d: emitted %s", run, describe(ev))
				}
			}
			links := collect(t, s.Read(ctx, es.FromStream("links"), es.ReadOptions{}))
			if len(links) != len(stored) {
				t.Fatalf("run %d: %d links, want %d", run, len(links), len(stored))
			}
			for i, ev := range links {
				want := maps.Clone(stored[i].Metadata)
				want["$link.stream"], want["$link.position"] = stored[i].Stream, int64(stored[i].Position)
				if ev.AggregateID != stored[i].AggregateID || ev.Name != stored[i].Name || string(ev.Data) != string(stored[i].Data) || !maps.Equal(ev.Metadata, want) || ev.Version != stored[i].Version {
					t.Errorf("run %d: link %s of %s", run, describe(ev), describe(stored[i]))
				}
			}
			if err := p.Reset(ctx, s); err != nil {
				t.Fatal(err)
			}
			if has, err := s.HasStream(ctx, "emitting"); has || err != nil {
				t.Errorf("run %d: the emitted stream is there after a reset (%v)", run, err)
			}
		}
		catchUp(t, p, s)
		if err := p.Delete(ctx, s, false); err != nil {
			t.Fatal(err)
		}
		if has, err := s.HasStream(ctx, "emitting"); !has || err != nil {
			t.Errorf("the emitted stream is gone (%v)", err)
		}
		if cp := catchUp(t, p, s); cp.State.Events != 5 {
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
	forEachLane(t, func(t *testing.T, l lane) {
		s, other := l.openTwice(t)
		ctx := t.Context()
		createStream(t, s, "accounts")
		mustAppend(t, s, "accounts", "a", es.AnyVersion, events(7, 1)...)
		p := totalsOf("controlled")
		var table *rows
		if l.db != nil {
			table = newRows(t, l)
			p.ReadModel = table.table()
			p.When = append(p.When, table.insert())
		}
		count := func() int {
			if table == nil {
				return 7
			}
			return len(table.positions(t))
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
				catchUp(t, p, s)
				for range 2 { // while nobody runs it, twice
					if err := c.call(); err != nil && !(c.ends && errors.Is(err, es.ErrProjectionNotFound)) {
						t.Fatalf("%s: %v", name, err)
					}
				}
				if cp := catchUp(t, p, s); cp.State.Events != 7 || count() != 7 {
					t.Errorf("%s while idle: %d events, %d rows, want 7", name, cp.State.Events, count())
				}
				done := make(chan error, 2)
				for range 2 { // a runner and one that stands by
					go func() { done <- p.Run(ctx, s) }()
				}
				eventually(t, "the projection to run", func() bool { return info(t, s, "controlled").Status == es.StatusRunning })
				if err := c.call(); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if !c.ends {
					eventually(t, "the projection to be back", func() bool {
						got := info(t, s, "controlled")
						return got.Lag == 0 && got.Status == es.StatusRunning
					})
					if err := s.StopProjection(ctx, "controlled"); err != nil {
						t.Fatal(err)
					}
				}
				// The one that held the lease ends; the other may only have begun by now.
				for ended := range 2 {
					eventually(t, "Run to return", func() bool {
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
				if cp := catchUp(t, p, s); cp.State.Events != 7 || count() != 7 {
					t.Errorf("%s during a run: %d events, %d rows, want 7", name, cp.State.Events, count())
				}
				if got := info(t, s, "controlled"); got.Status != es.StatusIdle {
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
		wantIdle(t, l, "at the end")
	})
}

// TestProjectionFenced has a projection reset within a handler: the step can write nothing any
// more, and nothing of it is stored twice.
func TestProjectionFenced(t *testing.T) {
	forEachLane(t, func(t *testing.T, l lane) {
		if l.db != nil && l.db.Stats().MaxOpenConnections == 1 {
			return // the handler below needs a connection beside its transaction's
		}
		s, other := l.openTwice(t)
		createStream(t, s, "accounts")
		mustAppend(t, s, "accounts", "a", es.AnyVersion, events(3, 1)...)
		fenced := 0
		p := totalsOf("fenced", es.Do(func(ctx context.Context, step *es.Step[totals], e deposited) error {
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
				wantErr(t, "Tx", err, es.ErrLeaseLost)
				wantErr(t, "Emit", step.Emit(ctx, es.NewEvent{Payload: e}), es.ErrLeaseLost)
				wantErr(t, "LinkTo", step.LinkTo(ctx, "links"), es.ErrLeaseLost)
				return nil
			}
			return nil
		}))
		cp := catchUp(t, p, s)
		if cp.State.Events != 3 || fenced != 2 {
			t.Errorf("%d events after %d resets, want 3 after 2", cp.State.Events, fenced)
		}
		if got := collect(t, s.Read(t.Context(), es.FromStream("fenced"), es.ReadOptions{})); len(got) != 3 {
			t.Errorf("%d events emitted, want 3", len(got))
		}
	})
}

// TestProjectionMemoryUnsupported names what a memory store can't do.
func TestProjectionMemoryUnsupported(t *testing.T) {
	s := es.NewMemStore(nil)
	createStream(t, s, "accounts")
	mustAppend(t, s, "accounts", "a", es.AnyVersion, events(1, 1)...)
	p := totalsOf("totals", es.Do(func(_ context.Context, step *es.Step[totals], _ deposited) error {
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
