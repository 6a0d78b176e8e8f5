package eventstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/testserver"
)

// cutOnce cuts the connection at the first chunk to the server that holds a text: before it is
// forwarded, or after it was carried out and before its answer comes back.
func cutOnce(p *testserver.Proxy, text string, action testserver.Action) *atomic.Bool {
	var cut atomic.Bool
	p.SetHook(func(_ *testserver.Conn, dir testserver.Direction, chunk []byte) testserver.Action {
		if dir == testserver.ToServer && bytes.Contains(bytes.ToLower(chunk), []byte(text)) && !cut.Swap(true) {
			return action
		}
		return testserver.Forward
	})
	return &cut
}

// TestLostAnswer cuts the connection under an append, before and after the database has carried it
// out. Repeated with the same IDs it is stored once.
func TestLostAnswer(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, l lane) {
		through, proxy := l.proxied(t, 3)
		direct, prefix := l.openPrefixed(t)
		s := through.openIn(t, prefix, nil)
		createStream(t, direct, "accounts")
		for _, n := range []int{1, 20, 5} {
			for _, expected := range []es.ExpectedVersion{es.MustNotExist, es.AnyVersion} {
				for _, action := range []testserver.Action{testserver.CutBefore, testserver.CutAfter} {
					what := fmt.Sprintf("%d events, expected %d, action %d", n, int64(expected), action)
					id := fmt.Sprint("lost-answer-", n, expected, action)
					mustAppend(t, s, "accounts", "warm "+id, es.MustNotExist, events(n, 1)...)
					evs, at := withIDs(events(n, 1)), id
					if n == 5 {
						// So long that it takes two statements, and a commit.
						if l.odd {
							continue
						}
						at = "commit"
						for i := range evs {
							evs[i].Payload = opened{strings.Repeat("x", 1<<20)}
						}
					}
					cut := cutOnce(proxy, at, action)
					stored, err := s.Append(t.Context(), "accounts", id, expected, evs...)
					if !cut.Load() {
						t.Fatalf("%s: no connection was cut", what)
					}
					proxy.SetHook(nil)
					wantIdle(t, through, what)
					if n := len(collect(t, direct.ReadAggregate(t.Context(), "accounts", id, 0))); n > 0 && action == testserver.CutBefore && err != nil {
						t.Errorf("%s: %d events are stored by an append that did not arrive", what, n)
					}
					if err != nil {
						wantPlain(t, what, err)
						if stored != nil {
							t.Errorf("%s: returned events with the error", what)
						}
						if stored, err = s.Append(t.Context(), "accounts", id, expected, evs...); err != nil {
							t.Fatalf("%s: repeated: %v", what, err)
						}
					}
					sameEvents(t, what, collect(t, direct.ReadAggregate(t.Context(), "accounts", id, 0)), stored)
					wantVersions(t, stored, n)
					wantIdle(t, through, what)
				}
			}
		}
	})
}

// wantPlain checks that a lost connection is not taken for anything else.
func wantPlain(t testing.TB, what string, err error) {
	t.Helper()
	for _, other := range []error{es.ErrConflict, es.ErrInvalid, es.ErrNotInstalled, es.ErrRetryTx, es.ErrStreamNotFound, context.Canceled} {
		if errors.Is(err, other) {
			t.Errorf("%s: a lost connection is reported as %v", what, err)
		}
	}
}

// TestLostAnswerOfSave is the same for a root: saved again it is stored once.
func TestLostAnswerOfSave(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, l lane) {
		through, proxy := l.proxied(t, 3)
		s := through.open(t, nil)
		createStream(t, s, "accounts")
		for i, action := range []testserver.Action{testserver.CutBefore, testserver.CutAfter} {
			id := fmt.Sprint("lost-save-", i)
			r := accounts.New(id)
			r.Record(opened{"ann"})
			r.Record(deposited{5})
			cutOnce(proxy, id, action)
			_, err := accounts.Save(t.Context(), s, r)
			proxy.SetHook(nil)
			if err != nil {
				wantPlain(t, id, err)
				if n := len(r.Uncommitted()); n != 2 {
					t.Errorf("after the error the root holds %d events, want 2", n)
				}
				if _, err = accounts.Save(t.Context(), s, r); err != nil {
					t.Fatal(err)
				}
			}
			r.Record(deposited{7})
			if _, err := accounts.Save(t.Context(), s, r); err != nil {
				t.Fatal(err)
			}
			loaded, err := accounts.Load(t.Context(), s, id)
			if err != nil || loaded.Version() != 3 || loaded.State() != (account{"ann", 12, 2}) {
				t.Fatalf("loaded %+v (%v), want 12 cents at version 3", loaded, err)
			}
			wantIdle(t, through, id)
		}
	})
}

// TestLostConnections resets all connections between operations, and under reads.
func TestLostConnections(t *testing.T) {
	forEachKind(t, func(t *testing.T, l lane) {
		l, proxy := l.proxied(t, 4)
		s, ctx := l.open(t, nil), t.Context()
		createStream(t, s, "accounts")
		stored := mustAppend(t, s, "accounts", "a", es.MustNotExist, events(600, 1)...)
		// Between two operations the pool finds another connection, or says that it lost one.
		for range 5 {
			proxy.CutAll()
			evs := withIDs(events(1, 1))
			ev, err := s.Append(ctx, "accounts", "a", es.AnyVersion, evs...)
			for range 4 { // as many as the pool may hold
				if err != nil {
					ev, err = s.Append(ctx, "accounts", "a", es.AnyVersion, evs...)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			stored = append(stored, ev...)
		}
		sameEvents(t, "stored", everything(t, s), stored)
		// Under a read: it ends with an error, after events that are right.
		for _, at := range []int{0, 10, 255} {
			n := 0
			var last error
			for ev, err := range s.Read(ctx, es.FromAll(), es.ReadOptions{}) {
				if err != nil {
					last = err
					if ev.ID != (es.Event{}).ID || ev.Data != nil {
						t.Errorf("an event comes with the error: %v", ev)
					}
					continue
				}
				sameEvents(t, "read", []es.Event{ev}, stored[n:n+1])
				if n++; n == at {
					proxy.SetHook(func(*testserver.Conn, testserver.Direction, []byte) testserver.Action { return testserver.CutBefore })
				}
			}
			proxy.SetHook(nil)
			if at > 0 && (last == nil || n == len(stored)) {
				t.Errorf("a read without a server finds %d events and ends with %v", n, last)
			}
			if at > 0 {
				wantPlain(t, "read", last)
			}
			wantIdle(t, l, "after a read")
		}
		sameEvents(t, "stored", everything(t, s), stored)
	})
}
