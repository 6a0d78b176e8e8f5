package changes_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestWiderTakesOver starts a newer definition beside a live runner of the older one: it has the lease at once,
// and no event is passed over or counted twice, whichever of them has taken it in.
func TestWiderTakesOver(t *testing.T) {
	twoStores(t, func(t *testing.T, k storetest.Kind, old, new *es.Store) {
		p := older(k)
		p.Lease = time.Minute
		endOld := storetest.Running(t, p, old)
		want := add(t, old, lent{}, lent{})
		eventuallyIn(t, p, old, want[1])
		holder := storetest.Info(t, new, "loans").Owner
		began := time.Now()
		endNew := storetest.Running(t, newer(k), new)
		storetest.Eventually(t, "the newer definition to take over", func() bool {
			now := storetest.Info(t, new, "loans").Owner
			return now != "" && now != holder
		})
		if took := time.Since(began); took > time.Second {
			t.Errorf("the newer definition needs %v to take over", took)
		}
		want = append(want, add(t, old, returned{}, lent{}, returned{})...)
		eventuallyIn(t, newer(k), new, want[4])
		wantCancelled(t, "Run of the newer definition", endNew())
		wantCaughtUp(t, "then", newer(k), new, want...)
		wantCancelled(t, "Run of the older definition", endOld())
	})
}

// TestPassedOverIsRefused has a newer definition find that the older one has passed over an event. It is
// refused at each call, leaves the row as it was, and the older one goes on.
func TestPassedOverIsRefused(t *testing.T) {
	twoStores(t, func(t *testing.T, k storetest.Kind, old, new *es.Store) {
		at := add(t, old, lent{}, returned{}, lent{}, returned{})
		wantCaughtUp(t, "the older definition", older(k), old, at[0], at[2])
		before := storetest.Info(t, new, "loans")
		end := storetest.Running(t, older(k), old)
		storetest.Eventually(t, "the older definition to run", func() bool { return storetest.Info(t, old, "loans").Owner != "" })
		for range 3 {
			for what, err := range map[string]error{
				"Run":     newer(k).Run(t.Context(), new),
				"CatchUp": storetest.Second(newer(k).CatchUp(t.Context(), new)),
			} {
				storetest.WantErr(t, what, err, es.ErrProjectionChanged)
				for _, word := range []string{"loans", fmt.Sprint(at[1]), "returned", "OnChange", "Version", "AcceptProjection"} {
					if !strings.Contains(err.Error(), word) {
						t.Errorf("%s: the error %q does not say %q", what, err, word)
					}
				}
			}
		}
		at = append(at, add(t, old, lent{})...)
		eventuallyIn(t, older(k), old, at[4])
		_ = end()
		wantCaughtUp(t, "the older definition", older(k), old, at[0], at[2], at[4])
		after := storetest.Info(t, new, "loans")
		after.Position = before.Position
		if after != before {
			t.Errorf("the row is %+v, was %+v", after, before)
		}
	})
}

// TestRefusedKeepsFailure has a definition refused whose predecessor has failed: the failure stays in the row.
func TestRefusedKeepsFailure(t *testing.T) {
	twoStores(t, func(t *testing.T, k storetest.Kind, old, new *es.Store) {
		at := add(t, old, lent{}, returned{}, lent{}, lent{})
		p := loans(k, es.Do(func(_ context.Context, step *es.Step[seen], _ lent) error {
			if step.Event.Position == at[3] {
				return errors.New("out of shelves")
			}
			return nil
		}))
		p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Fail }
		var failed *es.ProjectionError
		if _, err := p.CatchUp(t.Context(), old); !errors.As(err, &failed) {
			t.Fatalf("the older definition: %v", err)
		}
		before := storetest.Info(t, new, "loans")
		storetest.WantErr(t, "the newer definition", storetest.Second(newer(k).CatchUp(t.Context(), new)), es.ErrProjectionChanged)
		if after := storetest.Info(t, new, "loans"); after != before || after.Status != es.StatusFailed {
			t.Errorf("the row is %+v, was %+v", after, before)
		}
	})
}

