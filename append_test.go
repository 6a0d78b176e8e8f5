package eventstore_test

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/uuid"

	es "example.com/eventstore"
)

func TestAppendExpectedVersion(t *testing.T) {
	forEachStore(t, func(t *testing.T, s *es.Store) {
		createStream(t, s, "accounts")
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
					before := mustAppend(t, s, "accounts", id, es.MustNotExist, events(have, 1)...)
					stored, err := s.Append(t.Context(), "accounts", id, c.expected, events(n, 100)...)
					if !c.ok {
						wantConflict(t, what, err, es.ConflictError{Stream: "accounts", AggregateID: id, Expected: c.expected, Actual: int64(have)})
						if stored != nil {
							t.Errorf("%s: returned %d events with the error, want none", what, len(stored))
						}
					} else if err != nil {
						t.Errorf("%s: %v", what, err)
					}
					got := collect(t, s.ReadAggregate(t.Context(), "accounts", id, 0))
					sameEvents(t, what, got, append(before, stored...))
					wantVersions(t, got, len(before)+len(stored))
				}
			}
		}
	})
}

func TestAppendNothing(t *testing.T) {
	forEachStore(t, func(t *testing.T, s *es.Store) {
		stored, err := s.Append(t.Context(), "no such stream", "a", 7)
		if stored != nil || err != nil {
			t.Errorf("no events: returned %v, %v, want nothing", stored, err)
		}
	})
}

func TestAppendStreamNotFound(t *testing.T) {
	forEachStore(t, func(t *testing.T, s *es.Store) {
		createStream(t, s, "accounts")
		for _, expected := range []es.ExpectedVersion{es.MustNotExist, 3, es.AnyVersion, es.MustExist} {
			for _, n := range []int{1, 40, 6000} {
				_, err := s.Append(t.Context(), "account", "a", expected, events(n, 1)...)
				wantErr(t, fmt.Sprintf("%d events, expected %d", n, int64(expected)), err, es.ErrStreamNotFound)
			}
		}
		if got := everything(t, s); len(got) != 0 {
			t.Errorf("%d events are stored, want none", len(got))
		}
	})
}

// TestAppendSameIDInStreams has aggregates of one ID in two streams, which are two aggregates.
func TestAppendSameIDInStreams(t *testing.T) {
	forEachStore(t, func(t *testing.T, s *es.Store) {
		createStream(t, s, "accounts", "cards")
		a := mustAppend(t, s, "accounts", "x", es.MustNotExist, events(2, 1)...)
		b := mustAppend(t, s, "cards", "x", es.MustNotExist, events(3, 10)...)
		a = append(a, mustAppend(t, s, "accounts", "x", 2, events(1, 3)...)...)
		sameEvents(t, "accounts", collect(t, s.ReadAggregate(t.Context(), "accounts", "x", 0)), a)
		sameEvents(t, "cards", collect(t, s.ReadAggregate(t.Context(), "cards", "x", 0)), b)
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
	forEachStore(t, func(t *testing.T, s *es.Store) {
		createStream(t, s, "accounts", "cards")
		first := withIDs(events(3, 1))
		second := withIDs(events(1, 4))
		stored := mustAppend(t, s, "accounts", "a", es.MustNotExist, first...)
		stored = append(stored, mustAppend(t, s, "accounts", "a", 3, second...)...)
		mustAppend(t, s, "accounts", "b", es.MustNotExist, events(2, 50)...)
		all := everything(t, s)
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
						evs[i] = es.NewEvent{ID: uuid.New(), Payload: opened{"other"}}
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
							sameEvents(t, what, got, want)
						}
						continue
					}
					wantConflict(t, what, err, es.ConflictError{Stream: to.stream, AggregateID: to.id, Expected: expected, Actual: to.actual})
				}
			}
		}
		sameEvents(t, "everything", everything(t, s), all)

		// A long append repeated, and one that ends in an ID that is stored elsewhere.
		long := withIDs(events(1200, 1))
		want := mustAppend(t, s, "accounts", "long", es.MustNotExist, long...)
		again, err := s.Append(t.Context(), "accounts", "long", es.MustNotExist, long...)
		if err != nil {
			t.Fatal(err)
		}
		sameEvents(t, "1200 events repeated", again, want)
		evs := withIDs(events(1200, 1))
		evs[1199].ID = stored[0].ID
		_, err = s.Append(t.Context(), "accounts", "other", es.AnyVersion, evs...)
		wantConflict(t, "1200 events of which the last is stored", err, es.ConflictError{Stream: "accounts", AggregateID: "other", Expected: es.AnyVersion})
		if n := len(everything(t, s)); n != len(all)+1200 {
			t.Errorf("%d events are stored, want %d", n, len(all)+1200)
		}
	})
}

