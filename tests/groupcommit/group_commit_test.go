package groupcommit_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
	"example.com/eventstore/internal/testserver"
)

// shares says whether appends that arrive together share a statement on this lane.
func shares(l storetest.Lane) bool {
	return l.Dialect == es.Postgres || strings.HasPrefix(l.Name, "mariadb")
}

// TestSharedAppends appends from many goroutines to many aggregates: each gets its own events back,
// as they are stored, and where the database can do it they take fewer round trips than appends.
func TestSharedAppends(t *testing.T) {
	const writers, appends = 24, 15
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		var proxy *testserver.Proxy
		if l.DB != nil {
			l, proxy = l.Proxied(t, l.DB.Stats().MaxOpenConnections)
		}
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts", "orders")
		storetest.MustAppend(t, s, "accounts", "first", 0, storetest.Deposits(1, 1)...)
		storetest.MustAppend(t, s, "orders", "first", 0, storetest.Deposits(1, 1)...)
		if proxy != nil {
			proxy.ResetTrips()
		}
		errs := storetest.Race(writers, func(i int) error {
			stream, id, version := []string{"accounts", "orders"}[i%2], fmt.Sprint("w", i), 0
			var mine []es.Event
			for n := range appends {
				expected := es.ExpectedVersion(version)
				if n%3 == 2 {
					expected = []es.ExpectedVersion{es.AnyVersion, es.MustExist}[n%2]
				}
				evs := storetest.Deposits(1+(i+n)%3, int64(100*i+n))
				evs[0].Metadata = es.Metadata{"writer": i, `quo"te\`: "{a,b}"}
				stored, err := s.Append(t.Context(), stream, id, expected, evs...)
				if err != nil {
					return err
				}
				mine, version = append(mine, stored...), version+len(evs)
			}
			storetest.WantVersions(t, mine, version)
			storetest.SameEvents(t, id, storetest.Collect(t, s.ReadAggregate(t.Context(), stream, id, 0)), mine)
			return nil
		})
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		if proxy != nil {
			// Those of reading the aggregates are among them.
			if trips := proxy.Trips() - writers; shares(l) && trips > writers*appends*3/4 {
				t.Errorf("%d round trips for %d appends, want fewer", trips, writers*appends)
			}
		}
		storetest.WantIdle(t, l, "at the end")
	})
}

// TestSharedAppendsDiffer has appends of all fates arrive at once: each has its own outcome.
func TestSharedAppendsDiffer(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, other := l.OpenTwice(t)
		if l.DB != nil && l.DB.Stats().MaxOpenConnections == 1 {
			other = s
		}
		storetest.CreateStream(t, s, "accounts")
		ctx := t.Context()
		elsewhere := storetest.WithIDs(storetest.Deposits(1, 1))
		storetest.MustAppend(t, s, "accounts", "elsewhere", 0, elsewhere...)
		for round := range 12 {
			gone := fmt.Sprint("gone ", round)
			storetest.CreateStream(t, s, gone)
			storetest.MustAppend(t, s, gone, "known", 0, storetest.Deposits(1, 1)...)
			if err := other.DeleteStream(ctx, gone); err != nil {
				t.Fatal(err)
			}
			id := func(what string) string { return fmt.Sprint(what, round) }
			repeated := storetest.WithIDs(storetest.Deposits(2, 1))
			before := storetest.MustAppend(t, s, "accounts", id("repeated"), 0, repeated...)
			storetest.MustAppend(t, s, "accounts", id("ahead"), 0, storetest.Deposits(2, 1)...)
			fates := map[string]func() error{
				"deleted stream": func() error {
					_, err := s.Append(ctx, gone, "a", 0, storetest.Deposits(1, 1)...)
					storetest.WantErr(t, "deleted stream", err, es.ErrStreamNotFound)
					return nil
				},
				"too low": func() error {
					_, err := s.Append(ctx, "accounts", id("ahead"), 1, storetest.Deposits(1, 1)...)
					storetest.WantConflict(t, "too low", err, es.ConflictError{Stream: "accounts", AggregateID: id("ahead"), Expected: 1, Actual: 2})
					return nil
				},
				"too high": func() error {
					_, err := s.Append(ctx, "accounts", id("new"), 3, storetest.Deposits(1, 1)...)
					storetest.WantConflict(t, "too high", err, es.ConflictError{Stream: "accounts", AggregateID: id("new"), Expected: 3, Actual: 0})
					return nil
				},
				"must exist": func() error {
					_, err := s.Append(ctx, "accounts", id("missing"), es.MustExist, storetest.Deposits(1, 1)...)
					storetest.WantConflict(t, "must exist", err, es.ConflictError{Stream: "accounts", AggregateID: id("missing"), Expected: es.MustExist, Actual: 0})
					return nil
				},
				"stored elsewhere": func() error {
					_, err := s.Append(ctx, "accounts", id("thief"), es.AnyVersion, elsewhere...)
					storetest.WantErr(t, "stored elsewhere", err, es.ErrConflict)
					return nil
				},
				"repeated": func() error {
					stored, err := s.Append(ctx, "accounts", id("repeated"), 0, repeated...)
					storetest.SameEvents(t, "repeated", stored, before)
					return err
				},
			}
			one := storetest.WithIDs(storetest.Deposits(1, 1))
			var twice atomic.Int64
			for i := range 2 {
				fates[fmt.Sprint("one ID in two aggregates, ", i)] = func() error {
					_, err := s.Append(ctx, "accounts", id(fmt.Sprint("twice ", i, " ")), es.AnyVersion, one...)
					if err == nil {
						twice.Add(1)
						return nil
					}
					storetest.WantErr(t, "one ID in two aggregates", err, es.ErrConflict)
					return nil
				}
			}
			for i := range 8 {
				fates[fmt.Sprint("good ", i)] = func() error {
					at := id(fmt.Sprint("good ", i, " "))
					stored, err := s.Append(ctx, "accounts", at, 0, storetest.Deposits(1+i%2*2, 1)...)
					storetest.WantVersions(t, stored, 1+i%2*2)
					storetest.SameEvents(t, at, storetest.Collect(t, s.ReadAggregate(ctx, "accounts", at, 0)), stored)
					return err
				}
			}
			var names []string
			for name := range fates {
				names = append(names, name)
			}
			for i, err := range storetest.Race(len(names), func(i int) error { return fates[names[i]]() }) {
				if err != nil {
					t.Errorf("%s: %v", names[i], err)
				}
			}
			if n := twice.Load(); n != 1 {
				t.Errorf("one ID was stored in %d of two aggregates, want 1", n)
			}
		}
		storetest.WantIdle(t, l, "at the end")
	})
}

// TestSharedAppendsBlocked holds one aggregate in a transaction: appends to it wait for its end, and
// appends to others go on without them, though they arrive together.
func TestSharedAppendsBlocked(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		if l.DB.Stats().MaxOpenConnections == 1 {
			return // the transaction has the only connection
		}
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "held", 0, storetest.Deposits(1, 1)...)
		held := make(chan error, 4)
		var slowest atomic.Int64
		l.InTx(t, s, true, &sql.TxOptions{Isolation: sql.LevelReadCommitted}, func(_ *sql.Tx, in *es.Store) {
			storetest.MustAppend(t, in, "accounts", "held", 1, storetest.Deposits(1, 1)...)
			errs := storetest.Race(12, func(i int) error {
				for n := range 40 {
					if i < 4 && n == 5*i {
						go func() {
							expected := []es.ExpectedVersion{1, es.AnyVersion}[i%2]
							_, err := s.Append(t.Context(), "accounts", "held", expected, storetest.Deposits(1, 1)...)
							held <- err
						}()
					}
					began := time.Now()
					if _, err := s.Append(t.Context(), "accounts", fmt.Sprint(i), es.ExpectedVersion(n), storetest.Deposits(1, 1)...); err != nil {
						return err
					}
					slowest.Store(max(slowest.Load(), int64(time.Since(began))))
				}
				return nil
			})
			if err := errors.Join(errs...); err != nil {
				t.Error(err)
			}
			select {
			case err := <-held:
				t.Errorf("an append to the held aggregate returned %v before the transaction's end", err)
				held <- err
			default:
			}
		})
		if took := time.Duration(slowest.Load()); took > 2*time.Second {
			t.Errorf("an append to another aggregate took %v", took)
		}
		won := 0
		for range 4 {
			if err := <-held; err == nil {
				won++
			} else {
				storetest.WantErr(t, "append to the held aggregate", err, es.ErrConflict)
			}
		}
		if won != 2 {
			t.Errorf("%d appends to the held aggregate succeeded, want the 2 at any version", won)
		}
		storetest.WantVersions(t, storetest.Collect(t, s.ReadAggregate(t.Context(), "accounts", "held", 0)), 4)
	})
}

// TestSharedAppendsNow has a clock that jumps between two years: appends that share a
// statement have each its own.
func TestSharedAppendsNow(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		fixed, other := time.Date(2001, 2, 3, 4, 5, 6, 7000, time.UTC), time.Date(2002, 2, 3, 4, 5, 6, 8000, time.UTC)
		var calls atomic.Int64
		s := l.Open(t, &es.Options{Now: func() time.Time {
			if calls.Add(1)%2 == 0 {
				return fixed
			}
			return other
		}})
		storetest.CreateStream(t, s, "accounts")
		errs := storetest.Race(16, func(i int) error {
			for n := range 10 {
				if _, err := s.Append(t.Context(), "accounts", fmt.Sprint(i), es.ExpectedVersion(n*(1+i%2)), storetest.Deposits(1+i%2, 1)...); err != nil {
					return err
				}
			}
			return nil
		})
		for i, err := range errs {
			if err != nil {
				t.Errorf("writer %d: %v", i, err)
			}
		}
		set := 0
		for _, ev := range storetest.Collect(t, s.Read(t.Context(), es.FromAll(), es.ReadOptions{})) {
			if ev.RecordedAt.Equal(fixed) {
				set++
			} else if !ev.RecordedAt.Equal(other) {
				t.Errorf("recorded at %v, want one of the two", ev.RecordedAt)
			}
		}
		if set < 50 || set > 190 {
			t.Errorf("%d of 240 events have the time of the clock, want about half", set)
		}
	})
}

// TestSharedAppendsOfTwo has two stores of one database append to the same aggregates in opposite
// orders: nothing is lost, and no two statements wait for each other for long.
func TestSharedAppendsOfTwo(t *testing.T) {
	const aggregates, rounds = 10, 12
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, other := l.OpenTwice(t)
		storetest.CreateStream(t, s, "accounts")
		began := time.Now()
		errs := storetest.Race(2*aggregates, func(i int) error {
			s, n := s, i
			if i >= aggregates {
				s, n = other, 2*aggregates-1-i
			}
			for range rounds {
				if _, err := s.Append(t.Context(), "accounts", fmt.Sprint(n), es.AnyVersion, storetest.Deposits(1+n%2, 1)...); err != nil {
					return err
				}
			}
			return nil
		})
		if err := errors.Join(errs...); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("took %v", took)
		}
		for n := range aggregates {
			storetest.WantVersions(t, storetest.Collect(t, s.ReadAggregate(t.Context(), "accounts", fmt.Sprint(n), 0)), 2*rounds*(1+n%2))
		}
	})
}

// TestSharedAppendsLoseAnswers cuts connections under appends that share statements, before and
// after the database has carried them out. Repeated with the same IDs each is stored once.
func TestSharedAppendsLoseAnswers(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		through, proxy := l.Proxied(t, max(2, l.DB.Stats().MaxOpenConnections))
		direct, prefix := l.OpenPrefixed(t)
		s := through.OpenIn(t, prefix, nil)
		storetest.CreateStream(t, direct, "accounts")
		storetest.MustAppend(t, s, "accounts", "first", 0, storetest.Deposits(1, 1)...)
		var chunks, cuts atomic.Int64
		proxy.SetHook(func(_ *testserver.Conn, dir testserver.Direction, chunk []byte) testserver.Action {
			if dir == testserver.ToServer && bytes.Contains(chunk, []byte("w-")) {
				switch n := chunks.Add(1); {
				case n%11 == 5:
					cuts.Add(1)
					return testserver.CutAfter
				case n%11 == 9:
					cuts.Add(1)
					return testserver.CutBefore
				}
			}
			return testserver.Forward
		})
		errs := storetest.Race(12, func(i int) error {
			id := fmt.Sprint("w-", i)
			for n := range 20 {
				evs := storetest.WithIDs(storetest.Deposits(1+i%2, 1))
				for attempt := 0; ; attempt++ {
					_, err := s.Append(t.Context(), "accounts", id, es.ExpectedVersion(n*len(evs)), evs...)
					if err == nil {
						break
					}
					storetest.WantPlain(t, id, err)
					if attempt == 50 {
						return err
					}
				}
			}
			return nil
		})
		proxy.SetHook(nil)
		if err := errors.Join(errs...); err != nil {
			t.Error(err)
		}
		if cuts.Load() == 0 {
			t.Error("no connection was cut")
		}
		for i := range 12 {
			storetest.WantVersions(t, storetest.Collect(t, direct.ReadAggregate(t.Context(), "accounts", fmt.Sprint("w-", i), 0)), 20*(1+i%2))
		}
		// The pool may still be opening some in place of those that were cut.
		storetest.Eventually(t, "connections to be free", func() bool { return through.DB.Stats().InUse == 0 })
	})
}
