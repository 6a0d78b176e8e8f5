package main

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"strings"

	"example.com/eventstore"
	"github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"
)

// openStore opens and installs the store that a URL names: memory, postgres://… or mysql://….
func openStore(ctx context.Context, target string, opts *eventstore.Options) (s *eventstore.Store, closeDB func() error, err error) {
	if target == "memory" {
		return eventstore.NewMemStore(opts), func() error { return nil }, nil
	}
	db, dialect, err := openDB(target)
	if err != nil {
		return nil, nil, err
	}
	if s, err = eventstore.Open(db, dialect, opts); err == nil {
		err = s.Install(ctx)
	}
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return s, db.Close, nil
}

func openDB(target string) (*sql.DB, *eventstore.Dialect, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, nil, errors.New("-store is not a URL") // the error itself may show a password
	}
	switch u.Scheme {
	case "postgres", "postgresql":
		db, err := sql.Open("pgx", target)
		return db, eventstore.Postgres, err
	case "mysql":
		cfg := mysql.NewConfig()
		cfg.User = u.User.Username()
		cfg.Passwd, _ = u.User.Password()
		cfg.Net, cfg.Addr = "tcp", u.Host
		cfg.DBName = strings.TrimPrefix(u.Path, "/")
		db, err := sql.Open("mysql", cfg.FormatDSN())
		return db, eventstore.MySQL, err
	}
	return nil, nil, errors.New("-store: want memory, postgres://… or mysql://…")
}
