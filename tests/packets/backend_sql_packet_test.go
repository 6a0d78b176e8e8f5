package packets_test

import (
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
	"example.com/eventstore/internal/testserver"
)

// text returns a payload of n bytes.
func text(n int) storetest.Raw {
	return storetest.Raw{Name: "text", Text: `"` + strings.Repeat("x", n-2) + `"`}
}

// packetLimit returns what the server takes in one packet.
func packetLimit(t *testing.T, l storetest.Lane) int {
	t.Helper()
	n, err := strconv.Atoi(l.Lines(t, "SELECT @@max_allowed_packet")[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// forEachPacketLimit runs a test on MySQL and MariaDB over one connection each, with parameters of the DSN.
func forEachPacketLimit(t *testing.T, variants []string, test func(t *testing.T, l storetest.Lane)) {
	t.Helper()
	storetest.ForEach(t, 1, func(l storetest.Lane) bool { return l.Driver == "mysql" && !l.Odd }, func(t *testing.T, l storetest.Lane) {
		for _, params := range variants {
			t.Run(params, func(t *testing.T) { test(t, l.Pool(t, storetest.WithParams(l.DSN, params), 1)) })
		}
	})
}

// wantTooLarge checks that an error says what is too large for which limit.
func wantTooLarge(t *testing.T, what string, err error, names string) {
	t.Helper()
	storetest.WantInvalid(t, what, err, names)
	if err != nil && !strings.Contains(err.Error(), "max_allowed_packet") {
		t.Errorf("%s: error reads %q, want it to name max_allowed_packet", what, err)
	}
}

// TestPacketTooLarge stores what is larger than a packet in every place that takes something large. Each is
// refused with an error that says so, stores nothing, and leaves the connection as it was.
func TestPacketTooLarge(t *testing.T) {
	// The driver's own limit is 64 MiB: that of MySQL, four times that of MariaDB.
	forEachPacketLimit(t, []string{"maxAllowedPacket=67108864", "maxAllowedPacket=4194304"}, func(t *testing.T, l storetest.Lane) {
		ctx, most := t.Context(), packetLimit(t, l)
		s := l.Open(t, &es.Options{Codec: storetest.Verbatim{}})
		storetest.CreateStream(t, s, "accounts")
		huge := text(most + 1000)
		var stored []es.Event
		works := func(what string) {
			t.Helper()
			for range 3 {
				stored = append(stored, storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, es.NewEvent{Payload: text(20)})...)
			}
			stored = append(stored, storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, es.NewEvent{Payload: text(20)}, es.NewEvent{Payload: text(1 << 18)})...)
			storetest.SameEvents(t, "after "+what, storetest.Everything(t, s), stored)
			storetest.WantIdle(t, l, "after "+what)
		}
		works("nothing")
		_, err := s.Append(ctx, "accounts", "a", es.AnyVersion, es.NewEvent{Payload: huge})
		wantTooLarge(t, "one event", err, fmt.Sprint(most))
		works("an event")
		_, err = s.Append(ctx, "accounts", "a", es.ExpectedVersion(len(stored)), es.NewEvent{Payload: text(20)}, es.NewEvent{Payload: huge})
		wantTooLarge(t, "two events", err, "event 1")
		works("two events")
		l.InTx(t, s, true, nil, func(_ *sql.Tx, in *es.Store) {
			_, err := in.Append(ctx, "accounts", "a", es.AnyVersion, es.NewEvent{Payload: text(20)}, es.NewEvent{Payload: huge})
			wantTooLarge(t, "two events in a transaction", err, "event 1")
			stored = append(stored, storetest.MustAppend(t, in, "accounts", "a", es.AnyVersion, es.NewEvent{Payload: text(20)})...)
		})
		works("a transaction")
		wantTooLarge(t, "stream metadata", s.SetStreamMetadata(ctx, "accounts", es.Metadata{"k": huge.Text}), "set stream metadata")
		works("stream metadata")

		// A state that is larger than a packet: of a snapshot, and of a projection.
		grow := es.OnAny(func(n *grown, ev es.Event) { n.Text = huge.Text })
		agg := &es.Aggregate[grown]{Stream: "accounts", When: []es.Fold[grown]{grow}, Snapshot: es.Snapshot{Every: 1}}
		wantTooLarge(t, "snapshot", agg.SaveSnapshot(ctx, s, "a"), "save snapshot")
		works("a snapshot")
		grows := &es.Projection[grown]{Name: "grows", From: es.FromAll(), When: []es.Handler[grown]{grow}}
		_, err = grows.CatchUp(ctx, s)
		if !errors.Is(err, es.ErrInvalid) || !strings.Contains(err.Error(), "max_allowed_packet") {
			t.Errorf("a projection with such a state says %v, want ErrInvalid with max_allowed_packet", err)
		}
		works("a checkpoint")
		if n := storetest.CatchUp(t, storetest.TotalsOf("totals"), s).Position; n < stored[len(stored)-1].Position {
			t.Errorf("another projection has come to %d, want %d", n, stored[len(stored)-1].Position)
		}
		works("another projection")
	})
}

// grown is a state that is larger than what it was made of.
type grown struct{ Text string }

// TestPacketNearlyTooLarge stores events that just fit into a packet, and reads them in every way.
func TestPacketNearlyTooLarge(t *testing.T) {
	forEachPacketLimit(t, []string{"maxAllowedPacket=4194304", "interpolateParams=true"}, func(t *testing.T, l storetest.Lane) {
		most := packetLimit(t, l)
		s := l.Open(t, &es.Options{Codec: storetest.Verbatim{}})
		storetest.CreateStream(t, s, "accounts")
		// Quotes would double in a statement's text.
		payload := storetest.Raw{Name: "text", Text: `"` + strings.Repeat(`\"`, most/2-8<<10) + `"`}
		md := es.Metadata{"k": "v"}
		stored := storetest.MustAppend(t, s, "accounts", "a", 0, es.NewEvent{Payload: payload, Metadata: md})
		l.InTx(t, s, true, nil, func(_ *sql.Tx, in *es.Store) {
			stored = append(stored, storetest.MustAppend(t, in, "accounts", "b", es.AnyVersion, es.NewEvent{Payload: payload, Metadata: md})...)
		})
		same := func(what string, got []es.Event, want ...es.Event) {
			t.Helper()
			if len(got) != len(want) {
				t.Fatalf("%s: %d events, want %d", what, len(got), len(want))
			}
			for i := range got {
				if got[i].ID != want[i].ID || string(got[i].Data) != string(want[i].Data) {
					t.Fatalf("%s: event %d has %d bytes, want %d, or others", what, i, len(got[i].Data), len(want[i].Data))
				}
			}
		}
		same("Read", storetest.Everything(t, s), stored...)
		same("Read by metadata", storetest.Collect(t, s.Read(t.Context(), es.FromStream("accounts", es.Meta("k").Equals("v")), es.ReadOptions{Backward: true})), stored[1], stored[0])
		same("ReadAggregate", storetest.Collect(t, s.ReadAggregate(t.Context(), "accounts", "a", 0)), stored[0])
		keep := es.OnAny(func(n *storetest.Raw, ev es.Event) { n.Text = string(ev.Data) })
		agg := &es.Aggregate[storetest.Raw]{Stream: "accounts", When: []es.Fold[storetest.Raw]{keep}, Snapshot: es.Snapshot{Every: 1}}
		if err := agg.SaveSnapshot(t.Context(), s, "a"); err != nil {
			t.Fatal(err)
		}
		if r, err := agg.Load(t.Context(), s, "a"); err != nil || r.Version() != 1 {
			t.Fatalf("loaded from a snapshot: %v", err)
		}
		storetest.WantIdle(t, l, "at the end")
	})
}

// TestPacketLimitChanges changes what a server of its own takes while a store is in use.
func TestPacketLimitChanges(t *testing.T) {
	if storetest.MemoryOnly() {
		return
	}
	server, err := testserver.Start(t.Context(), testserver.MariaDB, testserver.Options{Small: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() })
	dsn, err := storetest.WithDatabase(server.DSN(""))
	if err != nil {
		t.Fatal(err)
	}
	l := storetest.Lane{Name: "own", Dialect: es.MySQL, Driver: "mysql"}.Pool(t, dsn, 4)
	l.DB.SetMaxIdleConns(0) // each statement has a new connection, with the limit of its time
	s := l.Open(t, &es.Options{Codec: storetest.Verbatim{}})
	storetest.CreateStream(t, s, "accounts")
	stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, es.NewEvent{Payload: text(2 << 20)})
	for _, limit := range []int{1 << 20, 128 << 10, 16 << 20} {
		l.Exec(t, fmt.Sprint("SET GLOBAL max_allowed_packet = ", limit))
		var evs []es.NewEvent
		for range 30 {
			evs = append(evs, es.NewEvent{Payload: text(100 << 10)})
		}
		storetest.WithIDs(evs)
		// What is known of the server is wrong now, and it may hang up.
		var more []es.Event
		for range 3 {
			if more, err = s.Append(t.Context(), "accounts", "a", es.AnyVersion, evs...); err == nil {
				break
			}
			storetest.WantPlain(t, fmt.Sprint("limit ", limit), err)
		}
		if err != nil {
			t.Fatalf("limit %d: %v", limit, err)
		}
		stored = append(stored, more...)
		if limit < 2<<20 {
			_, err = s.Append(t.Context(), "accounts", "a", es.AnyVersion, es.NewEvent{Payload: text(2 << 20)})
			wantTooLarge(t, fmt.Sprint("limit ", limit), err, "payload")
			continue
		}
		stored = append(stored, storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, es.NewEvent{Payload: text(2 << 20)})...)
	}
	storetest.SameEvents(t, "at the end", storetest.Everything(t, s), stored)
}

