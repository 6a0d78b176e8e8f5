package reads_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"strings"
	"testing"

	"github.com/google/uuid"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestReadOfFewRare counts what the server reads for the first few of many events that a match picks
// out of many more: not those behind.
func TestReadOfFewRare(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		if l.Dialect != es.MySQL || !strings.HasSuffix(l.Name, "-one") {
			t.Skip("only MySQL counts by session, which a pool of one connection is")
		}
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "accounts")
		l.Fill(t, prefix, 20_000, 100)
		read := func() {
			got := storetest.Collect(t, s.Read(t.Context(), es.FromAll(es.ByEventName.Equals("account.opened")), es.ReadOptions{Limit: 5}))
			if len(got) != 5 || got[4].Position != 500 {
				t.Errorf("%d events, want 5 up to position 500", len(got))
			}
		}
		read() // and the statement is prepared
		if n := l.RowsRead(t, read); n > 1200 {
			t.Errorf("the server read %d rows and entries of indexes for 5 events among 500", n)
		}
	})
}

// TestReadNested uses the store within the loop body, also where the pool has one connection, and
// leaves loops early.
func TestReadNested(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		all := storetest.FillLog(t, s, 600)
		seq := s.Read(ctx, es.FromAll(), es.ReadOptions{})
		n := 0
		for ev, err := range seq {
			if err != nil {
				t.Fatal(err)
			}
			storetest.WantIdle(t, l, "in the loop body")
			if n++; n%100 == 0 {
				inner := 0
				for _, err := range s.ReadAggregate(ctx, ev.Stream, ev.AggregateID, 0) {
					if err != nil {
						t.Fatal(err)
					}
					storetest.WantIdle(t, l, "in the inner loop body")
					if inner++; inner == 5 {
						break
					}
				}
				storetest.MustAppend(t, s, "cards", "new", es.AnyVersion, storetest.Deposits(1, 1)...)
			}
		}
		if n < 600 {
			t.Errorf("%d events, want at least 600", n)
		}
		// The sequence can be used again, and begins anew.
		storetest.SameEvents(t, "again", storetest.Collect(t, seq)[:600], all)
		for i := range 3 {
			k := 0
			for _, err := range seq {
				if err != nil {
					t.Fatal(err)
				}
				if k++; k > 300*i {
					break
				}
			}
			storetest.WantIdle(t, l, "after a break")
		}
	})
}

func TestReadCancelled(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.FillLog(t, s, 300)
		storetest.MustAppend(t, s, "cards", "long", es.AnyVersion, storetest.Deposits(300, 1)...)
		for what, seq := range map[string]func(context.Context) func(func(es.Event, error) bool){
			"Read": func(ctx context.Context) func(func(es.Event, error) bool) {
				return s.Read(ctx, es.FromAll(), es.ReadOptions{})
			},
			"Backward": func(ctx context.Context) func(func(es.Event, error) bool) {
				return s.Read(ctx, es.FromAll(), es.ReadOptions{Backward: true})
			},
			"Aggregate": func(ctx context.Context) func(func(es.Event, error) bool) {
				return s.ReadAggregate(ctx, "cards", "long", 0)
			},
			"Subscribe": func(ctx context.Context) func(func(es.Event, error) bool) { return s.Subscribe(ctx, es.FromAll(), 0) },
		} {
			for _, at := range []int{0, 1, 10, 256} {
				ctx, cancel := context.WithCancelCause(t.Context())
				if at == 0 {
					cancel(nil)
				}
				n := 0
				var last error
				for ev, err := range seq(ctx) {
					if last != nil {
						t.Errorf("%s: yields %v, %v after the error", what, ev, err)
					}
					if last = err; err != nil {
						if storetest.Describe(ev) != storetest.Describe(es.Event{}) {
							t.Errorf("%s: yields %v with the error", what, ev)
						}
						continue
					}
					if n++; n == at {
						cancel(errors.New("enough"))
					}
				}
				cancel(nil)
				if !errors.Is(last, context.Canceled) || n != at {
					t.Errorf("%s: cancelled at %d, it ends with %v after %d events", what, at, last, n)
				}
				storetest.WantIdle(t, l, what)
			}
		}
	})
}

