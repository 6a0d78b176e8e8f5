package storetest

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"
)

// Injected returns the lane with a pool on which fail is asked before each statement, and before each
// COMMIT, under that text. An error that it returns is the statement's, which does not reach the server then.
func (l Lane) Injected(t testing.TB, conns int, fail func(text string) error) Lane {
	t.Helper()
	return l.InjectedAfter(t, conns, fail, func(string) {})
}

// InjectedAfter is Injected with a function that is told of each statement without rows that the server has run.
func (l Lane) InjectedAfter(t testing.TB, conns int, fail func(text string) error, after func(text string)) Lane {
	t.Helper()
	base, err := sql.Open(l.Driver, l.DSN)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = base.Close() }()
	var connector driver.Connector = dsnConnector{base.Driver(), l.DSN}
	if d, ok := base.Driver().(driver.DriverContext); ok {
		if connector, err = d.OpenConnector(l.DSN); err != nil {
			t.Fatal(err)
		}
	}
	db := sql.OpenDB(&injectedConnector{connector, fail, after})
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	t.Cleanup(func() { _ = db.Close() })
	l.DB = db
	return l
}

// ServerError returns an error as the lane's driver tells of one of the server's: a SQLSTATE on Postgres,
// a number on MySQL and MariaDB.
func (l Lane) ServerError(sqlState string, number uint16) error {
	if l.Driver == "mysql" {
		return &mysql.MySQLError{Number: number, SQLState: [5]byte{'H', 'Y', '0', '0', '0'}, Message: fmt.Sprint("injected ", number)}
	}
	return &pgconn.PgError{Severity: "ERROR", Code: sqlState, Message: "injected " + sqlState}
}

type dsnConnector struct {
	driver driver.Driver
	dsn    string
}

func (c dsnConnector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.dsn) }
func (c dsnConnector) Driver() driver.Driver                        { return c.driver }

type injectedConnector struct {
	driver.Connector
	fail  func(text string) error
	after func(text string)
}

func (c *injectedConnector) Connect(ctx context.Context) (driver.Conn, error) {
	inner, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &injectedConn{inner, c.fail, c.after}, nil
}

// injectedConn forwards what database/sql asks of a connection. Both drivers have all of it.
type injectedConn struct {
	driver.Conn
	fail  func(text string) error
	after func(text string)
}

func (c *injectedConn) ExecContext(ctx context.Context, text string, args []driver.NamedValue) (driver.Result, error) {
	if err := c.fail(text); err != nil {
		return nil, err
	}
	defer c.after(text)
	return c.Conn.(driver.ExecerContext).ExecContext(ctx, text, args)
}

func (c *injectedConn) QueryContext(ctx context.Context, text string, args []driver.NamedValue) (driver.Rows, error) {
	if err := c.fail(text); err != nil {
		return nil, err
	}
	return c.Conn.(driver.QueryerContext).QueryContext(ctx, text, args)
}

func (c *injectedConn) PrepareContext(ctx context.Context, text string) (driver.Stmt, error) {
	inner, err := c.Conn.(driver.ConnPrepareContext).PrepareContext(ctx, text)
	if err != nil {
		return nil, err
	}
	return &injectedStmt{inner, text, c}, nil
}

func (c *injectedConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if err := c.fail("BEGIN"); err != nil {
		return nil, err
	}
	inner, err := c.Conn.(driver.ConnBeginTx).BeginTx(ctx, opts)
	if err != nil {
		return nil, err
	}
	return &injectedTx{inner, c}, nil
}

func (c *injectedConn) CheckNamedValue(v *driver.NamedValue) error {
	if checker, ok := c.Conn.(driver.NamedValueChecker); ok {
		return checker.CheckNamedValue(v)
	}
	return driver.ErrSkip
}

func (c *injectedConn) ResetSession(ctx context.Context) error {
	if resetter, ok := c.Conn.(driver.SessionResetter); ok {
		return resetter.ResetSession(ctx)
	}
	return nil
}

func (c *injectedConn) IsValid() bool {
	if validator, ok := c.Conn.(driver.Validator); ok {
		return validator.IsValid()
	}
	return true
}

type injectedStmt struct {
	driver.Stmt
	text string
	conn *injectedConn
}

func (s *injectedStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if err := s.conn.fail(s.text); err != nil {
		return nil, err
	}
	return s.Stmt.(driver.StmtExecContext).ExecContext(ctx, args)
}

func (s *injectedStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if err := s.conn.fail(s.text); err != nil {
		return nil, err
	}
	return s.Stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
}

func (s *injectedStmt) CheckNamedValue(v *driver.NamedValue) error {
	if checker, ok := s.Stmt.(driver.NamedValueChecker); ok {
		return checker.CheckNamedValue(v)
	}
	return s.conn.CheckNamedValue(v)
}

type injectedTx struct {
	driver.Tx
	conn *injectedConn
}

// Commit rolls back where it is to fail.
func (t *injectedTx) Commit() error {
	if err := t.conn.fail("COMMIT"); err != nil {
		return errors.Join(err, t.Rollback())
	}
	return t.Tx.Commit()
}
