package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"example.com/eventstore"
	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// connectTimeout is how long a server may take to answer, unless the URL says otherwise.
const connectTimeout = 10 * time.Second

// store is what -store names.
type store struct {
	*eventstore.Store
	db *sql.DB // nil: memory
}

// close closes the connections. The event store itself needs none of that.
func (s *store) close() error {
	if s.db == nil {
		return nil
	}
	return s.db.Close()
}

// openStore opens the store that -store names and makes sure that it answers. No error holds a
// password.
func openStore(ctx context.Context, target, prefix string) (*store, error) {
	opts := &eventstore.Options{TablePrefix: prefix}
	if target == "memory" {
		return &store{Store: eventstore.NewMemStore(opts)}, nil
	}
	db, dialect, err := openDB(target)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(appenders)
	db.SetMaxIdleConns(appenders)
	s, err := eventstore.Open(db, dialect, opts)
	if err == nil {
		if err = db.PingContext(ctx); err != nil {
			err = fmt.Errorf("the store can't be reached: %w", err)
		}
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &store{s, db}, nil
}

var (
	errStoreURL  = errors.New("-store is not a URL: a password needs its special characters percent-encoded")
	errStoreKind = errors.New("-store wants memory, postgres://… or mysql://…")

	driverDSN = regexp.MustCompile(`(^|@)(tcp|unix)\(`)
)

func openDB(target string) (*sql.DB, *eventstore.Dialect, error) {
	scheme, rest, ok := strings.Cut(target, "://")
	if driverDSN.MatchString(target) {
		if !ok {
			scheme, rest = "mysql", target
		}
		if scheme != "mysql" {
			return nil, nil, errStoreKind
		}
		cfg, err := mysql.ParseDSN(rest)
		if err != nil {
			return nil, nil, errors.New("-store is not a DSN of the MySQL driver: want user:password@tcp(host:port)/database")
		}
		return openMySQL(cfg)
	}
	switch scheme {
	case "postgres", "postgresql", "mysql":
	default:
		return nil, nil, errStoreKind
	}
	// The error of Parse can hold a piece of the password.
	u, err := url.Parse(target)
	if err != nil {
		return nil, nil, errStoreURL
	}
	if scheme == "mysql" {
		cfg, err := mysqlConfig(u)
		if err != nil {
			return nil, nil, err
		}
		return openMySQL(cfg)
	}
	cfg, err := pgx.ParseConfig(target)
	if err != nil {
		// The error itself shows the URL; what it wraps is the reason alone.
		if reason := errors.Unwrap(err); reason != nil {
			return nil, nil, fmt.Errorf("-store: %w", reason)
		}
		return nil, nil, errStoreURL
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	return stdlib.OpenDB(*cfg), eventstore.Postgres, nil
}

// mysqlConfig turns mysql://user:password@host:port/database?param=value into what the driver
// wants. The parameters are the driver's own.
func mysqlConfig(u *url.URL) (*mysql.Config, error) {
	cfg, err := mysql.ParseDSN("/?" + u.RawQuery)
	if err != nil {
		return nil, errors.New("-store has a parameter that the MySQL driver does not take")
	}
	cfg.User = u.User.Username()
	cfg.Passwd, _ = u.User.Password()
	host, port := u.Hostname(), u.Port()
	if host == "" {
		host = "127.0.0.1"
	}
	if port == "" {
		port = "3306"
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	cfg.Net, cfg.Addr = "tcp", host+":"+port
	cfg.DBName = strings.TrimPrefix(u.Path, "/")
	return cfg, nil
}

func openMySQL(cfg *mysql.Config) (*sql.DB, *eventstore.Dialect, error) {
	if cfg.DBName == "" {
		return nil, nil, errors.New("-store names no database: want mysql://user:password@host:port/database")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = connectTimeout
	}
	cfg.Logger = &mysql.NopLogger{} // errors are returned; nothing is to be written beside them
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, nil, errors.New("-store has a parameter that the MySQL driver does not take")
	}
	return sql.OpenDB(connector), eventstore.MySQL, nil
}
