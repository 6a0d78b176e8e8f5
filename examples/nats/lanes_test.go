package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"sync/atomic"
	"testing"

	"example.com/eventstore"
	"example.com/eventstore/internal/testserver"
	"github.com/go-sql-driver/mysql"
)

// The tests run on a real NATS server and on every store. Servers are started for the run; those of
// the environment replace them:
//
//	EVENTSTORE_TEST_NATS      NATS with JetStream; its stream EVENTS is deleted, before and after
//	EVENTSTORE_TEST_POSTGRES  PostgreSQL
//	EVENTSTORE_TEST_MYSQL     MariaDB or MySQL
type lane struct {
	name, driver, dsn string // without a driver: memory
	dialect           *eventstore.Dialect
}

var lanes = []lane{{name: "memory"}}

func TestMain(m *testing.M) {
	if os.Getenv(victimVariable) != "" {
		os.Exit(victim())
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	_ = mysql.SetLogger(&mysql.NopLogger{})
	stop, err := startServers()
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	stop()
	os.Exit(code)
}

func startServers() (stop func(), err error) {
	var servers []*testserver.Server
	stop = func() {
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
		return s.DSN(database)
	}
	postgres := dsn("EVENTSTORE_TEST_POSTGRES", testserver.Postgres, "postgres")
	mariadb := dsn("EVENTSTORE_TEST_MYSQL", testserver.MariaDB, "")
	if err == nil {
		mariadb, err = withDatabase(mariadb)
	}
	lanes = append(lanes,
		lane{"postgres", "pgx", postgres, eventstore.Postgres},
		lane{"mariadb", "mysql", mariadb, eventstore.MySQL})
	return stop, err
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
	cfg.DBName = "eventstore_test"
	_, err = db.Exec("CREATE DATABASE IF NOT EXISTS " + cfg.DBName)
	return cfg.FormatDSN(), err
}

func forEachLane(t *testing.T, test func(t *testing.T, l lane)) {
	for _, l := range lanes {
		t.Run(l.name, func(t *testing.T) { test(t, l) })
	}
}

var prefixes atomic.Int64

// newPrefix returns a table prefix that nobody else uses, and drops its tables behind the test.
func (l lane) newPrefix(t *testing.T) string {
	prefix := fmt.Sprintf("nats%d_%d_", os.Getpid(), prefixes.Add(1))
	t.Cleanup(func() {
		if l.driver == "" {
			return
		}
		db := l.connect(t)
		defer db.Close()
		for _, table := range []string{"meta", "streams", "events", "snapshots", "projections", "parked"} {
			if _, err := db.Exec("DROP TABLE IF EXISTS " + prefix + table); err != nil {
				t.Error(err)
			}
		}
	})
	return prefix
}

func (l lane) connect(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open(l.driver, l.dsn)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// open returns a fresh store with the stream "accounts", and its table prefix.
func (l lane) open(t *testing.T) (s *eventstore.Store, prefix string) {
	t.Helper()
	prefix = l.newPrefix(t)
	s = eventstore.NewMemStore(nil)
	if l.driver != "" {
		db := l.connect(t)
		t.Cleanup(func() { _ = db.Close() })
		var err error
		if s, err = eventstore.Open(db, l.dialect, &eventstore.Options{TablePrefix: prefix}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.Install(t.Context()), s.CreateStream(t.Context(), "accounts", nil)); err != nil {
		t.Fatal(err)
	}
	return s, prefix
}

// url returns the lane as -store takes it.
func (l lane) url(t *testing.T) string {
	t.Helper()
	switch l.driver {
	case "":
		return "memory"
	case "pgx":
		return l.dsn
	}
	cfg, err := mysql.ParseDSN(l.dsn)
	if err != nil {
		t.Fatal(err)
	}
	u := url.URL{Scheme: "mysql", User: url.UserPassword(cfg.User, cfg.Passwd), Host: cfg.Addr, Path: "/" + cfg.DBName}
	return u.String()
}
