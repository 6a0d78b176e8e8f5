package eventstore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

func stats(t testing.TB, s *es.Store) es.Stats {
	t.Helper()
	st, err := s.Stats(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// wantSealing checks what Stats tells of sealing.
func wantSealing(t testing.TB, what string, got es.Stats, last, sealed, hole es.Position, waited time.Duration) {
	t.Helper()
	if got.Last != last || got.Sealed != sealed || got.Lag != int64(last-sealed) || got.Hole != hole || got.Waited != waited {
		t.Errorf("%s: last %d, sealed %d, lag %d, waiting for %d since %v, want last %d, sealed %d, waiting for %d since %v",
			what, got.Last, got.Sealed, got.Lag, got.Hole, got.Waited, last, sealed, hole, waited)
	}
}

// wantBehind checks how far a projection is behind; zero means not at all.
func wantBehind(t testing.TB, what string, got es.ProjectionStats, lag int64, behind time.Duration) {
	t.Helper()
	near := got.Behind == 0
	if behind > 0 {
		near = got.Behind > behind-time.Minute && got.Behind < behind+time.Minute
	}
	if got.Lag != lag || !near {
		t.Errorf("%s: %s is %d positions and %v behind, want %d and %v", what, got.Name, got.Lag, got.Behind, lag, behind)
	}
}

// statsOf returns what Stats tells of one projection.
func statsOf(t testing.TB, st es.Stats, name string) es.ProjectionStats {
	t.Helper()
	for _, p := range st.Projections {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("there is no projection %s among %+v", name, st.Projections)
	return es.ProjectionStats{}
}

// stopsAt returns a projection that ends its run behind a position.
func stopsAt(name string, at es.Position) *es.Projection[storetest.Totals] {
	return storetest.TotalsOf(name, es.Do(func(_ context.Context, step *es.Step[storetest.Totals], _ storetest.Deposited) error {
		if step.Event.Position >= at {
			step.Stop()
		}
		return nil
	}))
}

// past is a clock that a test sets back.
type past struct{ ago time.Duration }

func (p *past) options() *es.Options {
	return &es.Options{Now: func() time.Time { return time.Now().Add(-p.ago) }}
}

// TestStats follows a store from its first event on.
func TestStats(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		var clock past
		s, ctx := l.Open(t, clock.options()), t.Context()
		if got := stats(t, s); fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", es.Stats{}) {
			t.Errorf("of an empty store: %+v, want nothing", got)
		}
		storetest.CreateStream(t, s, "accounts", "gone")
		clock.ago = 3 * time.Hour
		first := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(3, 1)...)
		clock.ago = time.Hour
		last := storetest.MustAppend(t, s, "accounts", "b", es.AnyVersion, storetest.Deposits(2, 1)...)[1].Position
		wantSealing(t, "of five events", stats(t, s), last, last, 0, 0)

		slow, all := stopsAt("slow", first[2].Position), storetest.TotalsOf("all")
		if err := slow.Run(ctx, s); err != nil {
			t.Fatal(err)
		}
		storetest.CatchUp(t, all, s)
		limited, cancel := context.WithCancel(ctx)
		relay := es.Relay{Name: "relay", From: es.FromAll(), Publish: func(context.Context, []es.Event) error {
			cancel()
			return errors.New("no broker")
		}}
		if err := relay.Run(limited, s); err == nil {
			t.Error("a relay without a broker ended well")
		}
		got := stats(t, s)
		infos, err := s.Projections(ctx)
		if err != nil || len(got.Projections) != 3 || len(infos) != 3 {
			t.Fatalf("%d projections in Stats, %d listed (%v), want 3", len(got.Projections), len(infos), err)
		}
		for i := range infos {
			if got.Projections[i].ProjectionInfo != infos[i] {
				t.Errorf("Stats has %+v, Projections %+v", got.Projections[i].ProjectionInfo, infos[i])
			}
		}
		wantBehind(t, "caught up", statsOf(t, got, "all"), 0, 0)
		wantBehind(t, "stopped", statsOf(t, got, "slow"), int64(last-first[2].Position), time.Hour)
		wantBehind(t, "without a broker", statsOf(t, got, "relay"), int64(last), 3*time.Hour)

		if err := s.ResetProjection(ctx, "all"); err != nil {
			t.Fatal(err)
		}
		wantBehind(t, "reset", statsOf(t, stats(t, s), "all"), int64(last), 3*time.Hour)
		if err := s.DeleteProjection(ctx, "all", false); err != nil {
			t.Fatal(err)
		}
		if got := stats(t, s); len(got.Projections) != 2 {
			t.Errorf("behind a delete there are %+v", got.Projections)
		}

		// What an append that was rolled back leaves, and what is deleted, is no event.
		burnt := es.Position(0)
		if l.DB != nil {
			l.InTx(t, s, false, nil, func(_ *sql.Tx, s *es.Store) {
				storetest.MustAppend(t, s, "accounts", "burnt", es.AnyVersion, storetest.Deposits(2, 1)...)
			})
			burnt = 2
		}
		tail := storetest.TotalsOf("tail")
		storetest.CatchUp(t, tail, s)
		gone := storetest.MustAppend(t, s, "gone", "a", es.AnyVersion, storetest.Deposits(2, 1)...)[1].Position
		wantSealing(t, "of a hole that is filled", stats(t, s), last+burnt+2, gone, 0, 0)
		wantBehind(t, "behind gap rows", statsOf(t, stats(t, s), "tail"), int64(burnt+2), time.Hour)
		if err := s.DeleteStream(ctx, "gone"); err != nil {
			t.Fatal(err)
		}
		got = stats(t, s)
		wantSealing(t, "of a stream that is gone", got, gone, gone, 0, 0)
		wantBehind(t, "of a stream that is gone", statsOf(t, got, "tail"), int64(burnt+2), 0)
		storetest.WantIdle(t, l, "at the end")
	})
}

