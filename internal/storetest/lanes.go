package storetest

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	es "example.com/eventstore"
	"example.com/eventstore/internal/testserver"
)

var memoryOnly = flag.Bool("memory", false, "run on the memory store only, without database servers")

// MemoryOnly reports whether the flag -memory leaves out the databases.
func MemoryOnly() bool { return *memoryOnly }

// Lane is one store, or one way to be connected to it, that tests run on.
type Lane struct {
	Name    string
	DB      *sql.DB     // nil for memory, like Dialect
	Dialect *es.Dialect // the database's
	Driver  string      // of database/sql
	DSN     string
	Odd     bool // an unusual connection, which has to make no difference
}

// lanes is filled by Run, before any test.
var lanes []Lane

// Lanes returns the lanes of this run, memory first.
func Lanes() []Lane { return slices.Clone(lanes) }

// Main is the TestMain of a package that runs on lanes. See Run for engines.
func Main(m *testing.M, engines ...testserver.Engine) { os.Exit(Run(m, engines...)) }

// Run opens the lanes, runs the tests, stops the servers that it has started, and returns the
// exit code. A package that needs some of the databases only names their engines.
//
// A database that cannot be had fails the run, with a message that says how to get it.
func Run(m *testing.M, engines ...testserver.Engine) int {
	if !flag.Parsed() {
		flag.Parse()
	}
	// A server that a test kills makes the driver write to the standard error.
	_ = mysql.SetLogger(&mysql.NopLogger{})
	if len(engines) == 0 {
		engines = []testserver.Engine{testserver.Postgres, testserver.MariaDB}
	}
	var o opening
	defer o.close()
	if err := errors.Join(o.open(engines), keepLane()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var names []string
	for _, l := range lanes {
		names = append(names, l.Name)
	}
	fmt.Println("lanes:", strings.Join(names, " "))
	return m.Run()
}

// opening is the servers that a run has started. The lanes are in lanes.
type opening struct {
	mu      sync.Mutex
	servers []*testserver.Server
}

func (o *opening) close() {
	for _, l := range lanes {
		if l.DB != nil {
			_ = l.DB.Close()
		}
	}
	_ = Race(len(o.servers), func(i int) error { return o.servers[i].Stop() })
}

// open starts the servers that the environment does not name, and connects in all the ways to be tested.
func (o *opening) open(engines []testserver.Engine) error {
	lanes = []Lane{{Name: "memory"}}
	if MemoryOnly() {
		return nil
	}
	var postgres, mariadb string
	err := errors.Join(Race(len(engines), func(i int) (err error) {
		switch engines[i] {
		case testserver.Postgres:
			postgres, err = o.dsn("EVENTSTORE_TEST_POSTGRES", testserver.Postgres, "postgres")
		case testserver.MariaDB:
			mariadb, err = o.dsn("EVENTSTORE_TEST_MYSQL", testserver.MariaDB, "")
		default:
			err = fmt.Errorf("unknown engine %v", engines[i])
		}
		return err
	})...)
	if postgres != "" && err == nil {
		err = openPostgres(postgres)
	}
	if mariadb != "" && err == nil {
		err = openMySQL("mariadb", mariadb, "tx_isolation")
		if v := os.Getenv("EVENTSTORE_TEST_MYSQL9"); v != "" && err == nil {
			err = openMySQL("mysql9", v, "transaction_isolation")
		}
	}
	return err
}

// dsn returns what a variable says, or starts a server.
func (o *opening) dsn(variable string, engine testserver.Engine, database string) (string, error) {
	if v := os.Getenv(variable); v != "" {
		return v, nil
	}
	s, err := testserver.Start(context.Background(), engine, testserver.Options{Small: true})
	if err != nil {
		return "", err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.servers = append(o.servers, s)
	// The processes that a fuzz target runs in find the server instead of starting others.
	return s.DSN(database), os.Setenv(variable, s.DSN(database))
}

func openPostgres(dsn string) error {
	return errors.Join(
		openLane("postgres", "pgx", dsn, es.Postgres, 40),
		openLane("postgres-simple-tz", "pgx", withQuery(dsn, "default_query_exec_mode", "simple_protocol", "TimeZone", "Asia/Kolkata"), es.Postgres, 10),
		openLane("postgres-serializable", "pgx", withQuery(dsn, "default_transaction_isolation", "serializable", "TimeZone", "America/St_Johns"), es.Postgres, 10),
		openLane("postgres-one", "pgx", dsn, es.Postgres, 1),
	)
}

func openMySQL(name, dsn, isolation string) error {
	dsn, err := WithDatabase(dsn)
	if err != nil {
		return fmt.Errorf("lane %s: %w", name, err)
	}
	return errors.Join(
		openLane(name, "mysql", dsn, es.MySQL, 40),
		openLane(name+"-odd", "mysql", WithParams(dsn, "parseTime=true&loc=Asia%2FTokyo&interpolateParams=true&clientFoundRows=true&time_zone=%27-03%3A30%27&sql_mode=%27ANSI_QUOTES%2CNO_BACKSLASH_ESCAPES%27&"+isolation+"=%27SERIALIZABLE%27"), es.MySQL, 10),
		openLane(name+"-lax", "mysql", WithParams(dsn, "parseTime=true&loc=America%2FNew_York&time_zone=%27%2B11%3A00%27&sql_mode=%27%27&"+isolation+"=%27READ-UNCOMMITTED%27"), es.MySQL, 10),
		openLane(name+"-one", "mysql", WithParams(dsn, isolation+"=%27READ-COMMITTED%27"), es.MySQL, 1),
	)
}

// openLane connects, and adds the lane to lanes. A name with a hyphen is that of an odd lane.
func openLane(name, driver, dsn string, dialect *es.Dialect, conns int) error {
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return fmt.Errorf("lane %s: %w", name, err)
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	lanes = append(lanes, Lane{Name: name, DB: db, Dialect: dialect, Driver: driver, DSN: dsn, Odd: strings.Contains(name, "-")})
	if err := db.Ping(); err != nil {
		return fmt.Errorf("lane %s: %w", name, err)
	}
	return nil
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
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20") // which pgx takes for a plus
	return u.String()
}

// WithParams adds parameters to a DSN of the driver "mysql".
func WithParams(dsn, params string) string {
	if strings.Contains(dsn, "?") {
		return dsn + "&" + params
	}
	return dsn + "?" + params
}

// WithDatabase returns a DSN of the driver "mysql" that names a database. If it names none, it gets
// "eventstore_test", which is created if need be.
func WithDatabase(dsn string) (string, error) {
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

// ForEachStore runs a test on a fresh, installed store of every lane.
func ForEachStore(t *testing.T, test func(t *testing.T, s *es.Store)) {
	t.Helper()
	ForEachLane(t, func(t *testing.T, l Lane) { test(t, l.Open(t, nil)) })
}

// ForEachLane runs a test on every lane, on up to SomeLanes at once.
func ForEachLane(t *testing.T, test func(t *testing.T, l Lane)) {
	t.Helper()
	ForEach(t, SomeLanes, AnyLane, test)
}

// ForEachDatabase is ForEachLane without memory.
func ForEachDatabase(t *testing.T, test func(t *testing.T, l Lane)) {
	t.Helper()
	ForEach(t, SomeLanes, AnyDatabase, test)
}

// ForEachKind runs a test on one lane for each kind of database: not on memory and not on odd lanes.
func ForEachKind(t *testing.T, test func(t *testing.T, l Lane)) {
	t.Helper()
	ForEach(t, SomeLanes, AnyKind, test)
}

// AnyLane reports true: ForEachLane's lanes.
func AnyLane(Lane) bool { return true }

// AnyDatabase reports whether a lane is on a database: ForEachDatabase's lanes.
func AnyDatabase(l Lane) bool { return l.DB != nil }

// Usual reports whether a lane is memory or a database's usual one.
func Usual(l Lane) bool { return !l.Odd }

// AnyKind reports whether a lane is a database's usual one: ForEachKind's lanes.
func AnyKind(l Lane) bool { return l.DB != nil && !l.Odd }

// SomeLanes is how many lanes a test runs on at once. Most tests wait more than they work.
const SomeLanes = 4

// ForEach runs a test on the lanes for which wanted returns true, on up to atOnce of them at a time.
// See ForEachProcess for a test that looks at the whole process.
func ForEach(t *testing.T, atOnce int, wanted func(Lane) bool, test func(t *testing.T, l Lane)) {
	t.Helper()
	list := slices.DeleteFunc(Lanes(), func(l Lane) bool { return !wanted(l) })
	RunEach(t, atOnce, list, func(l Lane) string { return l.Name }, test)
}

// RunEach runs a subtest for each element of a list, up to atOnce of them at a time.
func RunEach[T any](t *testing.T, atOnce int, list []T, name func(T) string, test func(*testing.T, T)) {
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
