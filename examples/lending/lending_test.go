package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestHolds follows a copy over the desk.
func TestHolds(t *testing.T) {
	forEachStore(t, func(t *testing.T, s, _ *eventstore.Store) {
		p := start(t, newLibrary(s))
		p.want(201, "PUT", "/copies/c-1", `{"title": "dune"}`)
		for _, member := range []string{"ann", "bob", "cid"} {
			p.want(201, "PUT", "/members/"+member, `{"name": "The Member"}`)
		}
		p.want(200, "POST", "/copies/c-1/loan", `{"member": "ann"}`)
		p.want(409, "POST", "/copies/c-1/loan", `{"member": "bob"}`)
		p.want(200, "POST", "/titles/dune/reservations", `{"member": "bob"}`)
		p.want(409, "POST", "/titles/dune/reservations", `{"member": "bob"}`)
		p.wantCopy("c-1", p.want(200, "POST", "/titles/dune/reservations", `{"member": "cid"}`), "map[lent_to:ann title:dune]")

		// Returned, it is held for the first who reserved it, and for nobody else.
		p.wantCopy("c-1", p.want(200, "POST", "/copies/c-1/return", ""), "map[held_for:bob title:dune]")
		p.want(409, "POST", "/copies/c-1/return", "")
		p.want(409, "POST", "/copies/c-1/loan", `{"member": "cid"}`)
		receipt := p.want(200, "POST", "/copies/c-1/loan", `{"member": "bob"}`)
		card := p.want(200, "GET", fmt.Sprintf("/members/bob?at=%v", receipt["position"]), "")
		if got, want := fmt.Sprint(card), "map[holds:[] loans:[c-1] name:The Member]"; got != want {
			t.Errorf("the card is %s, want %s", got, want)
		}
		p.wantCopy("c-1", p.want(200, "POST", "/copies/c-1/return", ""), "map[held_for:cid title:dune]")

		// A title whose copy is on the shelf is held at once, a new copy for those who wait.
		p.wantCopy("c-2", p.want(201, "PUT", "/copies/c-2", `{"title": "emma"}`), "map[title:emma]")
		p.wantCopy("c-2", p.want(200, "POST", "/titles/emma/reservations", `{"member": "ann"}`), "map[held_for:ann title:emma]")
		p.want(200, "POST", "/titles/emma/reservations", `{"member": "bob"}`)
		p.wantCopy("c-3", p.want(201, "PUT", "/copies/c-3", `{"title": "emma"}`), "map[held_for:bob title:emma]")
		wantBooks(t, p.library)
	})
}

func TestRefused(t *testing.T) {
	forEachStore(t, func(t *testing.T, s, _ *eventstore.Store) {
		p := start(t, newLibrary(s))
		p.want(201, "PUT", "/copies/c-1", `{"title": "dune"}`)
		p.want(201, "PUT", "/members/ann", `{"name": "Ann"}`)
		for _, r := range []struct {
			status             int
			method, path, body string
		}{
			{400, "PUT", "/copies/c-2", ``}, {400, "PUT", "/copies/c-2", `{"title": ""}`}, {400, "PUT", "/copies/c-2", `{"name": "dune"}`},
			{400, "PUT", "/copies/c-2", `{"title": "dune", "name": "dune"}`}, {400, "PUT", "/copies/c-2", `{"title": 1}`},
			{400, "PUT", "/copies/c%202", `{"title": "dune"}`}, {400, "PUT", "/members/bob", `{"name": "\u0000"}`},
			{400, "PUT", "/copies/c-2", `{"title": "dune"} {}`}, {413, "PUT", "/copies/c-2", `{"title": "` + strings.Repeat("x", maxBody) + `"}`},
			{400, "GET", "/copies/c-1?at=now", ``}, {400, "GET", "/copies/c%00", ``}, {400, "GET", "/members/c%202", ``},
			{404, "POST", "/copies/c-1/loan", `{"member": "bob"}`}, {404, "POST", "/copies/c-2/loan", `{"member": "ann"}`},
			{404, "POST", "/titles/dune/reservations", `{"member": "bob"}`}, {404, "POST", "/copies/c-2/return", ``},
			{404, "DELETE", "/members/bob", ``}, {404, "GET", "/copies/c-2", ``}, {404, "GET", "/members/bob", ``},
			{409, "PUT", "/copies/c-1", `{"title": "emma"}`}, {409, "PUT", "/members/ann", `{"name": "Another Ann"}`},
			{201, "PUT", "/copies/c-1", `{"title": "dune"}`}, {201, "PUT", "/members/ann", `{"name": "Ann"}`}, // come again
			{409, "POST", "/copies/c-1/return", ``},
		} {
			p.want(r.status, r.method, r.path, r.body)
		}
		if n := len(storetest.Everything(t, s)); n != 3 {
			t.Errorf("%d events are stored, want 3", n)
		}
	})
}

