package main

import (
	"context"
	"errors"

	"example.com/eventstore"
)

// Copy is the state of one copy of a title. Without a member it is on the shelf.
type Copy struct {
	Title   string `json:"title"`
	LentTo  string `json:"lent_to,omitempty"`
	HeldFor string `json:"held_for,omitempty"`
}

func (c Copy) onShelf() bool { return c.LentTo == "" && c.HeldFor == "" }

// Commands of a copy.
type (
	Add     struct{ Title string }
	Lend    struct{ Member string }
	Release struct{ Member string } // which has a hold
)

// What a copy refuses.
var (
	ErrNoCopy     = errors.New("there is no such copy")
	ErrCopyExists = errors.New("the copy is of another title")
	ErrNotLent    = errors.New("the copy is not lent")
	ErrLent       = errors.New("the copy is lent")
	ErrHeld       = errors.New("the copy is held for another member")
)

var copies = eventstore.Aggregate[Copy]{
	Stream: "copies",
	When: []eventstore.Fold[Copy]{
		eventstore.On(func(c *Copy, e CopyAdded) { c.Title = e.Title }),
		eventstore.On(func(c *Copy, e CopyLent) { c.LentTo, c.HeldFor = e.Member, "" }),
		eventstore.On(func(c *Copy, _ CopyReturned) { c.LentTo = "" }),
		eventstore.On(func(c *Copy, e CopyHeld) { c.HeldFor = e.Member }),
		eventstore.On(func(c *Copy, _ CopyReleased) { c.HeldFor = "" }),
	},
	Commands: []eventstore.Command[Copy]{
		eventstore.OnCommand(func(_ context.Context, r *eventstore.Root[Copy], c Add) error {
			switch {
			case r.Version() == 0:
				r.Record(CopyAdded(c))
			case r.State().Title != c.Title:
				return ErrCopyExists
			}
			return nil
		}),
		eventstore.OnCommand(func(_ context.Context, r *eventstore.Root[Copy], c Lend) error {
			switch s := r.State(); {
			case r.Version() == 0:
				return ErrNoCopy
			case s.LentTo != "":
				return ErrLent
			case s.HeldFor != "" && s.HeldFor != c.Member:
				return ErrHeld
			}
			r.Record(CopyLent(c))
			return nil
		}),
		eventstore.OnCommand(func(_ context.Context, r *eventstore.Root[Copy], c Release) error {
			if r.State().HeldFor == c.Member {
				r.Record(CopyReleased(c))
			}
			return nil
		}),
	},
}
