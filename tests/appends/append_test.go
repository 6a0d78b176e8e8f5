package appends_test

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/uuid"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

func TestAppendExpectedVersion(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "accounts")
		for _, have := range []int{0, 1, 3} {
			for _, c := range []struct {
				expected es.ExpectedVersion
				ok       bool
			}{
				{es.MustNotExist, have == 0},
				{1, have == 1},
				{2, false},
				{3, have == 3},
				{4, false},
				{1 << 62, false},
				{es.AnyVersion, true},
				{es.MustExist, have > 0},
			} {
				for _, n := range []int{1, 2, 20} {
					what := fmt.Sprintf("%d events at %d, expected %d", n, have, int64(c.expected))
					id := what
					before := storetest.MustAppend(t, s, "accounts", id, es.MustNotExist, storetest.Deposits(have, 1)...)
					stored, err := s.Append(t.Context(), "accounts", id, c.expected, storetest.Deposits(n, 100)...)
					if !c.ok {
						storetest.WantConflict(t, what, err, es.ConflictError{Stream: "accounts", AggregateID: id, Expected: c.expected, Actual: int64(have)})
						if stored != nil {
							t.Errorf("%s: returned %d events with the error, want none", what, len(stored))
						}
					} else if err != nil {
						t.Errorf("%s: %v", what, err)
					}
					got := storetest.Collect(t, s.ReadAggregate(t.Context(), "accounts", id, 0))
					storetest.SameEvents(t, what, got, append(before, stored...))
					storetest.WantVersions(t, got, len(before)+len(stored))
				}
			}
		}
	})
}

func TestAppendNothing(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		stored, err := s.Append(t.Context(), "no such stream", "a", 7)
		if stored != nil || err != nil {
			t.Errorf("no events: returned %v, %v, want nothing", stored, err)
		}
	})
}

func TestAppendStreamNotFound(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "accounts")
		for _, expected := range []es.ExpectedVersion{es.MustNotExist, 3, es.AnyVersion, es.MustExist} {
			for _, n := range []int{1, 40, 6000} {
				_, err := s.Append(t.Context(), "account", "a", expected, storetest.Deposits(n, 1)...)
				storetest.WantErr(t, fmt.Sprintf("%d events, expected %d", n, int64(expected)), err, es.ErrStreamNotFound)
			}
		}
		if got := storetest.Everything(t, s); len(got) != 0 {
			t.Errorf("%d events are stored, want none", len(got))
		}
	})
}

// TestAppendSameIDInStreams has aggregates of one ID in two streams, which are two aggregates.
func TestAppendSameIDInStreams(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "accounts", "cards")
		a := storetest.MustAppend(t, s, "accounts", "x", es.MustNotExist, storetest.Deposits(2, 1)...)
		b := storetest.MustAppend(t, s, "cards", "x", es.MustNotExist, storetest.Deposits(3, 10)...)
		a = append(a, storetest.MustAppend(t, s, "accounts", "x", 2, storetest.Deposits(1, 3)...)...)
		storetest.SameEvents(t, "accounts", storetest.Collect(t, s.ReadAggregate(t.Context(), "accounts", "x", 0)), a)
		storetest.SameEvents(t, "cards", storetest.Collect(t, s.ReadAggregate(t.Context(), "cards", "x", 0)), b)
	})
}

// repeatCases are appends of event IDs of which some are stored: aggregate "a" of "accounts" has
// ids 0 to 2, appended in one call, and 3, in another.
var repeatCases = []struct {
	name   string
	ids    []int // -1: a new one
	repeat bool  // to "a" it is a repetition
}{
	{"the same", []int{0, 1, 2}, true},
	{"the later one", []int{3}, true},
	{"first of the call", []int{0, 1}, true},
	{"last of the call", []int{1, 2}, true},
	{"both calls", []int{0, 1, 2, 3}, true},
	{"one of the call", []int{1}, true},
	{"more", []int{0, 1, 2, -1}, false},
	{"more before", []int{-1, 0, 1, 2}, false},
	{"more at the end", []int{3, -1}, false},
	{"another order", []int{1, 0, 2}, false},
	{"backwards", []int{3, 2, 1, 0}, false},
	{"with a hole", []int{0, 2}, false},
}

