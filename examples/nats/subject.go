package main

import (
	"strings"

	"example.com/eventstore"
)

// subjectRoot begins the subjects of all events.
const subjectRoot = "events"

// subject returns where an event is published: events.STREAM.AGGREGATE.NAME. Stream and aggregate
// ID are one token each; the dots of a name stay, so that a consumer can ask for
//
//	events.accounts.*.account.opened   one kind of event
//	events.accounts.*.account.>        all kinds that begin with "account."
//	events.accounts.A-1.>              one aggregate
//
// Different events never share a subject by accident, whatever their names hold.
func subject(ev eventstore.Event) string {
	name := strings.Split(ev.Name, ".")
	for i := range name {
		name[i] = token(name[i])
	}
	return strings.Join(append([]string{subjectRoot, token(ev.Stream), token(ev.AggregateID)}, name...), ".")
}

// token escapes what a token of a subject can't hold (dots, wildcards, white space, nothing at all)
// or had better not (bytes beyond ASCII): each such byte becomes a percent sign and two digits, and
// the empty string a percent sign alone. Names and IDs have at most 255 bytes, so the longest
// subject stays below the 4 KiB that a server takes for a line of its protocol.
func token(s string) string {
	if s == "" {
		return "%"
	}
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return b.String()
}