// TestCancelled calls everything with a context that has ended.
func TestCancelled(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for _, c := range storetest.EveryCall {
			if err := c.Call(ctx, s); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v, want context.Canceled", c.Name, err)
			}
			storetest.WantIdle(t, l, c.Name)
		}
		if n := len(storetest.Everything(t, s)); n != 0 {
			t.Errorf("%d events are stored, want none", n)
		}
		storetest.WantHas(t, s, "accounts", true)
	})
}

// TestPayloadBytes stores JSON that parsers and databases like to rewrite.
func TestPayloadBytes(t *testing.T) {
	texts := []string{
		`{"b":1,"a":2}`, "{ \"a\" :\t1 ,\n \"a\": 2 }", `[1.0,1e2,1E+2,-0,-0.0,0.10]`, `12345678901234567890123`, `9007199254740993`,
		`"\u0000"`, `"\u00e9 é \ud83d\ude00 😀 \/ / \\ \" \u2028"`, `"' ; -- \\' $1 ? {events} %s"`, `null`, `true`, `""`, `{}`, ` {} `, "\"\u007f\u0080\ufeff\u2028\"",
		`{"` + strings.Repeat("x", 300) + `":{"a":[[[[[]]]]]}}`, `"` + strings.Repeat("ü", 1<<19) + `"`,
	}
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, &es.Options{Codec: storetest.Verbatim{}})
		storetest.CreateStream(t, s, "accounts")
		var evs []es.NewEvent
		for _, text := range texts {
			evs = append(evs, es.NewEvent{Payload: storetest.Raw{Name: "text", Text: text}})
		}
		stored := storetest.MustAppend(t, s, "accounts", "together", es.MustNotExist, evs...)
		for i, ev := range evs { // alone, so that Postgres takes its other statement
			stored = append(stored, storetest.MustAppend(t, s, "accounts", "alone", es.ExpectedVersion(i), ev)...)
		}
		read := storetest.Everything(t, s)
		for i := range read {
			want := []byte(texts[i%len(texts)])
			if !bytes.Equal(read[i].Data, want) || !bytes.Equal(stored[i].Data, want) {
				t.Errorf("stored %.100q, read %.100q, want %.100q", stored[i].Data, read[i].Data, want)
			}
		}
	})
}

type numbers struct {
	I int64
	U uint64
	F float64
	J json.Number
}

func (numbers) EventName() string { return "numbers" }

// TestNumbers keeps all digits of payloads and metadata.
func TestNumbers(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "accounts")
		want := numbers{math.MinInt64 + 1, math.MaxUint64, math.Nextafter(0.1, 1), "123456789012345678901234567890.10"}
		md := es.Metadata{"max": int64(math.MaxInt64), "min": int64(math.MinInt64), "odd": int64(1<<53 + 1), "f": math.Nextafter(0.1, 1), "tiny": 5e-324, "huge": math.MaxFloat64, "whole": 3.0, "zero": 0.0, "int": int64(3)}
		storetest.MustAppend(t, s, "accounts", "a", es.MustNotExist, es.NewEvent{Payload: want, Metadata: md})
		ev := storetest.Everything(t, s)[0]
		if got, err := es.Decode[numbers](ev); err != nil || got != want {
			t.Errorf("decoded %+v, %v, want %+v", got, err, want)
		}
		if !maps.Equal(ev.Metadata, md) {
			t.Errorf("metadata are %#v, want %#v", ev.Metadata, md)
		}
		neg := storetest.MustAppend(t, s, "accounts", "a", 1, es.NewEvent{ID: uuid.New(), Payload: storetest.Deposited{}, Metadata: es.Metadata{"z": math.Copysign(0, -1)}})
		for _, ev := range append(neg, storetest.Everything(t, s)[1]) {
			if z, ok := ev.Metadata["z"].(float64); !ok || z != 0 || !math.Signbit(z) {
				t.Errorf("-0.0 comes back as %#v", ev.Metadata["z"])
			}
		}
	})
}
