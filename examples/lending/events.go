package main

// The events as they are stored: their names and their fields must stay. Only PersonNamed has personal
// data, in a stream of its own that can be erased; all others know a member by ID.

// Of a copy.
type (
	CopyAdded    struct{ Title string }
	CopyLent     struct{ Member string }
	CopyReturned struct{ Member string }
	CopyHeld     struct{ Member string }
	CopyReleased struct{ Member string } // the hold has ended without a loan
)

// Of a member.
type (
	MemberRegistered struct{}
	LoanBegun        struct{ Copy string }
	LoanEnded        struct{ Copy string }
	HoldPlaced       struct{ Copy string }
	MemberLeft       struct{}
)

// PersonNamed is of the person that a member is.
type PersonNamed struct{ Name string }

// Of the members who wait for a title.
type (
	TitleReserved struct{ Member string }
	QueueLeft     struct{ Member string }
)

func (CopyAdded) EventName() string        { return "copy.added" }
func (CopyLent) EventName() string         { return "copy.lent" }
func (CopyReturned) EventName() string     { return "copy.returned" }
func (CopyHeld) EventName() string         { return "copy.held" }
func (CopyReleased) EventName() string     { return "copy.released" }
func (MemberRegistered) EventName() string { return "member.registered" }
func (LoanBegun) EventName() string        { return "member.loan-begun" }
func (LoanEnded) EventName() string        { return "member.loan-ended" }
func (HoldPlaced) EventName() string       { return "member.hold-placed" }
func (MemberLeft) EventName() string       { return "member.left" }
func (PersonNamed) EventName() string      { return "person.named" }
func (TitleReserved) EventName() string    { return "title.reserved" }
func (QueueLeft) EventName() string        { return "title.queue-left" }
