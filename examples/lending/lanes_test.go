package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	storetest.Main(m)
}

// forEachStore runs a test on two stores over the tables of each lane, as two processes have them.
func forEachStore(t *testing.T, test func(t *testing.T, s, other *eventstore.Store)) {
	t.Helper()
	storetest.ForEach(t, storetest.SomeLanes, storetest.Usual, func(t *testing.T, l storetest.Lane) {
		s, other := l.OpenTwice(t)
		test(t, s, other)
	})
}

// process is a library that is open and followed, as main has it.
type process struct {
	*library
	t   *testing.T
	url string
	end func()
}

func start(t *testing.T, l *library) *process {
	t.Helper()
	if err := l.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- serve(ctx, l, listener) }()
	p := &process{library: l, t: t, url: "http://" + listener.Addr().String()}
	ended := false
	p.end = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(p.end)
	return p
}

// want sends a request that is to be answered with a status, and returns what it answers. It asks again while a
// projection is behind.
func (p *process) want(status int, method, path, body string) map[string]any {
	p.t.Helper()
	got, answer := p.do(method, path, body)
	if got == http.StatusServiceUnavailable && method == "GET" {
		storetest.Eventually(p.t, "the answer to "+path, func() bool {
			got, answer = p.do(method, path, body)
			return got != http.StatusServiceUnavailable
		})
	}
	if got != status {
		p.t.Fatalf("%s %s %.100s: %d %v, want %d", method, path, body, got, answer, status)
	}
	return answer
}

func (p *process) do(method, path, body string) (status int, answer map[string]any) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.url+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Close = true // so that the shutdown has no idle connection to wait for
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		p.t.Fatalf("%s %s: %v", method, path, err)
	}
	return res.StatusCode, answer
}

// wantCopy asks what became of a copy, once the process manager knows of a receipt.
func (p *process) wantCopy(id string, receipt map[string]any, want string) {
	p.t.Helper()
	answer := p.want(200, "GET", fmt.Sprintf("/copies/%s?at=%v", id, receipt["position"]), "")
	if got := fmt.Sprint(answer); got != want {
		p.t.Errorf("copy %s is %s, want %s", id, got, want)
	}
}

// must is for what a test prepares.
func must(t *testing.T, _ eventstore.Position, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantBooks compares, when the process manager and the read model have caught up, everything with everything:
// copies with members, members with their cards, and queues with the shelf.
func wantBooks(t *testing.T, l *library) {
	t.Helper()
	storetest.CatchUp(t, l.holds, l.store) // whose commands the cards wait for
	cards := allCards(t, l.cards, l.store)
	ids := map[string][]string{}
	seen := map[[2]string]int64{}
	for _, ev := range storetest.Everything(t, l.store) {
		key := [2]string{ev.Stream, ev.AggregateID}
		if seen[key]++; ev.Version != seen[key] {
			t.Errorf("%s has version %d as its event %d", ev.AggregateID, ev.Version, seen[key])
		}
		if ev.Version == 1 {
			ids[ev.Stream] = append(ids[ev.Stream], ev.AggregateID)
		}
	}
	lent, held, shelf := map[string][]string{}, map[string][]string{}, map[string][]string{}
	for _, id := range ids[copies.Stream] {
		switch c := load(t, l, &copies, id); {
		case c.LentTo != "" && c.HeldFor != "":
			t.Errorf("copy %s is lent to %s and held for %s", id, c.LentTo, c.HeldFor)
		case c.LentTo != "":
			lent[c.LentTo] = append(lent[c.LentTo], id)
		case c.HeldFor != "":
			held[c.HeldFor] = append(held[c.HeldFor], id)
		default:
			shelf[c.Title] = append(shelf[c.Title], id)
		}
	}
	for _, id := range ids[members.Stream] {
		m := load(t, l, &members, id)
		if len(m.Loans) > maxLoans || !sameSet(m.Loans, lent[id]) || !sameSet(m.Holds, held[id]) {
			t.Errorf("member %s: %+v, and of copies %v are lent, %v held", id, m, lent[id], held[id])
		}
		if c, there := cards[id]; m.Active != there || there && (!sameSet(m.Loans, c.Loans) || !sameSet(m.Holds, c.Holds)) {
			t.Errorf("member %s: %+v, and the card is %+v", id, m, c)
		}
	}
	for _, title := range ids[queues.Stream] {
		for _, member := range load(t, l, &queues, title).Waiting {
			if len(shelf[title]) > 0 && load(t, l, &members, member).Active {
				t.Errorf("%s waits for %s, and %v are on the shelf", member, title, shelf[title])
			}
		}
	}
}

// allCards brings cards up to date and returns all of them.
func allCards(t *testing.T, cards *eventstore.Documents[Card], s *eventstore.Store) map[string]Card {
	t.Helper()
	if _, err := cards.CatchUp(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	all := map[string]Card{}
	for doc, err := range cards.All(t.Context(), s, eventstore.DocumentOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		all[doc.Key] = doc.State
	}
	return all
}

func load[S any](t *testing.T, l *library, a *eventstore.Aggregate[S], id string) S {
	t.Helper()
	r, err := a.Load(t.Context(), l.store, id)
	if err != nil {
		t.Fatal(err)
	}
	return r.State()
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
