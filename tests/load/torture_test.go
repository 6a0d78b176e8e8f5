package load_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// torture is a load under which readers lose events unless they read in sealed order: writers in
// autocommit, in transactions held open and partly rolled back, and racing on shared aggregates.
type torture struct {
	store     *es.Store
	db        *sql.DB
	writers   int
	appends   int // of each writer
	longest   time.Duration
	mu        sync.Mutex
	committed map[uuid.UUID]bool
}

func newTorture(t *testing.T, l storetest.Lane, s *es.Store) *torture {
	storetest.CreateStream(t, s, "load-a", "load-b")
	tt := &torture{store: s, db: l.DB, writers: 16, appends: 60, longest: 60 * time.Millisecond, committed: map[uuid.UUID]bool{}}
	if testing.Short() {
		tt.appends = 15
	}
	return tt
}

// run writes until every writer is done.
func (tt *torture) run(t *testing.T) {
	var wg sync.WaitGroup
	for w := range tt.writers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 7))
			for i := range tt.appends {
				if err := tt.write(t.Context(), r, w, i); err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func (tt *torture) write(ctx context.Context, r *rand.Rand, w, i int) error {
	batch := storetest.Deposits(1+r.IntN(3), int64(i))
	for i := range batch {
		batch[i].ID = uuid.Must(uuid.NewV7())
	}
	stream, id, expected := "load-a", fmt.Sprintf("w%d-%d", w, i), es.MustNotExist
	if r.IntN(4) == 0 {
		stream, id, expected = "load-b", fmt.Sprintf("shared-%d", r.IntN(3)), es.AnyVersion
	}
	if r.IntN(5) > 0 {
		if r.IntN(6) == 0 {
			expected = 3 // mostly wrong: a conflict, and on some databases a burnt position
		}
		_, err := tt.store.Append(ctx, stream, id, expected, batch...)
		if errors.Is(err, es.ErrConflict) {
			return nil
		}
		tt.note(err, batch)
		return err
	}
	// In a transaction of the caller's, which repeats it itself.
	for {
		tx, err := tt.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		_, err = tt.store.WithTx(tx).Append(ctx, stream, id, expected, batch...)
		if err == nil {
			time.Sleep(rand.N(tt.longest))
		}
		if err != nil || r.IntN(10) < 3 {
			if rerr := tx.Rollback(); rerr != nil {
				return rerr
			}
			if errors.Is(err, es.ErrRetryTx) {
				continue
			}
			if errors.Is(err, es.ErrConflict) {
				return nil
			}
			return err
		}
		err = tx.Commit()
		tt.note(err, batch)
		return err
	}
}

func (tt *torture) note(err error, batch []es.NewEvent) {
	if err != nil {
		return
	}
	tt.mu.Lock()
	defer tt.mu.Unlock()
	for _, ev := range batch {
		tt.committed[ev.ID] = true
	}
}

// check compares what a reader saw with what was committed.
func (tt *torture) check(t *testing.T, reader string, seen []es.Event) {
	t.Helper()
	counts := map[uuid.UUID]int{}
	var last es.Position
	for _, ev := range seen {
		counts[ev.ID]++
		if ev.Position <= last {
			t.Errorf("%s: position %d after %d", reader, ev.Position, last)
		}
		last = ev.Position
		if !tt.committed[ev.ID] {
			t.Errorf("%s: saw an event that was not committed", reader)
		}
	}
	missed := 0
	for id := range tt.committed {
		switch counts[id] {
		case 0:
			missed++
		case 1:
		default:
			t.Errorf("%s: saw an event %d times", reader, counts[id])
		}
	}
	if missed > 0 {
		t.Errorf("%s: missed %d of %d events", reader, missed, len(tt.committed))
	}
}

func TestTorture(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		tt := newTorture(t, l, s)
		ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
		defer stop()

		// A marker after the load tells the readers that they have seen all of it.
		storetest.CreateStream(t, s, "end")
		marker := uuid.Must(uuid.NewV7())
		var subscribed, polled []es.Event
		var readers sync.WaitGroup
		readers.Go(func() {
			for ev, err := range s.Subscribe(ctx, es.FromAll(), 0) {
				if err != nil {
					t.Errorf("subscribe: %v", err)
					return
				}
				if ev.ID == marker {
					return
				}
				subscribed = append(subscribed, ev)
			}
		})
		readers.Go(func() {
			var cursor es.Position
			for {
				for ev, err := range s.Read(ctx, es.FromAll(), es.ReadOptions{After: cursor, Sealed: true}) {
					if err != nil {
						t.Errorf("sealed read: %v", err)
						return
					}
					if ev.ID == marker {
						return
					}
					polled = append(polled, ev)
					cursor = ev.Position
				}
			}
		})
		// Projections: one follows with a table that takes any row, one is caught up with again and
		// again; and a relay, which is killed by nobody and so publishes each event once.
		load := es.FromStreams("load-a", "load-b")
		table := storetest.NewRows(t, l)
		follower := storetest.TotalsOf("follower", table.Insert())
		follower.From, follower.ReadModel, follower.BatchSize = load, table.Table(), 50
		endFollower := storetest.Running(t, follower, s)
		order := es.Projection[[]es.Position]{Name: "order", From: load, When: []es.Handler[[]es.Position]{
			es.OnAny(func(seen *[]es.Position, ev es.Event) { *seen = append(*seen, ev.Position) }),
		}}
		loaded := make(chan struct{})
		readers.Go(func() {
			for {
				if _, err := order.CatchUp(ctx, s); err != nil {
					t.Errorf("catch up: %v", err)
					return
				}
				select {
				case <-loaded:
					return
				default:
				}
			}
		})
		var published []es.Event
		relay := es.Relay{Name: "relay", From: load, Poll: 20 * time.Millisecond, Publish: func(_ context.Context, evs []es.Event) error {
			published = append(published, evs...)
			return nil
		}}
		relaying, endRelay := context.WithCancel(ctx)
		defer endRelay()
		relayed := make(chan error, 1)
		go func() { relayed <- relay.Run(relaying, s) }()

		tt.run(t)
		close(loaded)
		end, err := s.Append(ctx, "end", "end", es.MustNotExist, es.NewEvent{ID: marker, Payload: storetest.Deposited{}})
		if err != nil {
			t.Fatal(err)
		}
		readers.Wait()
		tt.check(t, "subscription", subscribed)
		tt.check(t, "sealed cursor", polled)
		var want []int64
		for _, ev := range polled {
			want = append(want, int64(ev.Position))
		}
		if err := follower.Wait(ctx, s, end[0].Position); err != nil {
			t.Fatal(err)
		}
		if err := endFollower(); !errors.Is(err, context.Canceled) {
			t.Errorf("the following projection ended with %v", err)
		}
		if got := table.Positions(t); !slices.Equal(got, want) {
			t.Errorf("the projection's table has %d rows, want those of the %d events", len(got), len(want))
		}
		if cp := storetest.CatchUp(t, &order, s); len(cp.State) != len(want) || !slices.EqualFunc(cp.State, want, func(p es.Position, w int64) bool { return int64(p) == w }) {
			t.Errorf("the projection caught up with took in %d events, want %d", len(cp.State), len(want))
		}
		storetest.Eventually(t, "the relay", func() bool { return storetest.Info(t, s, "relay").Position >= end[0].Position })
		endRelay()
		if err := <-relayed; !errors.Is(err, context.Canceled) {
			t.Errorf("the relay ended with %v", err)
		}
		tt.check(t, "relay", published)
		storetest.SameEvents(t, "a read of everything", storetest.Collect(t, s.Read(ctx, es.FromStreams("load-a", "load-b"), es.ReadOptions{})), polled)
	})
}

