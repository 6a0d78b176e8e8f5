package storetest

import (
	"context"
	"fmt"
	"strings"
	"testing"

	es "example.com/eventstore"
)

// EventRun is events that follow each other in a log: of some streams, in turn.
type EventRun struct {
	Streams []string
	Events  int
	Rare    int // every so manieth is an Opened, the others are Deposited
}

// FillRuns puts runs of events into a store's log behind what is there, by a statement for each, as an
// aggregate for each of a run's streams: "r0" in the first run, and so on. It leaves statistics
// alone. It returns the last position.
func (l Lane) FillRuns(t testing.TB, s *es.Store, prefix string, after es.Position, runs ...EventRun) es.Position {
	t.Helper()
	for i, r := range runs {
		var list []string
		for k, name := range r.Streams {
			if has, err := s.HasStream(t.Context(), name); err != nil {
				t.Fatal(err)
			} else if !has {
				CreateStream(t, s, name)
			}
			list = append(list, fmt.Sprintf("SELECT %d AS i, '%s' AS name", k, name))
		}
		n := len(r.Streams)
		numbers, id, name := fmt.Sprintf("generate_series(0, %d) AS g(n)", r.Events-1), "gen_random_uuid()", "s.name = v.name"
		if l.Dialect == es.MySQL {
			id, name = "UNHEX(REPLACE(UUID(), '-', ''))", "s.name = CAST(v.name AS BINARY)"
			digits := "(SELECT 0 d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)"
			numbers = fmt.Sprintf("(SELECT a.d + 10*b.d + 100*c.d + 1000*e.d + 10000*f.d AS n FROM %[1]s a, %[1]s b, %[1]s c, %[1]s e, %[1]s f HAVING n < %[2]d) g", digits, r.Events)
		}
		opened := "FALSE"
		if r.Rare > 0 {
			opened = fmt.Sprintf("(g.n + 1) %% %d = 0", r.Rare)
		}
		l.Exec(t, fmt.Sprintf(`
INSERT INTO %[1]sevents (position, stream_id, aggregate_id, version, event_id, name, data, metadata, recorded_at)
SELECT %[2]d + g.n, s.id, 'r%[3]d', FLOOR(g.n / %[4]d) + 1, %[5]s,
       CASE WHEN %[6]s THEN 'account.opened' ELSE 'account.deposited' END, '{"cents": 1, "owner": "ann"}', '{}', CURRENT_TIMESTAMP
FROM %[7]s
JOIN (%[8]s) v ON v.i = MOD(g.n, %[4]d)
JOIN %[1]sstreams s ON %[9]s
ORDER BY g.n`, prefix, after+1, i, n, id, opened, numbers, strings.Join(list, " UNION ALL "), name))
		after += es.Position(r.Events)
	}
	if l.Dialect == es.Postgres {
		l.Exec(t, fmt.Sprintf("SELECT setval(pg_get_serial_sequence('%sevents', 'position'), %d)", prefix, after))
	}
	return after
}

// Analyze brings what the database knows of the events up to date.
func (l Lane) Analyze(t testing.TB, prefix string) {
	t.Helper()
	if l.Dialect == es.Postgres {
		l.Exec(t, "ANALYZE "+prefix+"events")
	} else {
		l.Exec(t, "ANALYZE TABLE "+prefix+"events")
	}
}

// ReadCost returns how much of the events and the documents the server reads for fn, which uses the store
// that it is given: rows, entries of indexes and, on Postgres, blocks.
func (l Lane) ReadCost(t testing.TB, s *es.Store, prefix string, fn func(*es.Store)) int {
	t.Helper()
	tx, err := l.DB.BeginTx(context.WithoutCancel(t.Context()), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	count := func() (total int) {
		text := "SHOW SESSION STATUS LIKE 'Handler_read%'"
		if l.Dialect == es.Postgres {
			text = "SELECT relname, pg_stat_get_xact_tuples_returned(oid) + pg_stat_get_xact_blocks_fetched(oid) FROM pg_class WHERE relname ~ '^" + prefix + "(events|documents|labels)'"
		}
		rows, err := tx.Query(text)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var name string
			var n int
			if err := rows.Scan(&name, &n); err != nil {
				t.Fatal(err)
			}
			total += n
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		return total
	}
	before := count()
	fn(s.WithTx(tx))
	return count() - before
}
