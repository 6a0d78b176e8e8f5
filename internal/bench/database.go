package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	es "example.com/eventstore"
	"example.com/eventstore/internal/testserver"
)

// deposited is the event of all cases.
type deposited struct {
	Account string `json:"account"`
	Cents   int64  `json:"cents"`
	Note    string `json:"note"`
	Teller  int    `json:"teller"`
}

func (deposited) EventName() string { return "account.deposited" }

func deposit(i int) deposited {
	return deposited{fmt.Sprintf("account-%03d", i%100), int64(i), "paid in at the counter", i % 7}
}

// Prefixes of the tables: of the store that is measured, of those written by hand, and of a log
// that both read.
const (
	libPrefix = "bench_lib_"
	rawPrefix = "bench_raw_"
	logPrefix = "bench_log_"
	newPrefix = "bench_new_" // half as long, for projections
)

var prefixes = []string{libPrefix, rawPrefix, logPrefix, newPrefix}

// startSize is how many events the tables hold to which a case appends: they are those of a service
// that has been running for a while. A plan that Postgres has made for a table that was empty when
// it was analysed would scan it all.
const startSize = 20_000

// databaseBench has a database filled for the cases.
type databaseBench struct {
	db       *sql.DB
	dialect  *es.Dialect
	postgres bool
	lib, log *es.Store
	half     *es.Store // half of log
	rawID    int64     // the stream's
	next     atomic.Int64
	inserts  sync.Map // rows to *sql.Stmt
}

func newDatabaseBench(ctx context.Context, db *sql.DB, engine testserver.Engine) (*databaseBench, error) {
	b := &databaseBench{db: db, dialect: es.MySQL, postgres: engine == testserver.Postgres}
	if b.postgres {
		b.dialect = es.Postgres
	}
	b.drop()
	for _, prefix := range prefixes {
		s, err := es.Open(db, b.dialect, &es.Options{TablePrefix: prefix})
		if err != nil {
			return nil, err
		}
		if err := s.Install(ctx); err != nil {
			return nil, err
		}
		if err := s.CreateStream(ctx, "accounts", nil); err != nil {
			return nil, err
		}
		switch prefix {
		case libPrefix:
			b.lib, err = s, fill(ctx, s, startSize)
		case rawPrefix:
			err = fill(ctx, s, startSize)
		case logPrefix:
			b.log, err = s, fill(ctx, s, *logSize)
		case newPrefix:
			b.half, err = s, fill(ctx, s, *logSize/2)
		}
		if err != nil {
			return nil, err
		}
		if b.postgres {
			if _, err := db.ExecContext(ctx, "ANALYZE "+prefix+"events"); err != nil {
				return nil, err
			}
		}
	}
	if err := db.QueryRowContext(ctx, "SELECT id FROM "+rawPrefix+"streams WHERE name = 'accounts'").Scan(&b.rawID); err != nil {
		return nil, err
	}
	return b, nil
}

// fill appends n events, 100 to each aggregate.
func fill(ctx context.Context, s *es.Store, n int) error {
	for i := 0; i < n; i += 100 {
		evs := make([]es.NewEvent, 100)
		for j := range evs {
			evs[j].Payload = deposit(i + j)
		}
		if _, err := s.Append(ctx, "accounts", fmt.Sprintf("account-%05d", i/100), es.MustNotExist, evs...); err != nil {
			return err
		}
	}
	return nil
}

// drop removes what newDatabaseBench and the cases have made.
func (b *databaseBench) drop() {
	b.inserts.Range(func(_, st any) bool { _ = st.(*sql.Stmt).Close(); return true })
	for _, prefix := range prefixes {
		for _, table := range []string{"meta", "streams", "events", "snapshots", "projections", "parked"} {
			_, _ = b.db.Exec("DROP TABLE IF EXISTS " + prefix + table)
		}
	}
	_, _ = b.db.Exec("DROP TABLE IF EXISTS bench_balances")
}

