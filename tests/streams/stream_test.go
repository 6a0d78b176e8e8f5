package streams_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

func TestStreams(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		if infos, err := s.Streams(ctx, ""); len(infos) != 0 || err != nil {
			t.Errorf("an empty store has the streams %v, %v", infos, err)
		}
		storetest.WantHas(t, s, "accounts", false)
		storetest.WantErr(t, "DeleteStream", s.DeleteStream(ctx, "accounts"), es.ErrStreamNotFound)
		storetest.WantErr(t, "SetStreamMetadata", s.SetStreamMetadata(ctx, "accounts", nil), es.ErrStreamNotFound)
		storetest.CreateStream(t, s, "accounts")
		storetest.WantHas(t, s, "accounts", true)
		for range 2 { // also when a statement is known already
			storetest.WantErr(t, "CreateStream again", s.CreateStream(ctx, "accounts", es.Metadata{"a": 1}), es.ErrStreamExists)
		}
		if infos, err := s.Streams(ctx, ""); err != nil || len(infos) != 1 || len(infos[0].Metadata) != 0 || infos[0].Metadata == nil {
			t.Errorf("streams are %+v, %v, want one with empty metadata", infos, err)
		}
		if err := s.DeleteStream(ctx, "accounts"); err != nil {
			t.Fatal(err)
		}
		storetest.WantHas(t, s, "accounts", false)
		storetest.WantErr(t, "DeleteStream again", s.DeleteStream(ctx, "accounts"), es.ErrStreamNotFound)
		_, err := s.Append(ctx, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
		storetest.WantErr(t, "Append after DeleteStream", err, es.ErrStreamNotFound)
		storetest.WantIdle(t, l, "at the end")
	})
}

func TestStreamNames(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		ctx := t.Context()
		for i, name := range storetest.OddNames {
			storetest.WantHas(t, s, name, false)
			if err := s.CreateStream(ctx, name, es.Metadata{"i": i}); err != nil {
				t.Fatalf("%q: %v", name, err)
			}
			storetest.MustAppend(t, s, name, name, es.MustNotExist, storetest.Deposits(1, int64(i))...)
		}
		sorted := slices.Sorted(slices.Values(storetest.OddNames))
		if got := storetest.StreamNames(t, s, ""); !slices.Equal(got, sorted) {
			t.Errorf("streams are\n%q\nwant\n%q", got, sorted)
		}
		prefixes := append([]string{"a\\%", "\\", "%", "_", "e", "zz", "no such"}, storetest.OddNames...)
		for _, prefix := range prefixes {
			want := slices.DeleteFunc(slices.Clone(sorted), func(name string) bool { return !strings.HasPrefix(name, prefix) })
			if got := storetest.StreamNames(t, s, prefix); !slices.Equal(got, want) {
				t.Errorf("Streams(%q) are\n%q\nwant\n%q", prefix, got, want)
			}
		}
		for i, name := range storetest.OddNames {
			storetest.WantErr(t, "CreateStream again", s.CreateStream(ctx, name, nil), es.ErrStreamExists)
			for what, evs := range map[string][]es.Event{
				"Read":          storetest.Collect(t, s.Read(ctx, es.FromStream(name), es.ReadOptions{})),
				"ReadAggregate": storetest.Collect(t, s.ReadAggregate(ctx, name, name, 0)),
			} {
				if len(evs) != 1 || evs[0].Stream != name || evs[0].AggregateID != name || string(evs[0].Data) != fmt.Sprintf(`{"cents":%d}`, i) {
					t.Errorf("%s of %q: %v, want event %d", what, name, evs, i)
				}
			}
		}
		// Names as IDs of aggregates in one stream, and as names of events.
		storetest.CreateStream(t, s, "all")
		for _, name := range storetest.OddNames {
			storetest.MustAppend(t, s, "all", name, es.MustNotExist, es.NewEvent{Payload: storetest.Raw{Name: name, Text: "1"}})
		}
		for _, name := range storetest.OddNames {
			evs := storetest.Collect(t, s.ReadAggregate(ctx, "all", name, 0))
			if len(evs) != 1 || evs[0].AggregateID != name || evs[0].Name != name {
				t.Errorf("aggregate %q has the events %v, want one of its own", name, evs)
			}
			for _, m := range []es.Match{es.ByAggregateID.Equals(name), es.ByEventName.Equals(name), es.ByEventName.In(name, "x")} {
				if got := storetest.Collect(t, s.Read(ctx, es.FromStream("all", m), es.ReadOptions{})); len(got) != 1 || got[0].Name != name {
					t.Errorf("matches on %q find %v, want one event", name, got)
				}
			}
		}
		// Deleting one leaves alone what resembles it.
		left := sorted
		for _, name := range []string{"a", "a%", "A", "ä", strings.Repeat("z", 254), "a_b"} {
			if err := s.DeleteStream(ctx, name); err != nil {
				t.Fatal(err)
			}
			left = slices.DeleteFunc(left, func(n string) bool { return n == name })
		}
		if got, want := storetest.StreamNames(t, s, ""), slices.Sorted(slices.Values(append(slices.Clone(left), "all"))); !slices.Equal(got, want) {
			t.Errorf("streams are\n%q\nwant\n%q", got, want)
		}
		found := map[string]bool{}
		for _, ev := range storetest.Collect(t, s.Read(ctx, es.FromStreams(left...), es.ReadOptions{})) {
			found[ev.Stream] = true
		}
		for _, name := range left {
			if !found[name] {
				t.Errorf("the event of %q is gone from a read of all streams", name)
			}
			if n := len(storetest.Collect(t, s.Read(ctx, es.FromStream(name), es.ReadOptions{}))); n != 1 {
				t.Errorf("%q has %d events, want 1", name, n)
			}
		}
	})
}

