package packets_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
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

		// A document that is larger than a packet is the failure of the event that made it so, and of no other.
		var failed []es.Position
		bad := stored[5].Position
		pages := &es.Documents[grown]{
			Name: "pages", From: es.FromAll(), Key: func(ev es.Event) string { return fmt.Sprint(ev.Version) },
			When: []es.Handler[grown]{es.OnAny(func(n *grown, ev es.Event) {
				if n.Text = fmt.Sprint(ev.Position); ev.Position == bad {
					n.Text = huge.Text
				}
			})},
			OnError: func(_ context.Context, ev es.Event, err error, _ int) es.ErrorAction {
				failed = append(failed, ev.Position)
				wantTooLarge(t, "a document", err, `document "`)
				return es.Skip
			},
		}
		if _, err := pages.CatchUp(ctx, s); err != nil {
			t.Fatal(err)
		}
		last := stored[len(stored)-1]
		d, err := pages.Get(ctx, s, fmt.Sprint(last.Version))
		if err != nil || d.Position != last.Position || d.State.Text != fmt.Sprint(last.Position) {
			t.Errorf("got the document of %d, %v, want that of %d", d.Position, err, last.Position)
		}
		if want := []es.Position{bad}; !slices.Equal(failed, want) {
			t.Errorf("failed are %v, want %v", failed, want)
		}
		works("a document")
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
		long := strings.Repeat("x", most-8<<10)
		ds := &es.Documents[grown]{Name: "pages", From: es.FromAll(), When: []es.Handler[grown]{es.OnAny(func(n *grown, _ es.Event) { n.Text = long })}}
		for range 2 {
			if _, err := ds.CatchUp(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			n := 0
			for d, err := range ds.All(t.Context(), s, es.DocumentOptions{}) {
				if n++; err != nil || d.State.Text != long {
					t.Fatalf("document %q has %d bytes, %v, want %d", d.Key, len(d.State.Text), err, len(long))
				}
			}
			if n != 2 {
				t.Errorf("%d documents, want 2", n)
			}
			stored = append(stored, storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, es.NewEvent{Payload: payload})...)
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
		manyDocuments(t, s, fmt.Sprint("limit ", limit), stored[len(stored)-5].Position)
		if limit < 2<<20 {
			_, err = s.Append(t.Context(), "accounts", "a", es.AnyVersion, es.NewEvent{Payload: text(2 << 20)})
			wantTooLarge(t, fmt.Sprint("limit ", limit), err, "payload")
			continue
		}
		stored = append(stored, storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, es.NewEvent{Payload: text(2 << 20)})...)
	}
	storetest.SameEvents(t, "at the end", storetest.Everything(t, s), stored)
}

// written is what [text] returns, as a payload that can be decoded.
type written string

func (written) EventName() string { return "text" }

// manyDocuments has one event change documents whose keys and labels come to more than a packet.
func manyDocuments(t *testing.T, s *es.Store, name string, after es.Position) {
	t.Helper()
	const n = 400
	keys := func(written) (keys []string) {
		for i := range n {
			keys = append(keys, fmt.Sprintf("%0250d", i))
		}
		return keys
	}
	long := strings.Repeat("l", 250)
	ds := &es.Documents[grown]{
		Name: name, From: es.FromStream("accounts"), After: after, BatchSize: 2, Key: func(es.Event) string { return "" },
		When:   []es.Handler[grown]{es.OnKey(keys, func(g *grown, _ written) { g.Text = map[string]string{"": "0", "0": "1", "1": "0"}[g.Text] })},
		Labels: func(_ string, g *grown) []string { return []string{g.Text + long} },
	}
	if _, err := ds.CatchUp(t.Context(), s); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	found := 0
	for label := range 2 {
		for _, err := range ds.All(t.Context(), s, es.DocumentOptions{Label: fmt.Sprint(label) + long}) {
			if found++; err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	if found != n {
		t.Errorf("%s: %d documents by label, want %d", name, found, n)
	}
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
