package main

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"example.com/eventstore"
	"example.com/eventstore/internal/storetest"
	"example.com/eventstore/internal/testserver"
)

func TestMain(m *testing.M) { storetest.Main(m, testserver.Postgres) }

// makeOld makes a stream as its makers' code would: their tables, and rows of two aggregates.
func makeOld(t *testing.T, db *sql.DB, stream string) *oldStream {
	t.Helper()
	old := &oldStream{db: db, name: stream, zone: time.UTC}
	exec := func(text string, args ...any) {
		t.Helper()
		if _, err := db.ExecContext(context.WithoutCancel(t.Context()), text, args...); err != nil {
			t.Fatal(err)
		}
	}
	exec(`CREATE TABLE IF NOT EXISTS event_streams (no bigserial PRIMARY KEY, real_stream_name varchar(150) NOT NULL, stream_name char(41) NOT NULL UNIQUE, metadata jsonb)`)
	exec(`INSERT INTO event_streams (real_stream_name, stream_name, metadata) VALUES ($1, $2, '{}')`, stream, old.table())
	exec(`CREATE TABLE ` + old.table() + ` (no bigserial PRIMARY KEY, event_id uuid NOT NULL UNIQUE, event_name varchar(100) NOT NULL, payload json NOT NULL, metadata jsonb NOT NULL, created_at timestamp(6) NOT NULL)`)
	t.Cleanup(func() {
		exec("DROP TABLE " + old.table())
		exec("DELETE FROM event_streams WHERE stream_name = $1", old.table())
	})
	return old
}

func addOld(t *testing.T, old *oldStream, id, kind string, version int, payload, more string) {
	t.Helper()
	metadata := fmt.Sprintf(`{"_aggregate_id": %q, "_aggregate_type": %q, "_aggregate_version": %d%s}`, id, kind, version, more)
	if _, err := old.db.Exec(`INSERT INTO `+old.table()+` (event_id, event_name, payload, metadata, created_at) VALUES ($1, $2, $3, $4, $5::timestamp)`,
		uuid.NewString(), "FooEvent", payload, metadata, fmt.Sprintf("2021-03-04 05:%02d:%02d.123456", version/60, version%60)); err != nil {
		t.Fatal(err)
	}
}

func TestMigrate(t *testing.T) {
	lanes := slices.DeleteFunc(storetest.Lanes(), func(l storetest.Lane) bool { return l.Name != "postgres" })
	if len(lanes) == 0 {
		t.Log("what is copied here is on Postgres: with -memory there is nothing to test")
		return
	}
	l := lanes[0]
	db, prefix := l.DB, l.NewPrefix(t)
	stream := fmt.Sprintf("foo-stream-%d", os.Getpid())
	old := makeOld(t, db, stream)
	ids := []string{uuid.NewString(), uuid.NewString()}
	for v := 1; v <= 1200; v++ {
		addOld(t, old, ids[v%2], "FooAggregate", (v+1)/2, fmt.Sprintf(`{ "Foo":"%d",  "Big": 9007199254740993 }`, v),
			`, "n": 9007199254740993, "x": 1.5, "ok": true, "by": "ann", "list": [1, "a"], "none": null`)
	}
	copyAll := func(want int) {
		t.Helper()
		c := &copier{source: old}
		if err := c.open(db, eventstore.Postgres, prefix); err != nil {
			t.Fatal(err)
		}
		if n, err := c.copy(t.Context()); n != want || err != nil {
			t.Fatalf("copied %d events (%v), want %d", n, err, want)
		}
	}
	copyAll(1200)
	copyAll(1200) // again: nothing changes

	// What is there is compared with the old rows once more, by another way.
	s, err := eventstore.Open(db, eventstore.Postgres, &eventstore.Options{TablePrefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	rows, err := db.Query(`SELECT event_id::text, payload::text, metadata->>'_aggregate_id', (metadata->>'_aggregate_version')::bigint, created_at FROM ` + old.table() + ` ORDER BY no`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	wantMetadata := eventstore.Metadata{"n": int64(9007199254740993), "x": 1.5, "ok": true, "by": "ann", "list": `[1, "a"]`, "none": "null"}
	n := 0
	for ev, err := range s.Read(t.Context(), eventstore.FromStream(stream), eventstore.ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		var id, payload, aggregate string
		var version int64
		var at time.Time
		if !rows.Next() {
			t.Fatal("the store has more events than the stream")
		}
		if err := rows.Scan(&id, &payload, &aggregate, &version, &at); err != nil {
			t.Fatal(err)
		}
		if ev.ID.String() != id || string(ev.Data) != payload || ev.AggregateID != aggregate || ev.Version != version || !ev.RecordedAt.Equal(at) || ev.Name != "FooEvent" || !maps.Equal(ev.Metadata, wantMetadata) {
			t.Fatalf("event %+v of the row %s %s %s %d %v", ev, id, payload, aggregate, version, at)
		}
		n++
	}
	if n != 1200 || rows.Next() || rows.Err() != nil {
		t.Errorf("%d events in the store, want all 1200; %v", n, rows.Err())
	}

	// The old stream grows.
	addOld(t, old, ids[0], "FooAggregate", 601, `{}`, "")
	copyAll(1201)

	// One ID under two types would become one aggregate.
	addOld(t, old, ids[1], "BarAggregate", 1, `{}`, "")
	c := &copier{source: old}
	if err := c.open(db, eventstore.Postgres, prefix); err != nil {
		t.Fatal(err)
	}
	if _, err := c.copy(t.Context()); err == nil || !strings.Contains(err.Error(), "BarAggregate") {
		t.Errorf("two types of one ID: %v", err)
	}
}

func TestFlags(t *testing.T) {
	if err := run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "-from") {
		t.Errorf("without flags: %v", err)
	}
}
