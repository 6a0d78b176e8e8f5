// Store.Append: IDs and metadata are filled in, middleware runs, events are encoded, transient
// failures are retried. It decides whether a refused append is a conflict or was stored earlier.

package eventstore

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/google/uuid"
)

// Append stores all events as the next ones of an aggregate, or none of them, and returns them as
// stored. It takes at least 20,000 at a time; without events nothing happens. The stream must
// exist ([ErrStreamNotFound]); the aggregate need not. If the aggregate is not at the expected
// version the error is [*ConflictError]; its Actual is what the caller's transaction sees, if there
// is one. With [AnyVersion] there is no conflict of versions outside a caller's transaction: the
// store repeats what a race defeats.
//
// Appends can be repeated: one to the same aggregate with the same event IDs in the same order
// changes nothing and returns the events already stored, whatever version is expected. A partial
// overlap, another order, or IDs that are stored elsewhere are [*ConflictError]. One ID twice in a
// call is [ErrInvalid], as is everything else that can't be stored. That includes an event larger than
// the database takes in one statement: max_allowed_packet on MySQL and MariaDB, 1 GB on Postgres. An
// append of many events is cut into as many statements as it takes.
//
// An append that is given a position at or below the sealed one, which no projection would see, stores
// nothing: [ErrInconsistent].
//
// A failed append leaves nothing of it in a caller's transaction, or ends the transaction.
//
// Outside a caller's transaction deadlocks and serialisation failures are repeated with back-off. If
// the context ends that, the error wraps the last of them too. A unique violation that is not about
// the store's own keys, but a trigger's say, comes back as it is.
// If the connection is lost, the append may or may not have been stored: repeat it with the same
// IDs. The same goes for one whose context ends. Appends that arrive together may share a statement,
// which then has the values of one of their contexts.
func (s *Store) Append(ctx context.Context, stream, aggregateID string, expected ExpectedVersion, events ...NewEvent) ([]Event, error) {
	if len(events) == 0 {
		return nil, nil
	}
	return s.appendBatch(ctx, Batch{Stream: stream, AggregateID: aggregateID, Expected: expected, Events: append([]NewEvent(nil), events...)}, nil)
}

// appendBatch completes a batch, which becomes the store's, and appends it. origin may be nil.
func (s *Store) appendBatch(ctx context.Context, b Batch, origin *batchOrigin) ([]Event, error) {
	if err := s.complete(ctx, b.Events); err != nil {
		return nil, err
	}
	if origin != nil && !s.noAppendMiddleware {
		if err := origin.prepare(s.codec); err != nil {
			return nil, err
		}
	}
	return s.appendThrough(ctx, s.opts.Middleware, b, origin)
}

// complete gives events their IDs and their metadata.
func (s *Store) complete(ctx context.Context, events []NewEvent) error {
	var common Metadata
	if s.opts.Metadata != nil {
		common = s.opts.Metadata(ctx)
	}
	if err := giveIDs(events); err != nil {
		return err
	}
	for i := range events {
		ev := &events[i]
		if len(common) == 0 && s.noAppendMiddleware {
			continue // nobody changes what the caller gave, and encode copies it
		}
		md := make(Metadata, len(common)+len(ev.Metadata))
		maps.Copy(md, common)
		maps.Copy(md, ev.Metadata)
		ev.Metadata = md
	}
	return nil
}

// giveIDs gives events without an ID a fresh one.
func giveIDs(events []NewEvent) error {
	for i := range events {
		if events[i].ID != uuid.Nil {
			continue
		}
		id, err := uuid.NewV7()
		if err != nil {
			return fmt.Errorf("eventstore: make an event ID: %w", err)
		}
		events[i].ID = id
	}
	return nil
}

// appendThrough stores a batch through what is left of the middleware.
func (s *Store) appendThrough(ctx context.Context, mw []Middleware, b Batch, origin *batchOrigin) ([]Event, error) {
	for i, m := range mw {
		if m.Append != nil {
			return m.Append(ctx, b, func(ctx context.Context, b Batch) ([]Event, error) {
				// In place, so that a batch that is given again has the same IDs.
				if err := giveIDs(b.Events); err != nil {
					return nil, err
				}
				return s.appendThrough(ctx, mw[i+1:], b, origin)
			})
		}
	}
	if len(b.Events) == 0 {
		return nil, nil
	}
	a, err := s.encode(b, origin)
	if err != nil {
		return nil, err
	}
	stored, earlier, err := s.appendWithRetry(ctx, a)
	if err != nil {
		return nil, err
	}
	s.appended.publish()
	if origin != nil && earlier {
		origin.earlier = true
	}
	return s.toEvents(ctx, stored, earlier)
}

