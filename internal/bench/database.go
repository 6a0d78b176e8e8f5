package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/google/uuid"

	es "example.com/eventstore"
	"example.com/eventstore/internal/testserver"
)

// Prefixes of the tables: of the store that is measured, of those written by hand, and of logs
// that both read.
const (
	libPrefix = "bench_lib_"
	rawPrefix = "bench_raw_"
	logPrefix = "bench_log_" // one stream, aggregates of logAggregate events
	bigPrefix = "bench_big_" // half as long, aggregates of bigAggregate events; for projections too
	mixPrefix = "bench_mix_" // as long as the log, mixStreams streams, every mixRareth event of another name

	fewPrefix  = "bench_few_"  // one stream, documented events of few aggregates
	manyPrefix = "bench_many_" // the same, each event of another aggregate
)

var prefixes = []string{libPrefix, rawPrefix, logPrefix, bigPrefix, mixPrefix, fewPrefix, manyPrefix}

const (
	// startSize is how many events the tables hold to which a case appends: they are those of a
	// service that has been running for a while. A plan that Postgres has made for a table that was
	// empty when it was analysed would scan it all.
	startSize = 20_000

	logAggregate = 100
	bigAggregate = 10_000

	mixStreams = 100
	mixRare    = 1000

	// behind is how many events there are behind a snapshot.
	behind = 10
)

// databaseBench has a database filled for the cases.
type databaseBench struct {
	db       *sql.DB
	dialect  *es.Dialect
	postgres bool
	stores   map[string]*es.Store // by prefix
	streams  map[string]int64     // ids, by prefix and name
	next     atomic.Int64
	stmts    sync.Map // texts to *sql.Stmt
}

// openDB opens a pool that is wide enough for every case. A MySQL DSN without a database gets one.
func openDB(engine testserver.Engine, dsn string) (*sql.DB, error) {
	driver := "pgx"
	if engine == testserver.MariaDB {
		driver = "mysql"
		cfg, err := mysql.ParseDSN(dsn)
		if err != nil {
			return nil, err
		}
		if cfg.DBName == "" {
			db, err := sql.Open(driver, dsn)
			if err != nil {
				return nil, err
			}
			defer db.Close()
			if _, err := db.Exec("CREATE DATABASE IF NOT EXISTS eventstore_bench"); err != nil {
				return nil, err
			}
			cfg.DBName = "eventstore_bench"
			dsn = cfg.FormatDSN()
		}
	}
	db, err := sql.Open(driver, dsn)
	if err == nil {
		db.SetMaxOpenConns(70)
		db.SetMaxIdleConns(70)
	}
	return db, err
}

// serverName returns a server's kind and version: "PostgreSQL 15.4", "MariaDB 10.11.6".
func serverName(ctx context.Context, db *sql.DB) (string, error) {
	var text string
	if err := db.QueryRowContext(ctx, "SELECT version()").Scan(&text); err != nil {
		return "", err
	}
	number, maria, _ := strings.Cut(text, "-")
	switch words := strings.Fields(text); {
	case words[0] == "PostgreSQL":
		return strings.Join(words[:2], " "), nil
	case strings.Contains(maria, "MariaDB"):
		return "MariaDB " + number, nil
	}
	return "MySQL " + number, nil
}

// newDatabaseBench fills the tables that the wanted cases need. What it returns is to be dropped, with an error too.
func newDatabaseBench(ctx context.Context, db *sql.DB, engine testserver.Engine, wanted *regexp.Regexp) (*databaseBench, error) {
	b := &databaseBench{db: db, dialect: es.MySQL, postgres: engine == testserver.Postgres, stores: map[string]*es.Store{}, streams: map[string]int64{}}
	if b.postgres {
		b.dialect = es.Postgres
	}
	b.drop()
	needed := map[bool]bool{} // whether of documents
	for _, c := range b.cases() {
		if wanted.MatchString(c.name) {
			needed[strings.HasPrefix(c.name, "documents")] = true
		}
	}
	for _, prefix := range prefixes {
		if _, ofDocuments := documentLogs[prefix]; !needed[ofDocuments] {
			continue
		}
		s, err := es.Open(db, b.dialect, &es.Options{TablePrefix: prefix})
		if err != nil {
			return b, err
		}
		b.stores[prefix] = s
		if err := s.Install(ctx); err != nil {
			return b, err
		}
		if err := b.fillLog(ctx, prefix, s); err != nil {
			return b, err
		}
		// Nobody waits for this in a service that has been running for a while.
		if _, err := s.Sealed(ctx); err != nil {
			return b, err
		}
		analyse := "ANALYZE TABLE " + prefix + "events"
		if b.postgres {
			analyse = "VACUUM ANALYZE " + prefix + "events"
		}
		if _, err := db.ExecContext(ctx, analyse); err != nil {
			return b, err
		}
	}
	return b, nil
}

