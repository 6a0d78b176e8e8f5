package aggregates_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// loadsOf counts the events that a store reads.
func loadsOf(opts *es.Options, n *atomic.Int64) *es.Options {
	if opts == nil {
		opts = &es.Options{}
	}
	opts.Middleware = append(opts.Middleware, es.Middleware{Load: func(_ context.Context, ev es.Event) (es.Event, error) {
		n.Add(1)
		return ev, nil
	}})
	return opts
}

func same(a, b storetest.Ledger) bool {
	return a.Owner == b.Owner && a.Cents == b.Cents && fmt.Sprint(a.History) == fmt.Sprint(b.History)
}

// TestSnapshotTail shows by counting that only what is behind a snapshot is read, and that the rest
// is when there is any doubt about it.
func TestSnapshotTail(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		var read atomic.Int64
		s := l.Open(t, loadsOf(nil, &read))
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts")
		a := storetest.Ledgers(10, 1)
		for i := range 34 {
			if _, err := a.Execute(ctx, s, "a", func(r *es.Root[storetest.Ledger]) error { r.Record(storetest.Deposited{Cents: int64(i)}); return nil }); err != nil {
				t.Fatal(err)
			}
		}
		want, err := storetest.Ledgers(0, 0).Load(ctx, s, "a")
		if err != nil {
			t.Fatal(err)
		}
		check := func(what string, a *es.Aggregate[storetest.Ledger], reads int64) {
			t.Helper()
			read.Store(0)
			r, err := a.Load(ctx, s, "a")
			if err != nil || !same(r.State(), want.State()) || r.Version() != want.Version() {
				t.Errorf("%s: loaded %+v at %d (%v), want %+v at %d", what, r.State(), r.Version(), err, want.State(), want.Version())
			}
			if n := read.Load(); n != reads {
				t.Errorf("%s: read %d events, want %d", what, n, reads)
			}
		}
		check("a snapshot at 30", a, 4)
		check("another schema", storetest.Ledgers(10, 2), 34)
		check("no snapshots", storetest.Ledgers(0, 1), 34)
		broken := &es.Aggregate[struct{ Cents string }]{Stream: "accounts", Snapshot: a.Snapshot, When: []es.Fold[struct{ Cents string }]{es.OnAny(func(*struct{ Cents string }, es.Event) {})}}
		read.Store(0)
		if r, err := broken.Load(ctx, s, "a"); err != nil || r.Version() != 34 || read.Load() != 34 {
			t.Errorf("a state that does not decode: %v, %d events read, want all", err, read.Load())
		}
		if err := storetest.Ledgers(10, 2).SaveSnapshot(ctx, s, "a"); err != nil {
			t.Fatal(err)
		}
		check("a snapshot saved at 34", storetest.Ledgers(10, 2), 0)

		// Long tails come in pages.
		storetest.MustAppend(t, s, "accounts", "a", 34, storetest.Deposits(700, 1)...)
		if want, err = storetest.Ledgers(0, 0).Load(ctx, s, "a"); err != nil {
			t.Fatal(err)
		}
		check("a long tail", storetest.Ledgers(10, 2), 700)

		// Deleted and made again up to the same version, it is another aggregate.
		if err := s.DeleteAggregate(ctx, "accounts", "a"); err != nil {
			t.Fatal(err)
		}
		storetest.MustAppend(t, s, "accounts", "a", 0, storetest.Deposits(40, 7)...)
		if want, err = storetest.Ledgers(0, 0).Load(ctx, s, "a"); err != nil {
			t.Fatal(err)
		}
		check("made again", storetest.Ledgers(10, 2), 40)
		if err := s.DeleteStream(ctx, "accounts"); err != nil {
			t.Fatal(err)
		}
		storetest.CreateStream(t, s, "accounts")
		if _, err := a.Load(ctx, s, "a"); !errors.Is(err, es.ErrAggregateNotFound) {
			t.Errorf("after its stream was deleted: %v", err)
		}
		storetest.WantErr(t, "a snapshot of nothing", a.SaveSnapshot(ctx, s, "a"), es.ErrAggregateNotFound)
		storetest.WantInvalid(t, "a snapshot of none", storetest.Ledgers(0, 0).SaveSnapshot(ctx, s, "a"), "Snapshot.Every")
		_, err = storetest.Ledgers(-1, 0).Load(ctx, s, "a")
		storetest.WantInvalid(t, "a negative Every", err, "Snapshot.Every")
		storetest.WantIdle(t, l, "at the end")
	})
}

// failingCodec fails to write, or to read, states.
type failingCodec struct {
	storetest.Verbatim
	marshal *atomic.Bool
}

