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

// install brings the schema up to date under a lock that any number of processes can wait for. Where
// there is nothing to do it runs no statement that defines data, for which a service's role may have
// no rights.
func (b *sqlBackend) install(ctx context.Context) error {
	have, err := b.schemaVersion(ctx)
	switch {
	case errors.Is(err, ErrNotInstalled):
	case err != nil:
		return err
	case have == len(b.dialect.schema):
		// First, since events of a stream that is gone have its id still in use.
		if err := b.eraseQueued(ctx); err != nil {
			return err
		}
		// A role that may not look at all tables has nothing to raise either.
		behind := generators{}
		err := b.run(ctx, "install", func(c conn) (err error) {
			behind, err = b.behind(ctx, c)
			return err
		})
		if err != nil && !denied(err) {
			return err
		}
		if behind == (generators{}) {
			return nil
		}
	}
	if b.text.install.unlock == "" {
		err = b.transact(ctx, "install", func(c conn) error {
			if _, err := c.exec(ctx, b.text.install.lock, b.lockName()); err != nil {
				return err
			}
			return b.migrate(ctx, c)
		})
	} else {
		err = b.run(ctx, "install", func(conn) error { return b.installLocked(ctx) })
	}
	if err != nil {
		return err
	}
	return b.eraseQueued(ctx)
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

// schemaVersion returns how many steps of the schema there are, as it is without a lock.
func (b *sqlBackend) schemaVersion(ctx context.Context) (have int, err error) {
	err = b.run(ctx, "install", func(c conn) error {
		_, err := c.row(ctx, []any{&have}, b.text.install.version)
		return err
	})
	return have, err
}

func (b *sqlBackend) lockName() string { return "eventstore:" + b.prefix }

// migrate applies the steps that the schema lacks.
func (b *sqlBackend) migrate(ctx context.Context, c conn) error {
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
			if _, err := c.exec(ctx, text); err != nil && b.dialect.classify(err) != faultHasColumn {
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
