package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	es "example.com/eventstore"
)

// The fuzz targets give what people can make up to a memory store and to Postgres, which have to
// agree: on what they refuse, and on what comes back.

// fuzzed is a pair of stores that are given the same.
type fuzzed struct {
	stores []*es.Store // memory and, unless -memory says otherwise, Postgres
	n      int
	mu     sync.Mutex
}

func newFuzzed(f *testing.F, opts *es.Options) *fuzzed {
	fz := &fuzzed{stores: []*es.Store{es.NewMemStore(opts)}}
	for _, l := range lanes {
		if l.name == "postgres" {
			s := l.openIn(f, l.newPrefix(f), opts)
			if err := s.Install(context.Background()); err != nil {
				f.Fatal(err)
			}
			fz.stores = append(fz.stores, s)
		}
	}
	return fz
}

// fresh returns a name that was not there before.
func (fz *fuzzed) fresh() string {
	fz.mu.Lock()
	defer fz.mu.Unlock()
	fz.n++
	return fmt.Sprint("fresh-", fz.n)
}

// each calls fn for each store, and checks that all of them refuse, or none.
func (fz *fuzzed) each(t *testing.T, fn func(s *es.Store) error) (refused bool) {
	t.Helper()
	for i, s := range fz.stores {
		err := fn(s)
		if err != nil && !errors.Is(err, es.ErrInvalid) {
			t.Fatalf("store %d: %v, want success or ErrInvalid", i, err)
		}
		if i > 0 && (err != nil) != refused {
			t.Fatalf("memory refuses: %v; Postgres: %v", refused, err)
		}
		refused = err != nil
	}
	return refused
}

func FuzzNames(f *testing.F) {
	f.Add("accounts", "a", "opened")
	f.Add("A b", "ä\u0301", "日本語")
	f.Add("%_\\'\"", " ", "\x7f")
	f.Add("", "\xff", "\x00")
	f.Add(strings.Repeat("x", 255), strings.Repeat("深", 85), strings.Repeat("n", 256))
	fz := newFuzzed(f, &es.Options{Codec: verbatim{}})
	f.Fuzz(func(t *testing.T, stream, id, name string) {
		ctx := context.Background()
		fz.mu.Lock()
		defer fz.mu.Unlock()
		fz.each(t, func(s *es.Store) error {
			defer func() { _ = s.DeleteStream(ctx, stream) }()
			if err := s.CreateStream(ctx, stream, nil); err != nil {
				return err
			}
			if _, err := s.Append(ctx, stream, id, es.MustNotExist, es.NewEvent{Payload: raw{name, "1"}}); err != nil {
				return err
			}
			n := 0
			for ev, err := range s.Read(ctx, es.FromStream(stream, es.ByAggregateID.Equals(id), es.ByEventName.In(name, "x")), es.ReadOptions{}) {
				if err != nil {
					return err
				}
				if ev.Stream != stream || ev.AggregateID != id || ev.Name != name {
					t.Errorf("%q/%q %q came back as %q/%q %q", stream, id, name, ev.Stream, ev.AggregateID, ev.Name)
				}
				n++
			}
			infos, err := s.Streams(ctx, stream)
			if n != 1 || len(infos) != 1 || infos[0].Name != stream {
				t.Errorf("%q/%q %q: %d events, streams %v", stream, id, name, n, infos)
			}
			return err
		})
	})
}

