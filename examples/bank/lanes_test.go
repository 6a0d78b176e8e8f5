package main

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"sync/atomic"
	"testing"

	"example.com/eventstore/internal/testserver"
	"github.com/go-sql-driver/mysql"
)

var memoryOnly = flag.Bool("memory", false, "run on the memory store only, without database servers")

// lane is a store that the tests run on, by the URL that -store takes.
type lane struct{ name, target string }

var lanes = []lane{{"memory", "memory"}}

func TestMain(m *testing.M) {
	flag.Parse()
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	var servers []*testserver.Server
	code := 1
	if err := openLanes(&servers); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	for _, s := range servers {
		_ = s.Stop()
	}
	os.Exit(code)
}

// openLanes uses the servers that the environment names, as CONTRIBUTING.md says, or starts some.
func openLanes(servers *[]*testserver.Server) error {
	if *memoryOnly {
		return nil
	}
	dsn := func(variable string, engine testserver.Engine, database string) (string, error) {
		if v := os.Getenv(variable); v != "" {
			return v, nil
		}
		s, err := testserver.Start(context.Background(), engine, testserver.Options{})
		if err != nil {
			return "", err
		}
		*servers = append(*servers, s)
		return s.DSN(database), nil
	}
	postgres, err := dsn("EVENTSTORE_TEST_POSTGRES", testserver.Postgres, "postgres")
	if err != nil {
		return err
	}
	lanes = append(lanes, lane{"postgres", postgres})
	mariadb, err := dsn("EVENTSTORE_TEST_MYSQL", testserver.MariaDB, "")
	if err != nil {
		return err
	}
	family := map[string]string{"mariadb": mariadb}
	if v := os.Getenv("EVENTSTORE_TEST_MYSQL9"); v != "" {
		family["mysql9"] = v
	}
	for name, dsn := range family {
		target, err := mysqlURL(dsn)
		if err != nil {
			return err
		}
		lanes = append(lanes, lane{name, target})
	}
	return nil
}

// mysqlURL returns a DSN as a URL, and creates the database "eventstore_test" if it names none.
func mysqlURL(dsn string) (string, error) {
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		return "", err
	}
	if cfg.DBName == "" {
		db, err := sql.Open("mysql", dsn)
		if err != nil {
			return "", err
		}
		defer db.Close()
		cfg.DBName = "eventstore_test"
		if _, err := db.Exec("CREATE DATABASE IF NOT EXISTS " + cfg.DBName); err != nil {
			return "", err
		}
	}
	u := url.URL{Scheme: "mysql", User: url.UserPassword(cfg.User, cfg.Passwd), Host: cfg.Addr, Path: "/" + cfg.DBName}
	return u.String(), nil
}

var prefixes atomic.Int64

// forEachBank runs a test on a fresh service of every lane.
func forEachBank(t *testing.T, test func(t *testing.T, c *client)) {
	for _, l := range lanes {
		t.Run(l.name, func(t *testing.T) {
			prefix := fmt.Sprintf("bank%d_%d_", os.Getpid(), prefixes.Add(1))
			if l.target != "memory" {
				t.Cleanup(func() { dropTables(t, l.target, prefix) })
			}
			test(t, startBank(t, l, prefix))
		})
	}
}

func dropTables(t *testing.T, target, prefix string) {
	db, _, err := openDB(target)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, table := range []string{"meta", "streams", "events", "snapshots", "projections", "parked", "emails", "balances"} {
		if _, err := db.Exec("DROP TABLE IF EXISTS " + prefix + table); err != nil {
			t.Error(err)
		}
	}
}
