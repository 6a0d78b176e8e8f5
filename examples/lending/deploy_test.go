package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestNewProcessManager adds the process manager to a library that has been lending for years.
func TestNewProcessManager(t *testing.T) {
	forEachStore(t, func(t *testing.T, s, _ *eventstore.Store) {
		storetest.CreateStream(t, s, copies.Stream, members.Stream, queues.Stream, persons.Stream)
		years := newLibrary(s) // not followed
		stock(t, years)
		at, err := years.reserve(t.Context(), "title-0", "m-1")
		must(t, at, err)
		at, err = years.lend(t.Context(), "c-0", "m-0")
		must(t, at, err)
		at, err = years.takeBack(t.Context(), "c-0", "")
		must(t, at, err)
		before := len(storetest.Everything(t, s))

		p := start(t, newLibrary(s))
		storetest.CatchUp(t, p.holds, s)
		if n := len(storetest.Everything(t, s)); n != before {
			t.Errorf("what is long over has brought %d events", n-before)
		}
		// A copy on the shelf is not known before its next return.
		p.wantCopy("c-1", p.want(200, "POST", "/titles/title-1/reservations", `{"member": "m-2"}`), "map[title:title-1]")
		p.want(200, "POST", "/copies/c-1/loan", `{"member": "m-2"}`)
		p.wantCopy("c-1", p.want(200, "POST", "/copies/c-1/return", ""), "map[held_for:m-2 title:title-1]")
		// The reservation is as old as the log, and good.
		p.want(200, "POST", "/copies/c-0/loan", `{"member": "m-0"}`)
		p.wantCopy("c-0", p.want(200, "POST", "/copies/c-0/return", ""), "map[held_for:m-1 title:title-0]")
	})
}

// olderLibrary is the release before erasing: its process manager does not know of holds that end, its cards
// have no holds.
func olderLibrary(s *eventstore.Store) *library {
	l := newLibrary(s)
	l.holds.When = l.holds.When[:3]
	l.cards.When = l.cards.When[:4]
	return l
}

// TestRollback starts an older release after a newer one has stored events that only it knows. The older process
// manager stands by before them, the older cards do without, and requests are answered all the same.
func TestRollback(t *testing.T) {
	forEachStore(t, func(t *testing.T, s, other *eventstore.Store) {
		newer := start(t, newLibrary(s))
		newer.want(201, "PUT", "/copies/c-1", `{"title": "dune"}`)
		newer.want(201, "PUT", "/members/ann", `{"name": "Ann"}`)
		newer.want(201, "PUT", "/members/bob", `{"name": "Bob"}`)
		newer.wantCopy("c-1", newer.want(200, "POST", "/titles/dune/reservations", `{"member": "ann"}`), "map[held_for:ann title:dune]")
		newer.end()
		release, err := newLibrary(s).erase(t.Context(), "ann", "")
		must(t, release, err)

		l := olderLibrary(other)
		l.patience = 200 * time.Millisecond
		older := start(t, l)
		storetest.Eventually(t, "the older process manager to stand by", func() bool {
			return strings.Contains(storetest.Info(t, s, "holds").Error, CopyReleased{}.EventName())
		})
		older.want(200, "GET", fmt.Sprintf("/members/ann?at=%d", release), "") // who is gone only for the newer release
		reserved := older.want(200, "POST", "/titles/dune/reservations", `{"member": "bob"}`)
		older.wantCopy("c-1", map[string]any{"position": 0}, "map[title:dune]")

		again := start(t, newLibrary(s))
		again.wantCopy("c-1", reserved, "map[held_for:bob title:dune]")
		again.want(404, "GET", fmt.Sprintf("/members/ann?at=%d", release), "")
		older.end()
		wantBooks(t, again.library)
	})
}

// TestDeploy has an older and a newer release run beside each other, with traffic at both. The newer one
// restarts, and while it is away, events are stored that the older one does not know.
func TestDeploy(t *testing.T) {
	forEachStore(t, func(t *testing.T, s, other *eventstore.Store) {
		older := start(t, olderLibrary(s))
		stock(t, older.library)
		traffic(t, 15, desk{older.library, false})
		newer := start(t, newLibrary(other))
		traffic(t, 15, desk{older.library, false}, desk{newer.library, true})

		register(t, newer.library, "ann")
		register(t, newer.library, "bob")
		at, err := newer.add(t.Context(), "c-ann", "emma")
		must(t, at, err)
		at, err = newer.reserve(t.Context(), "emma", "ann")
		must(t, at, err)
		newer.wantCopy("c-ann", map[string]any{"position": at}, "map[held_for:ann title:emma]")
		newer.end()

		at, err = newer.reserve(t.Context(), "emma", "bob")
		must(t, at, err)
		at, err = newer.erase(t.Context(), "ann", "")
		must(t, at, err)
		storetest.Eventually(t, "the older process manager to stand by before the end of a hold", func() bool {
			return strings.Contains(storetest.Info(t, s, "holds").Error, CopyReleased{}.EventName())
		})

		again := start(t, newLibrary(other))
		again.wantCopy("c-ann", map[string]any{"position": at}, "map[held_for:bob title:emma]")
		traffic(t, 15, desk{older.library, false}, desk{again.library, true})
		older.end()
		wantBooks(t, again.library)
	})
}