func TestStreamMetadata(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		check := func(want es.Metadata) {
			t.Helper()
			infos, err := s.Streams(ctx, "accounts")
			if err != nil || len(infos) != 1 || !maps.Equal(infos[0].Metadata, want) {
				t.Errorf("streams are %+v, %v, want metadata %#v", infos, err, want)
			}
		}
		md := es.Metadata{"owner": "ann", "n": uint8(7), "big": int64(1<<62 + 1), "f": float32(0.5), "yes": true, `k"\`: "ü\x00\n"}
		kept := maps.Clone(md)
		if err := s.CreateStream(ctx, "accounts", md); err != nil {
			t.Fatal(err)
		}
		storetest.CreateStream(t, s, "other")
		check(es.Metadata{"owner": "ann", "n": int64(7), "big": int64(1<<62 + 1), "f": 0.5, "yes": true, `k"\`: "ü\x00\n"})
		if !maps.Equal(md, kept) {
			t.Errorf("the caller's metadata have become %#v, want %#v", md, kept)
		}
		md["owner"] = "eve"
		for _, md := range []es.Metadata{{"a": 1}, {"a": 1}, {"a": 1.0}, nil, {}, {"b": "x"}} {
			for range 2 { // the same value again
				if err := s.SetStreamMetadata(ctx, "accounts", md); err != nil {
					t.Fatalf("SetStreamMetadata(%v): %v", md, err)
				}
				want := es.Metadata{}
				for k, v := range md {
					if n, ok := v.(int); ok {
						v = int64(n)
					}
					want[k] = v
				}
				check(want)
			}
		}
		infos, err := s.Streams(ctx, "other")
		if err != nil || len(infos) != 1 || len(infos[0].Metadata) != 0 {
			t.Errorf("the other stream is %+v, %v, want no metadata", infos, err)
		}
		if infos[0].Metadata["x"] = 1; len(storetest.StreamNames(t, s, "other")) != 1 {
			t.Error("the other stream is gone")
		}
		if infos, _ = s.Streams(ctx, "other"); len(infos[0].Metadata) != 0 {
			t.Errorf("what a caller writes into a result is stored: %v", infos[0].Metadata)
		}
	})
}

