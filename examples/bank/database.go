package main

import (
	"database/sql"
	"errors"
	"net/url"
	"strings"
	"time"

	"example.com/eventstore"
	"github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"
)

// openDB opens the pool that the service and its event store share.
func openDB(target string) (*sql.DB, *eventstore.Dialect, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, nil, errors.New("-store is not a URL") // the error itself may show a password
	}
	var db *sql.DB
	var dialect *eventstore.Dialect
	switch u.Scheme {
	case "postgres", "postgresql":
		db, err = sql.Open("pgx", target)
		dialect = eventstore.Postgres
	case "mysql":
		cfg := mysql.NewConfig()
		cfg.User = u.User.Username()
		cfg.Passwd, _ = u.User.Password()
		cfg.Net, cfg.Addr = "tcp", u.Host
		cfg.DBName = strings.TrimPrefix(u.Path, "/")
		db, err = sql.Open("mysql", cfg.FormatDSN())
		dialect = eventstore.MySQL
	default:
		err = errors.New("-store: want memory, postgres://… or mysql://…")
	}
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(20)
	db.SetMaxIdleConns(20)
	db.SetConnMaxLifetime(time.Hour)
	return db, dialect, nil
}
