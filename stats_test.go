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
func stopsAt(name string, at es.Position) *es.Projection[totals] {
	return totalsOf(name, es.Do(func(_ context.Context, step *es.Step[totals], _ deposited) error {
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
	forEachLane(t, func(t *testing.T, l lane) {
		var clock past
		s, ctx := l.open(t, clock.options()), t.Context()
		if got := stats(t, s); fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", es.Stats{}) {
			t.Errorf("of an empty store: %+v, want nothing", got)
		}
		createStream(t, s, "accounts", "gone")
		clock.ago = 3 * time.Hour
		first := mustAppend(t, s, "accounts", "a", es.AnyVersion, events(3, 1)...)
		clock.ago = time.Hour
		last := mustAppend(t, s, "accounts", "b", es.AnyVersion, events(2, 1)...)[1].Position
		wantSealing(t, "of five events", stats(t, s), last, last, 0, 0)

		slow, all := stopsAt("slow", first[2].Position), totalsOf("all")
		if err := slow.Run(ctx, s); err != nil {
			t.Fatal(err)
		}
		catchUp(t, all, s)
		relay := es.Relay{Name: "relay", From: es.FromAll(), Publish: func(context.Context, []es.Event) error { return errors.New("no broker") }}
		limited, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		if err := relay.Run(limited, s); err == nil {
			t.Error("a relay without a broker ended well")
		}
		cancel()
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
		if l.db != nil {
			l.inTx(t, s, false, nil, func(_ *sql.Tx, s *es.Store) { mustAppend(t, s, "accounts", "burnt", es.AnyVersion, events(2, 1)...) })
			burnt = 2
		}
		tail := totalsOf("tail")
		catchUp(t, tail, s)
		gone := mustAppend(t, s, "gone", "a", es.AnyVersion, events(2, 1)...)[1].Position
		wantSealing(t, "of a hole that is filled", stats(t, s), last+burnt+2, gone, 0, 0)
		wantBehind(t, "behind gap rows", statsOf(t, stats(t, s), "tail"), int64(burnt+2), time.Hour)
		if err := s.DeleteStream(ctx, "gone"); err != nil {
			t.Fatal(err)
		}
		got = stats(t, s)
		wantSealing(t, "of a stream that is gone", got, gone, gone, 0, 0)
		wantBehind(t, "of a stream that is gone", statsOf(t, got, "tail"), int64(burnt+2), 0)
		wantIdle(t, l, "at the end")
	})
}

// TestStatsMany has more projections behind than are asked after with one statement, each somewhere
// else, and some at the same place.
func TestStatsMany(t *testing.T) {
	forEachLane(t, func(t *testing.T, l lane) {
		const n = 37
		var clock past
		s := l.open(t, clock.options())
		createStream(t, s, "accounts")
		var at []es.Position
		for i := range n + 1 {
			clock.ago = time.Duration(100-i) * time.Hour
			at = append(at, mustAppend(t, s, "accounts", "a", es.AnyVersion, events(1, 1)...)[0].Position)
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
	forEachStore(t, func(t *testing.T, s *es.Store) {
		createStream(t, s, "accounts")
		mustAppend(t, s, "accounts", "good", es.AnyVersion, events(2, 1)...)
		mustAppend(t, s, "accounts", "bad", es.AnyVersion, events(3, 1)...)
		p := totalsOf("parks", es.Do(func(_ context.Context, step *es.Step[totals], _ deposited) error {
			if step.Event.AggregateID == "bad" {
				return errors.New("no such luck")
			}
			return nil
		}))
		p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Park }
		catchUp(t, p, s)
		got := stats(t, s)
		if len(got.Projections) != 1 || got.Projections[0].Parked != 3 {
			t.Fatalf("projections are %+v, want one with 3 events parked", got.Projections)
		}
		wantBehind(t, "parked events are handled", got.Projections[0], 0, 0)
	})
}

// TestStatsOfReadModels looks while a read model waits for its definition to be reset and deleted.
func TestStatsOfReadModels(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, l lane) {
		clock := past{2 * time.Hour}
		s, ctx := l.open(t, clock.options()), t.Context()
		createStream(t, s, "accounts")
		last := mustAppend(t, s, "accounts", "a", es.AnyVersion, events(3, 1)...)[2].Position
		table := newRows(t, l)
		p := totalsOf("rows", table.insert())
		p.ReadModel = table.table()
		catchUp(t, p, s)
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
	forEachDatabase(t, func(t *testing.T, l lane) {
		clock := past{time.Hour}
		prefix := l.newPrefix(t)
		s := l.openIn(t, prefix, clock.options())
		if err := s.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		createStream(t, s, "accounts")
		beside := l.beside(t)
		other := beside.openIn(t, prefix, clock.options())
		now := time.Now()
		es.SetSealingClock(s, func() time.Time { return now })

		mustAppend(t, s, "accounts", "a", es.AnyVersion, events(1, 1)...)
		p := totalsOf("totals")
		catchUp(t, p, s)
		for _, end := range []func(*sql.Tx) error{(*sql.Tx).Commit, (*sql.Tx).Rollback} {
			// What is sealed behind the projection is not there any more.
			createStream(t, s, "gone")
			mustAppend(t, s, "gone", "a", es.AnyVersion, events(1, 1)...)
			before := stats(t, s).Sealed
			if err := s.DeleteStream(t.Context(), "gone"); err != nil {
				t.Fatal(err)
			}
			tx, hole := beside.appendOpen(t, other, "open", 2)
			last := mustAppend(t, s, "accounts", "a", es.AnyVersion, events(2, 1)...)[1].Position
			wantSealing(t, "at once", stats(t, s), last, before, hole, 0)
			now = now.Add(42 * time.Second)
			got := stats(t, s)
			wantSealing(t, "later", got, last, before, hole, 42*time.Second)
			wantBehind(t, "what is not sealed is nothing to come", got.Projections[0], 1, 0)
			// A transaction does not look.
			now = now.Add(time.Hour)
			l.inTx(t, s, false, nil, func(_ *sql.Tx, s *es.Store) {
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
			catchUp(t, p, s)
			wantBehind(t, "caught up", stats(t, s).Projections[0], 0, 0)
		}

		// A transaction sees what is its own.
		sealed := stats(t, s).Sealed
		l.inTx(t, s, false, &sql.TxOptions{Isolation: sql.LevelReadCommitted}, func(_ *sql.Tx, s *es.Store) {
			mine := mustAppend(t, s, "accounts", "mine", es.AnyVersion, events(2, 1)...)[1].Position
			wantSealing(t, "of its own events", stats(t, s), mine, sealed, 0, 0)
		})
		wantIdle(t, l, "at the end")
	})
}

// TestStatsReadsByIndex counts what the server reads: next to nothing, wherever projections are.
func TestStatsReadsByIndex(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, l lane) {
		if l.dialect != es.MySQL || !strings.HasSuffix(l.name, "-one") {
			t.Skip("only MySQL counts by session, which a pool of one connection is")
		}
		s := l.open(t, nil)
		createStream(t, s, "accounts")
		for i := range 5 {
			mustAppend(t, s, "accounts", fmt.Sprint("a", i), 0, events(1000, 1)...)
		}
		for _, at := range []es.Position{10, 2500, 4990} {
			if err := stopsAt(fmt.Sprint("at", at), at).Run(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		stats(t, s) // and the statements are prepared
		if n := l.rowsRead(t, func() { stats(t, s) }); n > 60 {
			t.Errorf("the server read %d rows for three projections", n)
		}
	})
}