func FuzzMetadata(f *testing.F) {
	f.Add("key", "text", int64(1), 1.5, true)
	f.Add("", "\"key\":1", int64(math.MinInt64), math.MaxFloat64, false)
	f.Add(`k"\`, "\u0000\u2028<>&", int64(1)<<53+1, math.Copysign(0, -1), true)
	f.Add("\xff", "\xff", int64(0), math.NaN(), true)
	fz := newFuzzed(f, nil)
	f.Fuzz(func(t *testing.T, key, text string, n int64, x float64, b bool) {
		ctx := context.Background()
		stream := fz.fresh()
		md := es.Metadata{key: text, "n" + key: n, "x" + key: x, "b" + key: b}
		fz.each(t, func(s *es.Store) error {
			if err := s.CreateStream(ctx, stream, nil); err != nil {
				return err
			}
			defer func() { _ = s.DeleteStream(ctx, stream) }()
			if _, err := s.Append(ctx, stream, "a", 0, es.NewEvent{Payload: deposited{1}, Metadata: md}); err != nil {
				return err
			}
			found := 0
			for ev, err := range s.Read(ctx, es.FromStream(stream, es.Meta(key).Equals(text), es.Meta("n"+key).Equals(n), es.Meta("x"+key).AtMost(x), es.Meta("b"+key).In(b)), es.ReadOptions{}) {
				if err != nil {
					return err
				}
				if found++; !maps.Equal(ev.Metadata, md) {
					t.Errorf("%#v came back as %#v", md, ev.Metadata)
				}
			}
			if found != 1 {
				t.Errorf("%#v was found %d times", md, found)
			}
			return nil
		})
	})
}

func FuzzPayload(f *testing.F) {
	for _, text := range []string{`{}`, ` {"b":1, "a" : 12345678901234567890.10 } `, `"\u0000\ud800"`, `[1e400,-0.0]`, "null", "{", "\"\xff\"", ""} {
		f.Add([]byte(text))
	}
	fz := newFuzzed(f, &es.Options{Codec: verbatim{}})
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx := context.Background()
		stream := fz.fresh()
		fz.each(t, func(s *es.Store) error {
			if err := s.CreateStream(ctx, stream, nil); err != nil {
				return err
			}
			defer func() { _ = s.DeleteStream(ctx, stream) }()
			stored, err := s.Append(ctx, stream, "a", 0, es.NewEvent{Payload: raw{"raw", string(data)}})
			if err != nil {
				return err
			}
			for ev, err := range s.ReadAggregate(ctx, stream, "a", 0) {
				if err != nil {
					return err
				}
				if string(ev.Data) != string(data) || string(stored[0].Data) != string(data) {
					t.Errorf("%q came back as %q", data, ev.Data)
				}
			}
			return nil
		})
	})
}

func FuzzMatch(f *testing.F) {
	f.Add(0, 0, "kind", "text", int64(3), 0.5)
	f.Add(6, 8, "kind", "^t", int64(3), 0.5)
	f.Add(3, 5, "n", "", int64(1)<<53+1, math.Inf(1))
	f.Add(6, 7, "n", "", int64(math.MaxInt64), 9007199254740993.0)
	f.Add(5, 8, "", "7", int64(0), 0.0)
	f.Add(5, 8, "", "7$", int64(0), 0.0)
	// One clock for all, or a pattern finds in one store's times what it does not in another's.
	at := time.Date(2024, 2, 29, 23, 59, 58, 123457000, time.UTC)
	fz := newFuzzed(f, &es.Options{Now: func() time.Time { return at }})
	ids := make([]uuid.UUID, 6)
	for i := range ids {
		ids[i] = uuid.Must(uuid.NewV7())
	}
	for _, s := range fz.stores {
		if err := s.CreateStream(context.Background(), "accounts", nil); err != nil {
			f.Fatal(err)
		}
		for i, md := range []es.Metadata{
			nil, {"kind": "text", "n": 3}, {"kind": "Text", "n": 3.0}, {"kind": true, "n": int64(1)<<53 + 1}, {"kind": 0, "n": math.Copysign(0, -1), `k"`: `"kind":"text"`}, {"kind": "", "n": math.MaxInt64},
		} {
			if _, err := s.Append(context.Background(), "accounts", fmt.Sprint("a", i%2), es.AnyVersion, es.NewEvent{ID: ids[i], Payload: deposited{1}, Metadata: md}); err != nil {
				f.Fatal(err)
			}
		}
	}
	f.Fuzz(func(t *testing.T, field, op int, key, text string, n int64, x float64) {
		fields := []es.Field{es.ByAggregateID, es.ByEventName, es.ByEventID, es.ByVersion, es.ByPosition, es.ByRecordedAt, es.Meta(key), es.Meta("kind"), es.Meta("n")}
		fl := fields[abs(field)%len(fields)]
		for _, v := range []any{text, n, x, n%2 == 0, ids[abs(op)%len(ids)]} {
			m := []es.Match{
				fl.Equals(v), fl.NotEquals(v), fl.GreaterThan(v), fl.AtLeast(v), fl.LessThan(v), fl.AtMost(v), fl.In(v, text), fl.NotIn(v, n), fl.Matches(text),
			}[abs(op)%9]
			var answers []string
			fz.each(t, func(s *es.Store) error {
				found := ""
				for ev, err := range s.Read(context.Background(), es.FromAll(m), es.ReadOptions{}) {
					if err != nil {
						return err
					}
					found += fmt.Sprint(" ", ev.ID)
				}
				answers = append(answers, found)
				return nil
			})
			for _, a := range answers[min(1, len(answers)):] {
				if a != answers[0] {
					t.Errorf("%v, operator %d, %#v: Postgres finds%s, memory%s", fl, abs(op)%9, v, a, answers[0])
				}
			}
		}
	})
}

func abs(n int) int { return max(n, -(n + 1)) }

func FuzzPrefix(f *testing.F) {
	for _, prefix := range []string{"es_", "", "a", "Ünï", "x; DROP TABLE y", "1a", strings.Repeat("p", 33), "select ", "a\x00"} {
		f.Add(prefix)
	}
	l := lanes[min(1, len(lanes)-1)]
	f.Fuzz(func(t *testing.T, prefix string) {
		memory := es.NewMemStore(&es.Options{TablePrefix: prefix}).Install(context.Background())
		if memory != nil && !errors.Is(memory, es.ErrInvalid) {
			t.Fatal(memory)
		}
		if l.db == nil {
			return
		}
		s, err := es.Open(l.db, l.dialect, &es.Options{TablePrefix: prefix})
		if (err != nil) != (memory != nil) {
			t.Fatalf("%q: memory says %v, Postgres %v", prefix, memory, err)
		}
		if err != nil {
			return
		}
		var schema strings.Builder
		if err := s.WriteSchema(&schema); err != nil {
			t.Fatal(err)
		}
		if p := prefix; p != "" && strings.Count(schema.String(), "CREATE TABLE IF NOT EXISTS "+p) != 6 {
			t.Errorf("%q: the schema is\n%s", prefix, &schema)
		}
	})
}