func TestAppendRepeated(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "accounts", "cards")
		first := storetest.WithIDs(storetest.Deposits(3, 1))
		second := storetest.WithIDs(storetest.Deposits(1, 4))
		stored := storetest.MustAppend(t, s, "accounts", "a", es.MustNotExist, first...)
		stored = append(stored, storetest.MustAppend(t, s, "accounts", "a", 3, second...)...)
		storetest.MustAppend(t, s, "accounts", "b", es.MustNotExist, storetest.Deposits(2, 50)...)
		all := storetest.Everything(t, s)
		expectations := []es.ExpectedVersion{es.MustNotExist, 1, 2, 3, 4, 99, es.AnyVersion, es.MustExist}
		for _, c := range repeatCases {
			for _, expected := range expectations {
				for _, to := range []struct {
					stream, id string
					actual     int64
				}{{"accounts", "a", 4}, {"accounts", "b", 2}, {"accounts", "new", 0}, {"cards", "a", 0}} {
					what := fmt.Sprintf("%s, to %s/%s, expected %d", c.name, to.stream, to.id, int64(expected))
					evs := make([]es.NewEvent, len(c.ids))
					var want []es.Event
					for i, id := range c.ids {
						// What was stored counts, not what the repetition holds beside the IDs.
						evs[i] = es.NewEvent{ID: uuid.New(), Payload: storetest.Opened{Owner: "other"}}
						if id >= 0 {
							evs[i].ID = stored[id].ID
							want = append(want, stored[id])
						}
					}
					got, err := s.Append(t.Context(), to.stream, to.id, expected, evs...)
					if c.repeat && to.id == "a" && to.stream == "accounts" {
						if err != nil {
							t.Errorf("%s: %v, want the events stored before", what, err)
						} else {
							storetest.SameEvents(t, what, got, want)
						}
						continue
					}
					storetest.WantConflict(t, what, err, es.ConflictError{Stream: to.stream, AggregateID: to.id, Expected: expected, Actual: to.actual})
				}
			}
		}
		storetest.SameEvents(t, "everything", storetest.Everything(t, s), all)

		// A long append repeated, and one that ends in an ID that is stored elsewhere.
		long := storetest.WithIDs(storetest.Deposits(1200, 1))
		want := storetest.MustAppend(t, s, "accounts", "long", es.MustNotExist, long...)
		again, err := s.Append(t.Context(), "accounts", "long", es.MustNotExist, long...)
		if err != nil {
			t.Fatal(err)
		}
		storetest.SameEvents(t, "1200 events repeated", again, want)
		evs := storetest.WithIDs(storetest.Deposits(1200, 1))
		evs[1199].ID = stored[0].ID
		_, err = s.Append(t.Context(), "accounts", "other", es.AnyVersion, evs...)
		storetest.WantConflict(t, "1200 events of which the last is stored", err, es.ConflictError{Stream: "accounts", AggregateID: "other", Expected: es.AnyVersion})
		if n := len(storetest.Everything(t, s)); n != len(all)+1200 {
			t.Errorf("%d events are stored, want %d", n, len(all)+1200)
		}
	})
}

// TestAppendRepeatedAtOnce has many appends of the same IDs race: all of them succeed with the
// same events.
func TestAppendRepeatedAtOnce(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "accounts")
		for _, expected := range []es.ExpectedVersion{es.MustNotExist, es.AnyVersion} {
			id := fmt.Sprint(int64(expected))
			evs := storetest.WithIDs(storetest.Deposits(3, 1))
			got := make([][]es.Event, 16)
			for i, err := range storetest.Race(16, func(i int) (err error) {
				got[i], err = s.Append(context.Background(), "accounts", id, expected, evs...)
				return err
			}) {
				if err != nil {
					t.Errorf("racer %d, expected %d: %v", i, int64(expected), err)
				}
			}
			stored := storetest.Collect(t, s.ReadAggregate(t.Context(), "accounts", id, 0))
			storetest.WantVersions(t, stored, 3)
			for i := range got {
				storetest.SameEvents(t, fmt.Sprintf("racer %d", i), got[i], stored)
			}
		}
	})
}

