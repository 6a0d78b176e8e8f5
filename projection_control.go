// Control by name: list, stop, reset and delete projections and relays, and their parked events.

package eventstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Projections returns all projections and relays that have ever run and were not deleted, by name
// in byte order. [Documents] are projections here and for every call that takes a projection's name.
func (s *Store) Projections(ctx context.Context) ([]ProjectionInfo, error) {
	infos, err := s.backend.projections(ctx)
	if err != nil || len(infos) == 0 {
		return nil, err
	}
	sealed, _, err := s.backend.seal(ctx)
	for i := range infos {
		infos[i].Lag = infos[i].lag(sealed)
	}
	return infos, err
}

// StopProjection ends all runs of a projection or relay, wherever they are: from when it returns
// they can write nothing any more, and each returns nil when it notices, in this process at once.
// It can be run again. If none of this name has ever run: [ErrProjectionNotFound].
func (s *Store) StopProjection(ctx context.Context, name string) error {
	return s.controlProjection(ctx, name, control{kind: controlStop})
}

// ResetProjection begins a projection or relay at the first event again; see [Projection.Reset]. Of
// streams, only the one that the projection's [Step.Emit] has created is deleted. A
// read model, which only its definition knows, is emptied by the projection's runner, at once or
// when it is next run: until then its status is [StatusResetting]. If none of this name has ever
// run, or it has been deleted: [ErrProjectionNotFound].
func (s *Store) ResetProjection(ctx context.Context, name string) error {
	if err := s.checkControl(name); err != nil {
		return err
	}
	return s.resetProjection(ctx, newRunner(s, runnerConfig{name: name}))
}

// DeleteProjection removes a projection or relay; see [Projection.Delete]. A read model, which only
// its definition knows, is dropped by the projection's runner, at once or when it is next run: until
// then its status is [StatusDeleting]. If none of this name has ever run: [ErrProjectionNotFound].
func (s *Store) DeleteProjection(ctx context.Context, name string, emitted bool) error {
	if err := s.checkControl(name); err != nil {
		return err
	}
	return s.deleteProjection(ctx, newRunner(s, runnerConfig{name: name}), emitted)
}

// ParkedEvent is an event that a projection has set aside by [Park].
type ParkedEvent struct {
	Event Event  // only with Position, Stream and AggregateID if it has been deleted since
	Error string // of the handler; empty: it waits behind another of its aggregate
}

// ParkedEvents returns the events that a projection has set aside, by position. If none of this
// name has ever run, or it has been deleted: [ErrProjectionNotFound].
func (s *Store) ParkedEvents(ctx context.Context, projection string) ([]ParkedEvent, error) {
	if err := checkName("projection name", projection); err != nil {
		return nil, err
	}
	row, found, err := s.backend.projection(ctx, projection)
	if err != nil || !found || row.status == StatusDeleting {
		return nil, cmp.Or(err, notFound(projection))
	}
	rows, err := s.backend.parked(ctx, projection)
	if err != nil {
		return nil, err
	}
	out := make([]ParkedEvent, len(rows))
	index := make(map[Position]int, len(rows))
	for i, row := range rows {
		out[i] = ParkedEvent{Event{Position: row.position, Stream: row.stream, AggregateID: row.aggregateID}, row.errText}
		index[row.position] = i
	}
	for part := range slices.Chunk(rows, 1000) {
		positions := make([]any, len(part))
		for i := range part {
			positions[i] = int64(part[i].position)
		}
		between := ReadOptions{After: part[0].position - 1, Before: part[len(part)-1].position + 1}
		for ev, err := range s.Read(ctx, FromAll(ByPosition.In(positions...)), between) {
			if err != nil {
				return nil, err
			}
			out[index[ev.Position]].Event = ev
		}
	}
	return out, nil
}

// RetryParked has the events that a projection has set aside tried again, each aggregate's in
// order: by its runner at once, or when it is next run. What fails again stays, with what stands
// behind it. If none of this name has ever run, or it has been deleted: [ErrProjectionNotFound].
func (s *Store) RetryParked(ctx context.Context, projection string) error {
	return s.controlProjection(ctx, projection, control{kind: controlRetry})
}

// RetryParkedEvent has one parked event tried again, by its position, and if it succeeds those of its
// aggregate that wait for it, in order. The projection's runner does it, at once or when it is next
// run. An event that waits for another parked one is [ErrInvalid]; one that is not parked is
// [ErrEventNotFound]. If no projection of this name has ever run, or it has been deleted:
// [ErrProjectionNotFound].
func (s *Store) RetryParkedEvent(ctx context.Context, projection string, at Position) error {
	if at < 1 {
		return invalid("position %d", at)
	}
	return s.controlProjection(ctx, projection, control{kind: controlRetry, position: at})
}

// DropParked gives up an event that a projection has set aside. Later ones of its aggregate stay
// where they are until [Store.RetryParked]. Dropping what is not there does nothing. If none of this
// name has ever run, or it has been deleted: [ErrProjectionNotFound].
func (s *Store) DropParked(ctx context.Context, projection string, p Position) error {
	return s.controlProjection(ctx, projection, control{kind: controlDropParked, position: p})
}

