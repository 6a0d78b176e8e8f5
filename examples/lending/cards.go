package main

import (
	"context"
	"errors"

	"example.com/eventstore"
)

// Card is what the desk sees of a member.
type Card struct {
	Name  string   `json:"name"`
	Loans []string `json:"loans"`
	Holds []string `json:"holds"`
}

// newCards returns the read model: the members' cards, by ID. It is a state, which a store reads and
// writes as a whole: for thousands of members take a table, as examples/bank has it.
//
// It has no effects elsewhere, so that a definition which takes in more than before can rebuild it. MemberLeft
// deletes the card, and with it the name. After an erasure a rebuild does not see the name at all.
func newCards() *eventstore.Projection[map[string]*Card] {
	type cards = map[string]*Card
	return &eventstore.Projection[cards]{
		Name:     "cards",
		From:     eventstore.FromStreams(members.Stream, persons.Stream),
		OnChange: eventstore.RebuildOnChange,
		Init:     func() cards { return cards{} },
		When: []eventstore.Handler[cards]{
			eventstore.OnEvent(func(all *cards, _ MemberRegistered, ev eventstore.Event) {
				(*all)[ev.AggregateID] = &Card{Loans: []string{}, Holds: []string{}}
			}),
			onCard(func(c *Card, e PersonNamed) { c.Name = e.Name }),
			onCard(func(c *Card, e LoanBegun) { c.Loans, c.Holds = with(c.Loans, e.Copy), without(c.Holds, e.Copy) }),
			onCard(func(c *Card, e LoanEnded) { c.Loans = without(c.Loans, e.Copy) }),
			onCard(func(c *Card, e HoldPlaced) { c.Holds = with(c.Holds, e.Copy) }),
			eventstore.OnEvent(func(all *cards, _ MemberLeft, ev eventstore.Event) { delete(*all, ev.AggregateID) }),
		},
	}
}

// onCard is a fold of one card, which MemberRegistered has made.
func onCard[E eventstore.Payload](apply func(c *Card, e E)) eventstore.Fold[map[string]*Card] {
	return eventstore.OnEvent(func(all *map[string]*Card, e E, ev eventstore.Event) {
		apply((*all)[ev.AggregateID], e)
	})
}

func (l *library) card(ctx context.Context, member string) (*Card, error) {
	cp, err := l.cards.Load(ctx, l.store)
	if err != nil && !errors.Is(err, eventstore.ErrProjectionNotFound) {
		return nil, err
	}
	if c := cp.State[member]; c != nil {
		return c, nil
	}
	return nil, ErrNoMember
}
