package panics_test

import (
	"context"
	"iter"
	"runtime"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// aggregate returns one with the bomb in all of its functions.
func (b *bomb) aggregate() *es.Aggregate[tally] {
	return &es.Aggregate[tally]{
		Stream: "accounts",
		Init: func() tally {
			b.at("Init")
			return tally{}
		},
		When: []es.Fold[tally]{
			es.On(func(s *tally, _ storetest.Deposited) {
				s.Deposits++
				b.at("fold")
			}),
			es.On(func(s *tally, _ fuse) { s.Fuses++ }),
			es.On(func(*tally, emitted) {}),
		},
		Commands: []es.Command[tally]{es.OnCommand(func(_ context.Context, r *es.Root[tally], e emitted) error {
			r.Record(fuse{1})
			r.Record(e)
			b.at("decide")
			return nil
		})},
	}
}

// caught returns what fn panics with, or nil.
func caught(fn func()) (value any) {
	defer func() { value = recover() }()
	fn()
	return nil
}

// deposits are more than a page of a read.
const deposits = 2500

// TestPanicGoesToCaller has every function of the application panic in calls that run nothing in the background:
// the panic reaches the caller as it is, nothing is stored, and nothing is left open, also where the next page is
// being read.
func TestPanicGoesToCaller(t *testing.T) {
	oneByOne(t, func(t *testing.T, l storetest.Lane) {
		b := &bomb{}
		s := l.Open(t, b.options())
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "long", 0, storetest.Deposits(deposits, 1)...)
		storetest.MustAppend(t, s, "accounts", "old", 0, es.NewEvent{Payload: fuseV1{1}})
		a := b.aggregate()
		before := len(storetest.Everything(t, s))
		ctx := t.Context()

		handle := func() error { _, err := a.Handle(ctx, s, "new", emitted{b}); return err }
		load := func(id string) func() error {
			return func() error { _, err := a.Load(ctx, s, id); return err }
		}
		query := func() error {
			q := es.Query[tally]{From: es.FromAll(), Init: a.Init, When: a.When, Until: func(tally) bool { b.at("Until"); return false }}
			_, err := q.Run(ctx, s)
			return err
		}
		each := func(seq iter.Seq2[es.Event, error]) error {
			n := 0
			for _, err := range seq {
				if n++; err != nil || n > deposits {
					return err
				}
				if n == deposits/2 {
					b.at("loop")
				}
			}
			return nil
		}
		calls := []struct {
			name, place string
			call        func() error
		}{
			{"Append", "Options.Metadata", func() error {
				return storetest.Second(s.Append(ctx, "accounts", "new", 0, es.NewEvent{Payload: fuse{1}}))
			}},
			{"Append", "Options.Now", func() error {
				return storetest.Second(s.Append(ctx, "accounts", "new", 0, es.NewEvent{Payload: fuse{1}}))
			}},
			{"Append", "Middleware.Append", func() error {
				return storetest.Second(s.Append(ctx, "accounts", "new", 0, es.NewEvent{Payload: fuse{1}}))
			}},
			{"Append", "Codec.Marshal", func() error {
				return storetest.Second(s.Append(ctx, "accounts", "new", 0, es.NewEvent{Payload: fuse{1}}))
			}},
			{"Append", "MarshalJSON", func() error {
				return storetest.Second(s.Append(ctx, "accounts", "new", 0, es.NewEvent{Payload: emitted{b}}))
			}},
			{"CreateStream", "Options.Now", func() error { return s.CreateStream(ctx, "never", nil) }},
			{"Handle", "decide", handle},
			{"Handle", "Init", handle},
			{"Handle", "Codec.Marshal", handle},
			{"Handle", "MarshalJSON", handle},
			{"Handle", "Middleware.Append", handle},
			{"Handle", "Options.Metadata", handle},
			{"Execute", "fold", func() error {
				_, err := a.Execute(ctx, s, "new", func(r *es.Root[tally]) error { r.Record(storetest.Deposited{}); return nil })
				return err
			}},
			{"Load", "Init", load("long")},
			{"Load", "fold", load("long")},
			{"Load", "Upcast", load("old")},
			{"Load", "Codec.Unmarshal", load("old")},
			{"Load", "Middleware.Load", load("old")},
			{"Query.Run", "Init", query},
			{"Query.Run", "fold", query},
			{"Query.Run", "Until", query},
			{"Query.Run", "Upcast", query},
			{"Query.Run", "Middleware.Load", query},
			{"Read", "loop", func() error { return each(s.Read(ctx, es.FromAll(), es.ReadOptions{})) }},
			{"Read, backward", "loop", func() error { return each(s.Read(ctx, es.FromStream("accounts"), es.ReadOptions{Backward: true})) }},
			{"Read", "Middleware.Load", func() error { return each(s.Read(ctx, es.FromAll(es.ByEventName.Equals("fuse.v1")), es.ReadOptions{})) }},
			{"ReadAggregate", "loop", func() error { return each(s.ReadAggregate(ctx, "accounts", "long", 0)) }},
			{"Subscribe", "loop", func() error { return each(s.Subscribe(ctx, es.FromAll(), 0)) }},
		}
		for _, c := range calls {
			what := c.name + ", " + c.place
			for _, goexit := range []bool{false, true} {
				if goexit {
					what += ", Goexit"
					b.armWith(c.place, runtime.Goexit)
					returned, ended := false, make(chan struct{})
					go func() {
						defer close(ended)
						_ = c.call()
						returned = true
					}()
					if <-ended; returned {
						t.Errorf("%s: the call has returned", what)
					}
				} else {
					b.arm(c.place)
					if value := caught(func() { _ = c.call() }); value != errBoom {
						t.Errorf("%s: the caller recovers %v, want %v itself", what, value, errBoom)
					}
				}
				b.disarm()
				wantNothingLeft(t, l, what)
			}
		}
		if n := len(storetest.Everything(t, s)); n != before {
			t.Errorf("%d events are stored by calls that have panicked", n-before)
		}
		storetest.WantHas(t, s, "never", false)
		if r, err := a.Handle(ctx, s, "new", emitted{b}); err != nil || r.Version() != 2 {
			t.Errorf("Handle without a panic: %v", err)
		}
	})
}