// TestAppendReturnsWhatIsRead compares the results of concurrent appends of several events with
// what a read finds.
func TestAppendReturnsWhatIsRead(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "accounts", "cards")
		const writers, rounds = 16, 6
		got := make([][]es.Event, writers)
		for i, err := range storetest.Race(writers, func(i int) error {
			for k := range rounds {
				stream, id := []string{"accounts", "cards"}[i%2], fmt.Sprintf("w%d", i)
				expected := []es.ExpectedVersion{es.AnyVersion, es.ExpectedVersion(3 * k)}[k%2]
				evs := storetest.Deposits(3, int64(100*i+k))
				evs[k%3].Metadata = es.Metadata{"writer": i, "round": float64(k)}
				stored, err := s.Append(context.Background(), stream, id, expected, evs...)
				if err != nil {
					return err
				}
				got[i] = append(got[i], stored...)
			}
			return nil
		}) {
			if err != nil {
				t.Fatalf("writer %d: %v", i, err)
			}
		}
		byPosition := map[es.Position]es.Event{}
		for _, ev := range storetest.Everything(t, s) {
			byPosition[ev.Position] = ev
		}
		if len(byPosition) != writers*rounds*3 {
			t.Fatalf("%d events are stored, want %d", len(byPosition), writers*rounds*3)
		}
		for i := range got {
			storetest.WantVersions(t, got[i], rounds*3)
			for _, ev := range got[i] {
				storetest.SameEvents(t, fmt.Sprintf("writer %d", i), []es.Event{ev}, []es.Event{byPosition[ev.Position]})
			}
		}
	})
}

func TestAppendNow(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		// Summer and winter, zones, nanoseconds, and hours that daylight saving skips or repeats
		// where a lane's session lives.
		times := []time.Time{
			time.Date(2024, 7, 1, 12, 30, 0, 123456789, time.UTC),
			time.Date(2024, 1, 31, 23, 59, 59, 999999999, time.FixedZone("", -12*3600)),
			time.Date(2024, 3, 10, 2, 30, 0, 1000, time.UTC),
			time.Date(2024, 11, 3, 1, 30, 0, 0, time.UTC),
			time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC),
			time.Date(1000, 1, 1, 0, 0, 0, 0, time.UTC),
			time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC),
		}
		var now time.Time
		s := l.Open(t, &es.Options{Now: func() time.Time { return now }})
		for i, now2 := range times {
			now = now2
			want := now.UTC().Truncate(time.Microsecond)
			stream := fmt.Sprintf("s%d", i)
			storetest.CreateStream(t, s, stream)
			infos, err := s.Streams(t.Context(), stream)
			if err != nil || len(infos) != 1 {
				t.Fatal(infos, err)
			}
			if got := infos[0].CreatedAt; got != want {
				t.Errorf("CreatedAt is %v, want %v", got, want)
			}
			for _, ev := range append(storetest.MustAppend(t, s, stream, "a", 0, storetest.Deposits(20, 1)...), storetest.MustAppend(t, s, stream, "a", 20, storetest.Deposits(1, 1)...)...) {
				if ev.RecordedAt != want {
					t.Errorf("Append says %v, want %v", ev.RecordedAt, want)
				}
			}
			for _, ev := range storetest.Collect(t, s.ReadAggregate(t.Context(), stream, "a", 0)) {
				if ev.RecordedAt != want {
					t.Errorf("Read says %v, want %v", ev.RecordedAt, want)
				}
			}
		}
	})
}

// TestAppendNowOutOfRange has a clock of which the times can't be stored everywhere.
func TestAppendNowOutOfRange(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		now := time.Now()
		s := l.Open(t, &es.Options{Now: func() time.Time { return now }})
		storetest.CreateStream(t, s, "accounts")
		for _, now = range []time.Time{
			{},
			time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC),
			time.Date(999, 12, 31, 23, 59, 59, 999999999, time.UTC),
			time.Date(1000, 1, 1, 0, 0, 0, 0, time.FixedZone("", 3600)),
			time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC),
			time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("", -3600)),
			time.Date(-5000, 1, 1, 0, 0, 0, 0, time.UTC),
			time.Date(300000, 1, 1, 0, 0, 0, 0, time.UTC),
		} {
			_, err := s.Append(t.Context(), "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
			storetest.WantInvalid(t, now.String(), err, "Options.Now")
			storetest.WantInvalid(t, now.String(), s.CreateStream(t.Context(), "cards", nil), "Options.Now")
		}
		if n := len(storetest.Everything(t, s)); n != 0 {
			t.Errorf("%d events are stored", n)
		}
		storetest.WantHas(t, s, "cards", false)
	})
}

