package roundtrips_test

import (
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestTrips counts the round trips of operations once their statements are known: on all kinds of
// database, on MySQL with and without interpolateParams, on Postgres with prepared statements and
// with the simple protocol.
func TestTrips(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		if l.Driver == "mysql" {
			l = l.AtIsolation(t, sql.LevelReadCommitted, 1) // at read uncommitted each read takes four trips
		}
		l, proxy := l.Proxied(t, 1)
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts", "orders")
		var version es.ExpectedVersion
		add := func(expected es.ExpectedVersion, n int) func() {
			return func() {
				if expected >= 0 {
					expected = version
				}
				storetest.MustAppend(t, s, "accounts", "a", expected, storetest.Deposits(n, 1)...)
				version += es.ExpectedVersion(n)
			}
		}
		add(0, 300)()
		stats := func() {
			if _, err := s.Stats(ctx); err != nil {
				t.Fatal(err)
			}
		}
		fallBehind := sync.OnceFunc(func() {
			storetest.CatchUp(t, storetest.TotalsOf("totals"), s)
			add(es.AnyVersion, 1)()
		})
		first := 1
		if strings.HasPrefix(l.Name, "mysql") {
			first = 2 // with a look for an append in flight that begins the same aggregate
		}
		for _, op := range []struct {
			name string
			want int
			run  func()
		}{
			{"Append at a version", 1, add(0, 1)},
			{"Append of 3", 1, add(0, 3)},
			{"Append of 100", 1, add(0, 100)},
			{"Append with AnyVersion", 1, add(es.AnyVersion, 2)},
			{"Append with MustExist", 1, add(es.MustExist, 1)},
			{"Append to a new aggregate", first, func() {
				storetest.MustAppend(t, s, "orders", fmt.Sprint(version), 0, storetest.Deposits(1, 1)...)
				version++
			}},
			{"Execute", 2, func() {
				if _, err := storetest.Accounts.Execute(ctx, s, "b", func(r *es.Root[storetest.Account]) error {
					r.Record(storetest.Deposited{Cents: 1})
					return nil
				}); err != nil {
					t.Fatal(err)
				}
			}},
			{"Load", 1, func() {
				if _, err := storetest.Accounts.Load(ctx, s, "b"); err != nil {
					t.Fatal(err)
				}
			}},
			{"first page of ReadAggregate", 1, func() {
				for _, err := range s.ReadAggregate(ctx, "accounts", "a", 0) {
					if err != nil {
						t.Fatal(err)
					}
					break
				}
			}},
			{"first page of Read", 1, func() {
				for _, err := range s.Read(ctx, es.FromStream("accounts"), es.ReadOptions{}) {
					if err != nil {
						t.Fatal(err)
					}
					break
				}
			}},
			{"Read with a limit", 1, func() { storetest.Collect(t, s.Read(ctx, es.FromStream("accounts"), es.ReadOptions{Limit: 10})) }},
			{"HasStream", 1, func() { storetest.WantHas(t, s, "accounts", true) }},
			{"Stats", 3, stats},
			{"Stats with a projection behind", 4, func() { fallBehind(); stats() }},
		} {
			op.run()
			op.run()
			// On MySQL an append whose position does not come within a millisecond, on a busy machine, asks
			// for it once more.
			got := 0
			for range 5 {
				proxy.ResetTrips()
				op.run()
				if got = proxy.Trips(); got <= op.want {
					break
				}
			}
			if got != op.want {
				t.Errorf("%s: %d trips, want %d", op.name, got, op.want)
			}
		}
	})
}

// TestTripsOfAppendsInTransactions counts the round trips of appends in a transaction, with another connection
// free, on MySQL and MariaDB with interpolateParams, so that each statement takes one. On MySQL they look ahead,
// because an INSERT that fails there locks the end of the log.
func TestTripsOfAppendsInTransactions(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		if l.Dialect == es.MySQL {
			l = l.Pool(t, storetest.WithParams(l.DSN, "interpolateParams=true"), 2)
		}
		l, proxy := l.Proxied(t, 2)
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts")
		want := []int{1, 1, 1}
		switch {
		case strings.HasPrefix(l.Name, "mysql"):
			want = []int{3, 4, 4}
		case l.Dialect == es.MySQL:
			want = []int{2, 2, 2}
		}
		var got []int
		for n := 0; n < 10 && !slices.Equal(got, want); n++ {
			got = nil
			l.InTx(t, s, true, nil, func(_ *sql.Tx, in *es.Store) {
				for _, expected := range []es.ExpectedVersion{es.MustNotExist, 2, es.AnyVersion} {
					proxy.ResetTrips()
					if _, err := in.Append(ctx, "accounts", fmt.Sprint("a", n), expected, storetest.Deposits(2, 1)...); err != nil {
						t.Fatal(err)
					}
					got = append(got, proxy.Trips())
				}
			})
		}
		if !slices.Equal(got, want) {
			t.Errorf("to a new aggregate, at a version and at any: %d trips, want %d", got, want)
		}
	})
}
