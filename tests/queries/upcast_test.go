package queries_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// What accounts once stored, and what it has become: a deposit in whole units, then with a currency,
// then in cents; a transfer, which now is a withdrawal and a fee; a name that has changed; and an
// event that nobody wants any more.
type (
	depositV1  struct{ Units int64 }
	depositV2  struct{ Units, Rate int64 }
	depositV3  struct{ Cents int64 }
	transferV1 struct{ Cents, Fee int64 }
	withdrawal struct{ Cents int64 }
	fee        struct{ Cents int64 }
	audited    struct{ By string }
	noise      struct{}
)

func (depositV1) EventName() string  { return "deposit" }
func (depositV2) EventName() string  { return "deposit.v2" }
func (depositV3) EventName() string  { return "deposit.v3" }
func (transferV1) EventName() string { return "transfer" }
func (withdrawal) EventName() string { return "withdrawal" }
func (fee) EventName() string        { return "fee" }
func (audited) EventName() string    { return "audited" }
func (noise) EventName() string      { return "noise" }

// checked is audited under the name it was stored with.
type checked struct{ By string }

func (checked) EventName() string { return "checked" }

var upcasters = []es.Upcaster{
	es.Upcast(func(d depositV2) depositV3 { return depositV3{d.Units * d.Rate} }),
	es.Upcast(func(d depositV1) depositV2 { return depositV2{d.Units, 100} }),
	es.Split(func(tr transferV1) []es.Payload {
		if tr.Fee == 0 {
			return []es.Payload{withdrawal{tr.Cents}}
		}
		return []es.Payload{withdrawal{tr.Cents}, fee{tr.Fee}}
	}),
	es.Split(func(noise) []es.Payload { return nil }),
	es.Rename("checked", "audited"),
}

// balance notes what it is told, in order.
type balance struct {
	Cents int64
	Seen  []string
}

func (b *balance) see(cents int64, what string, ev es.Event) {
	b.Cents += cents
	b.Seen = append(b.Seen, fmt.Sprintf("%s@%d", what, ev.Version))
}

var balanceFolds = []es.Fold[balance]{
	es.OnEvent(func(b *balance, e depositV3, ev es.Event) { b.see(e.Cents, ev.Name+string(ev.Data), ev) }),
	es.OnEvent(func(b *balance, e withdrawal, ev es.Event) { b.see(-e.Cents, ev.Name, ev) }),
	es.OnEvent(func(b *balance, e fee, ev es.Event) { b.see(-e.Cents, ev.Name, ev) }),
	es.OnEvent(func(b *balance, e audited, ev es.Event) { b.see(0, ev.Name+" by "+e.By, ev) }),
}

var wantSeen = []string{
	`deposit.v3{"Cents":300}@1`, `deposit.v3{"Cents":14}@2`, `deposit.v3{"Cents":5}@3`,
	"withdrawal@4", "fee@4", "withdrawal@5", "audited by ann@7", "audited by bob@8",
}

// old fills a store with events as they were stored once.
func old(t testing.TB, s *es.Store) []es.Event {
	storetest.CreateStream(t, s, "accounts")
	var evs []es.NewEvent
	for _, p := range []es.Payload{
		depositV1{3}, depositV2{2, 7}, depositV3{5}, transferV1{100, 1}, transferV1{50, 0}, noise{}, checked{"ann"}, audited{"bob"},
	} {
		evs = append(evs, es.NewEvent{Payload: p})
	}
	return storetest.MustAppend(t, s, "accounts", "a", es.MustNotExist, evs...)
}