// encode checks a batch and turns it into rows.
func (s *Store) encode(b Batch, origin *batchOrigin) (*appendRequest, error) {
	if err := checkAggregate(b.Stream, b.AggregateID); err != nil {
		return nil, err
	}
	if b.Expected < MustExist {
		return nil, invalid("expected version %d", int64(b.Expected))
	}
	at, err := s.now()
	if err != nil {
		return nil, err
	}
	a := &appendRequest{stream: b.Stream, aggregateID: b.AggregateID, lastEvent: lastEvent{b.Expected, origin.follows(&b)}, at: at}
	if len(b.Events) == 1 {
		a.rows = a.one[:]
	} else {
		a.rows = make([]record, len(b.Events))
	}
	var seen map[uuid.UUID]int
	if len(b.Events) > 1 {
		seen = make(map[uuid.UUID]int, len(b.Events))
	}
	for i := range b.Events {
		ev := &b.Events[i]
		r := &a.rows[i]
		r.id, r.stream, r.aggregateID = ev.ID, b.Stream, b.AggregateID
		if first, twice := seen[ev.ID]; twice {
			return nil, invalid("event ID %s is that of events %d and %d", ev.ID, first, i)
		}
		if seen != nil {
			seen[ev.ID] = i
		}
		if err := s.encodeEvent(r, ev, origin.data(i, ev, s.codec, !s.noAppendMiddleware)); err != nil {
			return nil, within(fmt.Sprintf("event %d", i), err)
		}
	}
	return a, nil
}

// encodeEvent fills in a row. data is the payload if it is encoded already.
func (s *Store) encodeEvent(r *record, ev *NewEvent, data []byte) error {
	if ev.ID == uuid.Nil {
		return invalid("event ID is zero")
	}
	if err := checkEventID(ev.ID); err != nil {
		return err
	}
	var err error
	if r.name, err = payloadName(ev.Payload); err != nil {
		return err
	}
	if err := checkName("event name", r.name); err != nil {
		return err
	}
	switch stored, ok := ev.Payload.(storedPayload); {
	case data != nil:
		r.data = data
	case ok:
		r.data = stored.data
	default:
		if r.data, err = s.codec.Marshal(ev.Payload); err != nil {
			return invalid("payload %q can't be encoded: %w", r.name, err)
		}
	}
	if err := checkData(s.codec.Codec, r.name, r.data); err != nil {
		return err
	}
	if len(ev.Metadata) == 0 {
		r.metadata = noMetadata
		return nil
	}
	if r.decoded, err = ev.Metadata.normal(); err != nil {
		return err
	}
	r.metadata = r.decoded.encode()
	return nil
}

// storedPayload is what another event holds, to be stored again as it is.
type storedPayload struct {
	name string
	data []byte
}

func (p storedPayload) EventName() string { return p.name }

// appendWithRetry has the backend append, retries transient failures, and tells a conflict from an
// append that an earlier call has stored. It returns a.rows, or the rows stored earlier.
func (s *Store) appendWithRetry(ctx context.Context, a *appendRequest) (stored []record, earlier bool, err error) {
	var past retries
	for attempt := 1; ; attempt++ {
		err := s.backend.append(ctx, a)
		if err == nil {
			return a.rows, false, nil
		}
		if errors.Is(err, errVersion) {
			var stored []record
			refusal := err
			var actual int64
			if stored, actual, err = s.explainConflict(ctx, a); err == nil {
				return stored, true, nil
			}
			err = past.refused(refusal, actual, err)
		}
		if !errors.Is(err, errRetry) {
			return nil, false, past.ended(ctx, err)
		}
		past.last = err
		if s.inTx {
			err = retryTx(err)
			s.conflict(err)
			return nil, false, err
		}
		if attempt == maxRetries {
			return nil, false, err
		}
		s.opts.Logger.DebugContext(ctx, "append repeated", "stream", a.stream, "aggregate", a.aggregateID, "attempt", attempt, "error", err)
		if err := backOff(ctx, attempt); err != nil {
			return nil, false, past.ended(ctx, err)
		}
	}
}

// explainConflict finds out what a refused append was: stored by an earlier call, whose rows it
// returns, a conflict, or a race that is over (errRetry). It returns the aggregate's version, too.
func (s *Store) explainConflict(ctx context.Context, a *appendRequest) (stored []record, actual int64, err error) {
	cause, err := s.backend.diagnose(ctx, a)
	switch {
	case err != nil:
		return nil, 0, err
	case !cause.found:
		return nil, 0, fmt.Errorf("%w: %q: Store.CreateStream makes it", ErrStreamNotFound, a.stream)
	case isRepeat(a, cause.stored):
		return cause.stored, cause.actual, nil
	case len(cause.stored) == 0 && !cause.taken && a.admits(cause.actual, cause.position):
		return nil, cause.actual, errRetry
	}
	s.opts.Logger.DebugContext(ctx, "append conflicts", "stream", a.stream, "aggregate", a.aggregateID, "expected", a.expected, "actual", cause.actual)
	err = &ConflictError{Stream: a.stream, AggregateID: a.aggregateID, Expected: a.expected, Actual: cause.actual}
	s.conflict(err)
	return nil, cause.actual, err
}

// isRepeat reports whether stored are the very events that a wants stored: the same IDs in the same
// order, one after the other in the same aggregate.
func isRepeat(a *appendRequest, stored []record) bool {
	if len(stored) != len(a.rows) {
		return false
	}
	for i, r := range stored {
		if r.id != a.rows[i].id || r.stream != a.stream || r.aggregateID != a.aggregateID || r.version != stored[0].version+int64(i) {
			return false
		}
	}
	return true
}

// toEvents turns rows into the events that an append returns. Those stored by an earlier call have
// been read, and so pass the middleware for that.
func (s *Store) toEvents(ctx context.Context, rows []record, earlier bool) ([]Event, error) {
	events := make([]Event, len(rows))
	for i := range rows {
		var err error
		if earlier {
			events[i], err = s.load(ctx, &rows[i])
		} else {
			events[i], err = s.event(&rows[i])
		}
		if err != nil {
			return nil, err
		}
	}
	return events, nil
}