// TestTortureBites shows that the load makes a reader lose events that keeps a cursor over an
// unsealed read.
func TestTortureBites(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		tt := newTorture(t, l, s)
		storetest.CreateStream(t, s, "end")
		marker := uuid.Must(uuid.NewV7())
		seen := map[uuid.UUID]bool{}
		var reader sync.WaitGroup
		reader.Go(func() {
			var cursor es.Position
			for !seen[marker] {
				for ev, err := range s.Read(t.Context(), es.FromAll(), es.ReadOptions{After: cursor}) {
					if err != nil {
						t.Errorf("read: %v", err)
						return
					}
					seen[ev.ID] = true
					cursor = ev.Position
				}
			}
		})
		tt.run(t)
		if _, err := s.Append(t.Context(), "end", "end", es.MustNotExist, es.NewEvent{ID: marker, Payload: storetest.Deposited{}}); err != nil {
			t.Fatal(err)
		}
		reader.Wait()
		missed := 0
		for id := range tt.committed {
			if !seen[id] {
				missed++
			}
		}
		t.Logf("the unsealed cursor missed %d of %d events", missed, len(tt.committed))
		if missed == 0 {
			t.Error("the load does not make an unsealed cursor lose events: it proves nothing")
		}
	})
}

// TestSealingWaitsForWriters leaves an append open in a caller's transaction for five seconds:
// other appends go on at their pace, sealing stops below it and goes on behind it.
func TestSealingWaitsForWriters(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		ctx := t.Context()
		storetest.CreateStream(t, s, "a", "b")
		tx, err := l.DB.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback() }()
		pace := func(name string, n int) time.Duration {
			began := time.Now()
			for i := range n {
				storetest.MustAppend(t, s, "a", fmt.Sprint(name, i), es.MustNotExist, storetest.Deposits(1, 1)...)
			}
			return time.Since(began) / time.Duration(n)
		}
		alone := pace("before-", 50)
		open, err := s.WithTx(tx).Append(ctx, "a", "open", es.MustNotExist, storetest.Deposits(1, 1)...)
		if err != nil {
			t.Fatal(err)
		}
		appended, slowest := 0, time.Duration(0)
		for held := time.Now(); time.Since(held) < 5*time.Second; appended += 50 {
			slowest = max(slowest, pace(fmt.Sprint("beside-", appended, "-"), 50))
			if p, err := s.Sealed(ctx); err != nil || p >= open[0].Position {
				t.Fatalf("sealed %d (%v) with an append open at %d", p, err, open[0].Position)
			}
		}
		t.Logf("%v for each append before, at most %v beside the open transaction", alone, slowest)
		if slowest > 20*alone+20*time.Millisecond {
			t.Errorf("appends took %v each beside an open transaction, %v before it", slowest, alone)
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		committed := time.Now()
		last := storetest.MustAppend(t, s, "b", "last", es.MustNotExist, storetest.Deposits(1, 1)...)
		if p, err := s.Sealed(ctx); err != nil || p < last[0].Position {
			t.Fatalf("sealed %d (%v) after everything up to %d was committed", p, err, last[0].Position)
		}
		if took := time.Since(committed); took > time.Second {
			t.Errorf("sealing resumed %v after the commit, want within a second", took)
		}
		if got := storetest.Collect(t, s.Read(ctx, es.FromAll(), es.ReadOptions{Sealed: true})); len(got) != appended+52 {
			t.Errorf("%d sealed events, want %d", len(got), appended+52)
		}
	})
}

