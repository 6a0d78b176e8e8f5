package eventstore_test

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
)

// oddNames differ from each other by what some databases overlook, or mean something to SQL.
var oddNames = []string{
	"a", "A", "a ", "a  ", " a", "a\t", "a\n", "ä", "a\u0308", "Ä", "ss", "ß", "æ", "ae",
	"a%", "a%b", "a_b", "axb", "a\\b", "a\\%b", "a'b", `a"b`, "a`b", "a?b", "a$1b", "a{events}b", "a;--", "a-b", "a.b",
	"日本語", "😀", "e\u200d", "\u00a0", "\x01", "\ufeffa", "null", "0", "00", "1e0", strings.Repeat("é", 127) + "x", strings.Repeat("z", 255), strings.Repeat("z", 254),
}

func streamNames(t testing.TB, s *es.Store, prefix string) []string {
	t.Helper()
	infos, err := s.Streams(t.Context(), prefix)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(infos))
	for i, info := range infos {
		names[i] = info.Name
	}
	return names
}

func wantHas(t testing.TB, s *es.Store, name string, want bool) {
	t.Helper()
	if has, err := s.HasStream(t.Context(), name); has != want || err != nil {
		t.Errorf("HasStream(%q) = %v, %v, want %v", name, has, err, want)
	}
}

func TestStreams(t *testing.T) {
	forEachLane(t, func(t *testing.T, l lane) {
		s, ctx := l.open(t, nil), t.Context()
		if infos, err := s.Streams(ctx, ""); len(infos) != 0 || err != nil {
			t.Errorf("an empty store has the streams %v, %v", infos, err)
		}
		wantHas(t, s, "accounts", false)
		wantErr(t, "DeleteStream", s.DeleteStream(ctx, "accounts"), es.ErrStreamNotFound)
		wantErr(t, "SetStreamMetadata", s.SetStreamMetadata(ctx, "accounts", nil), es.ErrStreamNotFound)
		createStream(t, s, "accounts")
		wantHas(t, s, "accounts", true)
		for range 2 { // also when a statement is known already
			wantErr(t, "CreateStream again", s.CreateStream(ctx, "accounts", es.Metadata{"a": 1}), es.ErrStreamExists)
		}
		if infos, err := s.Streams(ctx, ""); err != nil || len(infos) != 1 || len(infos[0].Metadata) != 0 || infos[0].Metadata == nil {
			t.Errorf("streams are %+v, %v, want one with empty metadata", infos, err)
		}
		if err := s.DeleteStream(ctx, "accounts"); err != nil {
			t.Fatal(err)
		}
		wantHas(t, s, "accounts", false)
		wantErr(t, "DeleteStream again", s.DeleteStream(ctx, "accounts"), es.ErrStreamNotFound)
		_, err := s.Append(ctx, "accounts", "a", es.AnyVersion, events(1, 1)...)
		wantErr(t, "Append after DeleteStream", err, es.ErrStreamNotFound)
		wantIdle(t, l, "at the end")
	})
}

