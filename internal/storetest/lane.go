package storetest

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-sql-driver/mysql"

	es "example.com/eventstore"
	"example.com/eventstore/internal/testserver"
)

// Pool returns the lane with a pool of its own, as another process would have it.
func (l Lane) Pool(t testing.TB, dsn string, conns int) Lane {
	t.Helper()
	db, err := sql.Open(l.Driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	t.Cleanup(func() { _ = db.Close() })
	l.DSN, l.DB = dsn, db
	return l
}

// Through returns the lane as it is reached through another address, in clear text, so that a proxy
// there can read what is said.
func (l Lane) Through(t testing.TB, addr string, conns int) Lane {
	t.Helper()
	if l.Driver != "mysql" {
		u, err := url.Parse(withQuery(l.DSN, "sslmode", "disable"))
		if err != nil {
			t.Fatal(err)
		}
		u.Host = addr
		return l.Pool(t, u.String(), conns)
	}
	cfg, err := mysql.ParseDSN(l.DSN)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Addr, cfg.TLSConfig = addr, ""
	return l.Pool(t, cfg.FormatDSN(), conns)
}

// URL returns the lane's database as the examples' flag -store takes it: "memory", or a URL.
func (l Lane) URL(t testing.TB) string {
	t.Helper()
	switch l.Driver {
	case "":
		return "memory"
	case "pgx":
		return l.DSN
	}
	cfg, err := mysql.ParseDSN(l.DSN)
	if err != nil {
		t.Fatal(err)
	}
	u := url.URL{Scheme: "mysql", User: url.UserPassword(cfg.User, cfg.Passwd), Host: cfg.Addr, Path: "/" + cfg.DBName}
	return u.String()
}

// Addr returns where the lane's server listens.
func (l Lane) Addr(t testing.TB) string {
	t.Helper()
	if l.Driver != "mysql" {
		u, err := url.Parse(l.DSN)
		if err != nil {
			t.Fatal(err)
		}
		return u.Host
	}
	cfg, err := mysql.ParseDSN(l.DSN)
	if err != nil {
		t.Fatal(err)
	}
	return cfg.Addr
}

// Proxied returns the lane with a pool of its own whose connections go through a proxy.
func (l Lane) Proxied(t testing.TB, conns int) (Lane, *testserver.Proxy) {
	t.Helper()
	p, err := testserver.NewProxy(l.Addr(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return l.Through(t, p.Addr(), conns), p
}

var prefixes atomic.Int64

// Open returns a fresh, installed store. Its tables are dropped after the test.
func (l Lane) Open(t testing.TB, opts *es.Options) *es.Store {
	t.Helper()
	if l.DB == nil {
		return es.NewMemStore(opts)
	}
	s := l.OpenIn(t, l.NewPrefix(t), opts)
	if err := s.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// OpenPrefixed returns a fresh, installed store in a database, and its tables' prefix.
func (l Lane) OpenPrefixed(t testing.TB) (s *es.Store, prefix string) {
	t.Helper()
	prefix = l.NewPrefix(t)
	s = l.OpenIn(t, prefix, nil)
	if err := s.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, prefix
}

// OpenTwice returns a fresh, installed store, and another Store over the same tables, as another
// process would have it. On memory, where there is no other process, they are one.
func (l Lane) OpenTwice(t testing.TB) (s, other *es.Store) {
	t.Helper()
	if l.DB == nil {
		s = l.Open(t, nil)
		return s, s
	}
	s, prefix := l.OpenPrefixed(t)
	return s, l.OpenIn(t, prefix, nil)
}

// NewPrefix returns a table prefix that no other test uses. The store's tables under it are dropped
// after the test, and those that more names without the prefix.
func (l Lane) NewPrefix(t testing.TB, more ...string) string {
	prefix := fmt.Sprintf("t%d_%d_", os.Getpid(), prefixes.Add(1))
	if l.DB == nil {
		return prefix
	}
	t.Cleanup(func() {
		var tables []string
		for _, table := range append([]string{"meta", "streams", "events", "snapshots", "projections", "parked", "verdicts", "documents", "labels"}, more...) {
			tables = append(tables, prefix+table)
		}
		if _, err := l.DB.Exec("DROP TABLE IF EXISTS " + strings.Join(tables, ", ")); err != nil {
			t.Errorf("drop the tables of %s: %v", prefix, err)
		}
	})
	return prefix
}

// OpenIn returns a store on tables with a prefix. It is not installed.
func (l Lane) OpenIn(t testing.TB, prefix string, opts *es.Options) *es.Store {
	t.Helper()
	if opts == nil {
		opts = &es.Options{}
	}
	o := *opts
	o.TablePrefix = prefix
	s, err := es.Open(l.DB, l.Dialect, &o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// InTx runs fn with the store in a new transaction, and commits it or rolls it back.
func (l Lane) InTx(t testing.TB, s *es.Store, commit bool, opts *sql.TxOptions, fn func(tx *sql.Tx, s *es.Store)) {
	t.Helper()
	tx, err := l.DB.BeginTx(context.WithoutCancel(t.Context()), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }() // does nothing after the end below
	fn(tx, s.WithTx(tx))
	end := tx.Rollback
	if commit {
		end = tx.Commit
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
}

// RowsRead returns how many rows and entries of indexes the server reads for fn, on MySQL and with a
// pool of one connection, as it counts by session.
func (l Lane) RowsRead(t testing.TB, fn func()) (total int) {
	t.Helper()
	if _, err := l.DB.Exec("FLUSH STATUS"); err != nil {
		t.Fatal(err)
	}
	fn()
	rows, err := l.DB.Query("SHOW SESSION STATUS LIKE 'Handler_read%'")
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

// Exec runs a statement.
func (l Lane) Exec(t testing.TB, text string, args ...any) {
	t.Helper()
	if _, err := l.DB.Exec(text, args...); err != nil {
		t.Fatalf("%v\nin %s", err, text)
	}
}

// Lines returns the rows of a query that has one column.
func (l Lane) Lines(t testing.TB, text string, args ...any) []string {
	t.Helper()
	rows, err := l.DB.Query(text, args...)
	if err != nil {
		t.Fatalf("%v\nin %s", err, text)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		out = append(out, line)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// Schema describes the tables under a prefix: their columns, indexes, and what the meta table says.
func (l Lane) Schema(t testing.TB, prefix string) string {
	t.Helper()
	columns, indexes := `
SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable FROM information_schema.columns
WHERE table_schema = current_schema() AND table_name LIKE '`+prefix+`%'`, `
SELECT indexdef FROM pg_indexes WHERE schemaname = current_schema() AND tablename LIKE '`+prefix+`%'`
	if l.Dialect == es.MySQL {
		columns, indexes = `
SELECT CONCAT(table_name, '.', column_name, ' ', column_type, ' ', is_nullable) FROM information_schema.columns
WHERE table_schema = DATABASE() AND table_name LIKE '`+prefix+`%'`, `
SELECT CONCAT(table_name, '.', index_name, ' ', seq_in_index, ' ', column_name) FROM information_schema.statistics
WHERE table_schema = DATABASE() AND table_name LIKE '`+prefix+`%'`
	}
	c, i := l.Lines(t, columns), l.Lines(t, indexes)
	slices.Sort(c)
	slices.Sort(i)
	out := append(c, i...)
	if len(out) > 0 {
		m := l.Lines(t, `SELECT value FROM `+prefix+`meta WHERE name = 'schema'`)
		out = append(append(out, "schema"), m...)
	}
	return strings.Join(out, "\n")
}

// numbers is a table of the numbers n from 1 up to a million at most.
func (l Lane) numbers(most int) string {
	if l.Dialect == es.Postgres {
		return fmt.Sprintf("generate_series(1, %d) AS s(n)", most)
	}
	digits := "(SELECT 0 d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)"
	return fmt.Sprintf("(SELECT 1 + a.d + 10*b.d + 100*c.d + 1000*e.d + 10000*f.d + 100000*g.d AS n FROM %[1]s a, %[1]s b, %[1]s c, %[1]s e, %[1]s f, %[1]s g) n WHERE n <= %[2]d ORDER BY n", digits, most)
}

// FillDocuments adds n documents of a name by one statement, with the keys 0000001, 0000002 and so on. Every
// labelledth of them has the label "rare".
func (l Lane) FillDocuments(t testing.TB, prefix, name string, n, labelled int, state string) {
	t.Helper()
	labels := "'[\"rare\"]'"
	l.Exec(t, fmt.Sprintf(`
INSERT INTO %[1]sdocuments (projection, doc_key, position, state, labels)
SELECT '%[2]s', LPAD(CAST(n AS CHAR(7)), 7, '0'), 1, '%[3]s', CASE WHEN n %% %[4]d = 0 THEN %[5]s ELSE '' END FROM %[6]s`, prefix, name, state, labelled, labels, l.numbers(n)))
	l.Exec(t, fmt.Sprintf(`
INSERT INTO %[1]slabels (projection, label, doc_key)
SELECT projection, 'rare', doc_key FROM %[1]sdocuments WHERE projection = '%[2]s' AND labels <> ''`, prefix, name))
}

// Fill puts n events into an empty store's log by one statement, as events of the aggregate "big" in
// stream "accounts". Every rareth of them is an Opened, the others are Deposited.
func (l Lane) Fill(t testing.TB, prefix string, n, rare int) {
	t.Helper()
	id := "gen_random_uuid()"
	if l.Dialect == es.MySQL {
		id = "UNHEX(REPLACE(UUID(), '-', ''))"
	}
	statement := fmt.Sprintf(`
INSERT INTO %[1]sevents (position, stream_id, aggregate_id, version, event_id, name, data, metadata, recorded_at)
SELECT n, (SELECT id FROM %[1]sstreams WHERE name = 'accounts'), 'big', n, %[2]s,
       CASE WHEN n %% %[3]d = 0 THEN 'account.opened' ELSE 'account.deposited' END,
       '{"cents": 1, "owner": "ann"}', '{}', CURRENT_TIMESTAMP
FROM %[4]s`, prefix, id, rare, l.numbers(n))
	if _, err := l.DB.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
	if l.Dialect == es.Postgres {
		if _, err := l.DB.ExecContext(t.Context(), fmt.Sprintf("SELECT setval(pg_get_serial_sequence('%[1]sevents', 'position'), %[2]d); ANALYZE %[1]sevents", prefix, n)); err != nil {
			t.Fatal(err)
		}
	}
}

// AtIsolation returns the lane with a pool of its own whose connections have this default isolation.
func (l Lane) AtIsolation(t testing.TB, level sql.IsolationLevel, conns int) Lane {
	t.Helper()
	name := strings.ToLower(level.String())
	if l.Dialect == es.Postgres {
		return l.Pool(t, withQuery(l.DSN, "default_transaction_isolation", name), conns)
	}
	variable := "transaction_isolation"
	if strings.Contains(l.Lines(t, "SELECT VERSION()")[0], "MariaDB") {
		variable = "tx_isolation"
	}
	return l.Pool(t, WithParams(l.DSN, variable+"=%27"+strings.ToUpper(strings.ReplaceAll(name, " ", "-"))+"%27"), conns)
}

// Beside returns the lane with a pool of its own, so that a transaction can stay open there while the
// lane's own pool, perhaps of one connection, is in use.
func (l Lane) Beside(t testing.TB) Lane { return l.Pool(t, l.DSN, 3) }

// AppendOpen appends n events in a transaction and leaves it open. It returns the first one's position.
func (l Lane) AppendOpen(t testing.TB, s *es.Store, id string, n int) (*sql.Tx, es.Position) {
	t.Helper()
	tx, err := l.DB.BeginTx(context.WithoutCancel(t.Context()), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback() }) // does nothing after the test's own end
	return tx, MustAppend(t, s.WithTx(tx), "accounts", id, es.AnyVersion, Deposits(n, 1)...)[0].Position
}