// TestPanicInTransaction has an append inside the caller's transaction panic: the transaction goes on without it.
func TestPanicInTransaction(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		b := &bomb{}
		s := l.Open(t, b.options())
		storetest.CreateStream(t, s, "accounts")
		err := storetest.InOwnTx(t.Context(), l, s, nil, func(in *es.Store) error {
			storetest.MustAppend(t, in, "accounts", "a", 0, storetest.Deposits(1, 1)...)
			b.arm("Codec.Marshal")
			if v := caught(func() { _, _ = b.aggregate().Handle(t.Context(), in, "a", emitted{b}) }); v != errBoom {
				t.Errorf("the caller recovers %v", v)
			}
			b.disarm()
			storetest.MustAppend(t, in, "accounts", "a", 1, storetest.Deposits(1, 1)...)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		storetest.WantVersions(t, storetest.Everything(t, s), 2)
		storetest.WantIdle(t, l, "at the end")
	})
}

// TestPanicOfRecord has a fold panic in Root.Record, and the caller recover: the root can't be saved, since its
// state may have a part of the event.
func TestPanicOfRecord(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		b := &bomb{}
		storetest.CreateStream(t, s, "accounts")
		a := b.aggregate()
		r := a.New("a")
		r.Record(fuse{1})
		b.arm("fold")
		if v := caught(func() { r.Record(storetest.Deposited{Cents: 1}) }); v != errBoom {
			t.Errorf("the caller recovers %v, want %v", v, errBoom)
		}
		b.disarm()
		_, err := a.Save(t.Context(), s, r)
		storetest.WantInvalid(t, "Save", err, "Root.Record has panicked")
		if n := len(storetest.Everything(t, s)); n != 0 {
			t.Errorf("%d events stored, want none", n)
		}
	})
}

// TestPanicOfSnapshot has the codec panic on the state: the save succeeds without a snapshot, and a snapshot that
// can't be decoded is not used.
func TestPanicOfSnapshot(t *testing.T) {
	oneByOne(t, func(t *testing.T, l storetest.Lane) {
		b := &bomb{}
		s := l.Open(t, b.options())
		storetest.CreateStream(t, s, "accounts")
		a := b.aggregate()
		a.Snapshot.Every = 2
		b.arm("Codec.Marshal of the state")
		if _, err := a.Handle(t.Context(), s, "a", emitted{b}); err != nil {
			t.Errorf("Handle: %v, although only the snapshot has panicked", err)
		}
		if v := caught(func() { _ = a.SaveSnapshot(t.Context(), s, "a") }); v != errBoom {
			t.Errorf("SaveSnapshot: the caller recovers %v, want %v", v, errBoom)
		}
		b.disarm()
		if err := a.SaveSnapshot(t.Context(), s, "a"); err != nil {
			t.Fatal(err)
		}
		b.arm("Codec.Unmarshal of the state")
		r, err := a.Load(t.Context(), s, "a")
		b.disarm()
		if err != nil || r.State() != (tally{Fuses: 1}) || r.Version() != 2 {
			t.Errorf("Load: %v, want the state of the events", err)
		}
		wantNothingLeft(t, l, "at the end")
	})
}
