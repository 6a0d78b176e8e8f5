package eventstore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	es "example.com/eventstore"
)

var badNames = map[string]string{
	"empty": "", "256 bytes": strings.Repeat("a", 256), "256 bytes of 128 letters": strings.Repeat("ü", 128),
	"NUL": "a\x00b", "not UTF-8": "a\xff", "half a letter": "a\xc3", "a surrogate": "\xed\xa0\x80",
}

// named is a pointer type whose EventName panics for nil.
type named struct{ Name string }

func (n *named) EventName() string { return n.Name }

// TestInvalidNames gives every call names that can't be stored.
func TestInvalidNames(t *testing.T) {
	forEachLane(t, func(t *testing.T, l lane) {
		s, ctx := l.open(t, nil), t.Context()
		createStream(t, s, "accounts")
		for what, bad := range badNames {
			agg := accounts
			agg.Stream = bad
			change := func(r *es.Root[account]) error { r.Record(deposited{1}); return nil }
			for _, c := range []struct {
				call, names string
				err         error
			}{
				{"CreateStream", "stream name", s.CreateStream(ctx, bad, nil)},
				{"DeleteStream", "stream name", s.DeleteStream(ctx, bad)},
				{"SetStreamMetadata", "stream name", s.SetStreamMetadata(ctx, bad, nil)},
				{"HasStream", "stream name", second(s.HasStream(ctx, bad))},
				{"Append's stream", "stream name", second(s.Append(ctx, bad, "a", 0, events(1, 1)...))},
				{"Append's ID", "aggregate ID", second(s.Append(ctx, "accounts", bad, 0, events(1, 1)...))},
				{"Append's event", "event name", second(s.Append(ctx, "accounts", "a", 0, append(events(20, 1), es.NewEvent{Payload: raw{bad, "{}"}})...))},
				{"ReadAggregate's stream", "stream name", firstError(s.ReadAggregate(ctx, bad, "a", 0))},
				{"ReadAggregate's ID", "aggregate ID", firstError(s.ReadAggregate(ctx, "accounts", bad, 0))},
				{"Load's ID", "aggregate ID", second(accounts.Load(ctx, s, bad))},
				{"Execute's ID", "aggregate ID", second(accounts.Execute(ctx, s, bad, change))},
				{"Aggregate.Stream", "Aggregate.Stream", second(agg.Execute(ctx, s, "a", change))},
				{"Aggregate.Stream", "Aggregate.Stream", second(agg.Load(ctx, s, "a"))},
				{"Aggregate.Stream", "Aggregate.Stream", second(agg.Save(ctx, s, agg.New("a")))},
			} {
				wantInvalid(t, c.call+", "+what, c.err, c.names)
			}
			if bad == "" {
				continue
			}
			wantInvalid(t, "Read of a stream, "+what, firstError(s.Read(ctx, es.FromStream(bad), es.ReadOptions{})), "stream name")
			wantInvalid(t, "Read of a category, "+what, firstError(s.Read(ctx, es.FromCategory(bad), es.ReadOptions{})), "category")
			wantInvalid(t, "Subscribe, "+what, firstError(s.Subscribe(ctx, es.FromStreams("accounts", bad), 0)), "stream name")
			if len(bad) < 255 {
				wantInvalid(t, "Streams, "+what, second(s.Streams(ctx, bad)), "prefix")
			}
		}
		nothingStored(t, s)
		wantIdle(t, l, "at the end")
		// As long as can be is fine.
		longest := strings.Repeat("ü", 127) + "x"
		createStream(t, s, longest)
		mustAppend(t, s, longest, longest, es.MustNotExist, es.NewEvent{Payload: raw{longest, "{}"}})
	})
}

func second[T any](_ T, err error) error { return err }

func nothingStored(t *testing.T, s *es.Store) {
	t.Helper()
	if got := everything(t, s); len(got) != 0 {
		t.Errorf("%d events are stored, want none", len(got))
	}
	if got := streamNames(t, s, ""); len(got) != 1 || got[0] != "accounts" {
		t.Errorf("streams are %q, want accounts alone", got)
	}
	if infos, err := s.Streams(t.Context(), "accounts"); err != nil || len(infos) != 1 || len(infos[0].Metadata) > 0 {
		t.Errorf("the stream is %+v, %v, want it without metadata", infos, err)
	}
}

