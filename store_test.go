package eventstore_test

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"

	es "example.com/eventstore"
	"example.com/eventstore/internal/testserver"
)

// The suite runs every test on every store, each a lane of its own in the output. Servers are
// started for the run and stopped at its end; DSNs in the environment replace them:
//
//	EVENTSTORE_TEST_POSTGRES  a PostgreSQL
//	EVENTSTORE_TEST_MYSQL     a MariaDB or MySQL
//	EVENTSTORE_TEST_MYSQL9    a MySQL, for lanes of its own
//
// Tables get a prefix for each test and are dropped behind it.
var memoryOnly = flag.Bool("memory", false, "run on the memory store only, without database servers")

// lane is one store, or one way to be connected to it, that the suite runs on.
type lane struct {
	name    string
	db      *sql.DB // nil: memory
	dialect *es.Dialect
	driver  string
	dsn     string
	odd     bool // connected in a way that few are, to show that it makes no difference
}

var lanes []lane

func TestMain(m *testing.M) {
	if os.Getenv(memberVariable) != "" {
		os.Exit(fleetMember())
	}
	flag.Parse()
	// A server that a test kills makes the driver write to the standard error.
	_ = mysql.SetLogger(&mysql.NopLogger{})
	stop, err := openLanes()
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	stop()
	os.Exit(code)
}

// openLanes starts what servers are needed and connects to them in all the ways to be tested.
func openLanes() (stop func(), err error) {
	lanes = []lane{{name: "memory"}}
	if *memoryOnly {
		fmt.Println("lanes: memory only, as -memory says")
		return func() {}, nil
	}
	var servers []*testserver.Server
	stop = func() {
		for _, l := range lanes {
			if l.db != nil {
				_ = l.db.Close()
			}
		}
		for _, s := range servers {
			_ = s.Stop()
		}
	}
	dsn := func(variable string, engine testserver.Engine, database string) string {
		if v := os.Getenv(variable); v != "" || err != nil {
			return v
		}
		var s *testserver.Server
		if s, err = testserver.Start(context.Background(), engine, testserver.Options{}); err != nil {
			return ""
		}
		servers = append(servers, s)
		// The processes that a fuzz target runs in find the server instead of starting others.
		if err = os.Setenv(variable, s.DSN(database)); err != nil {
			return ""
		}
		return s.DSN(database)
	}
	postgres := dsn("EVENTSTORE_TEST_POSTGRES", testserver.Postgres, "postgres")
	mariadb := dsn("EVENTSTORE_TEST_MYSQL", testserver.MariaDB, "")
	if err != nil {
		return stop, err
	}
	add := func(name, driver, dsn string, dialect *es.Dialect, conns int) {
		if err != nil {
			return
		}
		l := lane{name: name, dialect: dialect, driver: driver, dsn: dsn, odd: strings.Contains(name, "-")}
		if l.db, err = sql.Open(driver, dsn); err == nil {
			l.db.SetMaxOpenConns(conns)
			l.db.SetMaxIdleConns(conns)
			lanes = append(lanes, l)
			if err = l.db.Ping(); err != nil {
				err = fmt.Errorf("lane %s: %w", name, err)
			}
		}
	}
	add("postgres", "pgx", postgres, es.Postgres, 40)
	add("postgres-simple-tz", "pgx", withQuery(postgres, "default_query_exec_mode", "simple_protocol", "TimeZone", "Asia/Kolkata"), es.Postgres, 10)
	add("postgres-serializable", "pgx", withQuery(postgres, "default_transaction_isolation", "serializable", "TimeZone", "America/St_Johns"), es.Postgres, 10)
	add("postgres-one", "pgx", postgres, es.Postgres, 1)
	family := func(name, dsn, isolation string) {
		if dsn, err = withDatabase(dsn); err != nil {
			return
		}
		add(name, "mysql", dsn, es.MySQL, 40)
		add(name+"-odd", "mysql", withParams(dsn, "parseTime=true&loc=Asia%2FTokyo&interpolateParams=true&clientFoundRows=true&time_zone=%27-03%3A30%27&sql_mode=%27ANSI_QUOTES%2CNO_BACKSLASH_ESCAPES%27"), es.MySQL, 10)
		add(name+"-lax", "mysql", withParams(dsn, "parseTime=true&loc=America%2FNew_York&time_zone=%27%2B11%3A00%27&sql_mode=%27%27&"+isolation+"=%27READ-COMMITTED%27"), es.MySQL, 10)
		add(name+"-one", "mysql", dsn, es.MySQL, 1)
	}
	family("mariadb", mariadb, "tx_isolation")
	if v := os.Getenv("EVENTSTORE_TEST_MYSQL9"); v != "" {
		family("mysql9", v, "transaction_isolation")
	}
	var names []string
	for _, l := range lanes {
		names = append(names, l.name)
	}
	fmt.Println("lanes:", strings.Join(names, " "))
	return stop, err
}