// TestStreamRecreated deletes a stream and creates another of its name, under the eyes of a second
// process that knows the first.
func TestStreamRecreated(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, other := l.OpenTwice(t)
		ctx := t.Context()
		storetest.CreateStream(t, s, "kept")
		kept := storetest.MustAppend(t, s, "kept", "a", es.MustNotExist, storetest.Deposits(2, 1)...)
		last := kept[1].Position
		ids := storetest.WithIDs(storetest.Deposits(3, 1))
		for round, expected := range []es.ExpectedVersion{es.MustNotExist, es.AnyVersion, es.MustExist, 3, 2} {
			if err := s.CreateStream(ctx, "accounts", es.Metadata{"round": round}); err != nil {
				t.Fatal(err)
			}
			for what, evs := range map[string][]es.Event{
				"Read":          storetest.Collect(t, s.Read(ctx, es.FromStream("accounts"), es.ReadOptions{})),
				"other's Read":  storetest.Collect(t, other.Read(ctx, es.FromStream("accounts"), es.ReadOptions{})),
				"ReadAggregate": storetest.Collect(t, s.ReadAggregate(ctx, "accounts", "a", 0)),
			} {
				if len(evs) > 0 {
					t.Errorf("round %d: %s finds %d events in a new stream", round, what, len(evs))
				}
			}
			// The other process remembers the stream of the round before.
			stored, err := other.Append(ctx, "accounts", "a", expected, storetest.Deposits(1, 100)...)
			if expected > 0 || expected == es.MustExist {
				storetest.WantConflict(t, fmt.Sprint("round ", round), err, es.ConflictError{Stream: "accounts", AggregateID: "a", Expected: expected})
			} else if err != nil {
				t.Fatal(err)
			}
			// IDs of deleted events are free again.
			stored = append(stored, storetest.MustAppend(t, s, "accounts", "a", es.ExpectedVersion(len(stored)), ids...)...)
			stored = append(stored, storetest.MustAppend(t, other, "accounts", "a", es.AnyVersion, storetest.Deposits(2, 200)...)...)
			storetest.WantVersions(t, stored, len(stored))
			if stored[0].Position <= last {
				t.Errorf("round %d: an event is at position %d, and an earlier one was at %d", round, stored[0].Position, last)
			}
			last = stored[len(stored)-1].Position
			storetest.SameEvents(t, "stored", storetest.Collect(t, s.ReadAggregate(ctx, "accounts", "a", 0)), stored)
			if round%2 == 1 {
				if _, err := s.Sealed(ctx); err != nil { // deleted below the sealed position, and above
					t.Fatal(err)
				}
			}
			if err := s.DeleteStream(ctx, "accounts"); err != nil {
				t.Fatal(err)
			}
			_, err = other.Append(ctx, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
			storetest.WantErr(t, "other's Append to a deleted stream", err, es.ErrStreamNotFound)
			storetest.SameEvents(t, "everything", storetest.Everything(t, s), kept)
			storetest.SameEvents(t, "everything sealed", storetest.Collect(t, other.Read(ctx, es.FromAll(), es.ReadOptions{Sealed: true})), kept)
		}
		storetest.WantIdle(t, l, "at the end")
	})
}

func TestStreamsInTx(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts", "cards")
		stored := storetest.MustAppend(t, s, "accounts", "a", es.MustNotExist, storetest.Deposits(3, 1)...)
		cards := storetest.MustAppend(t, s, "cards", "a", es.MustNotExist, storetest.Deposits(2, 1)...)
		for _, commit := range []bool{false, true} {
			l.InTx(t, s, commit, nil, func(tx *sql.Tx, s *es.Store) {
				if err := errors.Join(s.DeleteStream(ctx, "accounts"), s.CreateStream(ctx, "new", nil), s.SetStreamMetadata(ctx, "cards", es.Metadata{"a": 1})); err != nil {
					t.Fatal(err)
				}
				storetest.WantHas(t, s, "accounts", false)
				storetest.WantHas(t, s, "new", true)
				storetest.WantErr(t, "CreateStream in the transaction", s.CreateStream(ctx, "new", nil), es.ErrStreamExists)
				storetest.WantErr(t, "DeleteStream in the transaction", s.DeleteStream(ctx, "accounts"), es.ErrStreamNotFound)
				storetest.SameEvents(t, "in the transaction", storetest.Everything(t, s), cards)
				// A stream of the name is another one, here too.
				storetest.CreateStream(t, s, "accounts")
				fresh := storetest.MustAppend(t, s, "accounts", "a", es.MustNotExist, storetest.Deposits(1, 50)...)
				storetest.SameEvents(t, "recreated", storetest.Collect(t, s.ReadAggregate(ctx, "accounts", "a", 0)), fresh)
				if err := s.DeleteStream(ctx, "accounts"); err != nil {
					t.Fatal(err)
				}
			})
			want := append(slices.Clone(stored), cards...)
			if commit {
				want = cards
			}
			storetest.SameEvents(t, fmt.Sprint("after the transaction, committed: ", commit), storetest.Everything(t, s), want)
			storetest.WantHas(t, s, "accounts", !commit)
			storetest.WantHas(t, s, "new", commit)
			if infos, err := s.Streams(ctx, "cards"); err != nil || len(infos[0].Metadata) == 1 != commit {
				t.Errorf("committed: %v: the other stream is %+v, %v", commit, infos, err)
			}
			if !commit {
				// What a rolled-back transaction saw must not mislead later appends.
				stored = append(stored, storetest.MustAppend(t, s, "accounts", "a", 3, storetest.Deposits(1, 4)...)...)
				want = append(slices.Clone(stored[:3]), cards...)
				storetest.SameEvents(t, "after a rollback", storetest.Everything(t, s), append(want, stored[3]))
				cards, stored = append(cards, stored[3]), stored[:3]
				if err := s.SetStreamMetadata(ctx, "cards", nil); err != nil {
					t.Fatal(err)
				}
				cards = cards[:2]
			}
		}
	})
}

