package eventstore_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestPlans asks the database how it carries out the statements of appends, reads and sealing on a
// filled table: never by going through all events, and by the index on streams and positions wherever a
// stream is read, in both directions; on Postgres several streams that are read by position come in that order, unsorted. One stream is most of the log, another begins late; statistics are
// fresh, of the time before that began, or missing.
func TestPlans(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		for _, statistics := range []string{"fresh", "stale", "none"} {
			s, prefix := l.OpenPrefixed(t)
			if l.Dialect == es.Postgres {
				l.Exec(t, "ALTER TABLE "+prefix+"events SET (autovacuum_enabled = false)")
			}
			storetest.CreateStream(t, s, "accounts", "orders")
			at := l.FillRuns(t, s, prefix, 0, storetest.EventRun{Streams: []string{"accounts"}, Events: 50_000, Rare: 1000})
			l.Exec(t, "UPDATE "+prefix+"events SET aggregate_id = 'big'")
			if l.Dialect == es.Postgres {
				l.Exec(t, "VACUUM "+prefix+"events")
			}
			if statistics == "stale" {
				l.Analyze(t, prefix)
			}
			l.FillRuns(t, s, prefix, at, storetest.EventRun{Streams: []string{"orders"}, Events: 1000})
			if statistics == "fresh" {
				l.Analyze(t, prefix)
			}
			for what, st := range es.Statements(s) {
				plan := explain(t, l, st.Text, st.Args)
				if scans(l, plan, prefix+"events") {
					t.Errorf("%s, statistics %s, goes through all events:\n%s\n%s", what, statistics, st.Text, plan)
				}
				if index := regexp.MustCompile(`(using|key=|on e using) ?(` + prefix + `events_stream|stream_id_2)\b`); st.ByStream && !index.MatchString(plan) {
					t.Errorf("%s, statistics %s, does not go by the index on streams and positions:\n%s\n%s", what, statistics, st.Text, plan)
				}
				if st.InOrder && l.Dialect == es.Postgres && strings.Contains(plan, "Sort Key") {
					t.Errorf("%s, statistics %s, sorts:\n%s\n%s", what, statistics, st.Text, plan)
				}
			}
		}
	})
}

// explain returns the plan of a statement, in the database's words.
func explain(t *testing.T, l storetest.Lane, text string, args []any) string {
	t.Helper()
	rows, err := l.DB.QueryContext(context.WithoutCancel(t.Context()), "EXPLAIN "+text, args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for rows.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			t.Fatal(err)
		}
		line := make([]string, len(columns))
		for i, v := range values {
			switch v := (*v.(*any)).(type) {
			case []byte:
				line[i] = columns[i] + "=" + string(v)
			default:
				line[i] = fmt.Sprintf("%s=%v", columns[i], v)
			}
		}
		lines = append(lines, strings.Join(line, " "))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// As a table, and as the tree that is the default of newer versions of MySQL.
var (
	fullScan     = regexp.MustCompile(`(?m)^.* table=(e|events|[a-z0-9_]*events) .*type=ALL .*$`)
	fullScanTree = regexp.MustCompile(`Table scan on (e|[a-z0-9_]*events) `)
)

// scans says whether a plan goes through all of a table. What an INSERT itself touches MySQL lists
// as type ALL without rows.
func scans(l storetest.Lane, plan, table string) bool {
	if l.Dialect == es.Postgres {
		return strings.Contains(plan, "Seq Scan on "+table)
	}
	if fullScanTree.MatchString(plan) {
		return true
	}
	for _, line := range fullScan.FindAllString(plan, -1) {
		if !strings.Contains(line, "rows=<nil>") && !strings.Contains(line, "select_type=INSERT") {
			return true
		}
	}
	return false
}

// TestPlansAreSeen checks that the test above knows a plan that goes through all events.
func TestPlansAreSeen(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "accounts")
		l.Fill(t, prefix, 1000, 10)
		if plan := explain(t, l, "SELECT count(*) FROM "+prefix+"events e WHERE e.name <> 'a'", nil); !scans(l, plan, prefix+"events") {
			t.Errorf("not seen:\n%s", plan)
		}
	})
}

// TestPlansKept asks Postgres how often it has planned what runs again and again, on a log and
// aggregates that are long enough for a plan which knows limits and positions to seem better: five
// times, and then no more.
func TestPlansKept(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		if l.Name != "postgres-one" {
			t.Skip("it takes a session that prepares, and one only")
		}
		var version int
		if err := l.DB.QueryRow("SHOW server_version_num").Scan(&version); err != nil {
			t.Fatal(err)
		}
		if version < 140000 {
			t.Skip("this version does not count plans")
		}
		s, prefix := l.OpenPrefixed(t)
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts")
		for i := range 20 {
			storetest.MustAppend(t, s, "accounts", fmt.Sprint(i%4), es.AnyVersion, storetest.Deposits(1000, 1)...)
		}
		if _, err := l.DB.Exec("ANALYZE " + prefix + "events"); err != nil {
			t.Fatal(err)
		}
		a := storetest.Accounts
		a.Snapshot.Every = 100
		if err := a.SaveSnapshot(ctx, s, "1"); err != nil {
			t.Fatal(err)
		}
		for range 12 {
			if _, err := a.Load(ctx, s, "1"); err != nil {
				t.Fatal(err)
			}
			for _, err := range s.Read(ctx, es.FromAll(), es.ReadOptions{}) {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			if _, err := s.Sealed(ctx); err != nil {
				t.Fatal(err)
			}
		}
		rows, err := l.DB.Query("SELECT statement, generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE '%' || $1 || '%' AND statement LIKE '%LIMIT %'", prefix)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		seen := 0
		for rows.Next() {
			var text string
			var kept, made int
			if err := rows.Scan(&text, &kept, &made); err != nil {
				t.Fatal(err)
			}
			if kept+made < 12 {
				continue // filling and saving
			}
			if seen++; made > 5 {
				t.Errorf("planned %d times, by a kept plan %d times:\n%s", made, kept, text)
			}
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		if seen < 3 {
			t.Errorf("%d statements seen, want those of a snapshot, of a page and of a look", seen)
		}
	})
}
