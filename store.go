// Store, Options and Middleware: opening a store, and its streams.

package eventstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"time"
)

// Store is a log of events in streams, and what is derived from it. [Open] makes one over a
// database, [NewMemStore] one in memory. It is safe for concurrent use, starts no goroutine
// outside a running call, and needs no closing.
//
// Errors of a database come back wrapped. A context that ends ends every call with its error; an
// append whose context ends while it is under way may or may not have been stored.
type Store struct {
	backend            backend
	codec              *payloadCodec
	opts               Options
	appended           *broadcast // of events
	progress           *broadcast // of projections
	leases             *leases
	inTx               bool
	sqlTx              func() (*sql.Tx, error) // that the store works in; nil: it is in none
	flush              func() error            // writes what a batch has done to documents; nil: there is no batch
	conflicted         func(error)             // told of conflicts and lost races of appends; nil: of none
	copiesData         bool                    // the backend keeps the bytes that it hands out
	hasLoadMiddleware  bool                    // there is Middleware.Load
	noAppendMiddleware bool                    // there is no Middleware.Append
}

// Options configure a store. The zero value, or nil, is the default.
type Options struct {
	// TablePrefix begins the names of the store's tables: letters, digits and underscores, at
	// most 32 and no digit first. Default "es_". Several stores can share a database under
	// different prefixes.
	TablePrefix string

	// Codec turns payloads, states and nothing else into JSON text. Default: encoding/json.
	Codec Codec

	// Upcasters bring events stored in earlier shapes to today's. At most one for each name.
	Upcasters []Upcaster

	// Metadata returns what to add to the metadata of every appended event. The event's own keys
	// win. It runs before the middleware and must be safe for concurrent use.
	Metadata func(context.Context) Metadata

	// Middleware wraps appends and sees each event that is read. The first is the outermost.
	Middleware []Middleware

	// Logger is told of retried and conflicting appends at debug level, of leases taken and lost
	// at info, and at warn of each try of an event that a projection or a relay fails on, of faults
	// of the database that they survive, and of sealing that stands still: when it has been waiting
	// at one position for 5 seconds, again after 10, 20 and so on, and once when that is over. On
	// Postgres this names the transactions that it waits for as pg_locks does. It is noticed by
	// whoever seals, so that a store of which nobody reads sealed events is silent. Texts of errors are
	// logged too: those of this package tell nothing of payloads and metadata, those of handlers and
	// codecs are the application's. A record on which the logger's handler panics is dropped. Default: silent.
	Logger *slog.Logger

	// Now is the clock for [Event].RecordedAt and [StreamInfo].CreatedAt; it must be safe for
	// concurrent use. Default: the database's clock, on a memory store the process's. Leases are
	// always kept by the database's clock. A time before the year 1000 or after 9999, in UTC, is
	// ErrInvalid: some databases do not have such times, and JSON neither.
	Now func() time.Time
}

// Middleware wraps appends and sees each event that is read. Either function may be nil; both
// must be safe for concurrent use.
type Middleware struct {
	// Append is called for every append that has events, after IDs and [Options].Metadata have
	// been filled in. It stores the batch by calling next, with the batch it was given or with a
	// changed one, and returns what next returned or something else. If it returns an error
	// without calling next, nothing is stored; an error after next has succeeded reaches the
	// caller although the events are stored. It may call next again: repeating a batch stores
	// nothing twice. What it is given belongs to it, except the payloads. An event that it adds
	// without an ID gets a fresh one, in the batch that it gives to next.
	Append func(ctx context.Context, b Batch, next func(context.Context, Batch) ([]Event, error)) ([]Event, error)

	// Load is called for every event that is read, and once for each of them when an append
	// returns events that were stored before. It returns the event that the reader is to see; an
	// error ends the read.
	Load func(ctx context.Context, ev Event) (Event, error)
}

// Batch is an append on its way through middleware.
type Batch struct {
	Stream, AggregateID string
	Expected            ExpectedVersion
	Events              []NewEvent
}

// defaultPrefix is the default of Options.TablePrefix.
const defaultPrefix = "es_"

var prefixPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,31}$`)

// Open returns a store in db, which is the caller's: the store never closes it and changes none of
// its settings. dialect is [Postgres] or [MySQL]. Open does no I/O; what is wrong with dialect or
// opts is [ErrInvalid]. That db is of another kind than dialect turns out with the first call on the
// store, as ErrInvalid too if a server has answered. So does a setting of its connections that would
// lose or garble data; the error names it.
func Open(db *sql.DB, dialect *Dialect, opts *Options) (*Store, error) {
	switch {
	case db == nil:
		return nil, invalid("db is nil")
	case dialect == nil:
		return nil, invalid("dialect is nil: want Postgres or MySQL")
	}
	s, err := newStore(opts)
	if err != nil {
		return nil, err
	}
	s.backend = newSQLBackend(db, dialect, s.opts.TablePrefix, s.opts.Logger)
	return s, nil
}

// NewMemStore returns a store in memory that answers as a database's would, down to the encoded
// bytes of payloads. It needs no [Store.Install]. Options that [Open] would refuse make every call
// return that error.
func NewMemStore(opts *Options) *Store {
	s, err := newStore(opts)
	if err != nil {
		return &Store{backend: &brokenBackend{err: err}, codec: defaultCodec, appended: newBroadcast(), progress: newBroadcast(), leases: newLeases()}
	}
	s.backend, s.copiesData = newMemBackend(s.appended), true
	return s
}

func newStore(opts *Options) (*Store, error) {
	s := &Store{appended: newBroadcast(), progress: newBroadcast(), leases: newLeases()}
	if opts != nil {
		s.opts = *opts
	}
	if s.opts.TablePrefix == "" {
		s.opts.TablePrefix = defaultPrefix
	}
	if !prefixPattern.MatchString(s.opts.TablePrefix) {
		return nil, invalid("Options.TablePrefix %q: want letters, digits and underscores, at most 32 and no digit first", s.opts.TablePrefix)
	}
	if s.opts.Logger == nil {
		s.opts.Logger = slog.New(slog.DiscardHandler)
	} else {
		s.opts.Logger = survivingLogger(s.opts.Logger)
	}
	s.opts.Middleware = append([]Middleware(nil), s.opts.Middleware...)
	s.hasLoadMiddleware = slices.ContainsFunc(s.opts.Middleware, func(m Middleware) bool { return m.Load != nil })
	s.noAppendMiddleware = !slices.ContainsFunc(s.opts.Middleware, func(m Middleware) bool { return m.Append != nil })
	var err error
	s.codec, err = newPayloadCodec(s.opts.Codec, s.opts.Upcasters)
	return s, err
}

// Install creates the store's tables, or brings those of an earlier version of this package up to
// date. Calling it again changes nothing, and any number of processes may call it at once. On a
// store that [Store.WithTx] returned it is [errors.ErrUnsupported]. Where the tables are up to date it
// needs no right to create any.
//
// Install also raises the generators of positions and of stream ids above all that is stored and sealed, where
// one has fallen behind: see [ErrInconsistent].
func (s *Store) Install(ctx context.Context) error {
	if s.inTx {
		return fmt.Errorf("eventstore: Install inside a transaction: %w", errors.ErrUnsupported)
	}
	return s.backend.install(ctx)
}

// WriteSchema writes the statements of [Store.Install] for an empty database, for tools that
// manage migrations. On a memory store it writes nothing.
func (s *Store) WriteSchema(w io.Writer) error { return s.backend.writeSchema(w) }

// WithTx returns a store whose calls run inside tx, at whatever isolation it has, and which never
// commits it. It rolls tx back in one case: an append has failed, and the database refuses to undo
// the part that is already stored. Nothing of it is repeated: [Aggregate.Execute] and [Aggregate.Handle]
// try once, and a deadlock, a serialisation failure or a lost position is [ErrRetryTx]: roll back
// and run the transaction again, as [Store.Transact] does by itself. After [*ConflictError] roll back
// too. Like tx, it is not safe for concurrent use while a sequence is being read. On a memory store, which
// knows no *sql.Tx, every call of the result returns [errors.ErrUnsupported]: use Transact.
//
// A transaction that stays open holds up no append to another aggregate. MySQL and MariaDB lock gaps
// between rows: there it holds up appends that begin an aggregate next to one of its own, by ID, and
// appends to the aggregate before that one,
//
//   - if it has had to wait for that aggregate, on MySQL only for one that was new,
//   - if it has appended to that aggregate after another had deleted it,
//   - if it has deleted that aggregate and begun it anew,
//   - if it is serializable: then it locks all that it reads.
//
// There it also holds up appends to a stream whose metadata it has set.
//
// On MySQL at repeatable read an INSERT that a row refuses locks the end of the log until the transaction ends.
// So an append in tx first looks, on another connection of the pool, for what is in its way. Every append to
// the store waits for tx if that was not possible, because the pool had none free, if another append took
// the same new aggregate or the same event ID after the look, or if tx has itself stored the ID in another
// aggregate, and tx stays open after the error.
func (s *Store) WithTx(tx *sql.Tx) *Store {
	t := *s
	t.inTx = true
	t.backend = s.backend.withTx(tx)
	t.sqlTx = func() (*sql.Tx, error) {
		if none, ok := t.backend.(*brokenBackend); ok {
			return nil, none.err
		}
		return tx, nil
	}
	return &t
}

// CreateStream makes a stream. If one of this name is there: [ErrStreamExists]. If the generator of ids hands
// out one that is in use: [ErrInconsistent].
func (s *Store) CreateStream(ctx context.Context, name string, md Metadata) error {
	md, err := s.checkStream(ctx, name, md)
	if err != nil {
		return err
	}
	at, err := s.now()
	if err != nil {
		return err
	}
	created, err := s.backend.createStream(ctx, name, md.encode(), "", at)
	if err == nil && !created {
		return fmt.Errorf("%w: %q", ErrStreamExists, name)
	}
	return err
}

// DeleteStream deletes a stream with all its events, for good; their positions are never used
// again. It waits for appends to the stream that are not yet committed. If there is none of this
// name: [ErrStreamNotFound]. A stream created later under the same name is another one.
//
// The stream itself goes first: from then on no read finds one of its events, and an append finds no
// stream. Its events are then erased in many short transactions, so that sealing waits for none of
// them for long. If DeleteStream is cut short there, the events stay in the table, and their IDs are
// taken, until the next [Store.Install], CreateStream or DeleteStream that is not in a transaction.
//
// In a caller's transaction everything is erased at once. Above read committed that does not see
// events that were stored since its snapshot: no read finds them any more than the others, but they
// stay for as long as what is cut short.
func (s *Store) DeleteStream(ctx context.Context, name string) error {
	if err := checkName("stream name", name); err != nil {
		return err
	}
	return s.mustFind(name)(s.backend.deleteStream(ctx, name))
}

// DeleteAggregate deletes an aggregate with all its events and its snapshot, for good; their
// positions are never used again. An append to it afterwards begins at version 1. Without the
// stream: [ErrStreamNotFound]; without events: [ErrAggregateNotFound].
//
// The order of other events, and running projections, are undisturbed: whoever has not come so far
// never sees the deleted events, and what others have made of them is theirs to mend. Links to them
// in other streams, and what relays have published, stay.
//
// Its events are erased in one transaction. In a caller's transaction whose snapshot does not show the
// aggregate's last event it is [ErrRetryTx]. It checks no version: to delete only what was seen, append an event
// to the aggregate first, in the same transaction. On Postgres that can deadlock with an append in flight, which
// [Store.Transact] retries. Sealing does not wait for a transaction that has only deleted.
func (s *Store) DeleteAggregate(ctx context.Context, stream, aggregateID string) error {
	if err := checkAggregate(stream, aggregateID); err != nil {
		return err
	}
	found, n, err := s.backend.deleteAggregate(ctx, stream, aggregateID)
	if err := s.mustFind(stream)(found, err); err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%w: %q in stream %q", ErrAggregateNotFound, aggregateID, stream)
	}
	return nil
}

// HasStream reports whether a stream of this name exists.
func (s *Store) HasStream(ctx context.Context, name string) (bool, error) {
	if err := checkName("stream name", name); err != nil {
		return false, err
	}
	return s.backend.hasStream(ctx, name)
}

// Streams returns the streams whose names begin with prefix, taken literally, by name in byte
// order. An empty prefix is all.
func (s *Store) Streams(ctx context.Context, prefix string) ([]StreamInfo, error) {
	if err := checkText("prefix", prefix); err != nil {
		return nil, err
	}
	rows, err := s.backend.streams(ctx, prefix)
	if err != nil {
		return nil, err
	}
	infos := make([]StreamInfo, len(rows))
	for i, row := range rows {
		md, err := decodeMetadata(row.metadata)
		if err != nil {
			return nil, fmt.Errorf("eventstore: metadata of stream %q: %w", row.name, err)
		}
		infos[i] = StreamInfo{Name: row.name, Metadata: md, CreatedAt: row.createdAt}
	}
	return infos, nil
}

// SetStreamMetadata replaces a stream's metadata. If there is none of this name:
// [ErrStreamNotFound].
func (s *Store) SetStreamMetadata(ctx context.Context, name string, md Metadata) error {
	md, err := s.checkStream(ctx, name, md)
	if err != nil {
		return err
	}
	return s.mustFind(name)(s.backend.setStreamMetadata(ctx, name, md.encode()))
}

func (s *Store) checkStream(ctx context.Context, name string, md Metadata) (Metadata, error) {
	if err := checkName("stream name", name); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return md.normal()
}

// mustFind turns "not found" into ErrStreamNotFound.
func (*Store) mustFind(name string) func(found bool, err error) error {
	return func(found bool, err error) error {
		if err == nil && !found {
			return fmt.Errorf("%w: %q", ErrStreamNotFound, name)
		}
		return err
	}
}

// now returns the time that Options.Now dictates, or the zero time for the backend's own clock.
func (s *Store) now() (time.Time, error) {
	if s.opts.Now == nil {
		return time.Time{}, nil
	}
	t := s.opts.Now().UTC().Truncate(time.Microsecond)
	if t.Year() < 1000 || t.Year() > 9999 {
		return t, invalid("Options.Now returned a time in year %d: want 1000 to 9999", t.Year())
	}
	return t, nil
}
