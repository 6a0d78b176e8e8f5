package eventstore_test

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	es "example.com/eventstore"
)

// fill puts n events at the end of a store's log by one statement of the database's own: one
// aggregate in stream "accounts" whose every rareth event is an account.opened.
func (l lane) fill(t testing.TB, prefix string, n, rare int) {
	t.Helper()
	numbers, id := fmt.Sprintf("generate_series(1, %d) AS s(n)", n), "gen_random_uuid()"
	if l.dialect == es.MySQL {
		id = "UNHEX(REPLACE(UUID(), '-', ''))"
		digits := "(SELECT 0 d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)"
		numbers = fmt.Sprintf("(SELECT 1 + a.d + 10*b.d + 100*c.d + 1000*e.d + 10000*f.d + 100000*g.d AS n FROM %[1]s a, %[1]s b, %[1]s c, %[1]s e, %[1]s f, %[1]s g) n WHERE n <= %[2]d ORDER BY n", digits, n)
	}
	statement := fmt.Sprintf(`
INSERT INTO %[1]sevents (position, stream_id, aggregate_id, version, event_id, name, data, metadata, recorded_at)
SELECT n, (SELECT id FROM %[1]sstreams WHERE name = 'accounts'), 'big', n, %[2]s,
       CASE WHEN n %% %[3]d = 0 THEN 'account.opened' ELSE 'account.deposited' END,
       '{"cents": 1, "owner": "ann"}', '{}', CURRENT_TIMESTAMP
FROM %[4]s`, prefix, id, rare, numbers)
	if _, err := l.db.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
	if l.dialect == es.Postgres {
		if _, err := l.db.ExecContext(t.Context(), fmt.Sprintf("SELECT setval(pg_get_serial_sequence('%[1]sevents', 'position'), %[2]d); ANALYZE %[1]sevents", prefix, n)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestProjectionScale takes in a million events: in little memory, at the same cost for each from
// first to last; and finds the rare ones among them without going through the others.
func TestProjectionScale(t *testing.T) {
	const rare, most = 100_000, 200 << 20
	forEach(t, 1, anyKind, func(t *testing.T, l lane) {
		n := 1_000_000
		if l.dialect != es.Postgres {
			n = 300_000 // what grows with the log would show by then
		}
		s, prefix := l.openPrefixed(t)
		createStream(t, s, "accounts")
		l.fill(t, prefix, n, rare)

		debug.FreeOSMemory() // what earlier tests have left does not count
		var first, last time.Duration
		var heap uint64
		at := time.Now()
		p := &es.Projection[int]{Name: "all", From: es.FromAll(), When: []es.Handler[int]{
			es.OnAny(func(seen *int, ev es.Event) {
				if *seen++; *seen%(n/10) != 0 {
					return
				}
				took := time.Since(at)
				if at = time.Now(); first == 0 {
					first = took
				}
				last = took
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				heap = max(heap, m.HeapInuse+m.StackInuse)
			}),
		}}
		if cp := catchUp(t, p, s); cp.State != n {
			t.Errorf("%d events, want %d", cp.State, n)
		}
		t.Logf("a tenth took %v at first and %v at last, in at most %d MB", first, last, heap>>20)
		if last > 2*first+time.Second {
			t.Errorf("the last tenth of the events took %v, the first %v", last, first)
		}
		if heap > most {
			t.Errorf("%d MB in use, want less than %d", heap>>20, most>>20)
		}

		var opens int
		sparse := &es.Projection[int]{Name: "rare", From: es.FromAll(), When: []es.Handler[int]{
			es.Do(func(_ context.Context, step *es.Step[int], _ opened) error { *step.State++; opens++; return nil }),
		}}
		began := time.Now()
		cp := catchUp(t, sparse, s)
		t.Logf("%d rare events took %v", cp.State, time.Since(began))
		if cp.State != n/rare || int(cp.Position) < n {
			t.Errorf("%d rare events up to %d, want %d up to %d", cp.State, cp.Position, n/rare, n)
		}
	})
}