func withQuery(dsn string, pairs ...string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		return dsn
	}
	q := u.Query()
	for i := 0; i < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
	}
	u.RawQuery = q.Encode()
	return u.String()
}

func withParams(dsn, params string) string {
	if strings.Contains(dsn, "?") {
		return dsn + "&" + params
	}
	return dsn + "?" + params
}

// withDatabase creates the database "eventstore_test" if the DSN names none.
func withDatabase(dsn string) (string, error) {
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil || cfg.DBName != "" {
		return dsn, err
	}
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		return "", err
	}
	defer db.Close()
	if _, err := db.Exec("CREATE DATABASE IF NOT EXISTS eventstore_test"); err != nil {
		return "", err
	}
	cfg.DBName = "eventstore_test"
	return cfg.FormatDSN(), nil
}

// forEachStore runs a test on a fresh, installed store of every lane.
func forEachStore(t *testing.T, test func(t *testing.T, s *es.Store)) {
	t.Helper()
	forEachLane(t, func(t *testing.T, l lane) { test(t, l.open(t, nil)) })
}

// forEachLane runs a test on every lane.
func forEachLane(t *testing.T, test func(t *testing.T, l lane)) {
	t.Helper()
	forEach(t, someLanes, anyLane, test)
}

// forEachDatabase runs a test on every lane but memory.
func forEachDatabase(t *testing.T, test func(t *testing.T, l lane)) {
	t.Helper()
	forEach(t, someLanes, anyDatabase, test)
}

// forEachKind runs a test on one lane for each kind of database.
func forEachKind(t *testing.T, test func(t *testing.T, l lane)) {
	t.Helper()
	forEach(t, someLanes, anyKind, test)
}

func anyLane(lane) bool       { return true }
func anyDatabase(l lane) bool { return l.db != nil }
func anyKind(l lane) bool     { return l.db != nil && !l.odd }

// someLanes is how many lanes a test runs on at once. Most tests wait more than they work.
const someLanes = 4

// forEach runs a test on the lanes that it is for, on so many at once: on one where it looks at what
// all have in common, like goroutines or allocations.
func forEach(t *testing.T, atOnce int, wanted func(lane) bool, test func(t *testing.T, l lane)) {
	t.Helper()
	list := slices.DeleteFunc(slices.Clone(lanes), func(l lane) bool { return !wanted(l) })
	runEach(t, atOnce, list, func(l lane) string { return l.name }, test)
}

// runEach runs a subtest for each of a list, so many at once.
func runEach[T any](t *testing.T, atOnce int, list []T, name func(T) string, test func(*testing.T, T)) {
	t.Helper()
	free := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for _, each := range list {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			t.Run(name(each), func(t *testing.T) { test(t, each) })
		})
	}
	wg.Wait()
}