func TestInvalidMetadata(t *testing.T) {
	type text string
	forEachStore(t, func(t *testing.T, s *es.Store) {
		ctx := t.Context()
		createStream(t, s, "accounts")
		for _, bad := range []any{
			nil, uint64(math.MaxInt64 + 1), uint(math.MaxUint), math.NaN(), math.Inf(1), float32(math.Inf(-1)), []int{1}, []string(nil), map[string]any{}, es.Metadata{},
			struct{}{}, new(int), complex(1, 1), errors.New("x"), "\xff", text("x"), []byte("x"), time.Second, time.Now(), uuid.New(),
		} {
			md := es.Metadata{"fine": 1, "the key": bad}
			what := fmt.Sprintf("%T %v", bad, bad)
			wantInvalid(t, "CreateStream with "+what, s.CreateStream(ctx, "new", md), `"the key"`)
			wantInvalid(t, "SetStreamMetadata with "+what, s.SetStreamMetadata(ctx, "accounts", md), `"the key"`)
			evs := events(20, 1)
			evs[19].Metadata = md
			_, err := s.Append(ctx, "accounts", "a", 0, evs...)
			wantInvalid(t, "Append with "+what, err, `"the key"`)
			if err != nil && !strings.Contains(err.Error(), "event 19") {
				t.Errorf("%s: error reads %q, want it to name event 19", what, err)
			}
		}
		wantInvalid(t, "CreateStream with a bad key", s.CreateStream(ctx, "new", es.Metadata{"k\xff": 1}), "key")
		nothingStored(t, s)
	})
}

type broken struct{ C chan int }

func (broken) EventName() string { return "broken" }

type badCodec struct{ text string }

func (c badCodec) Marshal(any) ([]byte, error)   { return []byte(c.text), nil }
func (badCodec) Unmarshal(_ []byte, _ any) error { return errors.New("no") }

func TestInvalidAppend(t *testing.T) {
	forEachLane(t, func(t *testing.T, l lane) {
		s, ctx := l.open(t, nil), t.Context()
		createStream(t, s, "accounts")
		twice := withIDs(events(3, 1))
		twice[2].ID = twice[0].ID
		var nilPayload *deposited
		for _, c := range []struct {
			name, names string
			expected    es.ExpectedVersion
			evs         []es.NewEvent
		}{
			{"a nil payload", "payload is nil", 0, []es.NewEvent{{}}},
			{"a nil pointer with value methods", "payload", 0, []es.NewEvent{{Payload: nilPayload}}},
			{"a nil pointer", "payload", 0, []es.NewEvent{{Payload: (*named)(nil)}}},
			{"a payload that JSON can't encode", "broken", 0, []es.NewEvent{{Payload: broken{}}}},
			{"an ID twice", twice[0].ID.String(), 0, twice},
			{"an ID of the store's own", "event ID", 0, []es.NewEvent{{ID: uuid.MustParse("e5e50000-0000-0000-0000-000000000001"), Payload: deposited{}}}},
			{"expected version -3", "expected version -3", -3, events(1, 1)},
			{"expected version of the least", "expected version", math.MinInt64, events(1, 1)},
			{"JSON that is not UTF-8", "UTF-8", 0, []es.NewEvent{{Payload: raw{"raw", "\"\xff\""}}}},
		} {
			for _, before := range []int{0, 20} {
				if before > 0 && c.expected < 0 {
					continue
				}
				stored, err := s.Append(ctx, "accounts", "a", c.expected, append(events(before, 1), c.evs...)...)
				wantInvalid(t, c.name, err, c.names)
				if stored != nil {
					t.Errorf("%s: returned events with the error", c.name)
				}
			}
		}
		nothingStored(t, s)
		for _, text := range []string{"", "{", "{}{}", "nul", "'a'", "{\"a\":\xff}", "NaN", "{}\x00"} {
			s := l.open(t, &es.Options{Codec: badCodec{text}})
			createStream(t, s, "accounts")
			_, err := s.Append(ctx, "accounts", "a", 0, events(1, 1)...)
			wantInvalid(t, fmt.Sprintf("a codec that writes %q", text), err, "account.deposited")
			nothingStored(t, s)
		}
	})
}

