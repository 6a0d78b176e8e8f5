package eventstore_test

import (
	"fmt"
	"sync"
	"testing"

	es "example.com/eventstore"
)

// TestTrips counts the round trips of operations once their statements are known: on all kinds of
// database, on MySQL with and without interpolateParams, on Postgres with prepared statements and
// with the simple protocol.
func TestTrips(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, l lane) {
		l, proxy := l.proxied(t, 1)
		s, ctx := l.open(t, nil), t.Context()
		createStream(t, s, "accounts", "orders")
		var version es.ExpectedVersion
		add := func(expected es.ExpectedVersion, n int) func() {
			return func() {
				if expected >= 0 {
					expected = version
				}
				mustAppend(t, s, "accounts", "a", expected, events(n, 1)...)
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
			catchUp(t, totalsOf("totals"), s)
			add(es.AnyVersion, 1)()
		})
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
			{"Append to a new aggregate", 1, func() { mustAppend(t, s, "orders", fmt.Sprint(version), 0, events(1, 1)...); version++ }},
			{"Execute", 2, func() {
				if _, err := accounts.Execute(ctx, s, "b", func(r *es.Root[account]) error {
					r.Record(deposited{1})
					return nil
				}); err != nil {
					t.Fatal(err)
				}
			}},
			{"Load", 1, func() {
				if _, err := accounts.Load(ctx, s, "b"); err != nil {
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
			{"Read with a limit", 1, func() { collect(t, s.Read(ctx, es.FromStream("accounts"), es.ReadOptions{Limit: 10})) }},
			{"HasStream", 1, func() { wantHas(t, s, "accounts", true) }},
			{"Stats", 3, stats},
			{"Stats with a projection behind", 4, func() { fallBehind(); stats() }},
		} {
			op.run()
			op.run()
			proxy.ResetTrips()
			op.run()
			if got := proxy.Trips(); got != op.want {
				t.Errorf("%s: %d trips, want %d", op.name, got, op.want)
			}
		}
	})
}