func (c failingCodec) Marshal(v any) ([]byte, error) {
	if _, state := v.(storetest.Ledger); state && c.marshal.Load() {
		return nil, errors.New("no such luck")
	}
	return json.Marshal(v)
}

// TestSnapshotNeverFailsSave has the writing of states fail: saves succeed.
func TestSnapshotNeverFailsSave(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		fail := &atomic.Bool{}
		fail.Store(true)
		s := l.Open(t, &es.Options{Codec: failingCodec{marshal: fail}})
		storetest.CreateStream(t, s, "accounts")
		a := storetest.Ledgers(2, 1)
		for i := range 6 {
			if _, err := a.Execute(t.Context(), s, "a", func(r *es.Root[storetest.Ledger]) error { r.Record(storetest.Deposited{Cents: int64(i)}); return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.SaveSnapshot(t.Context(), s, "a"); err == nil || !strings.Contains(err.Error(), "no such luck") {
			t.Errorf("SaveSnapshot: %v, want the codec's error", err)
		}
		storetest.WantIdle(t, l, "at the end")
	})
}

// TestSnapshotRandom compares aggregates with snapshots, under changes of everything that can
// change, with full replays.
func TestSnapshotRandom(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, other := l.OpenTwice(t)
		seed := rand.Uint64()
		random := rand.New(rand.NewPCG(seed, 1))
		t.Logf("seed %d", seed)
		storetest.CreateStream(t, s, "accounts")
		steps := 150
		if l.Odd {
			steps = 40
		}
		for i := range steps {
			id := fmt.Sprint("a", random.IntN(3))
			a := storetest.Ledgers(1+random.IntN(8), random.IntN(2))
			s := []*es.Store{s, other}[random.IntN(2)]
			switch random.IntN(12) {
			case 0:
				if err := s.DeleteAggregate(t.Context(), "accounts", id); err != nil && !errors.Is(err, es.ErrAggregateNotFound) {
					t.Fatal(err)
				}
			case 1:
				storetest.MustAppend(t, s, "accounts", id, es.AnyVersion, storetest.Deposits(1+random.IntN(20), int64(i))...)
			case 2:
				for _, err := range storetest.Race(4, func(int) error {
					_, err := a.Execute(t.Context(), s, id, func(r *es.Root[storetest.Ledger]) error { r.Record(storetest.Deposited{Cents: 1}); return nil })
					return err
				}) {
					if err != nil {
						t.Fatal(err)
					}
				}
			default:
				if _, err := a.Execute(t.Context(), s, id, func(r *es.Root[storetest.Ledger]) error {
					for range 1 + random.IntN(3) {
						r.Record(storetest.Deposited{Cents: int64(i)})
					}
					return nil
				}); err != nil {
					t.Fatal(err)
				}
			}
			for schema := range 2 {
				got, err := storetest.Ledgers(5, schema).Load(t.Context(), s, id)
				want, err2 := storetest.Ledgers(0, 0).Load(t.Context(), s, id)
				if (err == nil) != (err2 == nil) {
					t.Fatalf("step %d: %v with snapshots, %v without", i, err, err2)
				}
				if err == nil && (!same(got.State(), want.State()) || got.Version() != want.Version()) {
					t.Fatalf("step %d: %+v at %d with snapshots, %+v at %d without", i, got.State(), got.Version(), want.State(), want.Version())
				}
			}
		}
	})
}

// TestSnapshotReadsByIndex counts what the server reads: the events after the snapshot, however
// many there are before it.
func TestSnapshotReadsByIndex(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		if l.Dialect != es.MySQL || !strings.HasSuffix(l.Name, "-one") {
			t.Skip("only MySQL counts by session, which a pool of one connection is")
		}
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		a := storetest.Ledgers(1000, 1)
		for i := range 5 {
			storetest.MustAppend(t, s, "accounts", fmt.Sprint("other", i), 0, storetest.Deposits(200, 1)...)
		}
		storetest.MustAppend(t, s, "accounts", "a", 0, storetest.Deposits(2000, 1)...)
		if err := a.SaveSnapshot(t.Context(), s, "a"); err != nil {
			t.Fatal(err)
		}
		storetest.MustAppend(t, s, "accounts", "a", 2000, storetest.Deposits(5, 1)...)
		load := func() {
			t.Helper()
			if _, err := a.Load(t.Context(), s, "a"); err != nil {
				t.Fatal(err)
			}
		}
		load() // and the statement is prepared
		if n := l.RowsRead(t, load); n > 60 {
			t.Errorf("the server read %d rows for a tail of 5 events", n)
		}
	})
}
