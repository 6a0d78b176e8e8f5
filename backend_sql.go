// The one execution path over database/sql: connections, transactions, retries, and what an error
// of the driver means.

package eventstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"
)

// sqlBackend is the one execution path for all databases: what to run, when, and what to make of
// the outcome. The texts are the dialect's.
type sqlBackend struct {
	*sqlShared
	tx   *sql.Tx     // the caller's, or nil
	ours bool        // tx is a batch's, or of Store.Transact
	lost func(error) // told of failures in ours; nil: of none
}

// sqlShared is what the backends of a store and of its WithTx copies have in common.
type sqlShared struct {
	db          *sql.DB
	dialect     *Dialect
	prefix      string
	text        *statements
	cache       *statementCache
	hints       appendHints
	limit       packetLimit
	settings    settingsCheck
	groupCommit *groupCommit
	sealer      *sealer
	waiting     waitingHandlers
	ahead       looksAhead
	isolation   isolation
	putTexts    sync.Map // the statements that write documents, by how many
	puts        sync.Map // how many documents the statements write that are to be prepared
	log         *slog.Logger
}

func newSQLBackend(db *sql.DB, dialect *Dialect, prefix string, log *slog.Logger) *sqlBackend {
	shared := &sqlShared{db: db, dialect: dialect, prefix: prefix, text: &dialect.statements, sealer: newSealer(), log: log}
	shared.limit.fixed = dialect.maxPacket
	shared.ahead.began = time.Now()
	shared.cache = newStatementCache(db, dialect, prefix)
	// A store needs no closing, but the server should not keep its prepared statements for as
	// long as the caller keeps the pool.
	runtime.AddCleanup(shared, func(c *statementCache) { c.close() }, shared.cache)
	b := &sqlBackend{sqlShared: shared}
	shared.groupCommit = &groupCommit{
		insertAlone: b.appendAlone, insertGroup: b.insertGroup, twoGroups: b.dialect.twoGroups,
		maxBytes: func() int { return shared.limit.cut(2*maxGroupBytes) / 2 },
	}
	return b
}

func (b *sqlBackend) withTx(tx *sql.Tx) backend {
	if tx == nil {
		return &brokenBackend{err: invalid("tx is nil")}
	}
	return &sqlBackend{sqlShared: b.sqlShared, tx: tx}
}

// run calls fn, which must not have effects when it fails, again for as long as the database asks
// for that, and says in its error which operation it was.
func (b *sqlBackend) run(ctx context.Context, op string, fn func(conn) error) error {
	leave, err := b.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	var past retries
	for attempt := 1; ; attempt++ {
		err := b.failed(op, fn(b.conn()))
		if !errors.Is(err, errRetry) || attempt == maxRetries {
			return past.ended(ctx, err)
		}
		past.last = err
		if err := backOff(ctx, attempt); err != nil {
			return past.ended(ctx, err)
		}
	}
}

// enter is called before a call waits for a connection: see waitingHandlers.
func (b *sqlBackend) enter(ctx context.Context) (leave func(), err error) {
	if b.tx != nil {
		return func() {}, nil
	}
	return b.waiting.enter(ctx, b.db)
}

// transact runs fn in the caller's transaction, or else in one of its own, which it repeats when
// the database asks for that. What it is used for rests on locks and keys and not on the isolation,
// so its own is read committed, whatever the default: that has the least to repeat.
func (b *sqlBackend) transact(ctx context.Context, op string, fn func(conn) error) error {
	return b.run(ctx, op, func(c conn) error {
		if c.tx != nil {
			return fn(c)
		}
		if err := b.settings.check(ctx, b.db, &b.text.install); err != nil {
			return err
		}
		tx, err := b.db.BeginTx(ctx, readCommitted)
		if err != nil {
			return err
		}
		if err := fn(conn{b: b, tx: tx}); err != nil {
			// The error that matters is fn's: a rollback fails only with a connection that is gone.
			_ = tx.Rollback()
			return ended(ctx, err)
		}
		return ended(ctx, tx.Commit())
	})
}

var readCommitted = &sql.TxOptions{Isolation: sql.LevelReadCommitted}

// failed turns an error of the driver into one of the store's. Those that ask for a repetition
// become errRetry, or, in the caller's transaction, ErrRetryTx.
func (b *sqlBackend) failed(op string, err error) error {
	if err != nil {
		err = b.named(op, err)
		if b.lost != nil {
			b.lost(err)
		}
	}
	return err
}

func (b *sqlBackend) named(op string, err error) error {
	if tooLarge, _ := isTooLarge(err); tooLarge {
		if errors.Is(err, ErrInvalid) || errors.Is(err, errRetry) || errors.Is(err, ErrRetryTx) {
			return err
		}
		return invalid("%s: %w", op, err)
	}
	switch b.dialect.classify(err) {
	case faultNoTable:
		return fmt.Errorf("%w (%w)", ErrNotInstalled, err)
	case faultRetry:
		return b.retryable(op, err)
	case faultLost:
		return &statementError{op, err, errLost}
	case faultDriver:
		if isOwn(err) {
			break
		}
		return &statementError{op, err, errUnavailable}
	case faultDown, faultEnded:
		return &statementError{op, err, errUnavailable}
	case faultDenied:
		return &statementError{op, err, errDenied}
	case faultForeign:
		return invalid("dialect %s: this is another kind of database: %s: %w", b.dialect.name, op, err)
	}
	if errors.Is(err, errVersion) || errors.Is(err, errRetry) || errors.Is(err, ErrRetryTx) || errors.Is(err, ErrInvalid) || errors.Is(err, ErrInconsistent) || errors.Is(err, ErrEventNotFound) {
		return err
	}
	return fmt.Errorf("eventstore: %s: %w", op, err)
}

// isOwn reports whether an error is one of the store's own, which no driver has made.
func isOwn(err error) bool {
	for _, own := range []error{errVersion, errRetry, ErrInvalid, ErrInconsistent, ErrRetryTx, ErrLeaseLost, ErrEventNotFound, errEnded} {
		if errors.Is(err, own) {
			return true
		}
	}
	return false
}

// retryable returns err as one that asks for a repetition.
func (b *sqlBackend) retryable(op string, err error) error {
	if b.tx != nil {
		return fmt.Errorf("%w: %s: %w", ErrRetryTx, op, err)
	}
	return &statementError{op, err, errRetry}
}

func (b *sqlBackend) conn() conn { return conn{b: b, tx: b.tx} }

// timeArg returns a time as a parameter; the zero time is NULL.
func (b *sqlBackend) timeArg(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(b.dialect.timeLayout)
}