// pool returns a pool of its own for a lane's database, as another process would have it.
func (l lane) pool(t testing.TB, dsn string, conns int) lane {
	t.Helper()
	db, err := sql.Open(l.driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	t.Cleanup(func() { _ = db.Close() })
	l.dsn, l.db = dsn, db
	return l
}

// through returns the lane as it is reached through another address, in clear text, so that a proxy
// there can read what is said.
func (l lane) through(t testing.TB, addr string, conns int) lane {
	t.Helper()
	if l.driver != "mysql" {
		u, err := url.Parse(withQuery(l.dsn, "sslmode", "disable"))
		if err != nil {
			t.Fatal(err)
		}
		u.Host = addr
		return l.pool(t, u.String(), conns)
	}
	cfg, err := mysql.ParseDSN(l.dsn)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Addr, cfg.TLSConfig = addr, ""
	return l.pool(t, cfg.FormatDSN(), conns)
}

// addr returns where the lane's server listens.
func (l lane) addr(t testing.TB) string {
	t.Helper()
	if l.driver != "mysql" {
		u, err := url.Parse(l.dsn)
		if err != nil {
			t.Fatal(err)
		}
		return u.Host
	}
	cfg, err := mysql.ParseDSN(l.dsn)
	if err != nil {
		t.Fatal(err)
	}
	return cfg.Addr
}

// proxied returns a lane like l, with a pool of its own whose connections go through a proxy.
func (l lane) proxied(t testing.TB, conns int) (lane, *testserver.Proxy) {
	t.Helper()
	p, err := testserver.NewProxy(l.addr(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return l.through(t, p.Addr(), conns), p
}

var prefixes atomic.Int64

// open returns a fresh, installed store.
func (l lane) open(t testing.TB, opts *es.Options) *es.Store {
	t.Helper()
	if l.db == nil {
		return es.NewMemStore(opts)
	}
	s := l.openIn(t, l.newPrefix(t), opts)
	if err := s.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// openPrefixed returns a fresh, installed store in a database, and its tables' prefix.
func (l lane) openPrefixed(t testing.TB) (s *es.Store, prefix string) {
	t.Helper()
	prefix = l.newPrefix(t)
	s = l.openIn(t, prefix, nil)
	if err := s.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, prefix
}

// openTwice returns a fresh, installed store, and another Store over the same tables, as another
// process would have it. On memory, where there is no other process, they are one.
func (l lane) openTwice(t testing.TB) (s, other *es.Store) {
	t.Helper()
	if l.db == nil {
		s = l.open(t, nil)
		return s, s
	}
	s, prefix := l.openPrefixed(t)
	return s, l.openIn(t, prefix, nil)
}

// newPrefix returns a table prefix that nobody else uses, and drops its tables behind the test.
func (l lane) newPrefix(t testing.TB) string {
	prefix := fmt.Sprintf("t%d_%d_", os.Getpid(), prefixes.Add(1))
	t.Cleanup(func() {
		for _, table := range []string{"meta", "streams", "events", "snapshots", "projections", "parked"} {
			if _, err := l.db.Exec("DROP TABLE IF EXISTS " + prefix + table); err != nil {
				t.Errorf("drop %s%s: %v", prefix, table, err)
			}
		}
	})
	return prefix
}

// openIn returns a store under a prefix, not installed.
func (l lane) openIn(t testing.TB, prefix string, opts *es.Options) *es.Store {
	t.Helper()
	if opts == nil {
		opts = &es.Options{}
	}
	o := *opts
	o.TablePrefix = prefix
	s, err := es.Open(l.db, l.dialect, &o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The domain of the tests: bank accounts.

type opened struct {
	Owner string `json:"owner"`
}

type deposited struct {
	Cents int64 `json:"cents"`
}

func (opened) EventName() string    { return "account.opened" }
func (deposited) EventName() string { return "account.deposited" }

type account struct {
	Owner    string
	Cents    int64
	Deposits int
}

var accounts = es.Aggregate[account]{
	Stream: "accounts",
	When: []es.Fold[account]{
		es.On(func(a *account, e opened) { a.Owner = e.Owner }),
		es.On(func(a *account, e deposited) { a.Cents += e.Cents; a.Deposits++ }),
	},
	Attempts: 1000,
}

func createStream(t testing.TB, s *es.Store, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := s.CreateStream(t.Context(), name, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// collect reads a sequence to its end.
func collect(t testing.TB, seq func(yield func(es.Event, error) bool)) []es.Event {
	t.Helper()
	var out []es.Event
	for ev, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, ev)
	}
	return out
}

func events(n int, from int64) []es.NewEvent {
	out := make([]es.NewEvent, n)
	for i := range out {
		out[i].Payload = deposited{from + int64(i)}
	}
	return out
}

func TestAppendAndRead(t *testing.T) {
	forEachStore(t, func(t *testing.T, s *es.Store) {
		ctx := t.Context()
		createStream(t, s, "accounts")
		stored, err := s.Append(ctx, "accounts", "a", es.MustNotExist, events(3, 1)...)
		if err != nil {
			t.Fatal(err)
		}
		more, err := s.Append(ctx, "accounts", "a", 3, events(40, 4)...)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
		more, err = s.Append(ctx, "accounts", "a", es.AnyVersion, events(2, 44)...)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
		for name, read := range map[string][]es.Event{
			"Read":          collect(t, s.Read(ctx, es.FromAll(), es.ReadOptions{})),
			"ReadStream":    collect(t, s.Read(ctx, es.FromStream("accounts"), es.ReadOptions{})),
			"ReadAggregate": collect(t, s.ReadAggregate(ctx, "accounts", "a", 0)),
		} {
			sameEvents(t, name, read, stored)
		}
	})
}

// sameEvents compares events in all that is stored.
func sameEvents(t testing.TB, what string, got, want []es.Event) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d events, want %d", what, len(got), len(want))
	}
	for i := range got {
		if g, w := describe(got[i]), describe(want[i]); g != w {
			t.Fatalf("%s: event %d is\n%s\nwant\n%s", what, i, g, w)
		}
	}
}

func describe(ev es.Event) string {
	return fmt.Sprintf("%d %s %q/%q v%d %s %s %v %s", ev.Position, ev.ID, ev.Stream, ev.AggregateID, ev.Version, ev.Name, ev.Data, ev.Metadata, ev.RecordedAt)
}

func TestExecuteRaces(t *testing.T) {
	forEachLane(t, func(t *testing.T, l lane) {
		s := l.open(t, nil)
		createStream(t, s, "accounts")
		times := 20
		if l.odd {
			times = 5
		}
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range times {
					_, err := accounts.Execute(context.Background(), s, "shared", func(r *es.Root[account]) error {
						r.Record(deposited{1})
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		r, err := accounts.Load(t.Context(), s, "shared")
		if err != nil {
			t.Fatal(err)
		}
		if want := int64(16 * times); r.State().Cents != want || r.Version() != want {
			t.Errorf("%d cents at version %d, want %d", r.State().Cents, r.Version(), want)
		}
	})
}