func TestInvalidRead(t *testing.T) {
	forEachLane(t, func(t *testing.T, l lane) {
		s, ctx := l.open(t, nil), t.Context()
		for names, opts := range map[string]es.ReadOptions{"Limit": {Limit: -1}, "After": {After: -1}, "Before": {Before: -5}} {
			for _, sel := range []es.Selection{es.FromAll(), nil} {
				wantInvalid(t, "Read", firstError(s.Read(ctx, sel, opts)), "ReadOptions."+names)
			}
		}
		wantInvalid(t, "ReadAggregate", firstError(s.ReadAggregate(ctx, "accounts", "a", -1)), "version -1")
		wantInvalid(t, "Read of a stream and a category", firstError(s.Read(ctx, es.Selection{{Stream: "a", Category: "b"}}, es.ReadOptions{})), "category")
		// A selection that is not refused would make Subscribe wait.
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		for name, m := range map[string]es.Match{
			"zero Match":   {},
			"zero Field":   es.Field{}.Equals("a"),
			"(":            es.ByEventName.Matches("("),
			"z-a":          es.Meta("k").Matches("[z-a]"),
			"(?=":          es.Meta("k").Matches("(?=a)"), // not RE2
			"aggregate ID": es.ByAggregateID.Equals(1),
			"event name":   es.ByEventName.In("a", nil),
			"event ID":     es.ByEventID.Equals("not an ID"),
			"version":      es.ByVersion.AtLeast("1"),
			"position":     es.ByPosition.LessThan(time.Now()),
			"recording":    es.ByRecordedAt.GreaterThan("2026-01-01"),
			"metadata":     es.Meta("k").Equals(nil),
			"NaN":          es.Meta("k").LessThan(math.NaN()),
			"float64 NaN":  es.ByVersion.AtMost(math.NaN()),
			"uint64":       es.Meta("k").Equals(uint64(math.MaxUint64)),
			"[]int":        es.Meta("k").NotIn(1, []int{1}),
		} {
			names := name
			for what, err := range map[string]error{
				"Read":      firstError(s.Read(ctx, append(es.FromAll(), es.FromStream("a", m)...), es.ReadOptions{})),
				"Subscribe": firstError(s.Subscribe(ctx, es.FromAll(m), 0)),
				"Query":     second((&es.Query[account]{From: es.FromAll(m), When: accounts.When}).Run(ctx, s)),
			} {
				if names == "zero Field" || names == "zero Match" {
					wantErr(t, what+" with the "+name, err, es.ErrInvalid)
					continue
				}
				wantInvalid(t, what+" with "+name, err, names)
			}
		}
		wantInvalid(t, "Query without From", second((&es.Query[account]{When: accounts.When}).Run(ctx, s)), "Query.From")
		wantInvalid(t, "Query with a zero Fold", second((&es.Query[account]{From: es.FromAll(), When: []es.Fold[account]{{}}}).Run(ctx, s)), "Query.When[0]")
		wantIdle(t, l, "at the end")
	})
}