// TestThreeLoans has a member borrow eight copies at once, in two processes.
func TestThreeLoans(t *testing.T) {
	forEachStore(t, func(t *testing.T, s, other *eventstore.Store) {
		processes := []*process{start(t, newLibrary(s)), start(t, newLibrary(other))}
		l := processes[0].library
		register(t, l, "ann")
		for i := range 8 {
			at, err := l.add(t.Context(), fmt.Sprint("c-", i), "dune")
			must(t, at, err)
		}
		lent := 0
		for _, err := range storetest.Race(8, func(i int) error {
			_, err := processes[i%2].lend(t.Context(), fmt.Sprint("c-", i), "ann")
			return err
		}) {
			if err == nil {
				lent++
			} else if !errors.Is(err, ErrTooManyLoans) {
				t.Errorf("refused with %v", err)
			}
		}
		if lent != maxLoans {
			t.Errorf("%d copies are lent, want %d", lent, maxLoans)
		}
		wantBooks(t, l)
	})
}

// TestTraffic has members come to the desks of two processes at once, with whatever they think of.
func TestTraffic(t *testing.T) {
	forEachStore(t, func(t *testing.T, s, other *eventstore.Store) {
		one, two := start(t, newLibrary(s)), start(t, newLibrary(other))
		stock(t, one.library)
		traffic(t, 40, desk{one.library, true}, desk{two.library, true})
		one.end()
		traffic(t, 10, desk{two.library, true})
		wantBooks(t, two.library)
	})
}

const (
	trafficTitles  = 2
	trafficCopies  = 6
	trafficMembers = 5
)

func stock(t *testing.T, l *library) {
	t.Helper()
	for i := range trafficCopies {
		at, err := l.add(t.Context(), fmt.Sprint("c-", i), fmt.Sprint("title-", i%trafficTitles))
		must(t, at, err)
	}
	for i := range trafficMembers {
		register(t, l, fmt.Sprint("m-", i))
	}
}

func register(t *testing.T, l *library, member string) {
	t.Helper()
	at, err := l.register(t.Context(), member, "The Member")
	must(t, at, err)
}

// desk is where clients come. At some they can have themselves erased.
type desk struct {
	*library
	erases bool
}

// traffic has three clients of each desk do n random things. What the library refuses is fine.
func traffic(t *testing.T, n int, desks ...desk) {
	t.Helper()
	seed := rand.Uint64()
	for i, err := range storetest.Race(3*len(desks), func(i int) error {
		l, r := desks[i%len(desks)], rand.New(rand.NewPCG(seed, uint64(i)))
		for range n {
			member, id := fmt.Sprint("m-", r.IntN(trafficMembers)), fmt.Sprint("c-", r.IntN(trafficCopies))
			var err error
			switch what := r.IntN(20); {
			case what == 0 && l.erases:
				if _, err = l.erase(t.Context(), member, ""); err == nil {
					_, err = l.register(t.Context(), member, "The Member") // refused: the ID was in use
				}
			case what < 7:
				_, err = l.lend(t.Context(), id, member)
			case what < 14:
				_, err = l.takeBack(t.Context(), id, "")
			default:
				_, err = l.reserve(t.Context(), fmt.Sprint("title-", r.IntN(trafficTitles)), member)
			}
			if status := statusOf(err); status >= 500 {
				return err
			}
		}
		return nil
	}) {
		if err != nil {
			t.Errorf("client %d, seed %d: %v", i, seed, err)
		}
	}
}

