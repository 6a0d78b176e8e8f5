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

// newCards returns the read model: a document for each member, by ID.
//
// It has no effects elsewhere, so that a definition which takes in more than before can rebuild it. MemberLeft
// deletes the card, and with it the name. After an erasure a rebuild does not see the name at all.
func newCards() *eventstore.Documents[Card] {
	return &eventstore.Documents[Card]{
		Name:     "cards",
		Version:  2, // version 1 was a projection's state: documents can't take its row over
		From:     eventstore.FromStreams(members.Stream, persons.Stream),
		OnChange: eventstore.RebuildOnChange,
		Init:     func() Card { return Card{Loans: []string{}, Holds: []string{}} },
		When: []eventstore.Handler[Card]{
			eventstore.On(func(*Card, MemberRegistered) {}), // the card begins
			eventstore.On(func(c *Card, e PersonNamed) { c.Name = e.Name }),
			eventstore.On(func(c *Card, e LoanBegun) { c.Loans, c.Holds = with(c.Loans, e.Copy), without(c.Holds, e.Copy) }),
			eventstore.On(func(c *Card, e LoanEnded) { c.Loans = without(c.Loans, e.Copy) }),
			eventstore.On(func(c *Card, e HoldPlaced) { c.Holds = with(c.Holds, e.Copy) }),
			eventstore.Drop[MemberLeft, Card](),
		},
	}
}

func (l *library) card(ctx context.Context, member string) (Card, error) {
	doc, err := l.cards.Get(ctx, l.store, member)
	if errors.Is(err, eventstore.ErrDocumentNotFound) {
		err = ErrNoMember
	}
	return doc.State, err
}