func TestInvalidOpen(t *testing.T) {
	db, err := sql.Open("pgx", "postgres://nobody@127.0.0.1:1/none")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rename := es.Rename("a", "b")
	for _, c := range []struct {
		name, names string
		db          *sql.DB
		dialect     *es.Dialect
		opts        *es.Options
	}{
		{"no db", "db is nil", nil, es.Postgres, nil},
		{"no dialect", "dialect is nil", db, nil, nil},
		{"a bad prefix", "Options.TablePrefix", db, es.MySQL, &es.Options{TablePrefix: "a-"}},
		{"a zero upcaster", "Options.Upcasters[1]", db, es.MySQL, &es.Options{Upcasters: []es.Upcaster{rename, {}}}},
		{"two upcasters of a name", "Options.Upcasters", db, es.MySQL, &es.Options{Upcasters: []es.Upcaster{rename, rename}}},
		{"a circle of upcasters", "circle", db, es.MySQL, &es.Options{Upcasters: []es.Upcaster{rename, es.Rename("b", "a")}}},
		{"an upcaster to no name", "upcaster", db, es.MySQL, &es.Options{Upcasters: []es.Upcaster{es.Rename("a", "")}}},
	} {
		s, err := es.Open(c.db, c.dialect, c.opts)
		wantInvalid(t, c.name, err, c.names)
		if s != nil {
			t.Errorf("%s: returned a store with the error", c.name)
		}
		if c.db != nil && c.dialect != nil {
			for _, call := range everyCall {
				wantInvalid(t, "memory, "+c.name+", "+call.name, call.call(t.Context(), es.NewMemStore(c.opts)), c.names)
			}
		}
	}
	// Open does no I/O: nobody listens there.
	s, err := es.Open(db, es.Postgres, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Install(context.Background()); err == nil || errors.Is(err, es.ErrInvalid) {
		t.Errorf("Install without a server says %v", err)
	}
}

// TestInvalidDialect opens databases with the dialect of others. It is the server's errors that tell:
// pgx's simple protocol refuses parameters that are written as ? before it asks a server.
func TestInvalidDialect(t *testing.T) {
	forEachKind(t, func(t *testing.T, l lane) {
		prefix, name := l.newPrefix(t), "postgres"
		if l.dialect == es.Postgres {
			l.dialect, name = es.MySQL, "mysql"
		} else {
			l.dialect = es.Postgres
		}
		s := l.openIn(t, prefix, nil)
		wantInvalid(t, "Install", s.Install(t.Context()), "dialect "+name)
		_, err := s.Append(t.Context(), "accounts", "a", es.AnyVersion, events(1, 1)...)
		wantInvalid(t, "Append", err, "dialect "+name)
		wantIdle(t, l, "at the end")
	})
}

func TestInvalidAggregate(t *testing.T) {
	forEachStore(t, func(t *testing.T, s *es.Store) {
		ctx := t.Context()
		createStream(t, s, "accounts")
		for names, agg := range map[string]es.Aggregate[account]{
			"Aggregate.Attempts":        {Stream: "accounts", Attempts: -1},
			"Aggregate.Snapshot.Every":  {Stream: "accounts", Snapshot: es.Snapshot{Every: -1}},
			"Aggregate.Snapshot.Schema": {Stream: "accounts", Snapshot: es.Snapshot{Schema: -1}},
			"Aggregate.When[1]":         {Stream: "accounts", When: []es.Fold[account]{accounts.When[0], {}}},
			"Aggregate.When[0]":         {Stream: "accounts", When: []es.Fold[account]{es.On[opened, account](nil)}},
		} {
			wantInvalid(t, "Load", second(agg.Load(ctx, s, "a")), names)
			if agg.Snapshot.Every == 0 {
				agg.Snapshot.Every = 1
			}
			wantInvalid(t, "SaveSnapshot", agg.SaveSnapshot(ctx, s, "a"), names)
			r := agg.New("a")
			r.Record(opened{"ann"})
			wantInvalid(t, "Save", second(agg.Save(ctx, s, r)), names)
		}
		wantInvalid(t, "Execute without decide", second(accounts.Execute(ctx, s, "a", nil)), "decide")
		for names, record := range map[string]func(*es.Root[account]){
			"payload is nil": func(r *es.Root[account]) { r.Record(nil) },
			"payload":        func(r *es.Root[account]) { r.Record((*deposited)(nil)) },
			`"k"`:            func(r *es.Root[account]) { r.Record(deposited{1}, es.Metadata{"k": []int{}}) },
		} {
			r := accounts.New("a")
			r.Record(deposited{1})
			record(r)
			wantInvalid(t, "Save", second(accounts.Save(ctx, s, r)), names)
		}
		r := accounts.New("a")
		r.Record(raw{"unheard.of", "{}"})
		wantErr(t, "Save of an unknown event", second(accounts.Save(ctx, s, r)), es.ErrUnknownEvent)
		nothingStored(t, s)
	})
}