// TestSealingIgnoresOtherTables leaves a transaction open that writes another table: it holds
// nothing up, not even past burnt positions.
func TestSealingIgnoresOtherTables(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		ctx := t.Context()
		storetest.CreateStream(t, s, "a")
		table := storetest.NewRows(t, l)
		if _, err := l.DB.ExecContext(ctx, table.Table().Create); err != nil {
			t.Fatal(err)
		}
		other, err := l.DB.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = other.Rollback() }()
		if _, err := other.ExecContext(ctx, "INSERT INTO "+table.Name+" (position) VALUES (1)"); err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			l.InTx(t, s, false, nil, func(_ *sql.Tx, s *es.Store) {
				storetest.MustAppend(t, s, "a", "burnt", es.AnyVersion, storetest.Deposits(2, 1)...)
			})
			last := storetest.MustAppend(t, s, "a", fmt.Sprint(i), es.MustNotExist, storetest.Deposits(1, 1)...)
			began := time.Now()
			if p, err := s.Sealed(ctx); err != nil || p < last[0].Position {
				t.Errorf("sealed %d (%v), want %d", p, err, last[0].Position)
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("sealing took %v", took)
			}
		}
	})
}

// TestSealingPassesBurntPositions rolls appends back and deletes streams: neither holds sealing up,
// and gap rows show nowhere.
func TestSealingPassesBurntPositions(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		ctx := t.Context()
		storetest.CreateStream(t, s, "a", "b")
		for i := range 30 {
			tx, err := l.DB.BeginTx(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.WithTx(tx).Append(ctx, "a", fmt.Sprint("rolled-back-", i), es.MustNotExist, storetest.Deposits(2, 1)...); err != nil {
				t.Fatal(err)
			}
			if err := tx.Rollback(); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Append(ctx, "ab"[i%2:i%2+1], fmt.Sprint(i), es.MustNotExist, storetest.Deposits(1, 1)...); err != nil {
				t.Fatal(err)
			}
		}
		want := storetest.Collect(t, s.Read(ctx, es.FromAll(), es.ReadOptions{}))
		if p, err := s.Sealed(ctx); err != nil || p < want[29].Position {
			t.Fatalf("sealed %d (%v), want at least %d", p, err, want[29].Position)
		}
		storetest.SameEvents(t, "sealed", storetest.Collect(t, s.Read(ctx, es.FromAll(), es.ReadOptions{Sealed: true})), want)
		if err := s.DeleteStream(ctx, "a"); err != nil {
			t.Fatal(err)
		}
		// Another process begins at zero.
		other := l.OpenIn(t, prefix, nil)
		if p, err := other.Sealed(ctx); err != nil || p < want[29].Position {
			t.Fatalf("another store sealed %d (%v), want at least %d", p, err, want[29].Position)
		}
		if got := storetest.Collect(t, other.Read(ctx, es.FromAll(), es.ReadOptions{Sealed: true})); len(got) != 15 {
			t.Errorf("%d events are left of stream b, want 15", len(got))
		}
	})
}