// TestPacketSentAhead has the driver refuse a statement of which it has sent a part ahead. What the server
// keeps of that must not become part of the next append.
func TestPacketSentAhead(t *testing.T) {
	storetest.ForEach(t, 1, func(l storetest.Lane) bool { return l.Driver == "mysql" && !l.Odd }, func(t *testing.T, l storetest.Lane) {
		const n = 4000
		l = l.Pool(t, storetest.WithParams(l.DSN, "maxAllowedPacket=700000"), 1)
		s := l.Open(t, &es.Options{Codec: storetest.Verbatim{}})
		storetest.CreateStream(t, s, "accounts")
		var stored []es.Event
		for _, size := range []int{20, 60, 20, 20, 60, 20, 20} {
			evs := make([]es.NewEvent, n)
			for i := range evs {
				evs[i] = es.NewEvent{Payload: text(size), Metadata: es.Metadata{"k": strings.Repeat("x", size-8)}}
			}
			if size == 60 {
				evs[0].Payload = text(40000) // goes ahead
			}
			more, err := s.Append(t.Context(), "accounts", "a", es.ExpectedVersion(len(stored)), evs...)
			if err != nil {
				t.Error(err)
			}
			stored = append(stored, more...)
		}
		storetest.SameEvents(t, "stored", storetest.Everything(t, s), stored)
	})
}