// TestWiderGoesOn has definitions that want more where nothing that they want was passed over.
func TestWiderGoesOn(t *testing.T) {
	storetest.ForEachDefinitionsStore(t, func(t *testing.T, s *es.Store, k storetest.Kind) {
		storetest.CreateStream(t, s, "copies", "branch-1")
		at := add(t, s, lent{}, lost{})
		wantCaughtUp(t, "the first", older(k), s, at[0])
		wantCaughtUp(t, "another name", newer(k), s, at[0])
		at = append(at, add(t, s, returned{})...)
		wantCaughtUp(t, "with an event of that", newer(k), s, at[0], at[2])

		p := newer(k)
		p.From = append(p.From, es.FromCategory("branch")...)
		wantCaughtUp(t, "another source", p, s, at[0], at[2])

		// The match leaves out what was passed over.
		p.When = append(p.When, take[lost]())
		p.From[0].Match = []es.Match{es.ByPosition.NotEquals(int64(at[1]))}
		wantCaughtUp(t, "a match", p, s, at[0], at[2])
		p.From[0].Match = nil
		at = append(at, add(t, s, lost{})...)
		wantCaughtUp(t, "matches are not compared", p, s, at[0], at[2], at[3])
	})
}

// TestRebuildAndContinue has the other policies decide on events that were passed over.
func TestRebuildAndContinue(t *testing.T) {
	twoStores(t, func(t *testing.T, k storetest.Kind, old, new *es.Store) {
		at := add(t, old, lent{}, returned{}, lent{})
		wantCaughtUp(t, "the older definition", older(k), old, at[0], at[2])
		p := newer(k)
		p.OnChange = es.ContinueOnChange
		wantCaughtUp(t, "continued", p, new, at[0], at[2])
		at = append(at, add(t, old, returned{})...)
		wantCaughtUp(t, "continued", newer(k), new, at[0], at[2], at[3])

		p.When = append(p.When, take[lost]())
		at = append(at, add(t, old, lost{})...)
		wantCaughtUp(t, "nothing was passed over", p, new, at[0], at[2], at[3], at[4])

		p = loans(k, take[lent](), take[lost]())
		p.Name, p.OnChange = "other", es.RebuildOnChange
		q := older(k)
		q.Name = "other"
		wantCaughtUp(t, "the older definition", q, old, at[0], at[2])
		wantCaughtUp(t, "rebuilt", p, new, at[0], at[2], at[4])
		wantCaughtUp(t, "not rebuilt again", p, new, at[0], at[2], at[4])
	})
}

