package eventstore_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	es "example.com/eventstore"
)

// TestPlans asks the database how it carries out the statements of appends, reads and sealing on a
// filled table: never by going through all events.
func TestPlans(t *testing.T) {
	forEachKind(t, func(t *testing.T, l lane) {
		prefix := l.newPrefix(t)
		s, _ := l.openIn(t, prefix, nil)
		if err := s.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		createStream(t, s, "accounts", "orders")
		l.fill(t, prefix, 50_000, 1000)
		if l.dialect == es.MySQL {
			if _, err := l.db.ExecContext(t.Context(), "ANALYZE TABLE "+prefix+"events"); err != nil {
				t.Fatal(err)
			}
		}
		for what, st := range es.Statements(s) {
			plan := l.explain(t, st.Text, st.Args)
			if l.scans(plan, prefix+"events") {
				t.Errorf("%s goes through all events:\n%s\n%s", what, st.Text, plan)
			}
		}
	})
}

// explain returns the plan of a statement, in the database's words.
func (l lane) explain(t *testing.T, text string, args []any) string {
	t.Helper()
	rows, err := l.db.QueryContext(context.WithoutCancel(t.Context()), "EXPLAIN "+text, args...)
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
func (l lane) scans(plan, table string) bool {
	if l.dialect == es.Postgres {
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
	forEachKind(t, func(t *testing.T, l lane) {
		prefix := l.newPrefix(t)
		s, _ := l.openIn(t, prefix, nil)
		if err := s.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		createStream(t, s, "accounts")
		l.fill(t, prefix, 1000, 10)
		if plan := l.explain(t, "SELECT count(*) FROM "+prefix+"events e WHERE e.name <> 'a'", nil); !l.scans(plan, prefix+"events") {
			t.Errorf("not seen:\n%s", plan)
		}
	})
}
