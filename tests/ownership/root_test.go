package ownership_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// Packed is a payload that refers to memory which its folds can reach.
type Packed struct {
	Items  []string
	Counts map[string]int
	Note   *string
}

func (Packed) EventName() string { return "order.packed" }

// parcel is a state that takes over what the payloads refer to, and changes it.
type parcel struct {
	Items  []string
	Counts map[string]int
	Note   *string
	Seen   []string // what the second entry found in each event
}

// parcels returns an aggregate whose folds change the memory of the events that they get.
func parcels() *es.Aggregate[parcel] {
	return &es.Aggregate[parcel]{
		Stream: "accounts",
		When: []es.Fold[parcel]{
			es.On(func(p *parcel, e Packed) {
				for i := range p.Items {
					p.Items[i] += "!"
				}
				for key := range p.Counts {
					p.Counts[key]++
				}
				if p.Note != nil {
					*p.Note += "!"
				}
				e.Items[0] += "?"
				p.Items, p.Counts, p.Note = e.Items, e.Counts, e.Note
			}),
			es.OnEvent(func(p *parcel, e Packed, ev es.Event) {
				p.Seen = append(p.Seen, fmt.Sprint(e.Items, e.Counts, *e.Note, string(ev.Data), ev.Metadata["by"]))
				e.Items[0] = "changed"
				ev.Data[0] = 'X'
				ev.Metadata["by"] = "changed"
			}),
			es.OnEvent(func(p *parcel, e Packed, ev es.Event) {
				p.Seen = append(p.Seen, fmt.Sprint(e.Items, e.Counts, *e.Note, string(ev.Data), ev.Metadata["by"]))
			}),
		},
	}
}

func packed(i int) Packed {
	note := fmt.Sprint("note ", i)
	return Packed{Items: []string{fmt.Sprint("item ", i), "other"}, Counts: map[string]int{"n": i}, Note: &note}
}

// plainJSON is a codec that is none of the package's own.
type plainJSON struct{}

func (plainJSON) Marshal(v any) ([]byte, error)      { return json.Marshal(v) }
func (plainJSON) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