// TestAppendRepeatedAtOnce has many appends of the same IDs race: all of them succeed with the
// same events.
func TestAppendRepeatedAtOnce(t *testing.T) {
	forEachStore(t, func(t *testing.T, s *es.Store) {
		createStream(t, s, "accounts")
		for _, expected := range []es.ExpectedVersion{es.MustNotExist, es.AnyVersion} {
			id := fmt.Sprint(int64(expected))
			evs := withIDs(events(3, 1))
			got := make([][]es.Event, 16)
			for i, err := range race(16, func(i int) (err error) {
				got[i], err = s.Append(context.Background(), "accounts", id, expected, evs...)
				return err
			}) {
				if err != nil {
					t.Errorf("racer %d, expected %d: %v", i, int64(expected), err)
				}
			}
			stored := collect(t, s.ReadAggregate(t.Context(), "accounts", id, 0))
			wantVersions(t, stored, 3)
			for i := range got {
				sameEvents(t, fmt.Sprintf("racer %d", i), got[i], stored)
			}
		}
	})
}

// TestAppendMany stores 20,000 events with one call, or none of them.
func TestAppendMany(t *testing.T) {
	forEachLane(t, func(t *testing.T, l lane) {
		n := 20000
		if l.odd {
			n = 5500 // more than one statement on MySQL
		}
		s := l.open(t, nil)
		createStream(t, s, "accounts")
		refused := withIDs(events(n, 1))
		for _, expected := range []es.ExpectedVersion{1, es.MustExist} {
			_, err := s.Append(t.Context(), "accounts", "big", expected, refused...)
			wantConflict(t, "to a missing aggregate", err, es.ConflictError{Stream: "accounts", AggregateID: "big", Expected: expected})
		}
		one := mustAppend(t, s, "accounts", "one", es.MustNotExist, events(1, 1)...)
		refused[n-10].ID = one[0].ID
		_, err := s.Append(t.Context(), "accounts", "big", es.MustNotExist, refused...)
		wantConflict(t, "with an ID in use near the end", err, es.ConflictError{Stream: "accounts", AggregateID: "big", Expected: es.MustNotExist})
		sameEvents(t, "after refusals", everything(t, s), one)
		wantIdle(t, l, "after refusals")

		stored := mustAppend(t, s, "accounts", "big", es.MustNotExist, events(n, 1)...)
		wantVersions(t, stored, n)
		sameEvents(t, "stored", collect(t, s.ReadAggregate(t.Context(), "accounts", "big", 0)), stored)
		wantIdle(t, l, "at the end")
	})
}

