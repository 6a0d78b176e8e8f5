package aggregates_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/uuid"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

func TestAggregate(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts")
		storetest.WantErr(t, "Load", storetest.Second(storetest.Accounts.Load(ctx, s, "a")), es.ErrAggregateNotFound)

		r := storetest.Accounts.New("a")
		if r.ID() != "a" || r.Version() != 0 || r.State() != (storetest.Account{}) || len(r.Uncommitted()) != 0 {
			t.Errorf("a new root is %+v", r)
		}
		if stored, err := storetest.Accounts.Save(ctx, s, r); stored != nil || err != nil {
			t.Errorf("Save of nothing: %v, %v", stored, err)
		}
		md := es.Metadata{"by": "ann", "n": 1}
		r.Record(storetest.Opened{Owner: "ann"}, md, es.Metadata{"n": 2, "why": "x"})
		r.Record(storetest.Deposited{Cents: 5})
		if !maps.Equal(md, es.Metadata{"by": "ann", "n": 1}) {
			t.Errorf("the caller's metadata have become %v", md)
		}
		md["by"] = "eve"
		if r.Version() != 2 || r.State() != (storetest.Account{Owner: "ann", Cents: 5, Deposits: 1}) || len(r.Uncommitted()) != 2 {
			t.Errorf("with two events recorded the root is %+v at %d", r.State(), r.Version())
		}
		ids := r.Uncommitted()
		if ids[0].ID == uuid.Nil || ids[0].ID == ids[1].ID {
			t.Errorf("recorded events have the IDs %v and %v", ids[0].ID, ids[1].ID)
		}
		stored, err := storetest.Accounts.Save(ctx, s, r)
		if err != nil {
			t.Fatal(err)
		}
		if want := (es.Metadata{"by": "ann", "n": int64(2), "why": "x"}); len(stored) != 2 || !maps.Equal(stored[0].Metadata, want) || len(stored[1].Metadata) != 0 {
			t.Errorf("stored %v, want two events, the first with %v", stored, want)
		}
		if stored[0].ID != ids[0].ID || len(r.Uncommitted()) != 0 || r.Version() != 2 {
			t.Errorf("after Save the root is at %d and holds %v", r.Version(), r.Uncommitted())
		}
		// The root goes on, and what is loaded is the same.
		r.Record(storetest.Deposited{Cents: 7})
		if _, err := storetest.Accounts.Save(ctx, s, r); err != nil {
			t.Fatal(err)
		}
		loaded, err := storetest.Accounts.Load(ctx, s, "a")
		if err != nil || loaded.State() != r.State() || loaded.Version() != 3 || loaded.ID() != "a" {
			t.Fatalf("loaded %+v, %v, want %+v", loaded, err, r.State())
		}
		// One that is behind keeps its events.
		behind, again := storetest.Accounts.New("a"), loaded
		behind.Record(storetest.Opened{Owner: "bob"})
		again.Record(storetest.Deposited{Cents: 1})
		for range 2 {
			storetest.WantConflict(t, "Save of a root that is behind", storetest.Second(storetest.Accounts.Save(ctx, s, behind)), es.ConflictError{Stream: "accounts", AggregateID: "a", Expected: 0, Actual: 3})
			if len(behind.Uncommitted()) != 1 || behind.Version() != 1 || behind.State().Owner != "bob" {
				t.Errorf("after a conflict the root is %+v", behind)
			}
		}
		// A failed Save keeps the events, and saving again works.
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := storetest.Accounts.Save(gone, s, again); !errors.Is(err, context.Canceled) || len(again.Uncommitted()) != 1 {
			t.Errorf("Save without a context: %v, and the root holds %v", err, again.Uncommitted())
		}
		if stored, err := storetest.Accounts.Save(ctx, s, again); err != nil || len(stored) != 1 || stored[0].Version != 4 {
			t.Errorf("saved again: %v, %v, want version 4", stored, err)
		}
		storetest.WantVersions(t, storetest.Everything(t, s), 4)
		storetest.WantIdle(t, l, "at the end")
	})
}

