package recovery_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
	"example.com/eventstore/internal/testserver"
)

// handled are the aggregates that the ordeal's projection sends commands to.
var handled = es.Aggregate[storetest.Account]{Stream: "handled", When: storetest.Accounts.When}

// ordeal runs writers, a projection with a table, emitted events, commands and a state, the same without the table as
// documents, a subscription and a relay, while something disturbs them, and then compares all they have with what was stored.
// disturb returns once it has disturbed enough.
func ordeal(t *testing.T, l storetest.Lane, disturb func()) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	s := l.Open(t, nil)
	storetest.CreateStream(t, s, "accounts", "handled")
	table := storetest.NewRows(t, l)
	var definitions []*storetest.Definition[storetest.Totals]
	var ends []func() error
	for _, k := range storetest.Kinds {
		p := k.TotalsOf("ordeal of "+string(k), es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
			if e.Cents%5 == 0 {
				return step.Emit(ctx, es.NewEvent{Payload: e})
			}
			in, err := step.Store()
			if err != nil {
				return err
			}
			_, err = handled.Execute(ctx, in, step.Event.AggregateID+" by "+string(k), func(r *es.Root[storetest.Account]) error {
				r.Record(e)
				return nil
			})
			return err
		}))
		if p.BatchSize = 20; k == storetest.Projection {
			p.ReadModel, p.When = table.Table(), append(p.When, table.Insert())
		}
		// The database's faults are not the handlers': nobody is ever asked.
		p.OnError = func(_ context.Context, ev es.Event, err error, _ int) es.ErrorAction {
			if ctx.Err() == nil {
				t.Errorf("OnError of the %s was asked about event %d: %v", k, ev.Position, err)
			}
			return es.Retry
		}
		definitions, ends = append(definitions, p), append(ends, storetest.Running(t, p, s))
	}

	disturbed := make(chan struct{})
	var writers sync.WaitGroup
	var mu sync.Mutex
	var ids []uuid.UUID
	for w := range 8 {
		writers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-disturbed:
					return
				default:
				}
				evs := storetest.WithIDs(storetest.Deposits(1+i%3, int64(w)))
				if err := insist(ctx, func() error {
					_, err := s.Append(ctx, "accounts", fmt.Sprint("w", w), es.AnyVersion, evs...)
					return err
				}); err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
				mu.Lock()
				for _, ev := range evs {
					ids = append(ids, ev.ID)
				}
				mu.Unlock()
				_ = storetest.Pause(ctx, rand.N(4*time.Millisecond))
			}
		})
	}

	marker := uuid.Must(uuid.NewV7())
	var subscribed, relayed []es.Event
	var readers sync.WaitGroup
	readers.Go(func() {
		var after es.Position
		for ctx.Err() == nil {
			for ev, err := range s.Subscribe(ctx, es.FromStream("accounts"), after) {
				if err != nil {
					_ = storetest.Pause(ctx, 5*time.Millisecond)
					break // to subscribe again behind the last event seen
				}
				subscribed, after = append(subscribed, ev), ev.Position
				if ev.ID == marker {
					return
				}
			}
		}
	})
	relay := es.Relay{Name: "relay", From: es.FromStream("accounts"), BatchSize: 20, Poll: 20 * time.Millisecond, Lease: time.Second}
	relay.Publish = func(_ context.Context, evs []es.Event) error {
		for _, ev := range evs {
			if len(relayed) == 0 || ev.Position > relayed[len(relayed)-1].Position { // the rest are repetitions
				relayed = append(relayed, ev)
			}
		}
		return nil
	}
	relaying, endRelay := context.WithCancel(ctx)
	defer endRelay()
	relayDone := make(chan error, 1)
	go func() {
		err := relay.Run(relaying, s)
		if relaying.Err() == nil {
			t.Errorf("the relay has ended: %v", err)
		}
		relayDone <- err
	}()

	disturb()
	close(disturbed)
	writers.Wait()
	var end []es.Event
	evs := []es.NewEvent{{ID: marker, Payload: storetest.Deposited{Cents: 1}}}
	if err := insist(ctx, func() (err error) {
		end, err = s.Append(ctx, "accounts", "end", es.AnyVersion, evs...)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, p := range definitions {
		if err := p.Wait(ctx, s, end[0].Position); err != nil {
			t.Fatalf("the %s has not caught up: %v (%+v)", p.Kind, err, storetest.Info(t, s, p.Name))
		}
	}
	readers.Wait()
	storetest.Eventually(t, "the relay", func() bool { return storetest.Info(t, s, "relay").Position >= end[0].Position })
	endRelay()
	if err := <-relayDone; !errors.Is(err, context.Canceled) {
		t.Errorf("the relay ended with %v", err)
	}
	for i, end := range ends {
		if err := end(); !errors.Is(err, context.Canceled) {
			t.Errorf("the %s ended with %v", definitions[i].Kind, err)
		}
	}

	stored := storetest.Collect(t, s.Read(ctx, es.FromStream("accounts"), es.ReadOptions{}))
	found := map[uuid.UUID]int{}
	var positions []int64
	fives := 0
	for _, ev := range stored {
		found[ev.ID]++
		positions = append(positions, int64(ev.Position))
		if e, err := es.Decode[storetest.Deposited](ev); err != nil {
			t.Error(err)
		} else if e.Cents%5 == 0 {
			fives++
		}
	}
	for _, id := range append(ids, marker) {
		if found[id] != 1 {
			t.Errorf("event %s, whose append succeeded, is stored %d times", id, found[id])
		}
	}
	if len(stored) != len(ids)+1 {
		t.Errorf("%d events are stored, want the %d whose appends succeeded", len(stored), len(ids)+1)
	}
	for w := range 8 {
		var of []es.Event
		for _, ev := range stored {
			if ev.AggregateID == fmt.Sprint("w", w) {
				of = append(of, ev)
			}
		}
		storetest.WantVersions(t, of, len(of))
	}
	storetest.SameEvents(t, "subscription", subscribed, stored)
	storetest.SameEvents(t, "relay", relayed, stored)
	if got := table.Positions(t); !slices.Equal(got, positions) {
		t.Errorf("the table has %d rows, want those of the %d events, each once", len(got), len(positions))
	}
	for _, p := range definitions {
		if cp, err := p.Load(ctx, s); err != nil || cp.State.Events != len(stored) {
			t.Errorf("the state of the %s has counted %d events (%v), want %d", p.Kind, cp.State.Events, err, len(stored))
		}
		if got := storetest.Collect(t, s.Read(ctx, es.FromStream(p.Name), es.ReadOptions{})); len(got) != fives {
			t.Errorf("%d events emitted by the %s, want %d", len(got), p.Kind, fives)
		}
	}
	if got, want := storetest.Collect(t, s.Read(ctx, es.FromStream("handled"), es.ReadOptions{})), len(definitions)*(len(stored)-fives); len(got) != want {
		t.Errorf("%d commands carried out, want %d, each once", len(got), want)
	}
	t.Logf("%d events", len(stored))
}

// insist repeats a call that the database's faults defeat.
func insist(ctx context.Context, call func() error) error {
	for {
		err := call()
		if err == nil || errors.Is(err, es.ErrConflict) || ctx.Err() != nil {
			return err
		}
		_ = storetest.Pause(ctx, 5*time.Millisecond)
	}
}

// TestRecoveryFromCuts cuts connections at random moments, and right after a COMMIT was carried
// out whose answer the client never gets.
func TestRecoveryFromCuts(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		l, proxy := l.Proxied(t, 30)
		ordeal(t, l, func() {
			var commits atomic.Int64
			var lost sync.Map
			proxy.SetHook(func(c *testserver.Conn, dir testserver.Direction, chunk []byte) testserver.Action {
				if dir == testserver.ToServer && storetest.IsCommit(chunk) && commits.Add(1)%3 == 1 {
					lost.Store(c, true)
					return testserver.CutAfter
				}
				return testserver.Forward
			})
			for range 60 {
				_ = storetest.Pause(t.Context(), rand.N(60*time.Millisecond))
				if conns := proxy.Conns(); len(conns) > 0 {
					conns[rand.IntN(len(conns))].Cut()
				}
			}
			proxy.CutAll()
			proxy.SetHook(nil)
			n := 0
			lost.Range(func(_, _ any) bool { n++; return true })
			if n == 0 {
				t.Error("no COMMIT has lost its answer: this shows less than it should")
			}
			t.Logf("%d answers to COMMIT lost", n)
		})
	})
}

