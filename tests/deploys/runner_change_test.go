package deploys_test

import (
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestWiderProcessTakesOver starts a newer process beside an older one that holds the lease for another minute. The
// newer one has it within a second, and nothing is passed over or counted twice.
func TestWiderProcessTakesOver(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		const name = "loans"
		storetest.CreateStream(t, s, name)
		rows := storetest.NewRows(t, l)
		var j journal
		member := func(number int, newer bool) *member {
			return &member{Number: number, Name: name, Newer: newer, BatchSize: 10, Lease: time.Minute, Driver: l.Driver, DSN: l.DSN, Prefix: prefix, Table: rows.Name}
		}
		start := func(number int, newer bool) {
			p := member(number, newer).startProcess(t, &j)
			t.Cleanup(p.kill)
		}
		taken := func(n int) entry {
			storetest.Eventually(t, "the lease to be taken", func() bool { return len(j.of(name, "lease taken")) >= n })
			return j.of(name, "lease taken")[n-1]
		}
		appended := func(payloads ...es.Payload) es.Position {
			var last es.Position
			for _, p := range payloads {
				last = storetest.MustAppend(t, s, name, "copy", es.AnyVersion, es.NewEvent{Payload: p})[0].Position
			}
			storetest.Eventually(t, "the events to be in", func() bool { return storetest.Info(t, s, name).Position >= last })
			return last
		}
		start(0, false)
		older := taken(1)
		appended(lent{}, lent{}, lent{})
		start(1, true)
		newer := taken(2)
		if took := newer.Time.Sub(j.of(name, memberStarts)[1].Time); newer.Owner == older.Owner || took > time.Second {
			t.Errorf("%s has taken over from %s after %v, want another owner within a second", newer.Owner, older.Owner, took)
		}
		appended(returned{}, lent{}, returned{})
		cp, err := member(2, true).projection().Load(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		var by []bool
		for _, e := range cp.State.Events {
			by = append(by, e.Newer)
		}
		if n := len(rows.Positions(t)); n != 6 || len(by) != 6 || by[0] || by[2] || !by[3] || !by[5] {
			t.Errorf("the state has %v, the table %d rows; want three events of the older and three of the newer process", cp.State.Events, n)
		}
		if n := len(j.of(name, "lease taken")); n != 2 {
			t.Errorf("the lease was taken %d times, want 2", n)
		}
	})
}
