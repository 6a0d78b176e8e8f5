package outages_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// outage is an error of the server that says nothing about what it was asked to do.
type outage struct {
	name     string
	sqlState string
	number   uint16
}

var outages = []outage{
	{"cancelled", "57014", 1317},
	{"timed out", "57014", 3024},
	{"timed out on MariaDB", "57014", 1969},
	{"read-only", "25006", 1290},
	{"read-only mode", "25006", 1836},
	{"disk full", "53100", 1021},
	{"table full", "53100", 1114},
	{"out of memory", "53200", 1037},
	{"user's connections", "53300", 1203},
	{"user's resources", "53400", 1226},
	{"not ready", "57P03", 1047},
	{"internal", "XX000", 1105},
	{"unheard of", "99999", 65000},
}

// TestOwnStatementsFail has the store's own statements fail for reasons that pass, one kind after the
// other. No event is blamed for it, no run ends, and all events count once.
func TestOwnStatementsFail(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "accounts")
		stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(5, 1)...)
		statements := map[string]func(text string) bool{
			"checkpoint": func(text string) bool {
				return strings.Contains(text, prefix+"projections") && strings.Contains(text, "SET position")
			},
			"lease": func(text string) bool {
				return strings.Contains(text, prefix+"projections") && strings.Contains(text, "read_model =")
			},
			"page":   func(text string) bool { return strings.Contains(text, "e.data") },
			"begin":  func(text string) bool { return text == "BEGIN" },
			"commit": func(text string) bool { return text == "COMMIT" },
			"guard":  func(text string) bool { return strings.HasPrefix(text, "SAVEPOINT") },
			"emit": func(text string) bool {
				return strings.Contains(text, "INSERT INTO "+prefix+"events") || strings.Contains(text, "emitted_by")
			},
		}
		for statement, is := range statements {
			for i, o := range outages {
				if statement != "checkpoint" && i%3 != 0 {
					continue // which kinds there are, one statement shows
				}
				var armed atomic.Int64
				var seen, met atomic.Bool
				name := fmt.Sprintf("%s %d", statement, i)
				faulty := l.Injected(t, 5, func(text string) error {
					if !is(text) || armed.Load() < 0 || armed.Add(-1) < 0 {
						return nil
					}
					met.Store(true)
					if info := storetest.Info(t, s, name); info.Error != "" && info.Status == es.StatusRunning {
						seen.Store(true)
					}
					return l.ServerError(o.sqlState, o.number)
				}).OpenIn(t, prefix, nil)
				rows := storetest.NewRows(t, l)
				arm := es.Do(func(context.Context, *es.Step[storetest.Totals], storetest.Deposited) error {
					if statement == "commit" && !met.Load() { // and not when the read model is made
						armed.Store(3)
					}
					return nil
				})
				p := storetest.TotalsOf(name, arm, rows.Insert(), es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
					return step.Emit(ctx, es.NewEvent{Payload: e})
				}))
				p.ReadModel = rows.Table()
				p.OnError = func(_ context.Context, ev es.Event, err error, _ int) es.ErrorAction {
					t.Errorf("%s, %s: OnError was asked about event %d: %v", statement, o.name, ev.Position, err)
					return es.Skip
				}
				armed.Store(3)
				if statement == "commit" {
					armed.Store(-1)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				cp, err := p.CatchUp(ctx, faulty)
				cancel()
				if err != nil {
					t.Fatalf("%s, %s: %v", statement, o.name, err)
				}
				if cp.State.Events != len(stored) || len(rows.Positions(t)) != len(stored) {
					t.Errorf("%s, %s: %d events counted and rows for %v, want %d", statement, o.name, cp.State.Events, rows.Positions(t), len(stored))
				}
				if armed.Load() >= 0 || statement == "commit" && !met.Load() {
					t.Errorf("%s, %s: the statement was not met", statement, o.name)
				}
				if !seen.Load() && statement != "lease" && o.sqlState != "57P03" {
					t.Errorf("%s, %s: Error was never seen", statement, o.name)
				}
				if info := storetest.Info(t, s, name); info.Error != "" {
					t.Errorf("%s, %s: at the end Error is %q", statement, o.name, info.Error)
				}
			}
		}
	})
}