// TestRootPosition asks roots where their last event is, however it got there: a projection that is as
// far holds it.
func TestRootPosition(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "other", es.MustNotExist, storetest.Deposits(3, 1)...)
		agg := es.Aggregate[storetest.Account]{Stream: "accounts", When: storetest.Accounts.When, Snapshot: es.Snapshot{Every: 2}}
		where := func(what string, r *es.Root[storetest.Account], err error, want es.Position) {
			t.Helper()
			if err != nil || r.Position() != want {
				t.Errorf("%s: at position %d (%v), want %d", what, r.Position(), err, want)
			}
		}
		r := agg.New("a")
		r.Record(storetest.Opened{Owner: "ann"})
		where("new", r, nil, 0)
		r.Record(storetest.Deposited{Cents: 1})
		stored, err := agg.Save(ctx, s, r)
		if err != nil {
			t.Fatal(err)
		}
		where("saved", r, err, stored[1].Position)
		r.Record(storetest.Deposited{Cents: 1})
		where("recorded", r, nil, stored[1].Position)
		storetest.MustAppend(t, s, "accounts", "other", es.MustExist, storetest.Deposits(1, 1)...)
		r, err = agg.Load(ctx, s, "a")
		where("loaded from a snapshot", r, err, stored[1].Position)
		nothing := func(*es.Root[storetest.Account]) error { return nil }
		r, err = agg.Execute(ctx, s, "a", nothing)
		where("nothing to do", r, err, stored[1].Position)
		r, err = agg.Execute(ctx, s, "never", nothing)
		where("nothing there", r, err, 0)
		r, err = agg.Execute(ctx, s, "a", func(r *es.Root[storetest.Account]) error { r.Record(storetest.Deposited{Cents: 5}); return nil })
		if err != nil {
			t.Fatal(err)
		}
		log := storetest.Everything(t, s)
		where("executed", r, err, log[len(log)-1].Position)

		p := storetest.TotalsOf("totals")
		storetest.Running(t, p, s)
		if err := p.Wait(ctx, s, r.Position()); err != nil {
			t.Fatal(err)
		}
		if cp, err := p.Load(ctx, s); err != nil || cp.State.Accounts["a"] != r.State().Cents {
			t.Errorf("behind Wait: %+v (%v), want %d cents", cp.State, err, r.State().Cents)
		}
		if l.DB == nil || l.DB.Stats().MaxOpenConnections == 1 {
			return
		}
		l.InTx(t, s, true, nil, func(_ *sql.Tx, in *es.Store) {
			r, err = storetest.Accounts.Execute(ctx, in, "a", func(r *es.Root[storetest.Account]) error { r.Record(storetest.Deposited{Cents: 7}); return nil })
		})
		log = storetest.Everything(t, s)
		where("executed in a transaction", r, err, log[len(log)-1].Position)
		if err := p.Wait(ctx, s, r.Position()); err != nil {
			t.Error(err)
		}
	})
}