// TestStreamCreatedAtOnce has many create one stream: one does, the others are told.
func TestStreamCreatedAtOnce(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		for round := range 5 {
			name := fmt.Sprint("s", round)
			won := 0
			for i, err := range storetest.Race(16, func(int) error { return s.CreateStream(context.Background(), name, nil) }) {
				if err == nil {
					won++
				} else {
					storetest.WantErr(t, fmt.Sprint("racer ", i), err, es.ErrStreamExists)
				}
			}
			if won != 1 {
				t.Errorf("%d created the stream, want 1", won)
			}
		}
	})
}

// TestStreamDeletedBehindSnapshot deletes a stream in transactions whose snapshots do not see all of
// its events: no read finds those either, and they don't stay in the table for long.
func TestStreamDeletedBehindSnapshot(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		if l.DB.Stats().MaxOpenConnections == 1 {
			return // the append would wait for the transaction
		}
		for _, isolation := range []sql.IsolationLevel{sql.LevelReadCommitted, sql.LevelRepeatableRead, sql.LevelSerializable} {
			for what, erase := range map[string]func(*es.Store) error{
				"Install":      func(s *es.Store) error { return s.Install(t.Context()) },
				"CreateStream": func(s *es.Store) error { return s.CreateStream(t.Context(), "new", nil) },
				"DeleteStream": func(s *es.Store) error { return s.DeleteStream(t.Context(), "other") },
			} {
				s, prefix := l.OpenPrefixed(t)
				storetest.CreateStream(t, s, "accounts", "other")
				storetest.MustAppend(t, s, "accounts", "a", 0, storetest.Deposits(2, 1)...)
				kept := storetest.MustAppend(t, s, "other", "a", 0, storetest.Deposits(1, 1)...)
				if _, err := s.Sealed(t.Context()); err != nil {
					t.Fatal(err)
				}
				tx, err := l.DB.BeginTx(t.Context(), &sql.TxOptions{Isolation: isolation})
				if err != nil {
					t.Fatal(err)
				}
				in := s.WithTx(tx)
				storetest.WantHas(t, in, "other", true) // the snapshot is taken
				storetest.MustAppend(t, s, "accounts", "a", 2, storetest.Deposits(1, 1)...)
				unseen := storetest.Deposits(1, 1)
				storetest.MustAppend(t, s, "accounts", "b", 0, unseen...)
				if err := storetest.Ledgers(100, 1).SaveSnapshot(t.Context(), s, "b"); err != nil {
					t.Fatal(err)
				}
				if isolation == sql.LevelRepeatableRead {
					if _, err := s.Sealed(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if err = in.DeleteStream(t.Context(), "accounts"); err == nil {
					err = tx.Commit()
				}
				if err != nil {
					var state interface{ SQLState() string } // of a commit that could not be serialised
					if _ = tx.Rollback(); !errors.Is(err, es.ErrRetryTx) && !(errors.As(err, &state) && state.SQLState() == "40001") {
						t.Fatal(err)
					}
					if err := s.DeleteStream(t.Context(), "accounts"); err != nil {
						t.Fatal(err)
					}
				}
				storetest.SameEvents(t, isolation.String()+": what is left", storetest.Collect(t, s.Read(t.Context(), es.FromAll(), es.ReadOptions{})), kept)
				lost := "SELECT position FROM " + prefix + "events WHERE stream_id NOT IN (SELECT id FROM " + prefix + "streams) AND stream_id > 0"
				if isolation == sql.LevelRepeatableRead && l.Dialect == es.Postgres && len(l.Lines(t, lost)) != 2 {
					t.Error("the transaction has seen all: nothing is tested")
				}
				if err := erase(s); err != nil {
					t.Fatal(err)
				}
				for _, query := range []string{lost, "SELECT position FROM " + prefix + "snapshots", "SELECT name FROM " + prefix + "meta WHERE name LIKE 'erase%'"} {
					if left := l.Lines(t, query); len(left) > 0 {
						t.Errorf("%v: after %s, %d rows are left of the deleted stream, want none: %s", isolation, what, len(left), query)
					}
				}
				storetest.CreateStream(t, s, "accounts")
				storetest.MustAppend(t, s, "accounts", "b", 0, unseen...) // their IDs are free again
				storetest.CreateStream(t, s, "last")
				last := storetest.MustAppend(t, s, "last", "a", 0, storetest.Deposits(1, 1)...)
				if p, err := s.Sealed(t.Context()); err != nil || p != last[0].Position {
					t.Errorf("%v: sealed up to %d (%v), want %d", isolation, p, err, last[0].Position)
				}
			}
		}
	})
}