// TestRecordedIsRecorded changes payloads and states after they were recorded, by every way in which
// events are recorded.
func TestRecordedIsRecorded(t *testing.T) {
	pass := es.Middleware{Append: func(ctx context.Context, b es.Batch, next func(context.Context, es.Batch) ([]es.Event, error)) ([]es.Event, error) {
		return next(ctx, b)
	}}
	for name, opts := range map[string]*es.Options{"plain": nil, "middleware": {Middleware: []es.Middleware{pass}}, "codec": {Codec: plainJSON{}}} {
		t.Run(name, func(t *testing.T) {
			storetest.ForEach(t, storetest.SomeLanes, storetest.Usual, func(t *testing.T, l storetest.Lane) {
				s := l.Open(t, opts)
				ctx := t.Context()
				storetest.CreateStream(t, s, "accounts")
				parcels := parcels()
				record := func(r *es.Root[parcel], i int) {
					md := es.Metadata{"by": "ann"}
					p := packed(i)
					if i%2 == 0 {
						r.Record(p, md)
					} else {
						r.RecordEvent(es.NewEvent{Payload: p, Metadata: md})
					}
					if name != "codec" || i > 2 { // a new root does not know the store's codec
						p.Items[1], p.Counts["n"], *p.Note = "mine", 100, "mine"
					}
					md["by"] = "mine"
					for _, ev := range r.Uncommitted() {
						ev.Metadata["by"] = "mine"
					}
				}
				var want []string
				for i := range 6 {
					text, err := json.Marshal(packed(i))
					if err != nil {
						t.Fatal(err)
					}
					want = append(want, string(text))
				}
				fresh := parcels.New("a")
				record(fresh, 0)
				record(fresh, 1)
				if _, err := parcels.Save(ctx, s, fresh); err != nil {
					t.Fatal(err)
				}
				record(fresh, 2)
				if _, err := parcels.Save(ctx, s, fresh); err != nil {
					t.Fatal(err)
				}
				r, err := parcels.Execute(ctx, s, "a", func(r *es.Root[parcel]) error {
					record(r, 3)
					record(r, 4)
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				record(r, 5)
				if _, err := parcels.Save(ctx, s, r); err != nil {
					t.Fatal(err)
				}
				for i, ev := range storetest.Everything(t, s) {
					if string(ev.Data) != want[i] || ev.Metadata["by"] != "ann" {
						t.Errorf("event %d is stored as %s, %v; want %s", i, ev.Data, ev.Metadata, want[i])
					}
				}
				loaded, err := parcels.Load(ctx, s, "a")
				if err != nil {
					t.Fatal(err)
				}
				for i := range 6 {
					seen := fmt.Sprint(packed(i).Items, packed(i).Counts, *packed(i).Note, want[i], "ann")
					if got := loaded.State().Seen[2*i : 2*i+2]; !slices.Equal(got, []string{seen, seen}) {
						t.Errorf("event %d: the folds saw %q, want %q", i, got, seen)
					}
				}
				if got, want := fmt.Sprint(r.State().Seen), fmt.Sprint(loaded.State().Seen); got != want {
					t.Errorf("as recorded the folds saw\n%s, as loaded\n%s", got, want)
				}
			})
		})
	}
}

// TestMiddlewareReplacesRecorded has middleware give recorded events other payloads.
func TestMiddlewareReplacesRecorded(t *testing.T) {
	type change func(es.Batch) es.Batch
	for name, c := range map[string]change{
		"payload": func(b es.Batch) es.Batch {
			for i, ev := range b.Events {
				p := ev.Payload.(Packed)
				p.Items = []string{"replaced"}
				b.Events[i].Payload = p
			}
			return b
		},
		"events": func(b es.Batch) es.Batch {
			for i := range b.Events {
				b.Events[i] = es.NewEvent{ID: b.Events[i].ID, Payload: storetest.Deposited{Cents: 7}}
			}
			return b
		},
		"order": func(b es.Batch) es.Batch {
			slices.Reverse(b.Events)
			return b
		},
		"fewer": func(b es.Batch) es.Batch {
			b.Events = b.Events[1:]
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.ForEach(t, storetest.SomeLanes, storetest.Usual, func(t *testing.T, l storetest.Lane) {
				s := l.Open(t, &es.Options{Middleware: []es.Middleware{{
					Append: func(ctx context.Context, b es.Batch, next func(context.Context, es.Batch) ([]es.Event, error)) ([]es.Event, error) {
						return next(ctx, c(b))
					},
				}}})
				storetest.CreateStream(t, s, "accounts")
				parcels := parcels()
				parcels.When = append(parcels.When, es.OnAny(func(*parcel, es.Event) {}))
				if _, err := parcels.Execute(t.Context(), s, "a", func(r *es.Root[parcel]) error {
					r.Record(packed(0))
					r.Record(packed(1))
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, ev := range storetest.Everything(t, s) {
					got = append(got, string(ev.Data))
				}
				var want []string
				b := c(es.Batch{Events: []es.NewEvent{{Payload: packed(0)}, {Payload: packed(1)}}})
				for _, ev := range b.Events {
					text, err := json.Marshal(ev.Payload)
					if err != nil {
						t.Fatal(err)
					}
					want = append(want, string(text))
				}
				if !slices.Equal(got, want) {
					t.Errorf("stored %q, want %q", got, want)
				}
			})
		})
	}
}

// TestSaveOnSuccessor saves roots that were loaded before their aggregate was deleted and begun anew
// up to the same version.
func TestSaveOnSuccessor(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts")
		begin := func(id string, n int) {
			storetest.MustAppend(t, s, "accounts", id, es.MustNotExist, storetest.Deposits(n, 1)...)
		}
		for _, n := range []int{1, 3} { // events that are saved
			for _, version := range []int{1, 5} {
				for _, load := range []string{"loaded", "saved", "snapshot"} {
					id := fmt.Sprintf("%d at %d, %s", n, version, load)
					accounts := storetest.Ledgers(0, 0)
					if load == "snapshot" {
						accounts.Snapshot.Every = 1
					}
					if load == "snapshot" {
						begin(id, version)
						if err := accounts.SaveSnapshot(ctx, s, id); err != nil {
							t.Fatal(err)
						}
					} else {
						begin(id, version)
					}
					var r *es.Root[storetest.Ledger]
					var err error
					if load == "saved" {
						if err := s.DeleteAggregate(ctx, "accounts", id); err != nil {
							t.Fatal(err)
						}
						r = accounts.New(id)
						for range version {
							r.Record(storetest.Deposited{Cents: 1})
						}
						_, err = accounts.Save(ctx, s, r)
					} else {
						r, err = accounts.Load(ctx, s, id)
					}
					if err != nil {
						t.Fatal(err)
					}
					if err := s.DeleteAggregate(ctx, "accounts", id); err != nil {
						t.Fatal(err)
					}
					begin(id, version)
					for range n {
						r.Record(storetest.Deposited{Cents: 100})
					}
					want := es.ConflictError{Stream: "accounts", AggregateID: id, Expected: es.ExpectedVersion(version), Actual: int64(version)}
					_, err = accounts.Save(ctx, s, r)
					storetest.WantConflict(t, id, err, want)
					if l.DB != nil {
						l.InTx(t, s, true, nil, func(_ *sql.Tx, in *es.Store) {
							_, err := accounts.Save(ctx, in, r)
							storetest.WantConflict(t, id+" in a transaction", err, want)
						})
					}
					if got := storetest.Collect(t, s.ReadAggregate(ctx, "accounts", id, 0)); len(got) != version {
						t.Errorf("%s: %d events, want %d", id, len(got), version)
					}
					// Execute loads the successor and goes on from there.
					if _, err := accounts.Execute(ctx, s, id, func(r *es.Root[storetest.Ledger]) error {
						r.Record(storetest.Deposited{Cents: 100})
						return nil
					}); err != nil {
						t.Errorf("%s: %v", id, err)
					}
				}
			}
		}
	})
}

// TestSavesOnSuccessorsTogether is TestSaveOnSuccessor for saves that share a statement.
func TestSavesOnSuccessorsTogether(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts")
		const n = 24
		roots := make([]*es.Root[storetest.Account], n)
		for i := range roots {
			id := fmt.Sprint(i)
			storetest.MustAppend(t, s, "accounts", id, es.MustNotExist, storetest.Deposits(2, 1)...)
			var err error
			if roots[i], err = storetest.Accounts.Load(ctx, s, id); err != nil {
				t.Fatal(err)
			}
			if i%3 == 0 {
				if err := s.DeleteAggregate(ctx, "accounts", id); err != nil {
					t.Fatal(err)
				}
				storetest.MustAppend(t, s, "accounts", id, es.MustNotExist, storetest.Deposits(2, 1)...)
			}
			for range 1 + i%2 {
				roots[i].Record(storetest.Deposited{Cents: 5})
			}
		}
		for i, err := range storetest.Race(n, func(i int) error {
			_, err := storetest.Accounts.Save(ctx, s, roots[i])
			return err
		}) {
			switch {
			case i%3 == 0 && !errors.Is(err, es.ErrConflict):
				t.Errorf("%d: saved on its successor: %v", i, err)
			case i%3 != 0 && err != nil:
				t.Errorf("%d: %v", i, err)
			}
			want := 2
			if i%3 != 0 {
				want += 1 + i%2
			}
			if got := storetest.Collect(t, s.ReadAggregate(ctx, "accounts", fmt.Sprint(i), 0)); len(got) != want {
				t.Errorf("%d: %d events, want %d", i, len(got), want)
			}
		}
	})
}