// fillLog makes the streams and the events of a prefix.
func (b *databaseBench) fillLog(ctx context.Context, prefix string, s *es.Store) error {
	if prefix == mixPrefix {
		for i := range mixStreams {
			if err := b.createStream(ctx, prefix, s, mixStream(i)); err != nil {
				return err
			}
		}
		return b.fill(ctx, prefix, *logSize, func(i int) rawEvent {
			e := rawEvent{mixStream(i), fmt.Sprintf("account-%03d", i%(10*mixStreams)), i/(10*mixStreams) + 1, deposit(i)}
			if i%mixRare == mixRare/2 {
				e.payload = opened{fmt.Sprintf("account-%03d", i)}
			}
			return e
		})
	}
	if err := b.createStream(ctx, prefix, s, "accounts"); err != nil {
		return err
	}
	if keys, ok := documentLogs[prefix]; ok {
		return b.fill(ctx, prefix, documented, func(i int) rawEvent {
			return rawEvent{"accounts", documentKey(i, keys), i/keys + 1, deposit(i)}
		})
	}
	n, each := startSize, logAggregate
	switch prefix {
	case logPrefix:
		n = *logSize
	case bigPrefix:
		n, each = projected(), bigAggregate
	}
	if err := b.fill(ctx, prefix, n, func(i int) rawEvent {
		return rawEvent{"accounts", anAccount(i / each), i%each + 1, deposit(i)}
	}); err != nil {
		return err
	}
	_, err := b.db.ExecContext(ctx, fmt.Sprintf(`
INSERT INTO %[1]ssnapshots (stream_id, aggregate_id, version, position, schema_no, state)
SELECT stream_id, aggregate_id, version, position, %[2]d, '{"Cents": 1, "Deposits": %[3]d}' FROM %[1]sevents WHERE version = %[3]d`, prefix, snapshotted.Snapshot.Schema, each-behind))
	return err
}

func mixStream(i int) string { return fmt.Sprintf("accounts-%02d", i%mixStreams) }
func anAccount(i int) string { return fmt.Sprintf("account-%05d", i) }

func (b *databaseBench) createStream(ctx context.Context, prefix string, s *es.Store, name string) error {
	if err := s.CreateStream(ctx, name, nil); err != nil {
		return err
	}
	var id int64
	err := b.db.QueryRowContext(ctx, b.bind("SELECT id FROM "+prefix+"streams WHERE name = ?"), name).Scan(&id)
	b.streams[prefix+name] = id
	return err
}

// rawEvent is an event to be inserted by hand.
type rawEvent struct {
	stream, aggregate string
	version           int
	payload           es.Payload
}

// fill inserts n events.
func (b *databaseBench) fill(ctx context.Context, prefix string, n int, event func(i int) rawEvent) error {
	const most = 1000
	rows := make([]rawEvent, 0, most)
	for i := range n {
		if rows = append(rows, event(i)); len(rows) == most || i == n-1 {
			if err := b.insert(ctx, prefix, rows); err != nil {
				return err
			}
			rows = rows[:0]
		}
	}
	return nil
}

// insert is one INSERT of all rows by itself, on a prepared statement; it asks for the positions,
// and checks nothing but the tables' unique keys.
func (b *databaseBench) insert(ctx context.Context, prefix string, rows []rawEvent) error {
	text := "INSERT INTO " + prefix + "events (stream_id, aggregate_id, version, event_id, name, data, metadata, recorded_at) VALUES " +
		strings.TrimSuffix(strings.Repeat("(?, ?, ?, ?, ?, ?, ?, ?), ", len(rows)), ", ")
	if b.postgres {
		text += " RETURNING position"
	}
	st, err := b.prepared(ctx, text)
	if err != nil {
		return err
	}
	args := make([]any, 0, 8*len(rows))
	now := time.Now().UTC()
	for i := range rows {
		e := &rows[i]
		data, err := json.Marshal(e.payload)
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
		args = append(args, b.streams[prefix+e.stream], e.aggregate, e.version, eventID, e.payload.EventName(), string(data), "{}", now)
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

// prepared returns a statement that is prepared when it is first asked for.
func (b *databaseBench) prepared(ctx context.Context, text string) (*sql.Stmt, error) {
	if st, ok := b.stmts.Load(text); ok {
		return st.(*sql.Stmt), nil
	}
	st, err := b.db.PrepareContext(ctx, b.bind(text))
	if err == nil {
		if other, twice := b.stmts.LoadOrStore(text, st); twice {
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

// drop removes what newDatabaseBench and the cases have made.
func (b *databaseBench) drop() {
	b.stmts.Range(func(_, st any) bool { _ = st.(*sql.Stmt).Close(); return true })
	b.stmts.Clear()
	for _, prefix := range prefixes {
		for _, table := range []string{"meta", "streams", "events", "snapshots", "projections", "parked", "verdicts", "documents", "labels"} {
			_, _ = b.db.Exec("DROP TABLE IF EXISTS " + prefix + table)
		}
	}
	_, _ = b.db.Exec("DROP TABLE IF EXISTS bench_balances, bench_accounts, bench_last")
}

// cases are all that are measured on a database.
func (b *databaseBench) cases() []benchCase {
	var all []benchCase
	for _, some := range [][]benchCase{b.appends(), b.loads(), b.reads(), b.projections(), b.documents(), b.appendsBeside()} {
		all = append(all, some...)
	}
	return all
}
