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
	"example.com/eventstore/internal/storetest"
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
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts")
		for what, bad := range badNames {
			agg := storetest.Accounts
			agg.Stream = bad
			change := func(r *es.Root[storetest.Account]) error { r.Record(storetest.Deposited{Cents: 1}); return nil }
			for _, c := range []struct {
				call, names string
				err         error
			}{
				{"CreateStream", "stream name", s.CreateStream(ctx, bad, nil)},
				{"DeleteStream", "stream name", s.DeleteStream(ctx, bad)},
				{"SetStreamMetadata", "stream name", s.SetStreamMetadata(ctx, bad, nil)},
				{"HasStream", "stream name", storetest.Second(s.HasStream(ctx, bad))},
				{"Append's stream", "stream name", storetest.Second(s.Append(ctx, bad, "a", 0, storetest.Deposits(1, 1)...))},
				{"Append's ID", "aggregate ID", storetest.Second(s.Append(ctx, "accounts", bad, 0, storetest.Deposits(1, 1)...))},
				{"Append's event", "event name", storetest.Second(s.Append(ctx, "accounts", "a", 0, append(storetest.Deposits(20, 1), es.NewEvent{Payload: storetest.Raw{Name: bad, Text: "{}"}})...))},
				{"ReadAggregate's stream", "stream name", storetest.FirstError(s.ReadAggregate(ctx, bad, "a", 0))},
				{"ReadAggregate's ID", "aggregate ID", storetest.FirstError(s.ReadAggregate(ctx, "accounts", bad, 0))},
				{"Load's ID", "aggregate ID", storetest.Second(storetest.Accounts.Load(ctx, s, bad))},
				{"Execute's ID", "aggregate ID", storetest.Second(storetest.Accounts.Execute(ctx, s, bad, change))},
				{"Aggregate.Stream", "Aggregate.Stream", storetest.Second(agg.Execute(ctx, s, "a", change))},
				{"Aggregate.Stream", "Aggregate.Stream", storetest.Second(agg.Load(ctx, s, "a"))},
				{"Aggregate.Stream", "Aggregate.Stream", storetest.Second(agg.Save(ctx, s, agg.New("a")))},
			} {
				storetest.WantInvalid(t, c.call+", "+what, c.err, c.names)
			}
			if bad == "" {
				continue
			}
			storetest.WantInvalid(t, "Read of a stream, "+what, storetest.FirstError(s.Read(ctx, es.FromStream(bad), es.ReadOptions{})), "stream name")
			storetest.WantInvalid(t, "Read of a category, "+what, storetest.FirstError(s.Read(ctx, es.FromCategory(bad), es.ReadOptions{})), "category")
			storetest.WantInvalid(t, "Subscribe, "+what, storetest.FirstError(s.Subscribe(ctx, es.FromStreams("accounts", bad), 0)), "stream name")
			if len(bad) < 255 {
				storetest.WantInvalid(t, "Streams, "+what, storetest.Second(s.Streams(ctx, bad)), "prefix")
			}
		}
		nothingStored(t, s)
		storetest.WantIdle(t, l, "at the end")
		// As long as can be is fine.
		longest := strings.Repeat("ü", 127) + "x"
		storetest.CreateStream(t, s, longest)
		storetest.MustAppend(t, s, longest, longest, es.MustNotExist, es.NewEvent{Payload: storetest.Raw{Name: longest, Text: "{}"}})
	})
}

func nothingStored(t *testing.T, s *es.Store) {
	t.Helper()
	if got := storetest.Everything(t, s); len(got) != 0 {
		t.Errorf("%d events are stored, want none", len(got))
	}
	if got := storetest.StreamNames(t, s, ""); len(got) != 1 || got[0] != "accounts" {
		t.Errorf("streams are %q, want accounts alone", got)
	}
	if infos, err := s.Streams(t.Context(), "accounts"); err != nil || len(infos) != 1 || len(infos[0].Metadata) > 0 {
		t.Errorf("the stream is %+v, %v, want it without metadata", infos, err)
	}
}

