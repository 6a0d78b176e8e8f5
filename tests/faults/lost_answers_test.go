package faults_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
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
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		through, proxy := l.Proxied(t, 3)
		direct, prefix := l.OpenPrefixed(t)
		s := through.OpenIn(t, prefix, nil)
		storetest.CreateStream(t, direct, "accounts")
		for _, n := range []int{1, 20, 5} {
			for _, expected := range []es.ExpectedVersion{es.MustNotExist, es.AnyVersion} {
				for _, action := range []testserver.Action{testserver.CutBefore, testserver.CutAfter} {
					what := fmt.Sprintf("%d events, expected %d, action %d", n, int64(expected), action)
					id := fmt.Sprint("lost-answer-", n, expected, action)
					storetest.MustAppend(t, s, "accounts", "warm "+id, es.MustNotExist, storetest.Deposits(n, 1)...)
					evs, at := storetest.WithIDs(storetest.Deposits(n, 1)), id
					if n == 5 {
						// So long that it takes two statements, and a commit.
						if l.Odd {
							continue
						}
						at = "commit"
						for i := range evs {
							evs[i].Payload = storetest.Opened{Owner: strings.Repeat("x", 1<<20)}
						}
					}
					cut := cutOnce(proxy, at, action)
					stored, err := s.Append(t.Context(), "accounts", id, expected, evs...)
					if !cut.Load() {
						t.Fatalf("%s: no connection was cut", what)
					}
					proxy.SetHook(nil)
					storetest.WantIdle(t, through, what)
					if n := len(storetest.Collect(t, direct.ReadAggregate(t.Context(), "accounts", id, 0))); n > 0 && action == testserver.CutBefore && err != nil {
						t.Errorf("%s: %d events are stored by an append that did not arrive", what, n)
					}
					if err != nil {
						storetest.WantPlain(t, what, err)
						if stored != nil {
							t.Errorf("%s: returned events with the error", what)
						}
						if stored, err = s.Append(t.Context(), "accounts", id, expected, evs...); err != nil {
							t.Fatalf("%s: repeated: %v", what, err)
						}
					}
					storetest.SameEvents(t, what, storetest.Collect(t, direct.ReadAggregate(t.Context(), "accounts", id, 0)), stored)
					storetest.WantVersions(t, stored, n)
					storetest.WantIdle(t, through, what)
				}
			}
		}
	})
}

// TestLostAnswerOfSave is the same for a root: saved again it is stored once.
func TestLostAnswerOfSave(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		through, proxy := l.Proxied(t, 3)
		s := through.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		for i, action := range []testserver.Action{testserver.CutBefore, testserver.CutAfter} {
			id := fmt.Sprint("lost-save-", i)
			r := storetest.Accounts.New(id)
			r.Record(storetest.Opened{Owner: "ann"})
			r.Record(storetest.Deposited{Cents: 5})
			cutOnce(proxy, id, action)
			_, err := storetest.Accounts.Save(t.Context(), s, r)
			proxy.SetHook(nil)
			if err != nil {
				storetest.WantPlain(t, id, err)
				if n := len(r.Uncommitted()); n != 2 {
					t.Errorf("after the error the root holds %d events, want 2", n)
				}
				if _, err = storetest.Accounts.Save(t.Context(), s, r); err != nil {
					t.Fatal(err)
				}
			}
			r.Record(storetest.Deposited{Cents: 7})
			if _, err := storetest.Accounts.Save(t.Context(), s, r); err != nil {
				t.Fatal(err)
			}
			loaded, err := storetest.Accounts.Load(t.Context(), s, id)
			if err != nil || loaded.Version() != 3 || loaded.State() != (storetest.Account{Owner: "ann", Cents: 12, Deposits: 2}) {
				t.Fatalf("loaded %+v (%v), want 12 cents at version 3", loaded, err)
			}
			storetest.WantIdle(t, through, id)
		}
	})
}

// TestLostConnections resets all connections between operations, and under reads.
func TestLostConnections(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		l, proxy := l.Proxied(t, 4)
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "accounts")
		stored := storetest.MustAppend(t, s, "accounts", "a", es.MustNotExist, storetest.Deposits(600, 1)...)
		// Between two operations the pool finds another connection, or says that it lost one.
		for range 5 {
			proxy.CutAll()
			evs := storetest.WithIDs(storetest.Deposits(1, 1))
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
		storetest.SameEvents(t, "stored", storetest.Everything(t, s), stored)
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
				storetest.SameEvents(t, "read", []es.Event{ev}, stored[n:n+1])
				if n++; n == at {
					proxy.SetHook(func(*testserver.Conn, testserver.Direction, []byte) testserver.Action { return testserver.CutBefore })
				}
			}
			proxy.SetHook(nil)
			if at > 0 && (last == nil || n == len(stored)) {
				t.Errorf("a read without a server finds %d events and ends with %v", n, last)
			}
			if at > 0 {
				storetest.WantPlain(t, "read", last)
			}
			storetest.WantIdle(t, l, "after a read")
		}
		storetest.SameEvents(t, "stored", storetest.Everything(t, s), stored)
	})
}