func TestUpcast(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, &es.Options{Upcasters: upcasters})
		ctx := t.Context()
		stored := old(t, s)
		check := func(what string, b balance, err error) {
			t.Helper()
			if err != nil || b.Cents != 300+14+5-100-1-50 || !slices.Equal(b.Seen, wantSeen) {
				t.Errorf("%s: %d cents from %q (%v), want %q", what, b.Cents, b.Seen, err, wantSeen)
			}
		}
		a := es.Aggregate[balance]{Stream: "accounts", When: balanceFolds}
		r, err := a.Load(ctx, s, "a")
		if err != nil {
			t.Fatal(err)
		}
		check("aggregate", r.State(), nil)
		if r.Version() != 8 {
			t.Errorf("the aggregate is at version %d, want 8", r.Version())
		}
		q := es.Query[balance]{From: es.FromAll(), When: balanceFolds}
		b, err := q.Run(ctx, s)
		check("query", b, err)

		p := es.Projection[balance]{Name: "balance", From: es.FromAll(), BatchSize: 1, When: []es.Handler[balance]{
			balanceFolds[0],
			es.Do(func(_ context.Context, step *es.Step[balance], e withdrawal) error {
				step.State.see(-e.Cents, step.Event.Name, step.Event)
				return nil
			}),
			balanceFolds[2],
			es.DoAny(func(_ context.Context, step *es.Step[balance]) error {
				e, err := es.Decode[audited](step.Event)
				step.State.see(0, step.Event.Name+" by "+e.By, step.Event)
				return err
			}),
		}}
		cp, err := p.CatchUp(ctx, s)
		check("projection", cp.State, err)

		// What is read is what is stored; Decode brings it to today's shape.
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		var subscribed []es.Event
		for ev, err := range s.Subscribe(ctx, es.FromAll(), 0) {
			if err != nil {
				break
			}
			if subscribed = append(subscribed, ev); len(subscribed) == len(stored) {
				stop()
			}
		}
		for what, evs := range map[string][]es.Event{"read": storetest.Everything(t, s), "subscribed": subscribed} {
			storetest.SameEvents(t, what, evs, stored)
			for i, want := range []int64{300, 14, 5} {
				if d, err := es.Decode[depositV3](evs[i]); err != nil || d.Cents != want {
					t.Errorf("%s: event %d decodes to %+v (%v), want %d cents", what, i, d, err, want)
				}
			}
			if w, err := es.Decode[withdrawal](evs[3]); err != nil || w.Cents != 100 {
				t.Errorf("%s: the split event decodes to %+v (%v)", what, w, err)
			}
			if f, err := es.Decode[fee](evs[3]); err != nil || f.Cents != 1 {
				t.Errorf("%s: the split event decodes to %+v (%v)", what, f, err)
			}
			for _, ev := range []es.Event{evs[4], evs[5], evs[6]} {
				_, err := es.Decode[fee](ev)
				storetest.WantErr(t, what+": no fee", err, es.ErrUnknownEvent)
			}
			_, err := es.Decode[depositV1](evs[0])
			storetest.WantErr(t, what+": the old shape", err, es.ErrUnknownEvent)
		}
	})
}

// TestUpcastNarrow asks for one of today's names among thousands of others: what was stored under
// older names is found, and nothing else needs to be read.
func TestUpcastNarrow(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, &es.Options{Upcasters: upcasters})
		old(t, s)
		storetest.MustAppend(t, s, "accounts", "b", es.MustNotExist, storetest.Deposits(1500, 1)...)
		storetest.MustAppend(t, s, "accounts", "a", es.MustExist, es.NewEvent{Payload: depositV1{1}})
		q := es.Query[int64]{From: es.FromAll(), When: []es.Fold[int64]{es.On(func(n *int64, e depositV3) { *n += e.Cents })}}
		if n, err := q.Run(t.Context(), s); n != 300+14+5+100 || err != nil {
			t.Errorf("%d cents (%v), want 419", n, err)
		}
		q2 := es.Query[string]{From: es.FromAll(), When: []es.Fold[string]{es.On(func(s *string, e audited) { *s += e.By })}}
		if by, err := q2.Run(t.Context(), s); by != "annbob" || err != nil {
			t.Errorf("audited by %q (%v), want annbob", by, err)
		}
	})
}

// TestUpcastFailing has an event that can't be brought to today's shape: it is an error that says
// where, and nothing is left out.
func TestUpcastFailing(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, &es.Options{Upcasters: upcasters, Codec: storetest.Verbatim{}})
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", 0, es.NewEvent{Payload: storetest.Raw{Name: "deposit", Text: `{"Units":"many"}`}})
		a := es.Aggregate[balance]{Stream: "accounts", When: balanceFolds}
		_, err := a.Load(t.Context(), s, "a")
		if err == nil || !strings.Contains(err.Error(), `aggregate "a" in stream "accounts", version 1`) {
			t.Errorf("load: %v, want an error that says where", err)
		}
		q := es.Query[balance]{From: es.FromAll(), When: balanceFolds}
		if _, err := q.Run(t.Context(), s); err == nil {
			t.Error("query: no error")
		}
		p := es.Projection[balance]{Name: "balance", From: es.FromAll(), When: []es.Handler[balance]{balanceFolds[0]},
			OnError: func(context.Context, es.Event, error, int) es.ErrorAction { return es.Fail }}
		var pe *es.ProjectionError
		if _, err := p.CatchUp(t.Context(), s); !errors.As(err, &pe) || pe.Event.Position == 0 {
			t.Errorf("projection: %v, want a *ProjectionError", err)
		}
	})
}

func TestUpcastInvalid(t *testing.T) {
	for what, u := range map[string][]es.Upcaster{
		"two for one name": {es.Rename("a", "b"), es.Rename("a", "c")},
		"a circle":         {es.Rename("a", "b"), es.Rename("b", "a")},
		"to itself":        {es.Rename("a", "a")},
		"without a name":   {es.Rename("", "a")},
		"the zero one":     {{}},
		"no function":      {es.Upcast[depositV1, depositV2](nil)},
		"no split":         {es.Split[depositV1](nil)},
		"no event":         {es.UpcastEvent[depositV1, depositV2](nil)},
		"a circle of both": {es.UpcastEvent(func(depositV1, es.Event) depositV2 { return depositV2{} }), es.Rename("deposit.v2", "deposit")},
	} {
		s := es.NewMemStore(&es.Options{Upcasters: u})
		storetest.WantErr(t, what, s.Install(t.Context()), es.ErrInvalid)
	}
}