func (b *databaseBench) cases() []benchCase {
	var out []benchCase
	for _, c := range []struct {
		events, writers int
		goal            float64
	}{{1, 1, .90}, {1, 16, 1.1}, {1, 64, 2.5}, {10, 16, .95}, {1000, 1, .85}} {
		out = append(out, benchCase{
			name: fmt.Sprintf("append %d x %d", c.events, c.writers), unit: "appends", goal: c.goal,
			lib: b.writers(c.events, c.writers, b.libAppend), raw: b.writers(c.events, c.writers, b.rawAppend),
		})
	}
	return append(out,
		benchCase{name: "load 100", unit: "loads", goal: .90, lib: repeated(b.libLoad), raw: repeated(b.rawLoad)},
		benchCase{name: "global typed read", unit: "events", goal: .90, lib: b.libRead, raw: b.rawRead},
		benchCase{name: "projection into a table", unit: "events", goal: .90, lib: b.libProject, raw: b.rawProject},
		benchCase{name: "append 1 x 4 while a projection follows, to without", unit: "appends", goal: .85, lib: b.followed, raw: b.writers(1, 4, b.libAppend)},
	)
}

// appender appends rows as the next versions of an aggregate.
type appender func(ctx context.Context, aggregate string, version int, rows []deposited) error

// writers has n writers append, each to an aggregate of its own, for as long as a case runs.
func (b *databaseBench) writers(rows, n int, fn appender) func(context.Context, time.Duration) (int, time.Duration, error) {
	return func(ctx context.Context, d time.Duration) (int, time.Duration, error) {
		began := time.Now()
		var done atomic.Int64
		err := together(n, func() error {
			aggregate, version := fmt.Sprintf("account-%06d", b.next.Add(1)), 0
			for time.Since(began) < d {
				evs := make([]deposited, rows)
				for i := range evs {
					evs[i] = deposit(version + i)
				}
				if err := fn(ctx, aggregate, version, evs); err != nil {
					return err
				}
				version += rows
				done.Add(1)
			}
			return nil
		})
		return int(done.Load()), time.Since(began), err
	}
}