// TestErase erases a member who has something held and waits for something else.
func TestErase(t *testing.T) {
	forEachStore(t, func(t *testing.T, s, _ *eventstore.Store) {
		p := start(t, newLibrary(s))
		p.want(201, "PUT", "/copies/c-1", `{"title": "dune"}`)
		p.want(201, "PUT", "/copies/c-2", `{"title": "emma"}`)
		p.want(201, "PUT", "/members/ann", `{"name": "Ann Unforgettable"}`)
		p.want(201, "PUT", "/members/bob", `{"name": "Bob"}`)
		p.want(200, "POST", "/copies/c-2/loan", `{"member": "ann"}`)
		p.wantCopy("c-1", p.want(200, "POST", "/titles/dune/reservations", `{"member": "ann"}`), "map[held_for:ann title:dune]")
		p.want(409, "DELETE", "/members/ann", "") // the loan
		p.want(200, "POST", "/copies/c-2/return", "")
		p.want(200, "POST", "/copies/c-2/loan", `{"member": "bob"}`)
		for _, member := range []string{"ann", "bob"} {
			p.want(200, "POST", "/titles/emma/reservations", `{"member": "`+member+`"}`)
		}
		p.want(200, "POST", "/titles/dune/reservations", `{"member": "bob"}`)

		receipt := p.want(200, "DELETE", "/members/ann", "")
		// What was held goes to the next in line, and who is gone is passed over.
		p.wantCopy("c-1", receipt, "map[held_for:bob title:dune]")
		p.wantCopy("c-2", p.want(200, "POST", "/copies/c-2/return", ""), "map[held_for:bob title:emma]")

		p.want(404, "GET", fmt.Sprintf("/members/ann?at=%v", receipt["position"]), "")
		p.want(404, "DELETE", "/members/ann", "")
		p.want(404, "POST", "/copies/c-1/loan", `{"member": "ann"}`)
		p.want(409, "PUT", "/members/ann", `{"name": "Ann Unforgettable"}`)
		wantBooks(t, p.library)

		// Of the name nothing is left: in no event, in no state, and in none that is built anew.
		for _, ev := range storetest.Everything(t, s) {
			if bytes.Contains(ev.Data, []byte("Unforgettable")) {
				t.Errorf("event %d still has the name", ev.Position)
			}
		}
		again := newCards()
		again.Version++
		for _, cards := range []*eventstore.Documents[Card]{p.cards, again} {
			text, err := json.Marshal(allCards(t, cards, s))
			if want := `{"bob":{"name":"Bob","loans":[],"holds":["c-1","c-2"]}}`; err != nil || string(text) != want {
				t.Errorf("the cards are %s (%v), want %s", text, err, want)
			}
		}
	})
}

// TestEraseRaces erases a member who borrows something at that moment.
func TestEraseRaces(t *testing.T) {
	forEachStore(t, func(t *testing.T, s, other *eventstore.Store) {
		one, two := start(t, newLibrary(s)), start(t, newLibrary(other))
		at, err := one.add(t.Context(), "c-1", "dune")
		must(t, at, err)
		for i := range 10 {
			member := fmt.Sprint("m-", i)
			register(t, one.library, member)
			errs := storetest.Race(2, func(i int) (err error) {
				if i == 0 {
					_, err = one.erase(t.Context(), member, "")
				} else {
					_, err = two.lend(t.Context(), "c-1", member)
				}
				return err
			})
			switch {
			case errs[0] == nil && errors.Is(errs[1], ErrNoMember):
			case errs[1] == nil && errors.Is(errs[0], ErrHasLoans):
				at, err := one.takeBack(t.Context(), "c-1", "")
				must(t, at, err)
			default:
				t.Errorf("erase: %v, lend: %v", errs[0], errs[1])
			}
		}
		wantBooks(t, one.library)
	})
}

// TestErasedStaysErased erases a member whose registration comes again at that moment. The name does not come back.
func TestErasedStaysErased(t *testing.T) {
	forEachStore(t, func(t *testing.T, s, other *eventstore.Store) {
		one, two := start(t, newLibrary(s)), start(t, newLibrary(other))
		for i := range 10 {
			member := fmt.Sprint("m-", i)
			register(t, one.library, member)
			errs := storetest.Race(2, func(i int) (err error) {
				if i == 0 {
					_, err = one.erase(t.Context(), member, "")
				} else {
					_, err = two.register(t.Context(), member, "The Member")
				}
				return err
			})
			if errs[0] != nil || errs[1] != nil && !errors.Is(errs[1], ErrMemberExists) {
				t.Errorf("erase: %v, register: %v", errs[0], errs[1])
			}
		}
		for _, ev := range storetest.Everything(t, s) {
			if ev.Stream == persons.Stream {
				t.Errorf("event %d has the name of %s", ev.Position, ev.AggregateID)
			}
		}
		wantBooks(t, one.library)
	})
}

// TestStoreURLs opens each database by its URL.
func TestStoreURLs(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		db, dialect, err := openDB(l.URL(t))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if err := db.PingContext(t.Context()); err != nil || dialect != l.Dialect {
			t.Errorf("ping: %v, and the dialect is %v", err, dialect)
		}
	})
	for _, target := range []string{"sqlite://lending", "mysql://%zz", ""} {
		if _, _, err := openDB(target); err == nil {
			t.Errorf("%q is no error", target)
		}
	}
}
