package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
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
	for _, l := range storetest.Lanes() {
		if l.Name == "postgres" {
			s := l.OpenIn(f, l.NewPrefix(f), opts)
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

func FuzzPrefix(f *testing.F) {
	for _, prefix := range []string{"es_", "", "a", "Ünï", "x; DROP TABLE y", "1a", strings.Repeat("p", 33), "select ", "a\x00"} {
		f.Add(prefix)
	}
	lanes := storetest.Lanes()
	l := lanes[min(1, len(lanes)-1)]
	f.Fuzz(func(t *testing.T, prefix string) {
		memory := es.NewMemStore(&es.Options{TablePrefix: prefix}).Install(context.Background())
		if memory != nil && !errors.Is(memory, es.ErrInvalid) {
			t.Fatal(memory)
		}
		if l.DB == nil {
			return
		}
		s, err := es.Open(l.DB, l.Dialect, &es.Options{TablePrefix: prefix})
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
		if p := prefix; p != "" && strings.Count(schema.String(), "CREATE TABLE IF NOT EXISTS "+p) != 9 {
			t.Errorf("%q: the schema is\n%s", prefix, &schema)
		}
	})
}

func TestMain(m *testing.M) { storetest.Main(m) }

func TestAppendAndRead(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts")
		stored, err := s.Append(ctx, "accounts", "a", es.MustNotExist, storetest.Deposits(3, 1)...)
		if err != nil {
			t.Fatal(err)
		}
		more, err := s.Append(ctx, "accounts", "a", 3, storetest.Deposits(40, 4)...)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
		more, err = s.Append(ctx, "accounts", "a", es.AnyVersion, storetest.Deposits(2, 44)...)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
		for name, read := range map[string][]es.Event{
			"Read":          storetest.Collect(t, s.Read(ctx, es.FromAll(), es.ReadOptions{})),
			"ReadStream":    storetest.Collect(t, s.Read(ctx, es.FromStream("accounts"), es.ReadOptions{})),
			"ReadAggregate": storetest.Collect(t, s.ReadAggregate(ctx, "accounts", "a", 0)),
		} {
			storetest.SameEvents(t, name, read, stored)
		}
	})
}
