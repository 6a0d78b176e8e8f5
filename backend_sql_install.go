// Install and WriteSchema: tables are made, or brought up to date, under a lock.

package eventstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// install brings the schema up to date under a lock that any number of processes can wait for.
func (b *sqlBackend) install(ctx context.Context) error {
	if b.text.install.unlock == "" {
		return b.transact(ctx, "install", func(c conn) error {
			if _, err := c.exec(ctx, b.text.install.lock, b.lockName()); err != nil {
				return err
			}
			if err := b.migrate(ctx, c); err != nil {
				return err
			}
			return b.eraseQueued(ctx, c)
		})
	}
	return b.run(ctx, "install", func(conn) error { return b.installLocked(ctx) })
}

// installLocked is install for databases where statements that define data commit by themselves
// and a lock belongs to a connection. Each step of the schema can be repeated, so that a crash
// between two statements does no harm.
func (b *sqlBackend) installLocked(ctx context.Context) (err error) {
	dc, err := b.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() {
		// Whatever became of the lock, a connection that might still hold it must not go back.
		var released sql.NullInt64
		release := dc.QueryRowContext(context.WithoutCancel(ctx), b.dialect.bind(b.prefix, b.text.install.unlock), b.lockName())
		if release.Scan(&released) != nil || released.Int64 != 1 {
			_ = dc.Raw(func(any) error { return driver.ErrBadConn })
		}
		if cerr := dc.Close(); err == nil && cerr != nil && !errors.Is(cerr, sql.ErrConnDone) {
			err = cerr
		}
	}()
	var got sql.NullInt64
	if err := dc.QueryRowContext(ctx, b.dialect.bind(b.prefix, b.text.install.lock), b.lockName()).Scan(&got); err != nil {
		return err
	}
	if got.Int64 != 1 {
		return fmt.Errorf("another process has been installing for too long")
	}
	return b.migrate(ctx, conn{b: b, one: dc})
}

func (b *sqlBackend) lockName() string { return "eventstore:" + b.prefix }

// migrate applies the steps that the schema lacks.
func (b *sqlBackend) migrate(ctx context.Context, c conn) error {
	var encoding string
	var fits bool
	if _, err := c.row(ctx, []any{&encoding, &fits}, b.text.install.encoding); err != nil {
		return err
	}
	if !fits {
		return invalid("the database or the connection keeps text as %s: the store needs UTF-8 (on MySQL charset=utf8mb4)", encoding)
	}
	if _, err := c.exec(ctx, b.text.install.createMeta); err != nil {
		return err
	}
	var have int
	if _, err := c.row(ctx, []any{&have}, b.text.install.version); err != nil {
		return err
	}
	if latest := len(b.dialect.schema); have > latest {
		return fmt.Errorf("the tables are of schema version %d, made by a later version of this package, which knows %d", have, latest)
	}
	for i, step := range b.dialect.schema[have:] {
		for _, text := range step {
			if _, err := c.exec(ctx, text); err != nil {
				return err
			}
		}
		if _, err := c.exec(ctx, b.text.install.setVersion, have+i+1); err != nil {
			return err
		}
	}
	return b.raiseGenerators(ctx, c)
}

// writeSchema writes what install would do to an empty database.
func (b *sqlBackend) writeSchema(w io.Writer) error {
	texts := []string{b.text.install.createMeta}
	for _, step := range b.dialect.schema {
		texts = append(texts, step...)
	}
	texts = append(texts, strings.ReplaceAll(b.text.install.setVersion, "?", strconv.Itoa(len(b.dialect.schema))))
	for _, text := range texts {
		if _, err := fmt.Fprintf(w, "%s;\n\n", strings.TrimSpace(b.dialect.bind(b.prefix, text))); err != nil {
			return err
		}
	}
	return nil
}
