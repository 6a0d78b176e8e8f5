package main

import (
	"context"
	"errors"
	"slices"

	"example.com/eventstore"
)

// Shelf is the state of the process manager: for each title the copies that were on the shelf when nobody
// waited for it. A copy may have been lent since; the copy itself decides.
type Shelf map[string][]string

// newHolds returns the process manager: a returned copy that is reserved becomes a hold.
//
// Its handlers execute commands through [eventstore.Step.Store]. What these store, the state and the
// position commit together, so that each event is acted on exactly once. A command that loses a race has
// the handlers run again on what is there then.
func newHolds() *eventstore.Projection[Shelf] {
	return &eventstore.Projection[Shelf]{
		Name: "holds",
		From: eventstore.FromStreams(copies.Stream, queues.Stream),
		// Each event commits by itself: loans do not wait for the commands of a whole batch, and every
		// transaction stores members' events before copies'.
		BatchSize: 1,
		// On an old log: returns of years ago make no holds. The copies and the queues, which it decides on, are
		// whole. Its own state is not: a copy that stands on the shelf then is held from its next return on.
		After: eventstore.Latest,
		Init:  func() Shelf { return Shelf{} },
		When: []eventstore.Handler[Shelf]{
			eventstore.Do(func(ctx context.Context, step *eventstore.Step[Shelf], e TitleReserved) error {
				return match(ctx, step, step.Event.AggregateID)
			}),
			eventstore.Do(func(ctx context.Context, step *eventstore.Step[Shelf], e CopyAdded) error { return shelved(ctx, step) }),
			eventstore.Do(func(ctx context.Context, step *eventstore.Step[Shelf], e CopyReturned) error {
				return shelved(ctx, step)
			}),
			eventstore.Do(func(ctx context.Context, step *eventstore.Step[Shelf], e CopyReleased) error {
				return shelved(ctx, step)
			}),
		},
	}
}

// shelved takes in that the step's copy is back on the shelf.
func shelved(ctx context.Context, step *eventstore.Step[Shelf]) error {
	store, err := step.Store()
	if err != nil {
		return err
	}
	id := step.Event.AggregateID
	c, err := copies.Load(ctx, store, id)
	if err != nil {
		return err
	}
	title := c.State().Title
	if !slices.Contains((*step.State)[title], id) {
		(*step.State)[title] = append((*step.State)[title], id)
	}
	return match(ctx, step, title)
}

// match holds the copies of a title that are on the shelf for the members who wait.
func match(ctx context.Context, step *eventstore.Step[Shelf], title string) error {
	store, err := step.Store()
	if err != nil {
		return err
	}
	var left []string
	for _, id := range (*step.State)[title] {
		c, err := copies.Execute(ctx, store, id, func(c *eventstore.Root[Copy]) error {
			if !c.State().onShelf() {
				return nil
			}
			member, err := nextInLine(ctx, store, title, id)
			if err == nil && member != "" {
				c.Record(CopyHeld{Member: member})
			}
			return err
		})
		if err != nil {
			return err
		}
		if c.State().onShelf() {
			left = append(left, id)
		}
	}
	if (*step.State)[title] = left; left == nil {
		delete(*step.State, title)
	}
	return nil
}

// nextInLine takes the first member out of a title's queue who can have the copy, and returns "" if nobody
// waits. A member who was erased while waiting can't.
func nextInLine(ctx context.Context, store *eventstore.Store, title, id string) (member string, err error) {
	_, err = queues.Execute(ctx, store, title, func(q *eventstore.Root[Queue]) error {
		for member == "" && len(q.State().Waiting) > 0 {
			first := q.State().Waiting[0]
			q.Record(QueueLeft{Member: first})
			switch _, err := members.Handle(ctx, store, first, PlaceHold{Copy: id}); {
			case err == nil:
				member = first
			case !errors.Is(err, ErrNoMember):
				return err
			}
		}
		return nil
	})
	return member, err
}
