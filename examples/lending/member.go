package main

import (
	"context"
	"errors"
	"slices"

	"example.com/eventstore"
)

// maxLoans is how many copies a member may have at a time.
const maxLoans = 3

// Member is the state of one member. Everything that concerns a member is an event of the member too, so
// that of two that race one sees the other: the member's version has one winner.
type Member struct {
	Active bool // registered, and not gone
	Loans  []string
	Holds  []string
}

// Commands of a member.
type (
	BeginLoan struct{ Copy string }
	EndLoan   struct{ Copy string }
	PlaceHold struct{ Copy string }
)

// What a member refuses.
var (
	ErrNoMember     = errors.New("there is no such member")
	ErrMemberExists = errors.New("the ID is or was another member's")
	ErrTooManyLoans = errors.New("the member has three loans")
	ErrHasLoans     = errors.New("the member has loans")
)

var members = eventstore.Aggregate[Member]{
	Stream: "members",
	When: []eventstore.Fold[Member]{
		eventstore.On(func(m *Member, _ MemberRegistered) { m.Active = true }),
		eventstore.On(func(m *Member, e LoanBegun) {
			m.Loans, m.Holds = with(m.Loans, e.Copy), without(m.Holds, e.Copy)
		}),
		eventstore.On(func(m *Member, e LoanEnded) { m.Loans = without(m.Loans, e.Copy) }),
		eventstore.On(func(m *Member, e HoldPlaced) { m.Holds = with(m.Holds, e.Copy) }),
		eventstore.On(func(m *Member, _ MemberLeft) { *m = Member{} }),
	},
	Commands: []eventstore.Command[Member]{
		eventstore.OnCommand(func(_ context.Context, r *eventstore.Root[Member], c BeginLoan) error {
			if !r.State().Active {
				return ErrNoMember
			}
			if len(r.State().Loans) == maxLoans {
				return ErrTooManyLoans
			}
			r.Record(LoanBegun(c))
			return nil
		}),
		eventstore.OnCommand(func(_ context.Context, r *eventstore.Root[Member], c EndLoan) error {
			r.Record(LoanEnded(c))
			return nil
		}),
		eventstore.OnCommand(func(_ context.Context, r *eventstore.Root[Member], c PlaceHold) error {
			if !r.State().Active {
				return ErrNoMember
			}
			r.Record(HoldPlaced(c))
			return nil
		}),
	},
}

// Person is the state of the person that a member is: personal data, in a stream that can be erased. No command
// decides on it.
type Person struct{ Name string }

var persons = eventstore.Aggregate[Person]{
	Stream: "persons",
	When:   []eventstore.Fold[Person]{eventstore.On(func(p *Person, e PersonNamed) { p.Name = e.Name })},
}

// with and without return a list of their own: a state that was handed out does not change.
func with(list []string, s string) []string { return append(slices.Clone(list), s) }

func without(list []string, s string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(have string) bool { return have == s })
}