// TestAppendReturnsWhatIsRead compares the results of concurrent appends of several events with
// what a read finds.
func TestAppendReturnsWhatIsRead(t *testing.T) {
	forEachStore(t, func(t *testing.T, s *es.Store) {
		createStream(t, s, "accounts", "cards")
		const writers, rounds = 16, 6
		got := make([][]es.Event, writers)
		for i, err := range race(writers, func(i int) error {
			for k := range rounds {
				stream, id := []string{"accounts", "cards"}[i%2], fmt.Sprintf("w%d", i)
				expected := []es.ExpectedVersion{es.AnyVersion, es.ExpectedVersion(3 * k)}[k%2]
				evs := events(3, int64(100*i+k))
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
		for _, ev := range everything(t, s) {
			byPosition[ev.Position] = ev
		}
		if len(byPosition) != writers*rounds*3 {
			t.Fatalf("%d events are stored, want %d", len(byPosition), writers*rounds*3)
		}
		for i := range got {
			wantVersions(t, got[i], rounds*3)
			for _, ev := range got[i] {
				sameEvents(t, fmt.Sprintf("writer %d", i), []es.Event{ev}, []es.Event{byPosition[ev.Position]})
			}
		}
	})
}

func TestAppendNow(t *testing.T) {
	forEachLane(t, func(t *testing.T, l lane) {
		// Summer and winter, zones, nanoseconds, and hours that daylight saving skips or repeats
		// where a lane's session lives.
		times := []time.Time{
			time.Date(2024, 7, 1, 12, 30, 0, 123456789, time.UTC),
			time.Date(2024, 1, 31, 23, 59, 59, 999999999, time.FixedZone("", -12*3600)),
			time.Date(2024, 3, 10, 2, 30, 0, 1000, time.UTC),
			time.Date(2024, 11, 3, 1, 30, 0, 0, time.UTC),
			time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC),
			time.Date(1001, 1, 1, 0, 0, 0, 0, time.UTC),
			time.Date(9998, 12, 31, 23, 59, 59, 999999000, time.UTC),
		}
		var now time.Time
		s := l.open(t, &es.Options{Now: func() time.Time { return now }})
		for i, now2 := range times {
			now = now2
			want := now.UTC().Truncate(time.Microsecond)
			stream := fmt.Sprintf("s%d", i)
			createStream(t, s, stream)
			infos, err := s.Streams(t.Context(), stream)
			if err != nil || len(infos) != 1 {
				t.Fatal(infos, err)
			}
			if got := infos[0].CreatedAt; got != want {
				t.Errorf("CreatedAt is %v, want %v", got, want)
			}
			for _, ev := range append(mustAppend(t, s, stream, "a", 0, events(20, 1)...), mustAppend(t, s, stream, "a", 20, events(1, 1)...)...) {
				if ev.RecordedAt != want {
					t.Errorf("Append says %v, want %v", ev.RecordedAt, want)
				}
			}
			for _, ev := range collect(t, s.ReadAggregate(t.Context(), stream, "a", 0)) {
				if ev.RecordedAt != want {
					t.Errorf("Read says %v, want %v", ev.RecordedAt, want)
				}
			}
		}
	})
}

func TestAppendRecordedAt(t *testing.T) {
	forEachStore(t, func(t *testing.T, s *es.Store) {
		// The servers of the suite run on this machine, so that their clock is the one here.
		const slack = 5 * time.Second
		before := time.Now().Add(-slack)
		createStream(t, s, "accounts")
		evs := mustAppend(t, s, "accounts", "a", 0, events(1, 1)...)
		for range 5 {
			evs = append(evs, mustAppend(t, s, "accounts", "a", es.AnyVersion, events(2, 1)...)...)
		}
		after := time.Now().Add(slack)
		odd := 0
		for _, ev := range append(evs, everything(t, s)...) {
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
	forEachLane(t, func(t *testing.T, l lane) {
		common := es.Metadata{"user": "ann", "trace": 7}
		s := l.open(t, &es.Options{Metadata: func(ctx context.Context) es.Metadata {
			if ctx.Value(key{}) == nil {
				return nil
			}
			return common
		}})
		createStream(t, s, "accounts")
		own := es.Metadata{"user": "bob", "n": int8(3)}
		evs := events(3, 1)
		evs[0].Metadata, evs[2].Metadata = own, own
		ctx := context.WithValue(t.Context(), key{}, true)
		stored, err := s.Append(ctx, "accounts", "a", 0, evs...)
		if err != nil {
			t.Fatal(err)
		}
		plain := mustAppend(t, s, "accounts", "a", 3, evs[0])
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
		read := everything(t, s)
		check("Read", read)
		for _, ev := range read {
			ev.Metadata["user"], ev.Data[0] = "eve", '?'
		}
		check("second Read", everything(t, s))
		if data := everything(t, s)[0].Data; data[0] != '{' {
			t.Errorf("data are %s, want what was stored", data)
		}
	})
}