// TestStreamNotedDownAndAlive has a note about a deleted stream outlive it, as when some tables are
// restored and others are not, and a stream that lives have its id: nothing is erased.
func TestStreamNotedDownAndAlive(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "accounts")
		want := storetest.MustAppend(t, s, "accounts", "a", 0, storetest.Deposits(2, 1)...)
		for _, id := range l.Lines(t, "SELECT id FROM "+prefix+"streams") {
			if _, err := l.DB.Exec("INSERT INTO " + prefix + "meta (name, value) VALUES ('erase " + id + "', " + id + ")"); err != nil {
				t.Fatal(err)
			}
		}
		storetest.CreateStream(t, s, "other")
		if err := errors.Join(s.Install(t.Context()), s.DeleteStream(t.Context(), "other")); err != nil {
			t.Fatal(err)
		}
		storetest.SameEvents(t, "what is left", storetest.Collect(t, s.Read(t.Context(), es.FromAll(), es.ReadOptions{})), want)
	})
}

// TestStreamDeletedUnderAppends deletes and creates a stream while others append to it: they are
// told that there is none, or succeed, and what is left is whole.
func TestStreamDeletedUnderAppends(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, prefix := es.NewMemStore(nil), ""
		if l.DB != nil {
			prefix = l.NewPrefix(t)
			s = l.OpenIn(t, prefix, nil)
			if err := s.Install(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		storetest.CreateStream(t, s, "accounts")
		errs := storetest.Race(9, func(i int) error {
			if i == 8 {
				for range 10 {
					if err := errors.Join(s.DeleteStream(context.Background(), "accounts"), s.CreateStream(context.Background(), "accounts", nil)); err != nil {
						return err
					}
				}
				return nil
			}
			for range 30 {
				_, err := s.Append(context.Background(), "accounts", fmt.Sprint("w", i), es.AnyVersion, storetest.Deposits(1+i%2, 1)...)
				if err != nil && !errors.Is(err, es.ErrStreamNotFound) {
					return err
				}
			}
			return nil
		})
		for i, err := range errs {
			if err != nil {
				t.Errorf("racer %d: %v", i, err)
			}
		}
		for i := range 8 {
			evs := storetest.Collect(t, s.ReadAggregate(t.Context(), "accounts", fmt.Sprint("w", i), 0))
			storetest.WantVersions(t, evs, len(evs))
		}
		if _, err := s.Sealed(t.Context()); err != nil {
			t.Fatal(err)
		}
		if l.DB != nil {
			lost := l.Lines(t, "SELECT position FROM "+prefix+"events WHERE stream_id NOT IN (SELECT id FROM "+prefix+"streams) AND stream_id > 0")
			if len(lost) > 0 {
				t.Errorf("%d events of deleted streams are still in the table, want none", len(lost))
			}
		}
	})
}