// seen is an event that knows the stored event that it was made of.
type seen struct {
	Cents                int64
	Name, Data, ID, Kind string
	Position             es.Position
	Stream, Aggregate    string
	Version              int64
	At                   time.Time
}

func (seen) EventName() string { return "seen" }

// seenOf makes a seen, changes what it is given, and decodes it.
func seenOf(t testing.TB, cents int64, ev es.Event) seen {
	kind, _ := ev.Metadata["kind"].(string)
	s := seen{cents, ev.Name, string(ev.Data), ev.ID.String(), kind, ev.Position, ev.Stream, ev.AggregateID, ev.Version, ev.RecordedAt}
	if ev.Name == "deposit" {
		if d, err := es.Decode[depositV1](ev); err != nil || d.Units*100 != cents {
			t.Errorf("the stored event decodes to %+v (%v), want %d cents", d, err, cents)
		}
	}
	ev.Metadata["kind"] = "changed"
	clear(ev.Data)
	return s
}

// TestUpcastEvent makes an event of the stored one's fields: of an upcaster that stands first, after Upcast, after
// Rename and after Split. Whoever reads it sees the same.
func TestUpcastEvent(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		for _, middleware := range []bool{false, true} {
			opts := &es.Options{Upcasters: []es.Upcaster{
				es.Upcast(func(d depositV1) depositV2 { return depositV2{d.Units, 100} }),
				es.UpcastEvent(func(d depositV2, ev es.Event) seen { return seenOf(t, d.Units*d.Rate, ev) }),
				es.Split(func(tr transferV1) []es.Payload { return []es.Payload{withdrawal{tr.Cents}, fee{tr.Fee}} }),
				es.UpcastEvent(func(w withdrawal, ev es.Event) seen { return seenOf(t, -w.Cents, ev) }),
				es.UpcastEvent(func(f fee, ev es.Event) seen { return seenOf(t, -f.Cents, ev) }),
				es.Rename("checked", "audited"),
				es.UpcastEvent(func(_ audited, ev es.Event) seen { return seenOf(t, 0, ev) }),
			}}
			if middleware {
				opts.Middleware = []es.Middleware{{Load: func(_ context.Context, ev es.Event) (es.Event, error) { return ev, nil }}}
			}
			s := l.Open(t, opts)
			storetest.CreateStream(t, s, "accounts")
			var evs []es.NewEvent
			for i, p := range []es.Payload{depositV1{3}, depositV2{2, 7}, transferV1{100, 1}, checked{"ann"}, audited{"bob"}} {
				evs = append(evs, es.NewEvent{Payload: p, Metadata: es.Metadata{"kind": fmt.Sprint("kind ", i)}})
			}
			stored := storetest.MustAppend(t, s, "accounts", "a", 0, evs...)
			var want []seen
			for i, cents := range []int64{300, 14, -100, -1, 0, 0} {
				n := []int{0, 1, 2, 2, 3, 4}[i]
				ev := stored[n]
				want = append(want, seen{cents, ev.Name, string(ev.Data), ev.ID.String(), fmt.Sprint("kind ", n), ev.Position, "accounts", "a", ev.Version, ev.RecordedAt})
			}
			check := func(what string, got []seen, err error) {
				t.Helper()
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("%s (middleware: %v): %+v (%v), want %+v", what, middleware, got, err, want)
				}
			}
			take := es.On(func(list *[]seen, e seen) { *list = append(*list, e) })
			q := es.Query[[]seen]{From: es.FromAll(), When: []es.Fold[[]seen]{take}}
			got, err := q.Run(t.Context(), s)
			check("query", got, err)
			r, err := (&es.Aggregate[[]seen]{Stream: "accounts", When: []es.Fold[[]seen]{take}}).Load(t.Context(), s, "a")
			if err != nil {
				t.Fatal(err)
			}
			check("aggregate", r.State(), nil)
			p := es.Projection[[]seen]{Name: "seen", From: es.FromAll(), When: []es.Handler[[]seen]{
				es.Do(func(_ context.Context, step *es.Step[[]seen], e seen) error {
					if again, err := es.Decode[seen](step.Event); err != nil || again != e {
						return fmt.Errorf("the step's event decodes to %+v: %w", again, err)
					}
					*step.State = append(*step.State, e)
					return nil
				}),
			}}
			cp, err := p.CatchUp(t.Context(), s)
			check("projection", cp.State, err)
			got = nil
			for i, ev := range storetest.Everything(t, s) {
				e, err := es.Decode[seen](ev)
				if err != nil {
					t.Fatal(err)
				}
				if got = append(got, e); i == 2 {
					got = append(got, want[3]) // Decode returns the first
				}
			}
			check("Decode", got, nil)
			storetest.SameEvents(t, "what is read", storetest.Everything(t, s), stored)
		}
	})
}