// TestRecordEvent carries commands out again whose events have IDs of the caller's: they are stored
// once, and every root is one that the aggregate has been.
func TestRecordEvent(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, other := l.OpenTwice(t)
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts")
		// Every deposit is of one cent, so that what it adds up to is known at any version.
		deposit := func(s *es.Store, id uuid.UUID) (*es.Root[storetest.Account], error) {
			r, err := storetest.Accounts.Execute(ctx, s, "a", func(r *es.Root[storetest.Account]) error {
				r.RecordEvent(es.NewEvent{ID: id, Payload: storetest.Deposited{Cents: 1}, Metadata: es.Metadata{"by": "ann"}})
				return nil
			})
			if err == nil && (r.State().Cents != r.Version() || len(r.Uncommitted()) != 0) {
				t.Errorf("a root with %d cents at version %d that holds %v", r.State().Cents, r.Version(), r.Uncommitted())
			}
			return r, err
		}
		first := uuid.New()
		r, err := deposit(s, first)
		if err != nil || r.Version() != 1 {
			t.Fatalf("the first: %+v, %v", r, err)
		}
		if _, err := deposit(s, uuid.Nil); err != nil { // its own ID
			t.Fatal(err)
		}
		again, err := deposit(other, first)
		if err != nil || again.Version() != 2 || again.Position() <= r.Position() {
			t.Errorf("the first again: %+v (%v), want the aggregate as it is at version 2", again, err)
		}
		log := storetest.Everything(t, s)
		if len(log) != 2 || log[0].ID != first || log[0].Metadata["by"] != "ann" || log[1].ID == first || log[1].ID == uuid.Nil {
			t.Fatalf("stored are %v", log)
		}
		// The same command comes many times at once, among others.
		same := uuid.New()
		for i, err := range storetest.Race(12, func(i int) error {
			id := same
			if i%3 == 0 {
				id = uuid.New()
			}
			_, err := deposit([]*es.Store{s, other}[i%2], id)
			return err
		}) {
			if err != nil {
				t.Errorf("racer %d: %v", i, err)
			}
		}
		if n := len(storetest.Everything(t, s)); n != 7 {
			t.Errorf("%d events are stored, want 7", n)
		}

		// What is saved by hand behaves likewise, and goes on.
		r, err = storetest.Accounts.Load(ctx, s, "a")
		if err != nil {
			t.Fatal(err)
		}
		r.RecordEvent(es.NewEvent{ID: first, Payload: storetest.Deposited{Cents: 1}})
		stored, err := storetest.Accounts.Save(ctx, s, r)
		if err != nil || len(stored) != 1 || stored[0].Version != 1 || r.Version() != 7 || r.State().Cents != 7 {
			t.Errorf("saved again: %v, %v, and the root is %+v at %d", stored, err, r.State(), r.Version())
		}
		r.Record(storetest.Deposited{Cents: 1})
		if stored, err := storetest.Accounts.Save(ctx, s, r); err != nil || stored[0].Version != 8 {
			t.Errorf("behind that: %v, %v, want version 8", stored, err)
		}
		// Folds see the ID, and an ID counts once in a save.
		var seen []uuid.UUID
		looking := es.Aggregate[storetest.Account]{Stream: "accounts", When: []es.Fold[storetest.Account]{es.OnAny(func(_ *storetest.Account, ev es.Event) { seen = append(seen, ev.ID) })}}
		twice := looking.New("b")
		for range 2 {
			twice.RecordEvent(es.NewEvent{ID: same, Payload: storetest.Deposited{Cents: 1}})
		}
		storetest.WantInvalid(t, "an ID twice", storetest.Second(looking.Save(ctx, s, twice)), same.String())
		if !slices.Equal(seen, []uuid.UUID{same, same}) {
			t.Errorf("folds have seen %v, want %v twice", seen, same)
		}
		if l.DB != nil {
			l.InTx(t, s, true, nil, func(_ *sql.Tx, in *es.Store) {
				if r, err := deposit(in, first); err != nil || r.Version() != 8 {
					t.Errorf("again in a transaction: %+v, %v", r, err)
				}
			})
		}
		storetest.WantVersions(t, storetest.Everything(t, s), 8)
		storetest.WantIdle(t, l, "at the end")
	})
}