// TestHandlersMeetOutage has the server go read-only, or run out of something, while handlers write:
// the events are not to blame.
func TestHandlersMeetOutage(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "accounts")
		stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(5, 1)...)
		for i, o := range outages[3:10] {
			var until atomic.Int64
			name := fmt.Sprint("p", i)
			faulty := l.Injected(t, 5, func(text string) error {
				writes := strings.Contains(text, "INSERT") || strings.Contains(text, "UPDATE")
				if writes && time.Now().UnixNano() < until.Load() {
					return l.ServerError(o.sqlState, o.number)
				}
				return nil
			}).OpenIn(t, prefix, nil)
			rows := storetest.NewRows(t, l)
			began := false
			insert := rows.Insert()
			p := storetest.TotalsOf(name, es.Do(func(_ context.Context, step *es.Step[storetest.Totals], _ storetest.Deposited) error {
				if step.Event.Version == 3 && !began {
					began = true
					until.Store(time.Now().Add(700 * time.Millisecond).UnixNano())
				}
				return nil
			}), insert)
			p.ReadModel = rows.Table()
			p.OnError = func(_ context.Context, ev es.Event, err error, _ int) es.ErrorAction {
				t.Errorf("%s: OnError was asked about event %d: %v", o.name, ev.Position, err)
				return es.Skip
			}
			cp := storetest.CatchUp(t, p, faulty)
			if cp.State.Events != len(stored) || len(rows.Positions(t)) != len(stored) {
				t.Errorf("%s: %d events counted and rows for %v", o.name, cp.State.Events, rows.Positions(t))
			}
		}
	})
}

// TestDeniedEndsRun has the database refuse the checkpoint for good. The run ends with that error, and
// no event is blamed.
func TestDeniedEndsRun(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
		denied := l.ServerError("42501", 1142)
		setState(denied, "42000")
		faulty := l.Injected(t, 5, func(text string) error {
			if strings.Contains(text, prefix+"projections") && strings.Contains(text, "SET position") {
				return denied
			}
			return nil
		}).OpenIn(t, prefix, nil)
		p := storetest.TotalsOf("denied")
		p.OnError = func(_ context.Context, ev es.Event, err error, _ int) es.ErrorAction {
			t.Errorf("OnError was asked about event %d: %v", ev.Position, err)
			return es.Skip
		}
		_, err := p.CatchUp(t.Context(), faulty)
		var failed *es.ProjectionError
		if !errors.Is(err, denied) || errors.As(err, &failed) {
			t.Errorf("%v, want the database's error", err)
		}
		if info := storetest.Info(t, s, "denied"); info.Status != es.StatusFailed || !strings.Contains(info.Error, "injected") {
			t.Errorf("listed as %+v", info)
		}
	})
}