// TestNarrowerStandsBy rolls a deployment back: the older definition goes on up to the first event that it
// would pass over, says so, and stands by until a newer one has taken that in.
func TestNarrowerStandsBy(t *testing.T) {
	storetest.ForEachDefinition(t, storetest.SomeLanes, storetest.AnyLane, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		var log storetest.Log
		old := l.Open(t, &es.Options{Logger: log.Logger()})
		storetest.CreateStream(t, old, "copies")
		at := add(t, old, lent{}, returned{})
		wantCaughtUp(t, "the newer definition", newer(k), old, at...)
		end := storetest.Running(t, older(k), old)
		at = append(at, add(t, old, lent{}, lost{}, returned{}, lent{})...)
		eventuallyIn(t, older(k), old, at[4]-1)
		storetest.Eventually(t, "the older definition to stand by", func() bool {
			info := storetest.Info(t, old, "loans")
			return info.Owner == "" && strings.Contains(info.Error, fmt.Sprint(at[4])) && strings.Contains(info.Error, "returned")
		})
		st, err := old.Stats(t.Context())
		if err != nil || len(st.Projections) != 1 || !strings.Contains(st.Projections[0].Error, "returned") {
			t.Errorf("Stats shows %+v, %v", st.Projections, err)
		}
		// Waiting costs no more lines of log.
		for i := range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
			if _, err := older(k).CatchUp(ctx, old); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("CatchUp %d of the older definition: %v", i, err)
			}
			cancel()
		}
		if cp, err := older(k).Load(t.Context(), old); err != nil || cp.Position >= at[4] {
			t.Errorf("the older definition is at %d, %v, want it before %d", cp.Position, err, at[4])
		}
		if n := strings.Count(log.Take(), "older definition stands by"); n > 4 || n == 0 {
			t.Errorf("the log says %d times that the older definition stands by, want once for each run", n)
		}
		endNew := storetest.Running(t, newer(k), old)
		eventuallyIn(t, newer(k), old, at[5])
		wantCancelled(t, "the newer definition", endNew())
		at = append(at, add(t, old, lent{})...)
		eventuallyIn(t, older(k), old, at[6])
		if err := end(); !errors.Is(err, context.Canceled) {
			t.Errorf("Run of the older definition: %v", err)
		}
		want := append(append([]es.Position{}, at[:3]...), at[4:]...)
		wantCaughtUp(t, "the end", newer(k), old, want...)
		if info := storetest.Info(t, old, "loans"); info.Error != "" {
			t.Errorf("at the end the row says %q", info.Error)
		}
	})
}

// TestStandingByEnds has what an older definition waits for deleted, skipped or accepted.
func TestStandingByEnds(t *testing.T) {
	storetest.ForEachDefinitionsStore(t, func(t *testing.T, s *es.Store, k storetest.Kind) {
		storetest.CreateStream(t, s, "copies")
		for i, lift := range []func(at es.Position) error{
			func(es.Position) error { return s.DeleteAggregate(t.Context(), "copies", "gone") },
			func(at es.Position) error { return s.SkipEvent(t.Context(), "loans", at) },
			func(es.Position) error { return s.AcceptProjection(t.Context(), "loans") },
		} {
			wantAfter(t, s, newer(k))
			at := addTo(t, s, "copies", "gone", returned{})
			next := add(t, s, lent{})
			end := storetest.Running(t, older(k), s)
			storetest.Eventually(t, "the older definition to stand by", func() bool { return storetest.Info(t, s, "loans").Error != "" })
			if err := lift(at[0]); err != nil {
				t.Fatal(err)
			}
			eventuallyIn(t, older(k), s, next[0])
			if err := end(); !errors.Is(err, context.Canceled) {
				t.Errorf("%d: %v", i, err)
			}
		}
	})
}