func TestInvalidMetadata(t *testing.T) {
	type text string
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts")
		for _, bad := range []any{
			nil, uint64(math.MaxInt64 + 1), uint(math.MaxUint), math.NaN(), math.Inf(1), float32(math.Inf(-1)), []int{1}, []string(nil), map[string]any{}, es.Metadata{},
			struct{}{}, new(int), complex(1, 1), errors.New("x"), "\xff", text("\xff"), []byte("x"), time.Second, time.Now(), [16]byte{}, new(string), (*text)(nil), sql.NullString{},
		} {
			md := es.Metadata{"fine": 1, "the key": bad}
			what := fmt.Sprintf("%T %v", bad, bad)
			storetest.WantInvalid(t, "CreateStream with "+what, s.CreateStream(ctx, "new", md), `"the key"`)
			storetest.WantInvalid(t, "SetStreamMetadata with "+what, s.SetStreamMetadata(ctx, "accounts", md), `"the key"`)
			evs := storetest.Deposits(20, 1)
			evs[19].Metadata = md
			_, err := s.Append(ctx, "accounts", "a", 0, evs...)
			storetest.WantInvalid(t, "Append with "+what, err, `"the key"`)
			if err != nil && !strings.Contains(err.Error(), "event 19") {
				t.Errorf("%s: error reads %q, want it to name event 19", what, err)
			}
		}
		storetest.WantInvalid(t, "CreateStream with a bad key", s.CreateStream(ctx, "new", es.Metadata{"k\xff": 1}), "key")
		nothingStored(t, s)
	})
}

type broken struct{ C chan int }

func (broken) EventName() string { return "broken" }

type badCodec struct{ text string }

func (c badCodec) Marshal(any) ([]byte, error)   { return []byte(c.text), nil }
func (badCodec) Unmarshal(_ []byte, _ any) error { return errors.New("no") }

func TestInvalidAppend(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts")
		twice := storetest.WithIDs(storetest.Deposits(3, 1))
		twice[2].ID = twice[0].ID
		var nilPayload *storetest.Deposited
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
			{"an ID of the store's own", "event ID", 0, []es.NewEvent{{ID: uuid.MustParse("e5e50000-0000-0000-0000-000000000001"), Payload: storetest.Deposited{}}}},
			{"expected version -3", "expected version -3", -3, storetest.Deposits(1, 1)},
			{"expected version of the least", "expected version", math.MinInt64, storetest.Deposits(1, 1)},
			{"JSON that is not UTF-8", "UTF-8", 0, []es.NewEvent{{Payload: storetest.Raw{Name: "raw", Text: "\"\xff\""}}}},
		} {
			for _, before := range []int{0, 20} {
				if before > 0 && c.expected < 0 {
					continue
				}
				stored, err := s.Append(ctx, "accounts", "a", c.expected, append(storetest.Deposits(before, 1), c.evs...)...)
				storetest.WantInvalid(t, c.name, err, c.names)
				if stored != nil {
					t.Errorf("%s: returned events with the error", c.name)
				}
			}
		}
		nothingStored(t, s)
		for _, text := range []string{"", "{", "{}{}", "nul", "'a'", "{\"a\":\xff}", "NaN", "{}\x00"} {
			s := l.Open(t, &es.Options{Codec: badCodec{text}})
			storetest.CreateStream(t, s, "accounts")
			_, err := s.Append(ctx, "accounts", "a", 0, storetest.Deposits(1, 1)...)
			storetest.WantInvalid(t, fmt.Sprintf("a codec that writes %q", text), err, "account.deposited")
			nothingStored(t, s)
		}
	})
}