// TestAlwaysBreaksConnection has a handler that ends its connection each time it gets to one event,
// in a batch of many.
func TestAlwaysBreaksConnection(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		for _, action := range []es.ErrorAction{es.Skip, es.Park, es.Fail} {
			s := l.Open(t, nil)
			storetest.CreateStream(t, s, "accounts")
			stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(20, 1)...)
			stored = append(stored, storetest.MustAppend(t, s, "accounts", "b", es.AnyVersion, storetest.Deposits(20, 1)...)...)
			bad := stored[19].Position
			kill := "SELECT pg_terminate_backend(pg_backend_pid())"
			if l.Driver == "mysql" {
				kill = "KILL CONNECTION_ID()"
			}
			rows := storetest.NewRows(t, l)
			seen := false
			p := storetest.TotalsOf("breaks", rows.Insert(), es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], _ storetest.Deposited) error {
				if step.Event.Position != bad {
					return nil
				}
				if storetest.Info(t, s, "breaks").Error != "" {
					seen = true
				}
				tx, err := step.Tx()
				if err == nil {
					_, err = tx.ExecContext(ctx, kill)
				}
				return err
			}))
			p.ReadModel = rows.Table()
			var blamed []string
			p.OnError = func(_ context.Context, ev es.Event, err error, attempt int) es.ErrorAction {
				blamed = append(blamed, fmt.Sprint(ev.Position, " ", attempt))
				if err == nil {
					t.Error("OnError without an error")
				}
				if attempt < 2 {
					return es.Retry
				}
				return action
			}
			_, err := p.CatchUp(t.Context(), s)
			if failed := (*es.ProjectionError)(nil); action == es.Fail != errors.As(err, &failed) {
				t.Errorf("%v: %v", action, err)
			}
			if want := []string{fmt.Sprint(bad, " 1"), fmt.Sprint(bad, " 2")}; !slices.Equal(blamed, want) {
				t.Errorf("%v: OnError was asked about %q, want %q", action, blamed, want)
			}
			if !seen {
				t.Errorf("%v: Error was never seen", action)
			}
			var want []int64
			for _, ev := range stored {
				if ev.Position != bad && (action != es.Fail || ev.Position < bad) {
					want = append(want, int64(ev.Position))
				}
			}
			if got := rows.Positions(t); !slices.Equal(got, want) {
				t.Errorf("%v: rows of %v, want %v", action, got, want)
			}
			if action != es.Park {
				continue
			}
			// A parked event that breaks it again is parked again.
			if err := s.RetryParked(t.Context(), "breaks"); err != nil {
				t.Fatal(err)
			}
			storetest.CatchUp(t, p, s)
			if parked, err := s.ParkedEvents(t.Context(), "breaks"); err != nil || len(parked) != 1 || parked[0].Error == "" {
				t.Errorf("parked: %+v (%v)", parked, err)
			}
		}
	})
}

// TestLongBatches has batches, and single handlers, that take longer than the lease, in processes with a
// pool of one connection. They get on, and don't take the lease from each other all the time.
func TestLongBatches(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		for what, slow := range map[string]func(version int64) time.Duration{
			"batch":  func(int64) time.Duration { return 300 * time.Millisecond },
			"single": func(version int64) time.Duration { return map[int64]time.Duration{4: 2500 * time.Millisecond}[version] },
		} {
			_, prefix := l.OpenPrefixed(t)
			s := l.Pool(t, l.DSN, 1).OpenIn(t, prefix, nil)
			other := l.Pool(t, l.DSN, 1).OpenIn(t, prefix, nil)
			storetest.CreateStream(t, s, "accounts")
			stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(8, 1)...)
			rows := storetest.NewRows(t, l)
			var mu sync.Mutex
			calls := map[int64]int{}
			p := storetest.TotalsOf("long", rows.Insert(), es.Do(func(_ context.Context, step *es.Step[storetest.Totals], _ storetest.Deposited) error {
				mu.Lock()
				calls[step.Event.Version]++
				mu.Unlock()
				time.Sleep(slow(step.Event.Version)) // as work that does not heed its context
				return nil
			}))
			p.ReadModel = rows.Table()
			for i, err := range storetest.Race(2, func(i int) error {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				_, err := p.CatchUp(ctx, []*es.Store{s, other}[i])
				return err
			}) {
				if err != nil {
					t.Fatalf("%s, %d: %v", what, i, err)
				}
			}
			if got := rows.Positions(t); len(got) != len(stored) {
				t.Errorf("%s: rows of %v", what, got)
			}
			for version, n := range calls {
				if n > 4 {
					t.Errorf("%s: the handler was called %d times for version %d", what, n, version)
				}
			}
		}
	})
}

// setState gives a MySQL error its SQLSTATE.
func setState(err error, state string) {
	var e *mysql.MySQLError
	if errors.As(err, &e) {
		copy(e.SQLState[:], state)
	}
}
