package main

import (
	"strings"
	"testing"

	"example.com/eventstore"
	"github.com/nats-io/nats-server/v2/server"
)

func TestSubject(t *testing.T) {
	for want, ev := range map[string]eventstore.Event{
		"events.accounts.A-1.account.opened":           {Stream: "accounts", AggregateID: "A-1", Name: "account.opened"},
		"events.orders-eu.a%2Eb%20%2A%3E.placed":       {Stream: "orders-eu", AggregateID: "a.b *>", Name: "placed"},
		"events.accounts.%24SYS.%C3%BCber%0A.%.%":      {Stream: "accounts", AggregateID: "$SYS", Name: "über\n.."},
		"events.accounts.100%25.%.account.%2A.%7F.%09": {Stream: "accounts", AggregateID: "100%", Name: ".account.*.\x7f.\t"},
	} {
		if got := subject(ev); got != want {
			t.Errorf("%q is published as %s, want %s", ev.Name, got, want)
		}
	}
}

// FuzzSubject shows that all subjects can be published to, and that no two events of different
// streams, aggregates or names have the same.
func FuzzSubject(f *testing.F) {
	f.Add("accounts", "a.b", "c", "accounts", "a", "b.c")
	f.Add("a", "%", "..", "a", "%25", ".")
	f.Fuzz(func(t *testing.T, stream1, id1, name1, stream2, id2, name2 string) {
		one := eventstore.Event{Stream: stream1, AggregateID: id1, Name: name1}
		two := eventstore.Event{Stream: stream2, AggregateID: id2, Name: name2}
		s := subject(one)
		if !server.IsValidLiteralSubject(s) || !strings.HasPrefix(s, subjectRoot+".") {
			t.Errorf("%+v is published as %q", one, s)
		}
		same := stream1 == stream2 && id1 == id2 && name1 == name2
		if (s == subject(two)) != same {
			t.Errorf("%+v is published as %q, and %+v as %q", one, s, two, subject(two))
		}
	})
}