func wantAfter(t testing.TB, s *es.Store, p *definition) {
	t.Helper()
	if _, err := p.CatchUp(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

// TestNarrowedOnPurpose has a narrower definition become the stored one, and a wider one notice what was
// passed over since, and only that.
func TestNarrowedOnPurpose(t *testing.T) {
	twoStores(t, func(t *testing.T, k storetest.Kind, old, new *es.Store) {
		at := add(t, old, lent{}, returned{})
		wantCaughtUp(t, "the newer definition", newer(k), new, at...)
		p := older(k)
		p.OnChange = es.ContinueOnChange
		wantCaughtUp(t, "narrowed", p, old, at...)
		wantCaughtUp(t, "and back, with nothing passed over", newer(k), new, at...)
		wantCaughtUp(t, "narrowed", p, old, at...)
		at = append(at, add(t, old, returned{}, lent{})...)
		wantCaughtUp(t, "narrowed", older(k), old, at[0], at[1], at[3])
		err := storetest.Second(newer(k).CatchUp(t.Context(), new))
		storetest.WantErr(t, "and back", err, es.ErrProjectionChanged)
		if !strings.Contains(err.Error(), fmt.Sprint(at[2])) {
			t.Errorf("the error %q does not name event %d", err, at[2])
		}
		q := newer(k)
		q.OnChange = es.RebuildOnChange
		wantCaughtUp(t, "rebuilt", q, new, at...)
	})
}

// TestNeither has a definition that lacks some events and adds others: nobody can say which is newer.
func TestNeither(t *testing.T) {
	twoStores(t, func(t *testing.T, k storetest.Kind, old, new *es.Store) {
		at := add(t, old, lent{}, lost{})
		wantCaughtUp(t, "the first", older(k), old, at[0])
		end := storetest.Running(t, older(k), old)
		storetest.Eventually(t, "the first to run", func() bool { return storetest.Info(t, old, "loans").Owner != "" })
		p := loans(k, take[lost]())
		err := p.Run(t.Context(), new)
		storetest.WantErr(t, "Run", err, es.ErrProjectionChanged)
		for _, word := range []string{`"lent"`, `"lost"`} {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("the error %q does not say %s", err, word)
			}
		}
		_ = end()
		p.OnChange = es.ContinueOnChange
		wantCaughtUp(t, "continued", p, new, at[0])
		at = append(at, add(t, old, lost{}, lent{})...)
		wantCaughtUp(t, "continued", p, new, at[0], at[2])
		q := loans(k, take[lent](), take[lost]())
		err = storetest.Second(q.CatchUp(t.Context(), new))
		if !errors.Is(err, es.ErrProjectionChanged) || !strings.Contains(err.Error(), fmt.Sprint(at[3])) {
			t.Errorf("both: %v, want that event %d was passed over", err, at[3])
		}
		q.OnChange = es.RebuildOnChange
		wantCaughtUp(t, "rebuilt", q, new, at...)
	})
}

// TestAcceptProjection has an operator accept a definition as it is.
func TestAcceptProjection(t *testing.T) {
	twoStores(t, func(t *testing.T, k storetest.Kind, old, new *es.Store) {
		at := add(t, old, lent{}, returned{})
		wantCaughtUp(t, "the older definition", older(k), old, at[0])
		storetest.WantErr(t, "the newer one", storetest.Second(newer(k).CatchUp(t.Context(), new)), es.ErrProjectionChanged)
		if err := new.AcceptProjection(t.Context(), "loans"); err != nil {
			t.Fatal(err)
		}
		wantCaughtUp(t, "accepted", newer(k), new, at[0])
		at = append(at, add(t, old, returned{})...)
		wantCaughtUp(t, "accepted", newer(k), new, at[0], at[2])
		// A third definition is compared with the accepted one.
		at = append(at, add(t, old, lost{})...)
		wantCaughtUp(t, "accepted", newer(k), new, at[0], at[2])
		p := loans(k, take[lent](), take[returned](), take[lost]())
		storetest.WantErr(t, "the third", storetest.Second(p.CatchUp(t.Context(), new)), es.ErrProjectionChanged)
		storetest.WantErr(t, "of none", new.AcceptProjection(t.Context(), "nothing"), es.ErrProjectionNotFound)
	})
}

// TestRelayChanges has a relay read another stream.
func TestRelayChanges(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "copies", "members")
		var got []es.Position
		relay := es.Relay{Name: "out", From: es.FromStream("copies"), Poll: 10 * time.Millisecond, Publish: func(_ context.Context, events []es.Event) error {
			for _, ev := range events {
				got = append(got, ev.Position)
			}
			return nil
		}}
		run := func(r es.Relay, upTo es.Position) {
			t.Helper()
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- r.Run(ctx, s) }()
			storetest.Eventually(t, "the relay to get on", func() bool { return storetest.Info(t, s, "out").Position >= upTo })
			cancel()
			wantCancelled(t, "Run", <-done)
		}
		at := add(t, s, lent{})
		missed := addTo(t, s, "members", "m1", lent{})
		at = append(at, add(t, s, lent{})...)
		run(relay, at[1])
		wider := relay
		wider.From = es.FromStreams("copies", "members")
		err := wider.Run(t.Context(), s)
		storetest.WantErr(t, "another stream", err, es.ErrProjectionChanged)
		if !strings.Contains(err.Error(), fmt.Sprint(missed[0])) {
			t.Errorf("the error %q does not name event %d", err, missed[0])
		}
		if err := s.AcceptProjection(t.Context(), "out"); err != nil {
			t.Fatal(err)
		}
		next := addTo(t, s, "members", "m1", lent{})
		run(wider, next[0])
		wantSeen(t, "the relay", got, append(at, next[0]))
	})
}