// together runs n of fn at once and returns the first error.
func together(n int, fn func() error) error {
	var wg sync.WaitGroup
	errs := make(chan error, n)
	for range n {
		wg.Go(func() { errs <- fn() })
	}
	wg.Wait()
	for range n {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

// repeated runs fn again and again for as long as a case runs.
func repeated(fn func(context.Context) error) func(context.Context, time.Duration) (int, time.Duration, error) {
	return func(ctx context.Context, d time.Duration) (int, time.Duration, error) {
		began := time.Now()
		n := 0
		for ; time.Since(began) < d; n++ {
			if err := fn(ctx); err != nil {
				return n, 0, err
			}
		}
		return n, time.Since(began), nil
	}
}

func (b *databaseBench) libAppend(ctx context.Context, aggregate string, version int, rows []deposited) error {
	evs := make([]es.NewEvent, len(rows))
	for i := range evs {
		evs[i].Payload = rows[i]
	}
	_, err := b.lib.Append(ctx, "accounts", aggregate, es.ExpectedVersion(version), evs...)
	return err
}

// rawAppend is one INSERT of all rows by itself, on a prepared statement; it asks for the
// positions, and checks nothing but the tables' unique keys.
func (b *databaseBench) rawAppend(ctx context.Context, aggregate string, version int, rows []deposited) error {
	st, err := b.insert(ctx, len(rows))
	if err != nil {
		return err
	}
	args := make([]any, 0, 8*len(rows))
	now := time.Now().UTC()
	for i := range rows {
		data, err := json.Marshal(rows[i])
		if err != nil {
			return err
		}
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		var eventID any = id[:]
		if b.postgres {
			eventID = id.String()
		}
		args = append(args, b.rawID, aggregate, version+i+1, eventID, rows[i].EventName(), string(data), "{}", now)
	}
	if !b.postgres {
		_, err := st.ExecContext(ctx, args...)
		return err
	}
	got, err := st.QueryContext(ctx, args...)
	if err != nil {
		return err
	}
	defer got.Close()
	var position int64
	for got.Next() {
		if err := got.Scan(&position); err != nil {
			return err
		}
	}
	return got.Err()
}

func (b *databaseBench) insert(ctx context.Context, rows int) (*sql.Stmt, error) {
	if st, ok := b.inserts.Load(rows); ok {
		return st.(*sql.Stmt), nil
	}
	text := "INSERT INTO " + rawPrefix + "events (stream_id, aggregate_id, version, event_id, name, data, metadata, recorded_at) VALUES " +
		strings.TrimSuffix(strings.Repeat("(?, ?, ?, ?, ?, ?, ?, ?), ", rows), ", ")
	if b.postgres {
		text += " RETURNING position"
	}
	st, err := b.db.PrepareContext(ctx, b.bind(text))
	if err == nil {
		if other, twice := b.inserts.LoadOrStore(rows, st); twice {
			_ = st.Close()
			return other.(*sql.Stmt), nil
		}
	}
	return st, err
}

// bind numbers the parameters of a statement for Postgres.
func (b *databaseBench) bind(text string) string {
	if !b.postgres {
		return text
	}
	parts := strings.Split(text, "?")
	var out strings.Builder
	for i, part := range parts {
		if i > 0 {
			fmt.Fprintf(&out, "$%d", i)
		}
		out.WriteString(part)
	}
	return out.String()
}

// account is the state that an aggregate of the log is loaded into.
type account struct{ Cents, Deposits int64 }

func (a *account) add(e deposited) { a.Cents += e.Cents; a.Deposits++ }

var accounts = &es.Aggregate[account]{Stream: "accounts", When: []es.Fold[account]{es.On((*account).add)}}

func (b *databaseBench) anAccount() string {
	return fmt.Sprintf("account-%05d", b.next.Add(1)%int64(*logSize/100))
}

func (b *databaseBench) libLoad(ctx context.Context) error {
	r, err := accounts.Load(ctx, b.log, b.anAccount())
	if err == nil && r.Version() != 100 {
		err = fmt.Errorf("%d events", r.Version())
	}
	return err
}

// columns are what is read of an event by hand.
const columns = "e.position, s.name, e.aggregate_id, e.version, e.event_id, e.name, e.data, e.metadata, e.recorded_at"

// fold runs a statement that returns columns and folds its rows.
func (b *databaseBench) fold(ctx context.Context, st *sql.Stmt, a *account, args ...any) (n int, last int64, err error) {
	rows, err := st.QueryContext(ctx, args...)
	if err != nil {
		return 0, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var (
			version                 int64
			stream, aggregate, name string
			id, data, metadata      []byte
			recordedAt              any
			e                       deposited
		)
		if err := rows.Scan(&last, &stream, &aggregate, &version, &id, &name, &data, &metadata, &recordedAt); err != nil {
			return n, last, err
		}
		if err := json.Unmarshal(data, &e); err != nil {
			return n, last, err
		}
		a.add(e)
		n++
	}
	return n, last, rows.Err()
}

func (b *databaseBench) prepared(ctx context.Context, text string) (*sql.Stmt, error) {
	if st, ok := b.inserts.Load(text); ok {
		return st.(*sql.Stmt), nil
	}
	st, err := b.db.PrepareContext(ctx, b.bind(text))
	if err == nil {
		b.inserts.Store(text, st)
	}
	return st, err
}

func (b *databaseBench) rawLoad(ctx context.Context) error {
	st, err := b.prepared(ctx, "SELECT "+columns+" FROM "+logPrefix+"streams s JOIN "+logPrefix+"events e ON e.stream_id = s.id WHERE s.name = ? AND e.aggregate_id = ? ORDER BY e.version")
	if err != nil {
		return err
	}
	var a account
	n, _, err := b.fold(ctx, st, &a, "accounts", b.anAccount())
	if err == nil && n != 100 {
		err = fmt.Errorf("%d events", n)
	}
	return err
}

func (b *databaseBench) libRead(ctx context.Context, _ time.Duration) (int, time.Duration, error) {
	began := time.Now()
	q := es.Query[account]{From: es.FromAll(), When: []es.Fold[account]{es.On((*account).add)}}
	a, err := q.Run(ctx, b.log)
	return int(a.Deposits), time.Since(began), err
}

// pageText reads a page of a log.
func (b *databaseBench) pageText(prefix string) string {
	join := "STRAIGHT_JOIN" // or MariaDB goes through the whole log for each page
	if b.postgres {
		join = "JOIN"
	}
	return "SELECT " + columns + " FROM " + prefix + "events e " + join + " " + prefix + "streams s ON s.id = e.stream_id WHERE e.position > ? ORDER BY e.position LIMIT 1000"
}

func (b *databaseBench) rawRead(ctx context.Context, _ time.Duration) (int, time.Duration, error) {
	began := time.Now()
	st, err := b.prepared(ctx, b.pageText(logPrefix))
	if err != nil {
		return 0, 0, err
	}
	var a account
	for n, last := 1000, int64(0); n == 1000; {
		if n, last, err = b.fold(ctx, st, &a, last); err != nil {
			return 0, 0, err
		}
	}
	return int(a.Deposits), time.Since(began), nil
}