func TestStreamNames(t *testing.T) {
	forEachStore(t, func(t *testing.T, s *es.Store) {
		ctx := t.Context()
		for i, name := range oddNames {
			wantHas(t, s, name, false)
			if err := s.CreateStream(ctx, name, es.Metadata{"i": i}); err != nil {
				t.Fatalf("%q: %v", name, err)
			}
			mustAppend(t, s, name, name, es.MustNotExist, events(1, int64(i))...)
		}
		sorted := slices.Sorted(slices.Values(oddNames))
		if got := streamNames(t, s, ""); !slices.Equal(got, sorted) {
			t.Errorf("streams are\n%q\nwant\n%q", got, sorted)
		}
		prefixes := append([]string{"a\\%", "\\", "%", "_", "e", "zz", "no such"}, oddNames...)
		for _, prefix := range prefixes {
			want := slices.DeleteFunc(slices.Clone(sorted), func(name string) bool { return !strings.HasPrefix(name, prefix) })
			if got := streamNames(t, s, prefix); !slices.Equal(got, want) {
				t.Errorf("Streams(%q) are\n%q\nwant\n%q", prefix, got, want)
			}
		}
		for i, name := range oddNames {
			wantErr(t, "CreateStream again", s.CreateStream(ctx, name, nil), es.ErrStreamExists)
			for what, evs := range map[string][]es.Event{
				"Read":          collect(t, s.Read(ctx, es.FromStream(name), es.ReadOptions{})),
				"ReadAggregate": collect(t, s.ReadAggregate(ctx, name, name, 0)),
			} {
				if len(evs) != 1 || evs[0].Stream != name || evs[0].AggregateID != name || string(evs[0].Data) != fmt.Sprintf(`{"cents":%d}`, i) {
					t.Errorf("%s of %q: %v, want event %d", what, name, evs, i)
				}
			}
		}
		// Names as IDs of aggregates in one stream, and as names of events.
		createStream(t, s, "all")
		for _, name := range oddNames {
			mustAppend(t, s, "all", name, es.MustNotExist, es.NewEvent{Payload: raw{name, "1"}})
		}
		for _, name := range oddNames {
			evs := collect(t, s.ReadAggregate(ctx, "all", name, 0))
			if len(evs) != 1 || evs[0].AggregateID != name || evs[0].Name != name {
				t.Errorf("aggregate %q has the events %v, want one of its own", name, evs)
			}
			for _, m := range []es.Match{es.ByAggregateID.Equals(name), es.ByEventName.Equals(name), es.ByEventName.In(name, "x")} {
				if got := collect(t, s.Read(ctx, es.FromStream("all", m), es.ReadOptions{})); len(got) != 1 || got[0].Name != name {
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
		if got, want := streamNames(t, s, ""), slices.Sorted(slices.Values(append(slices.Clone(left), "all"))); !slices.Equal(got, want) {
			t.Errorf("streams are\n%q\nwant\n%q", got, want)
		}
		found := map[string]bool{}
		for _, ev := range collect(t, s.Read(ctx, es.FromStreams(left...), es.ReadOptions{})) {
			found[ev.Stream] = true
		}
		for _, name := range left {
			if !found[name] {
				t.Errorf("the event of %q is gone from a read of all streams", name)
			}
			if n := len(collect(t, s.Read(ctx, es.FromStream(name), es.ReadOptions{}))); n != 1 {
				t.Errorf("%q has %d events, want 1", name, n)
			}
		}
	})
}

func TestStreamMetadata(t *testing.T) {
	forEachLane(t, func(t *testing.T, l lane) {
		s, ctx := l.open(t, nil), t.Context()
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
		createStream(t, s, "other")
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
		if infos[0].Metadata["x"] = 1; len(streamNames(t, s, "other")) != 1 {
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
	forEachLane(t, func(t *testing.T, l lane) {
		s, other := l.twice(t)
		ctx := t.Context()
		createStream(t, s, "kept")
		kept := mustAppend(t, s, "kept", "a", es.MustNotExist, events(2, 1)...)
		last := kept[1].Position
		ids := withIDs(events(3, 1))
		for round, expected := range []es.ExpectedVersion{es.MustNotExist, es.AnyVersion, es.MustExist, 3, 2} {
			if err := s.CreateStream(ctx, "accounts", es.Metadata{"round": round}); err != nil {
				t.Fatal(err)
			}
			for what, evs := range map[string][]es.Event{
				"Read":          collect(t, s.Read(ctx, es.FromStream("accounts"), es.ReadOptions{})),
				"other's Read":  collect(t, other.Read(ctx, es.FromStream("accounts"), es.ReadOptions{})),
				"ReadAggregate": collect(t, s.ReadAggregate(ctx, "accounts", "a", 0)),
			} {
				if len(evs) > 0 {
					t.Errorf("round %d: %s finds %d events in a new stream", round, what, len(evs))
				}
			}
			// The other process remembers the stream of the round before.
			stored, err := other.Append(ctx, "accounts", "a", expected, events(1, 100)...)
			if expected > 0 || expected == es.MustExist {
				wantConflict(t, fmt.Sprint("round ", round), err, es.ConflictError{Stream: "accounts", AggregateID: "a", Expected: expected})
			} else if err != nil {
				t.Fatal(err)
			}
			// IDs of deleted events are free again.
			stored = append(stored, mustAppend(t, s, "accounts", "a", es.ExpectedVersion(len(stored)), ids...)...)
			stored = append(stored, mustAppend(t, other, "accounts", "a", es.AnyVersion, events(2, 200)...)...)
			wantVersions(t, stored, len(stored))
			if stored[0].Position <= last {
				t.Errorf("round %d: an event is at position %d, and an earlier one was at %d", round, stored[0].Position, last)
			}
			last = stored[len(stored)-1].Position
			sameEvents(t, "stored", collect(t, s.ReadAggregate(ctx, "accounts", "a", 0)), stored)
			if round%2 == 1 {
				if _, err := s.Sealed(ctx); err != nil { // deleted below the sealed position, and above
					t.Fatal(err)
				}
			}
			if err := s.DeleteStream(ctx, "accounts"); err != nil {
				t.Fatal(err)
			}
			_, err = other.Append(ctx, "accounts", "a", es.AnyVersion, events(1, 1)...)
			wantErr(t, "other's Append to a deleted stream", err, es.ErrStreamNotFound)
			sameEvents(t, "everything", everything(t, s), kept)
			sameEvents(t, "everything sealed", collect(t, other.Read(ctx, es.FromAll(), es.ReadOptions{Sealed: true})), kept)
		}
		wantIdle(t, l, "at the end")
	})
}

// twice returns two stores on the same tables; on memory they are one.
func (l lane) twice(t testing.TB) (*es.Store, *es.Store) {
	t.Helper()
	if l.db == nil {
		s := es.NewMemStore(nil)
		return s, s
	}
	s, prefix := l.openPrefixed(t)
	other := l.openIn(t, prefix, nil)
	return s, other
}

func TestStreamsInTx(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, l lane) {
		s, ctx := l.open(t, nil), t.Context()
		createStream(t, s, "accounts", "cards")
		stored := mustAppend(t, s, "accounts", "a", es.MustNotExist, events(3, 1)...)
		cards := mustAppend(t, s, "cards", "a", es.MustNotExist, events(2, 1)...)
		for _, commit := range []bool{false, true} {
			l.inTx(t, s, commit, nil, func(tx *sql.Tx, s *es.Store) {
				if err := errors.Join(s.DeleteStream(ctx, "accounts"), s.CreateStream(ctx, "new", nil), s.SetStreamMetadata(ctx, "cards", es.Metadata{"a": 1})); err != nil {
					t.Fatal(err)
				}
				wantHas(t, s, "accounts", false)
				wantHas(t, s, "new", true)
				wantErr(t, "CreateStream in the transaction", s.CreateStream(ctx, "new", nil), es.ErrStreamExists)
				wantErr(t, "DeleteStream in the transaction", s.DeleteStream(ctx, "accounts"), es.ErrStreamNotFound)
				sameEvents(t, "in the transaction", everything(t, s), cards)
				// A stream of the name is another one, here too.
				createStream(t, s, "accounts")
				fresh := mustAppend(t, s, "accounts", "a", es.MustNotExist, events(1, 50)...)
				sameEvents(t, "recreated", collect(t, s.ReadAggregate(ctx, "accounts", "a", 0)), fresh)
				if err := s.DeleteStream(ctx, "accounts"); err != nil {
					t.Fatal(err)
				}
			})
			want := append(slices.Clone(stored), cards...)
			if commit {
				want = cards
			}
			sameEvents(t, fmt.Sprint("after the transaction, committed: ", commit), everything(t, s), want)
			wantHas(t, s, "accounts", !commit)
			wantHas(t, s, "new", commit)
			if infos, err := s.Streams(ctx, "cards"); err != nil || len(infos[0].Metadata) == 1 != commit {
				t.Errorf("committed: %v: the other stream is %+v, %v", commit, infos, err)
			}
			if !commit {
				// What a rolled-back transaction saw must not mislead later appends.
				stored = append(stored, mustAppend(t, s, "accounts", "a", 3, events(1, 4)...)...)
				want = append(slices.Clone(stored[:3]), cards...)
				sameEvents(t, "after a rollback", everything(t, s), append(want, stored[3]))
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
	forEachStore(t, func(t *testing.T, s *es.Store) {
		for round := range 5 {
			name := fmt.Sprint("s", round)
			won := 0
			for i, err := range race(16, func(int) error { return s.CreateStream(context.Background(), name, nil) }) {
				if err == nil {
					won++
				} else {
					wantErr(t, fmt.Sprint("racer ", i), err, es.ErrStreamExists)
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
	forEachDatabase(t, func(t *testing.T, l lane) {
		if l.db.Stats().MaxOpenConnections == 1 {
			return // the append would wait for the transaction
		}
		for _, isolation := range []sql.IsolationLevel{sql.LevelReadCommitted, sql.LevelRepeatableRead, sql.LevelSerializable} {
			for what, erase := range map[string]func(*es.Store) error{
				"Install":      func(s *es.Store) error { return s.Install(t.Context()) },
				"CreateStream": func(s *es.Store) error { return s.CreateStream(t.Context(), "new", nil) },
				"DeleteStream": func(s *es.Store) error { return s.DeleteStream(t.Context(), "other") },
			} {
				s, prefix := l.openPrefixed(t)
				createStream(t, s, "accounts", "other")
				mustAppend(t, s, "accounts", "a", 0, events(2, 1)...)
				kept := mustAppend(t, s, "other", "a", 0, events(1, 1)...)
				if _, err := s.Sealed(t.Context()); err != nil {
					t.Fatal(err)
				}
				tx, err := l.db.BeginTx(t.Context(), &sql.TxOptions{Isolation: isolation})
				if err != nil {
					t.Fatal(err)
				}
				in := s.WithTx(tx)
				wantHas(t, in, "other", true) // the snapshot is taken
				mustAppend(t, s, "accounts", "a", 2, events(1, 1)...)
				unseen := events(1, 1)
				mustAppend(t, s, "accounts", "b", 0, unseen...)
				if err := ledgers(100, 1).SaveSnapshot(t.Context(), s, "b"); err != nil {
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
				sameEvents(t, isolation.String()+": what is left", collect(t, s.Read(t.Context(), es.FromAll(), es.ReadOptions{})), kept)
				lost := "SELECT position FROM " + prefix + "events WHERE stream_id NOT IN (SELECT id FROM " + prefix + "streams) AND stream_id > 0"
				if isolation == sql.LevelRepeatableRead && l.dialect == es.Postgres && len(l.lines(t, lost)) != 2 {
					t.Error("the transaction has seen all: nothing is tested")
				}
				if err := erase(s); err != nil {
					t.Fatal(err)
				}
				for _, query := range []string{lost, "SELECT position FROM " + prefix + "snapshots", "SELECT name FROM " + prefix + "meta WHERE name LIKE 'erase%'"} {
					if left := l.lines(t, query); len(left) > 0 {
						t.Errorf("%v: after %s, %d rows are left of the deleted stream, want none: %s", isolation, what, len(left), query)
					}
				}
				createStream(t, s, "accounts")
				mustAppend(t, s, "accounts", "b", 0, unseen...) // their IDs are free again
				createStream(t, s, "last")
				last := mustAppend(t, s, "last", "a", 0, events(1, 1)...)
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
	forEachKind(t, func(t *testing.T, l lane) {
		s, prefix := l.openPrefixed(t)
		createStream(t, s, "accounts")
		want := mustAppend(t, s, "accounts", "a", 0, events(2, 1)...)
		for _, id := range l.lines(t, "SELECT id FROM "+prefix+"streams") {
			if _, err := l.db.Exec("INSERT INTO " + prefix + "meta (name, value) VALUES ('erase " + id + "', " + id + ")"); err != nil {
				t.Fatal(err)
			}
		}
		createStream(t, s, "other")
		if err := errors.Join(s.Install(t.Context()), s.DeleteStream(t.Context(), "other")); err != nil {
			t.Fatal(err)
		}
		sameEvents(t, "what is left", collect(t, s.Read(t.Context(), es.FromAll(), es.ReadOptions{})), want)
	})
}

// TestStreamDeletedUnderAppends deletes and creates a stream while others append to it: they are
// told that there is none, or succeed, and what is left is whole.
func TestStreamDeletedUnderAppends(t *testing.T) {
	forEachLane(t, func(t *testing.T, l lane) {
		s, prefix := es.NewMemStore(nil), ""
		if l.db != nil {
			prefix = l.newPrefix(t)
			s = l.openIn(t, prefix, nil)
			if err := s.Install(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		createStream(t, s, "accounts")
		errs := race(9, func(i int) error {
			if i == 8 {
				for range 10 {
					if err := errors.Join(s.DeleteStream(context.Background(), "accounts"), s.CreateStream(context.Background(), "accounts", nil)); err != nil {
						return err
					}
				}
				return nil
			}
			for range 30 {
				_, err := s.Append(context.Background(), "accounts", fmt.Sprint("w", i), es.AnyVersion, events(1+i%2, 1)...)
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
			evs := collect(t, s.ReadAggregate(t.Context(), "accounts", fmt.Sprint("w", i), 0))
			wantVersions(t, evs, len(evs))
		}
		if _, err := s.Sealed(t.Context()); err != nil {
			t.Fatal(err)
		}
		if l.db != nil {
			lost := l.lines(t, "SELECT position FROM "+prefix+"events WHERE stream_id NOT IN (SELECT id FROM "+prefix+"streams) AND stream_id > 0")
			if len(lost) > 0 {
				t.Errorf("%d events of deleted streams are still in the table, want none", len(lost))
			}
		}
	})
}