func TestAppendRecordedAt(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		// The servers of the suite run on this machine, so that their clock is the one here.
		const slack = 5 * time.Second
		before := time.Now().Add(-slack)
		storetest.CreateStream(t, s, "accounts")
		evs := storetest.MustAppend(t, s, "accounts", "a", 0, storetest.Deposits(1, 1)...)
		for range 5 {
			evs = append(evs, storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(2, 1)...)...)
		}
		after := time.Now().Add(slack)
		odd := 0
		for _, ev := range append(evs, storetest.Everything(t, s)...) {
			at := ev.RecordedAt
			if at.Location() != time.UTC || at.Before(before) || at.After(after) || at.Nanosecond()%1000 != 0 {
				t.Errorf("recorded at %v, want UTC, microseconds, between %v and %v", at, before, after)
			}
			if at.Nanosecond()%1e6 != 0 {
				odd++
			}
		}
		if odd == 0 {
			t.Errorf("all %d times are whole milliseconds, want microseconds", len(evs))
		}
		infos, err := s.Streams(t.Context(), "accounts")
		if err != nil || len(infos) != 1 {
			t.Fatal(infos, err)
		}
		if at := infos[0].CreatedAt; at.Location() != time.UTC || at.Before(before) || at.After(after) {
			t.Errorf("created at %v, want UTC, between %v and %v", at, before, after)
		}
	})
}

func TestAppendMetadata(t *testing.T) {
	type key struct{}
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		common := es.Metadata{"user": "ann", "trace": 7}
		s := l.Open(t, &es.Options{Metadata: func(ctx context.Context) es.Metadata {
			if ctx.Value(key{}) == nil {
				return nil
			}
			return common
		}})
		storetest.CreateStream(t, s, "accounts")
		own := es.Metadata{"user": "bob", "n": int8(3)}
		evs := storetest.Deposits(3, 1)
		evs[0].Metadata, evs[2].Metadata = own, own
		ctx := context.WithValue(t.Context(), key{}, true)
		stored, err := s.Append(ctx, "accounts", "a", 0, evs...)
		if err != nil {
			t.Fatal(err)
		}
		plain := storetest.MustAppend(t, s, "accounts", "a", 3, evs[0])
		wants := []es.Metadata{
			{"user": "bob", "n": int64(3), "trace": int64(7)},
			{"user": "ann", "trace": int64(7)},
			{"user": "bob", "n": int64(3), "trace": int64(7)},
			{"user": "bob", "n": int64(3)},
		}
		stored = append(stored, plain...)
		check := func(what string, evs []es.Event) {
			for i, want := range wants {
				if !maps.Equal(evs[i].Metadata, want) {
					t.Errorf("%s: metadata of event %d are %#v, want %#v", what, i, evs[i].Metadata, want)
				}
			}
		}
		check("Append", stored)
		// What a caller does with maps of its own, or with those it got, reaches nobody else.
		for _, ev := range stored {
			ev.Metadata["user"] = "eve"
			ev.Data[0] = '?'
		}
		if evs[1].Metadata != nil || evs[1].ID != uuid.Nil {
			t.Errorf("the caller's event has become %+v, want it untouched", evs[1])
		}
		if want := (es.Metadata{"user": "bob", "n": int8(3)}); !maps.Equal(own, want) {
			t.Errorf("the caller's metadata have become %#v, want %#v", own, want)
		}
		if want := (es.Metadata{"user": "ann", "trace": 7}); !maps.Equal(common, want) {
			t.Errorf("the metadata of Options.Metadata have become %#v, want %#v", common, want)
		}
		read := storetest.Everything(t, s)
		check("Read", read)
		for _, ev := range read {
			ev.Metadata["user"], ev.Data[0] = "eve", '?'
		}
		check("second Read", storetest.Everything(t, s))
		if data := storetest.Everything(t, s)[0].Data; data[0] != '{' {
			t.Errorf("data are %s, want what was stored", data)
		}
	})
}

// TestMetadataOfNamedTypes stores values of named string types and UUIDs: they come back, and are found, as text.
func TestMetadataOfNamedTypes(t *testing.T) {
	type tenant string
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "accounts")
		id := uuid.New()
		stored := storetest.MustAppend(t, s, "accounts", "a", 0, es.NewEvent{Payload: storetest.Deposited{}, Metadata: es.Metadata{"tenant": tenant("ä"), "id": id}})
		if md := stored[0].Metadata; md["tenant"] != "ä" || md["id"] != id.String() {
			t.Errorf("stored %#v", md)
		}
		for _, m := range []es.Match{es.Meta("tenant").Equals(tenant("ä")), es.Meta("tenant").In("x", tenant("ä")), es.Meta("id").Equals(id), es.Meta("id").Equals(id.String())} {
			storetest.SameEvents(t, "found", storetest.Collect(t, s.Read(t.Context(), es.FromAll(m), es.ReadOptions{})), stored)
		}
	})
}