// TestRecoveryFromCrashes kills the database server and starts it again.
func TestRecoveryFromCrashes(t *testing.T) {
	if storetest.MemoryOnly() {
		t.Log("there is no server to crash, as -memory says")
		return
	}
	type crashing struct {
		engine  testserver.Engine
		driver  string
		dialect *es.Dialect
	}
	storetest.RunEach(t, storetest.SomeLanes, []crashing{
		{testserver.Postgres, "pgx", es.Postgres},
		{testserver.MariaDB, "mysql", es.MySQL},
	}, func(c crashing) string { return c.engine.String() }, func(t *testing.T, c crashing) {
		server, err := testserver.Start(t.Context(), c.engine, testserver.Options{Small: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = server.Stop() })
		dsn := server.DSN("")
		if c.driver == "mysql" {
			if dsn, err = storetest.WithDatabase(dsn); err != nil {
				t.Fatal(err)
			}
		}
		l := storetest.Lane{Name: c.engine.String(), Driver: c.driver, DSN: dsn, Dialect: c.dialect}
		l = l.Through(t, server.Addr(), 30)
		ordeal(t, l, func() {
			for range 3 {
				_ = storetest.Pause(t.Context(), 500*time.Millisecond+rand.N(500*time.Millisecond))
				if err := server.Kill(); err != nil {
					t.Error(err)
				}
				_ = storetest.Pause(t.Context(), rand.N(300*time.Millisecond))
				if err := server.Restart(t.Context()); err != nil {
					t.Error(err)
					return
				}
			}
			_ = storetest.Pause(t.Context(), 300*time.Millisecond)
		})
	})
}