// TestStatsMany has more projections behind than are asked after with one statement, each somewhere
// else, and some at the same place.
func TestStatsMany(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		const n = 37
		var clock past
		s := l.Open(t, clock.options())
		storetest.CreateStream(t, s, "accounts")
		var at []es.Position
		for i := range n + 1 {
			clock.ago = time.Duration(100-i) * time.Hour
			at = append(at, storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)[0].Position)
		}
		name := func(i int) string { return fmt.Sprintf("p%02d", i*10%n) }
		for i := range n {
			if err := stopsAt(name(i), at[i]).Run(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if i%9 == 0 {
				if err := stopsAt(name(i)+"-too", at[i]).Run(t.Context(), s); err != nil {
					t.Fatal(err)
				}
			}
		}
		got := stats(t, s)
		for i := range n {
			want := time.Duration(100-i-1) * time.Hour
			wantBehind(t, fmt.Sprint("stopped at ", i), statsOf(t, got, name(i)), int64(at[n]-at[i]), want)
			if i%9 == 0 {
				wantBehind(t, fmt.Sprint("too stopped at ", i), statsOf(t, got, name(i)+"-too"), int64(at[n]-at[i]), want)
			}
		}
	})
}

// TestStatsParked counts events that are set aside.
func TestStatsParked(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "good", es.AnyVersion, storetest.Deposits(2, 1)...)
		storetest.MustAppend(t, s, "accounts", "bad", es.AnyVersion, storetest.Deposits(3, 1)...)
		p := storetest.TotalsOf("parks", es.Do(func(_ context.Context, step *es.Step[storetest.Totals], _ storetest.Deposited) error {
			if step.Event.AggregateID == "bad" {
				return errors.New("no such luck")
			}
			return nil
		}))
		p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Park }
		storetest.CatchUp(t, p, s)
		got := stats(t, s)
		if len(got.Projections) != 1 || got.Projections[0].Parked != 3 {
			t.Fatalf("projections are %+v, want one with 3 events parked", got.Projections)
		}
		wantBehind(t, "parked events are handled", got.Projections[0], 0, 0)
	})
}

// TestStatsOfReadModels looks while a read model waits for its definition to be reset and deleted.
func TestStatsOfReadModels(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		clock := past{2 * time.Hour}
		s, ctx := l.Open(t, clock.options()), t.Context()
		storetest.CreateStream(t, s, "accounts")
		last := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(3, 1)...)[2].Position
		table := storetest.NewRows(t, l)
		p := storetest.TotalsOf("rows", table.Insert())
		p.ReadModel = table.Table()
		storetest.CatchUp(t, p, s)
		for _, c := range []struct {
			control func() error
			want    es.ProjectionStatus
		}{
			{func() error { return s.ResetProjection(ctx, "rows") }, es.StatusResetting},
			{func() error { return s.DeleteProjection(ctx, "rows", false) }, es.StatusDeleting},
		} {
			if err := c.control(); err != nil {
				t.Fatal(err)
			}
			got := statsOf(t, stats(t, s), "rows")
			wantBehind(t, string(c.want), got, int64(last), 2*time.Hour)
			if got.Status != c.want {
				t.Errorf("it is %s, want %s", got.Status, c.want)
			}
		}
	})
}

