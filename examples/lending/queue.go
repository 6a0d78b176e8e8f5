package main

import (
	"context"
	"errors"
	"slices"

	"example.com/eventstore"
)

// Queue is the state of one title's reservations.
type Queue struct{ Waiting []string } // members, in the order that they came

// Reserve is the command of a queue: a member waits for the title.
type Reserve struct{ Member string }

// ErrReserved is what a queue refuses.
var ErrReserved = errors.New("the member waits for the title already")

var queues = eventstore.Aggregate[Queue]{
	Stream: "queues",
	When: []eventstore.Fold[Queue]{
		eventstore.On(func(q *Queue, e TitleReserved) { q.Waiting = with(q.Waiting, e.Member) }),
		eventstore.On(func(q *Queue, e QueueLeft) { q.Waiting = without(q.Waiting, e.Member) }),
	},
	Commands: []eventstore.Command[Queue]{
		eventstore.OnCommand(func(_ context.Context, r *eventstore.Root[Queue], c Reserve) error {
			if slices.Contains(r.State().Waiting, c.Member) {
				return ErrReserved
			}
			r.Record(TitleReserved(c))
			return nil
		}),
	},
}
