package schema_test

import (
	"net/url"
	"strings"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// withSetting returns the lane with a setting in its DSN.
func withSetting(t *testing.T, l storetest.Lane, name, value string) storetest.Lane {
	t.Helper()
	if l.Dialect == es.MySQL {
		return l.Pool(t, storetest.WithParams(l.DSN, url.QueryEscape(name)+"="+url.QueryEscape(value)), 3)
	}
	u, err := url.Parse(l.DSN)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set(name, value)
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
	return l.Pool(t, u.String(), 3)
}

// harmful are settings with which data would be lost or garbled, and whose name the error has.
var harmful = map[*es.Dialect][][2]string{
	es.Postgres: {{"client_encoding", "LATIN1"}, {"client_encoding", "WIN1252"}},
	es.MySQL: {
		{"autocommit", "0"},
		{"completion_type", "'CHAIN'"},
		{"charset", "latin1"},
		{"charset", "utf8mb3"},
		{"character_set_client", "latin1"},
		{"character_set_connection", "latin1"},
		{"character_set_results", "latin1"},
		{"character_set_results", "utf8mb3"},
		{"sql_select_limit", "0"},
		{"sql_select_limit", "1"},
		{"sql_select_limit", "1000"},
		{"unique_checks", "0"},
	},
}

// unusual are settings that make no difference.
var unusual = map[*es.Dialect][][2]string{
	es.Postgres: {
		{"client_encoding", "SQL_ASCII"},
		{"DateStyle", "German"},
		{"DateStyle", "SQL, DMY"},
		{"IntervalStyle", "sql_standard"},
		{"bytea_output", "escape"},
		{"standard_conforming_strings", "off"},
		{"session_replication_role", "replica"},
		{"row_security", "off"},
		{"array_nulls", "off"},
		{"transform_null_equals", "on"},
		{"statement_timeout", "60000"},
		{"idle_in_transaction_session_timeout", "60000"},
		{"default_transaction_deferrable", "on"},
		{"plan_cache_mode", "force_generic_plan"},
		{"synchronous_commit", "off"},
		{"TimeZone", "Australia/Lord_Howe"},
		{"default_query_exec_mode", "exec"},
		{"default_query_exec_mode", "cache_describe"},
	},
	es.MySQL: {
		{"character_set_results", "NULL"},
		{"sql_select_limit", "DEFAULT"},
		{"collation", "utf8mb4_unicode_520_ci"},
		{"collation", "utf8mb4_bin"},
		{"sql_safe_updates", "1"},
		{"foreign_key_checks", "0"},
		{"group_concat_max_len", "4"},
		{"sql_mode", "'NO_AUTO_VALUE_ON_ZERO,PIPES_AS_CONCAT,IGNORE_SPACE,HIGH_NOT_PRECEDENCE,REAL_AS_FLOAT'"},
		{"sql_mode", "'NO_ZERO_DATE,NO_ZERO_IN_DATE,STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_UNSIGNED_SUBTRACTION,ONLY_FULL_GROUP_BY'"},
		{"sql_auto_is_null", "1"},
		{"innodb_lock_wait_timeout", "1"},
		{"auto_increment_increment", "7"},
		{"parseTime", "true"},
		{"clientFoundRows", "true"},
		{"columnsWithAlias", "true"},
		{"multiStatements", "true"},
		{"compress", "true"},
		{"interpolateParams", "true"},
		{"time_zone", "'+13:00'"},
	},
}

// works does what a service does, and checks that what is read is what was stored.
func works(t *testing.T, s *es.Store) {
	t.Helper()
	ctx := t.Context()
	storetest.CreateStream(t, s, "accounts", "ü-日本語-😀")
	md := es.Metadata{"who": "Ünï😀", "n": int64(1) << 60, "f": 0.1, "b": true, "quote": `'"\`}
	var stored []es.Event
	for i, n := range []int{1, 1, 2, 40} {
		evs := storetest.Deposits(n, int64(i))
		for i := range evs {
			evs[i].Metadata = md
		}
		evs[0].Payload = storetest.Opened{Owner: `Ünï😀 '"\`}
		stored = append(stored, storetest.MustAppend(t, s, "ü-日本語-😀", "ä😀", es.ExpectedVersion(len(stored)), evs...)...)
	}
	storetest.SameEvents(t, "Read", storetest.Everything(t, s), stored)
	storetest.SameEvents(t, "Read sealed", storetest.Collect(t, s.Read(ctx, es.FromAll(es.Meta("who").Equals("Ünï😀")), es.ReadOptions{Sealed: true})), stored)
	if _, err := s.Append(ctx, "ü-日本語-😀", "ä😀", 1, storetest.Deposits(1, 1)...); !strings.Contains(err.Error(), "conflict") {
		t.Errorf("a conflict is %v", err)
	}
	ledgers := storetest.Ledgers(2, 1)
	r := ledgers.New("x")
	for range 5 {
		r.Record(storetest.Deposited{Cents: 1})
		if _, err := ledgers.Save(ctx, s, r); err != nil {
			t.Fatal(err)
		}
	}
	if again, err := ledgers.Load(ctx, s, "x"); err != nil || again.State().Cents != 5 {
		t.Errorf("loaded %v (%v), want 5 cents", again, err)
	}
	p := storetest.TotalsOf("ü-totals")
	if cp := storetest.CatchUp(t, p, s); cp.State.Accounts["x"] != 5 {
		t.Errorf("the projection has %v, want 5 cents of x", cp.State)
	}
	if got := storetest.StreamNames(t, s, "ü"); len(got) != 1 || got[0] != "ü-日本語-😀" {
		t.Errorf("streams %q", got)
	}
	if err := s.DeleteAggregate(ctx, "accounts", "x"); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteStream(ctx, "ü-日本語-😀"); err != nil {
		t.Fatal(err)
	}
	if n := len(storetest.Everything(t, s)); n != 0 {
		t.Errorf("%d events are left", n)
	}
}

// TestHarmfulSettings makes every call with settings with which data would be lost or garbled: each is
// refused, with the setting's name, also where the tables are there.
func TestHarmfulSettings(t *testing.T) {
	storetest.ForEach(t, storetest.SomeLanes, storetest.AnyKind, func(t *testing.T, l storetest.Lane) {
		installed, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, installed, "accounts")
		for _, setting := range harmful[l.Dialect] {
			other := withSetting(t, l, setting[0], setting[1])
			name := setting[0]
			if name == "charset" {
				name = "character_set_client"
			}
			what := setting[0] + "=" + setting[1]
			for _, c := range storetest.EveryCall {
				s := other.OpenIn(t, prefix, nil)
				storetest.WantInvalid(t, what+": "+c.Name, c.Call(t.Context(), s), name)
				tx, err := other.DB.BeginTx(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				storetest.WantInvalid(t, what+": "+c.Name+" in a transaction", c.Call(t.Context(), s.WithTx(tx)), name)
				_ = tx.Rollback()
			}
			s := other.OpenIn(t, prefix, nil)
			storetest.WantInvalid(t, what+": Install", s.Install(t.Context()), name)
			_, err := storetest.TotalsOf("totals").CatchUp(t.Context(), s)
			storetest.WantInvalid(t, what+": CatchUp", err, name)
			storetest.WantIdle(t, other, what)
		}
		if n := len(storetest.Everything(t, installed)); n != 0 {
			t.Errorf("%d events are stored", n)
		}
	})
}

// TestUnusualSettings does all of it with settings that make no difference.
func TestUnusualSettings(t *testing.T) {
	storetest.ForEach(t, storetest.SomeLanes, func(l storetest.Lane) bool {
		return storetest.AnyKind(l) || l.Name == "postgres-simple-tz"
	}, func(t *testing.T, l storetest.Lane) {
		for _, setting := range unusual[l.Dialect] {
			if l.Odd && (setting[0] == "client_encoding" || setting[0] == "standard_conforming_strings" || setting[0] == "default_query_exec_mode") {
				continue // pgx's simple protocol refuses the first two by itself, and the last is another
			}
			t.Run(setting[0]+"="+setting[1], func(t *testing.T) {
				other := withSetting(t, l, setting[0], setting[1])
				if l.Odd && setting[0] == "DateStyle" {
					// The simple protocol can't read times of another style.
					storetest.WantInvalid(t, "Install", other.OpenIn(t, "x_", nil).Install(t.Context()), "DateStyle")
					return
				}
				works(t, other.Open(t, nil))
			})
		}
	})
}