// TestStatsHole has a transaction hold sealing up, and looks from outside, from inside another
// transaction, and from another process.
func TestStatsHole(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		clock := past{time.Hour}
		prefix := l.NewPrefix(t)
		s := l.OpenIn(t, prefix, clock.options())
		if err := s.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		storetest.CreateStream(t, s, "accounts")
		beside := l.Beside(t)
		other := beside.OpenIn(t, prefix, clock.options())
		now := time.Now()
		es.SetSealingClock(s, func() time.Time { return now })

		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
		p := storetest.TotalsOf("totals")
		storetest.CatchUp(t, p, s)
		for _, end := range []func(*sql.Tx) error{(*sql.Tx).Commit, (*sql.Tx).Rollback} {
			// What is sealed behind the projection is not there any more.
			storetest.CreateStream(t, s, "gone")
			storetest.MustAppend(t, s, "gone", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
			before := stats(t, s).Sealed
			if err := s.DeleteStream(t.Context(), "gone"); err != nil {
				t.Fatal(err)
			}
			tx, hole := beside.AppendOpen(t, other, "open", 2)
			last := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(2, 1)...)[1].Position
			wantSealing(t, "at once", stats(t, s), last, before, hole, 0)
			now = now.Add(42 * time.Second)
			got := stats(t, s)
			wantSealing(t, "later", got, last, before, hole, 42*time.Second)
			wantBehind(t, "what is not sealed is nothing to come", got.Projections[0], 1, 0)
			// A transaction does not look. A serializable one would wait for what it reads.
			now = now.Add(time.Hour)
			l.InTx(t, s, false, &sql.TxOptions{Isolation: sql.LevelReadCommitted}, func(_ *sql.Tx, s *es.Store) {
				wantSealing(t, "in a transaction", stats(t, s), last, before, hole, 42*time.Second)
			})
			got = stats(t, other)
			if got.Waited < 0 || got.Waited > time.Minute {
				t.Errorf("another process has seen the hole for %v", got.Waited)
			}
			wantSealing(t, "in another process", got, last, before, hole, got.Waited)

			if err := end(tx); err != nil {
				t.Fatal(err)
			}
			got = stats(t, s)
			wantSealing(t, "when it is over", got, last, last, 0, 0)
			wantBehind(t, "when it is over", got.Projections[0], int64(last-before)+1, time.Hour)
			storetest.CatchUp(t, p, s)
			wantBehind(t, "caught up", stats(t, s).Projections[0], 0, 0)
		}

		// A transaction sees what is its own.
		sealed := stats(t, s).Sealed
		l.InTx(t, s, false, &sql.TxOptions{Isolation: sql.LevelReadCommitted}, func(_ *sql.Tx, s *es.Store) {
			mine := storetest.MustAppend(t, s, "accounts", "mine", es.AnyVersion, storetest.Deposits(2, 1)...)[1].Position
			wantSealing(t, "of its own events", stats(t, s), mine, sealed, 0, 0)
		})
		storetest.WantIdle(t, l, "at the end")
	})
}

// TestStatsReadsByIndex counts what the server reads: next to nothing, wherever projections are.
func TestStatsReadsByIndex(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		if l.Dialect != es.MySQL || !strings.HasSuffix(l.Name, "-one") {
			t.Skip("only MySQL counts by session, which a pool of one connection is")
		}
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		for i := range 5 {
			storetest.MustAppend(t, s, "accounts", fmt.Sprint("a", i), 0, storetest.Deposits(1000, 1)...)
		}
		for _, at := range []es.Position{10, 2500, 4990} {
			if err := stopsAt(fmt.Sprint("at", at), at).Run(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		stats(t, s) // and the statements are prepared
		if n := l.RowsRead(t, func() { stats(t, s) }); n > 60 {
			t.Errorf("the server read %d rows for three projections", n)
		}
	})
}

// TestStatsManyGaps has projections stand before a long run of gap rows: the server goes through them once,
// and not for each projection and each call.
func TestStatsManyGaps(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		const gaps = 100_000
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "accounts")
		l.Fill(t, prefix, gaps, 1000)
		l.Exec(t, "UPDATE "+prefix+"events SET stream_id = 0, aggregate_id = '', version = -position WHERE position > 10")
		last := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)[0].Position
		for i := range 10 {
			if err := stopsAt(fmt.Sprint("at", i), es.Position(1+i)).Run(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		first := stats(t, s)
		best := time.Hour
		for range 20 {
			began := time.Now()
			st := stats(t, s)
			best = min(best, time.Since(began))
			for i, p := range st.Projections {
				if p.Behind == 0 || first.Projections[i].Behind == 0 {
					t.Errorf("%s, at %d of %d, is not behind", p.Name, p.Position, last)
				}
			}
		}
		if best > 15*time.Millisecond {
			t.Errorf("Stats took %v at best for 10 projections before %d gap rows", best, gaps)
		}
	})
}