// TestChangeWithUpcasters has an older event name wanted by way of an upcaster.
func TestChangeWithUpcasters(t *testing.T) {
	// A memory store with other upcasters has another memory.
	storetest.ForEachDefinition(t, storetest.SomeLanes, storetest.AnyDatabase, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "copies")
		at := add(t, s, lent{}, lost{})
		wantCaughtUp(t, "without", older(k), s, at[0])
		up := l.OpenIn(t, prefix, &es.Options{Upcasters: []es.Upcaster{es.Rename("lost", "lent")}})
		err := storetest.Second(older(k).CatchUp(t.Context(), up))
		storetest.WantErr(t, "with an upcaster", err, es.ErrProjectionChanged)
		if !strings.Contains(err.Error(), fmt.Sprint(at[1])) {
			t.Errorf("the error %q does not name event %d", err, at[1])
		}
		p := older(k)
		p.OnChange = es.RebuildOnChange
		wantCaughtUp(t, "rebuilt", p, up, at...)
	})
}

func wantCancelled(t testing.TB, what string, err error) {
	t.Helper()
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%s: error is %v, want %v", what, err, context.Canceled)
	}
}

// TestRebuildEmptiesAll has a definition rebuilt that has written rows and events and parked one.
func TestRebuildEmptiesAll(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		rows := storetest.NewRows(t, l)
		storetest.MustAppend(t, s, "accounts", "a", es.MustNotExist, storetest.Deposits(3, 1)...)
		storetest.MustAppend(t, s, "accounts", "b", es.MustNotExist, es.NewEvent{Payload: storetest.Opened{Owner: "ann"}})
		emit := es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
			if step.Event.Version == 3 {
				return errors.New("refused")
			}
			return step.Emit(ctx, es.NewEvent{Payload: e})
		})
		p := storetest.TotalsOf("p", rows.Insert(), emit)
		p.ReadModel = rows.Table()
		p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Park }
		wantAll := func(what string, events int) {
			t.Helper()
			cp := storetest.CatchUp(t, p, s)
			emitted := len(storetest.Collect(t, s.Read(t.Context(), es.FromStream("p"), es.ReadOptions{})))
			parked, err := s.ParkedEvents(t.Context(), "p")
			if err != nil {
				t.Fatal(err)
			}
			if cp.State.Events != 2 || len(rows.Positions(t)) != 2 || emitted != 2 || len(parked) != 1 {
				t.Errorf("%s: state %+v, rows %v, %d emitted, parked %v", what, cp.State, rows.Positions(t), emitted, parked)
			}
			if got := len(cp.State.Names); got != events {
				t.Errorf("%s: %d names, want %d", what, got, events)
			}
		}
		wantAll("at first", 0)
		p.When = append(p.When, es.On(func(s *storetest.Totals, e storetest.Opened) { s.Names = append(s.Names, e.Owner) }))
		storetest.WantErr(t, "refused", storetest.Second(p.CatchUp(t.Context(), s)), es.ErrProjectionChanged)
		wantRows := rows.Positions(t)
		if len(wantRows) != 2 {
			t.Errorf("a refused definition has left rows %v", wantRows)
		}
		p.OnChange = es.RebuildOnChange
		wantAll("rebuilt", 1)
	})
}