// PauseProjection has all runs of a projection or relay stand by, wherever they are, until
// [Store.ResumeProjection]: also those that are started later. When it has returned, nothing more is
// committed, although a relay's call of Publish that is in flight goes on. Pausing a paused projection does
// nothing. A reset leaves it paused, [Store.StopProjection] ends its runs, a delete ends the pause.
// If no projection of this name has ever run, or it has been deleted: [ErrProjectionNotFound].
func (s *Store) PauseProjection(ctx context.Context, name string) error {
	return s.controlProjection(ctx, name, control{kind: controlPause})
}

// ResumeProjection ends a pause: runs that stand by go on. Resuming a projection that is not paused
// does nothing. If no projection of this name has ever run, or it has been deleted:
// [ErrProjectionNotFound].
func (s *Store) ResumeProjection(ctx context.Context, name string) error {
	return s.controlProjection(ctx, name, control{kind: controlResume})
}

// SkipEvent has a projection or relay pass over the event at a position as if it were not there: when it
// comes to the event, or at once if the event is the one that it fails on. An event that the projection
// has taken in already is [ErrInvalid]. A position at which it finds no event has no effect. A later
// call of SkipEvent or [Store.ParkEvent] for the same position takes the place of an earlier one, and a
// reset forgets both. The runner handles the batch that it has in hand again. If no projection of this name has ever run, or it has been deleted:
// [ErrProjectionNotFound].
func (s *Store) SkipEvent(ctx context.Context, name string, at Position) error {
	return s.judge(ctx, name, control{kind: controlSkip, position: at})
}

// ParkEvent is [Store.SkipEvent], but sets the event aside as [Park] does, and later events of its
// aggregate after it.
func (s *Store) ParkEvent(ctx context.Context, name string, at Position) error {
	return s.judge(ctx, name, control{kind: controlPark, position: at})
}

// judge is a control call about an event that the projection has not come to.
func (s *Store) judge(ctx context.Context, name string, c control) error {
	if c.position < 1 {
		return invalid("position %d", c.position)
	}
	return s.controlProjection(ctx, name, c)
}

// AcceptProjection forgets which events earlier definitions of a projection or relay took in, and ends
// the hold of its runner: the next definition that takes the lease is accepted as it is, and what it
// wants counts as taken in up to the projection's position. If older processes still run the
// projection, one of them may be the next. If no projection of this name has ever run, or it has been
// deleted: [ErrProjectionNotFound].
func (s *Store) AcceptProjection(ctx context.Context, name string) error {
	return s.controlProjection(ctx, name, control{kind: controlAccept})
}

func notFound(projection string) error {
	return fmt.Errorf("%w: %q", ErrProjectionNotFound, projection)
}

func (s *Store) checkControl(name string) error {
	if s.inTx {
		return fmt.Errorf("eventstore: to control a projection inside a transaction: %w", errors.ErrUnsupported)
	}
	return checkName("projection name", name)
}

// controlProjection changes a projection from outside.
func (s *Store) controlProjection(ctx context.Context, name string, c control) error {
	if err := s.checkControl(name); err != nil {
		return err
	}
	c.by = newOwner()
	found, changed, err := s.backend.control(ctx, name, c)
	if err != nil {
		return err
	}
	if !found {
		return notFound(name)
	}
	s.opts.Logger.InfoContext(ctx, "projection controlled", "projection", name, "owner", c.by, "action", string(c.kind), "position", c.position)
	if changed {
		s.leases.revoke(name)
	}
	s.progress.publish()
	return nil
}

// controlDefined is controlProjection by a definition, of whose kind the name has to be.
func (s *Store) controlDefined(ctx context.Context, r *runner, c control) error {
	if r.kind != "" {
		row, found, err := s.backend.projection(ctx, r.name)
		if err == nil && found {
			err = r.kind.owns(r.name, &row)
		}
		if err != nil {
			return err
		}
	}
	return s.controlProjection(ctx, r.name, c)
}

// resetProjection resets what r runs, and leaves to another runner only a read model that r does
// not know.
func (s *Store) resetProjection(ctx context.Context, r *runner) error {
	sealed, _, err := s.backend.seal(ctx)
	if err != nil {
		return err
	}
	if err := s.controlDefined(ctx, r, control{kind: controlReset, sealed: sealed}); err != nil {
		return err
	}
	return s.carryOut(ctx, r, StatusResetting, r.reset)
}

func (s *Store) deleteProjection(ctx context.Context, r *runner, emitted bool) error {
	if err := s.controlDefined(ctx, r, control{kind: controlDelete, emitted: emitted}); err != nil {
		return err
	}
	return s.carryOut(ctx, r, StatusDeleting, r.finishDelete)
}

// carryOut does what a control call has left to do, unless it takes a definition that r has not,
// or another runner is faster: then it is that one's.
func (s *Store) carryOut(ctx context.Context, r *runner, status ProjectionStatus, fn func(context.Context, *projectionRow) error) error {
	r.owner, r.term = newOwner(), defaultLease
	for attempt := 1; ; attempt++ {
		row, found, err := s.backend.projection(ctx, r.name)
		switch {
		case err != nil:
			return err
		case !found || row.status != status || row.readModel && r.readModel == nil && !row.emitted:
			return nil
		case row.free(r.owner):
			err = r.withLease(ctx, &row, fn)
		}
		s.progress.publish()
		if err != nil && !errors.Is(err, errRetry) && !errors.Is(err, ErrLeaseLost) || attempt == maxRetries {
			return err
		}
		if err := sleep(ctx, min(100*time.Millisecond, pauseAfter(min(attempt, 4)))); err != nil {
			return err
		}
	}
}