func TestFolds(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts")
		var seen []es.Event
		agg := es.Aggregate[[]string]{
			Stream: "accounts",
			Init:   func() []string { return []string{"init"} },
			When: []es.Fold[[]string]{
				es.On(func(s *[]string, e storetest.Deposited) { *s = append(*s, fmt.Sprint("first ", e.Cents)) }),
				es.OnAny(func(s *[]string, ev es.Event) { *s = append(*s, "any "+ev.Name) }),
				es.OnEvent(func(s *[]string, e storetest.Deposited, ev es.Event) {
					*s = append(*s, fmt.Sprintf("second %d of %s v%d", e.Cents, ev.AggregateID, ev.Version))
					seen = append(seen, ev)
				}),
				es.On(func(s *[]string, e storetest.Deposited) { *s = append(*s, "third") }),
			},
		}
		want := []string{"init", "first 5", "second 5 of a v1", "third", "any account.opened", "first 6", "second 6 of a v3", "third"}
		r := agg.New("a")
		r.Record(storetest.Deposited{Cents: 5}, es.Metadata{"k": 1})
		r.Record(&storetest.Opened{Owner: "ann"}) // a pointer is as good
		r.Record(storetest.Deposited{Cents: 6})
		if !slices.Equal(r.State(), want) {
			t.Errorf("recorded: %q, want %q", r.State(), want)
		}
		stored, err := agg.Save(ctx, s, r)
		if err != nil {
			t.Fatal(err)
		}
		if len(seen) != 2 {
			t.Fatalf("OnEvent saw %d events, want 2", len(seen))
		}
		if ev := seen[0]; ev.Position != 0 || !ev.RecordedAt.IsZero() || ev.ID != stored[0].ID || ev.Stream != "accounts" || !maps.Equal(ev.Metadata, stored[0].Metadata) || string(ev.Data) != string(stored[0].Data) {
			t.Errorf("of a recorded event OnEvent saw %v, stored was %v", ev, stored[0])
		}
		seen = nil
		loaded, err := agg.Load(ctx, s, "a")
		if err != nil || !slices.Equal(loaded.State(), want) {
			t.Fatalf("loaded: %q, %v, want %q", loaded.State(), err, want)
		}
		storetest.SameEvents(t, "OnEvent", seen, []es.Event{stored[0], stored[2]})
		// Init is called for each root.
		if fresh := agg.New("b"); !slices.Equal(fresh.State(), want[:1]) {
			t.Errorf("a new root has %q", fresh.State())
		}

		// Without OnAny an event that no fold names is an error, from a load and from a query not.
		only := es.Aggregate[storetest.Account]{Stream: "accounts", When: storetest.Accounts.When[:1]}
		storetest.WantErr(t, "Load", storetest.Second(only.Load(ctx, s, "a")), es.ErrUnknownEvent)
		storetest.WantErr(t, "Execute", storetest.Second(only.Execute(ctx, s, "a", func(*es.Root[storetest.Account]) error { return nil })), es.ErrUnknownEvent)
		q := es.Query[storetest.Account]{From: es.FromAll(), When: only.When}
		if state, err := q.Run(ctx, s); err != nil || state.Owner != "ann" {
			t.Errorf("query: %+v, %v", state, err)
		}
	})
}

func TestDecode(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", 0, es.NewEvent{Payload: storetest.Deposited{Cents: 5}}, es.NewEvent{Payload: storetest.Raw{Name: "account.deposited", Text: `"no object"`}})
		evs := storetest.Everything(t, s)
		if d, err := es.Decode[storetest.Deposited](evs[0]); err != nil || d.Cents != 5 {
			t.Errorf("decoded %+v, %v", d, err)
		}
		if d, err := es.Decode[*storetest.Deposited](evs[0]); err != nil || d.Cents != 5 {
			t.Errorf("decoded by pointer %+v, %v", d, err)
		}
		storetest.WantErr(t, "Decode to another type", storetest.Second(es.Decode[storetest.Opened](evs[0])), es.ErrUnknownEvent)
		if _, err := es.Decode[storetest.Deposited](evs[1]); err == nil || errors.Is(err, es.ErrUnknownEvent) {
			t.Errorf("Decode of what does not fit: %v", err)
		}
		if _, err := storetest.Accounts.Load(t.Context(), s, "a"); err == nil {
			t.Error("Load of what does not decode succeeds")
		}
	})
	if d, err := es.Decode[storetest.Deposited](es.Event{Name: "account.deposited", Data: []byte(`{"cents":3}`)}); err != nil || d.Cents != 3 {
		t.Errorf("decoded an event of no store: %+v, %v", d, err)
	}
}