func TestInvalidRead(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		for names, opts := range map[string]es.ReadOptions{"Limit": {Limit: -1}, "After": {After: -1}, "Before": {Before: -5}} {
			for _, sel := range []es.Selection{es.FromAll(), nil} {
				storetest.WantInvalid(t, "Read", storetest.FirstError(s.Read(ctx, sel, opts)), "ReadOptions."+names)
			}
		}
		storetest.WantInvalid(t, "ReadAggregate", storetest.FirstError(s.ReadAggregate(ctx, "accounts", "a", -1)), "version -1")
		storetest.WantInvalid(t, "Read of a stream and a category", storetest.FirstError(s.Read(ctx, es.Selection{{Stream: "a", Category: "b"}}, es.ReadOptions{})), "category")
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
				"Read":      storetest.FirstError(s.Read(ctx, append(es.FromAll(), es.FromStream("a", m)...), es.ReadOptions{})),
				"Subscribe": storetest.FirstError(s.Subscribe(ctx, es.FromAll(m), 0)),
				"Query":     storetest.Second((&es.Query[storetest.Account]{From: es.FromAll(m), When: storetest.Accounts.When}).Run(ctx, s)),
			} {
				if names == "zero Field" || names == "zero Match" {
					storetest.WantErr(t, what+" with the "+name, err, es.ErrInvalid)
					continue
				}
				storetest.WantInvalid(t, what+" with "+name, err, names)
			}
		}
		storetest.WantInvalid(t, "Query without From", storetest.Second((&es.Query[storetest.Account]{When: storetest.Accounts.When}).Run(ctx, s)), "Query.From")
		storetest.WantInvalid(t, "Query with a zero Fold", storetest.Second((&es.Query[storetest.Account]{From: es.FromAll(), When: []es.Fold[storetest.Account]{{}}}).Run(ctx, s)), "Query.When[0]")
		storetest.WantIdle(t, l, "at the end")
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
		storetest.WantInvalid(t, c.name, err, c.names)
		if s != nil {
			t.Errorf("%s: returned a store with the error", c.name)
		}
		if c.db != nil && c.dialect != nil {
			for _, call := range storetest.EveryCall {
				storetest.WantInvalid(t, "memory, "+c.name+", "+call.Name, call.Call(t.Context(), es.NewMemStore(c.opts)), c.names)
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
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		prefix, name := l.NewPrefix(t), "postgres"
		if l.Dialect == es.Postgres {
			l.Dialect, name = es.MySQL, "mysql"
		} else {
			l.Dialect = es.Postgres
		}
		s := l.OpenIn(t, prefix, nil)
		storetest.WantInvalid(t, "Install", s.Install(t.Context()), "dialect "+name)
		_, err := s.Append(t.Context(), "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
		storetest.WantInvalid(t, "Append", err, "dialect "+name)
		storetest.WantIdle(t, l, "at the end")
	})
}

func TestInvalidAggregate(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts")
		for names, agg := range map[string]es.Aggregate[storetest.Account]{
			"Aggregate.Attempts":        {Stream: "accounts", Attempts: -1},
			"Aggregate.Snapshot.Every":  {Stream: "accounts", Snapshot: es.Snapshot{Every: -1}},
			"Aggregate.Snapshot.Schema": {Stream: "accounts", Snapshot: es.Snapshot{Schema: -1}},
			"Aggregate.When[1]":         {Stream: "accounts", When: []es.Fold[storetest.Account]{storetest.Accounts.When[0], {}}},
			"Aggregate.When[0]":         {Stream: "accounts", When: []es.Fold[storetest.Account]{es.On[storetest.Opened, storetest.Account](nil)}},
		} {
			storetest.WantInvalid(t, "Load", storetest.Second(agg.Load(ctx, s, "a")), names)
			if agg.Snapshot.Every == 0 {
				agg.Snapshot.Every = 1
			}
			storetest.WantInvalid(t, "SaveSnapshot", agg.SaveSnapshot(ctx, s, "a"), names)
			r := agg.New("a")
			r.Record(storetest.Opened{Owner: "ann"})
			storetest.WantInvalid(t, "Save", storetest.Second(agg.Save(ctx, s, r)), names)
		}
		storetest.WantInvalid(t, "Execute without decide", storetest.Second(storetest.Accounts.Execute(ctx, s, "a", nil)), "decide")
		for names, record := range map[string]func(*es.Root[storetest.Account]){
			"payload is nil": func(r *es.Root[storetest.Account]) { r.Record(nil) },
			"payload":        func(r *es.Root[storetest.Account]) { r.Record((*storetest.Deposited)(nil)) },
			`"k"`: func(r *es.Root[storetest.Account]) {
				r.Record(storetest.Deposited{Cents: 1}, es.Metadata{"k": []int{}})
			},
		} {
			r := storetest.Accounts.New("a")
			r.Record(storetest.Deposited{Cents: 1})
			record(r)
			storetest.WantInvalid(t, "Save", storetest.Second(storetest.Accounts.Save(ctx, s, r)), names)
		}
		r := storetest.Accounts.New("a")
		r.Record(storetest.Raw{Name: "unheard.of", Text: "{}"})
		storetest.WantErr(t, "Save of an unknown event", storetest.Second(storetest.Accounts.Save(ctx, s, r)), es.ErrUnknownEvent)
		nothingStored(t, s)
	})
}
