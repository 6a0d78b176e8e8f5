package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"example.com/eventstore"
)

// library is the service behind the HTTP API. It is safe for concurrent use.
type library struct {
	store    *eventstore.Store
	holds    *eventstore.Projection[Shelf]
	cards    *eventstore.Documents[Card]
	patience time.Duration // of open
}

func newLibrary(store *eventstore.Store) *library {
	return &library{store, newHolds(), newCards(), catchUpTimeout}
}

// catchUpTimeout is how long open waits for the projections.
const catchUpTimeout = 10 * time.Second

// open makes the tables and streams, and has the projections catch up before the first request. From then
// on their rows want every event that this release stores: an older process that still runs stands by
// before those that it does not know, and passes none over.
//
// After a rollback this release may be the older one. Then its projections stand by, and the service
// starts without them.
func (l *library) open(ctx context.Context) error {
	if err := l.store.Install(ctx); err != nil {
		return err
	}
	for _, stream := range []string{copies.Stream, members.Stream, queues.Stream, persons.Stream} {
		if err := l.store.CreateStream(ctx, stream, nil); err != nil && !errors.Is(err, eventstore.ErrStreamExists) {
			return err
		}
	}
	catching, cancel := context.WithTimeout(ctx, l.patience)
	defer cancel()
	return both(func() error {
		_, err := l.holds.CatchUp(catching, l.store)
		return l.tolerate(ctx, catching, err)
	}, func() error {
		_, err := l.cards.CatchUp(catching, l.store)
		return l.tolerate(ctx, catching, err)
	})
}

// tolerate makes a warning of an error that means no more than that the time to catch up is over.
func (l *library) tolerate(ctx, catching context.Context, err error) error {
	if err == nil || catching.Err() == nil || ctx.Err() != nil {
		return err
	}
	slog.WarnContext(ctx, "a projection has not caught up", "error", err)
	return nil
}

// both calls two functions at once.
func both(first, second func() error) error {
	ended := make(chan error, 1)
	go func() { ended <- second() }()
	return errors.Join(first(), <-ended)
}

// follow runs the projections until ctx ends, or one of them does.
func (l *library) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 2)
	go func() { ended <- l.holds.Run(ctx, l.store) }()
	go func() { ended <- l.cards.Run(ctx, l.store) }()
	err := <-ended
	cancel()
	_ = <-ended // the other one, which has been cancelled
	return err
}

func (l *library) add(ctx context.Context, id, title string) (eventstore.Position, error) {
	return position(copies.Handle(ctx, l.store, id, Add{Title: title}))
}

// register makes a person a member. The name is an event in a stream of its own, under the same ID. A request that
// comes again changes nothing: above all it does not bring back a name that was erased meanwhile.
func (l *library) register(ctx context.Context, member, name string) (at eventstore.Position, err error) {
	err = l.store.Transact(ctx, func(tx *eventstore.Store) error {
		registered := false
		_, err := members.Execute(ctx, tx, member, func(m *eventstore.Root[Member]) error {
			switch {
			case m.Version() == 0:
				registered = true
				m.Record(MemberRegistered{})
			case !m.State().Active:
				return ErrMemberExists
			}
			return nil
		})
		if err != nil {
			return err
		}
		if registered {
			evs, err := tx.Append(ctx, persons.Stream, member, eventstore.MustNotExist, eventstore.NewEvent{Payload: PersonNamed{Name: name}})
			if err == nil {
				at = evs[0].Position
			}
			return err
		}
		p, err := persons.Load(ctx, tx, member)
		if errors.Is(err, eventstore.ErrAggregateNotFound) || err == nil && p.State().Name != name {
			return ErrMemberExists
		}
		at, err = position(p, err)
		return err
	})
	return at, err
}

func (l *library) copy(ctx context.Context, id string) (Copy, error) {
	c, err := copies.Load(ctx, l.store, id)
	if errors.Is(err, eventstore.ErrAggregateNotFound) {
		return Copy{}, ErrNoCopy
	}
	if err != nil {
		return Copy{}, err
	}
	return c.State(), nil
}

// reserve has a member wait for a title. If the member is erased meanwhile, the queue passes over what is
// left: the two need no transaction.
func (l *library) reserve(ctx context.Context, title, member string) (eventstore.Position, error) {
	m, err := members.Load(ctx, l.store, member)
	if errors.Is(err, eventstore.ErrAggregateNotFound) || err == nil && !m.State().Active {
		return 0, ErrNoMember
	}
	if err != nil {
		return 0, err
	}
	return position(queues.Handle(ctx, l.store, title, Reserve{Member: member}))
}

// lend changes a member and a copy, both or neither. A member's fourth loan is refused: of two loans that
// race one loses the member's version, and Transact has it decided again. Every transaction of the service
// stores members' events before copies', so that two of them do not deadlock.
func (l *library) lend(ctx context.Context, id, member string) (at eventstore.Position, err error) {
	err = l.store.Transact(ctx, func(tx *eventstore.Store) error {
		if _, err := members.Handle(ctx, tx, member, BeginLoan{Copy: id}); err != nil {
			return err
		}
		at, err = position(copies.Handle(ctx, tx, id, Lend{Member: member}))
		return err
	})
	return at, err
}

// takeBack ends a loan. What comes of it for those who wait is up to the process manager.
func (l *library) takeBack(ctx context.Context, id, _ string) (at eventstore.Position, err error) {
	err = l.store.Transact(ctx, func(tx *eventstore.Store) error {
		at, err = position(copies.Execute(ctx, tx, id, func(c *eventstore.Root[Copy]) error {
			member := c.State().LentTo
			switch {
			case c.Version() == 0:
				return ErrNoCopy
			case member == "":
				return ErrNotLent
			}
			c.Record(CopyReturned{Member: member})
			_, err := members.Handle(ctx, tx, member, EndLoan{Copy: id})
			return err
		}))
		return err
	})
	return at, err
}

// erase ends a membership and deletes the person's events, and with them the name, for good. A delete is no
// event: it checks no version and tells no read model. MemberLeft does both. A loan that races with it is
// refused, or refuses it. It also keeps the ID from being used again.
func (l *library) erase(ctx context.Context, member, _ string) (at eventstore.Position, err error) {
	err = l.store.Transact(ctx, func(tx *eventstore.Store) error {
		var held []string
		m, err := members.Execute(ctx, tx, member, func(m *eventstore.Root[Member]) error {
			switch held = m.State().Holds; {
			case !m.State().Active:
				return ErrNoMember
			case len(m.State().Loans) > 0:
				return ErrHasLoans
			}
			m.Record(MemberLeft{})
			return nil
		})
		if at, err = position(m, err); err != nil {
			return err
		}
		for _, id := range held {
			c, err := copies.Handle(ctx, tx, id, Release{Member: member})
			if at, err = position(c, err); err != nil {
				return err
			}
		}
		return tx.DeleteAggregate(ctx, persons.Stream, member)
	})
	return at, err
}

// position is where a projection has to be for what was stored to show.
func position[S any](r *eventstore.Root[S], err error) (eventstore.Position, error) {
	if err != nil {
		return 0, err
	}
	return r.Position(), nil
}
