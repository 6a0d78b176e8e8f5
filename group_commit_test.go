package eventstore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// groupTurns is an appendGroups over statements that a test ends as it likes, within a bubble of synctest.
type groupTurns struct {
	groupCommit
	t *testing.T

	mu         sync.Mutex
	statements []*turnStatement
	returned   map[string]error // by what was appended
}

// turnStatement is a statement that a test has been asked for.
type turnStatement struct {
	of     []string // aggregates, in their order
	group  bool
	ctx    context.Context
	answer chan turnAnswer
}

type turnAnswer struct {
	stored []bool
	err    error
}

func newTurns(t *testing.T) *groupTurns {
	ts := &groupTurns{groupCommit: groupCommit{twoGroups: true}, t: t, returned: map[string]error{}}
	ask := func(ctx context.Context, calls []*appendRequest, group bool) ([]bool, error) {
		st := &turnStatement{group: group, ctx: ctx, answer: make(chan turnAnswer, 1)}
		for _, a := range calls {
			st.of = append(st.of, a.aggregateID)
		}
		ts.mu.Lock()
		ts.statements = append(ts.statements, st)
		ts.mu.Unlock()
		select {
		case answer := <-st.answer:
			return answer.stored, answer.err
		case <-ctx.Done():
			return nil, fmt.Errorf("eventstore: append: %w", ctx.Err())
		}
	}
	ts.insertAlone = func(ctx context.Context, a *appendRequest) error {
		_, err := ask(ctx, []*appendRequest{a}, false)
		return err
	}
	ts.insertGroup = func(ctx context.Context, calls []*appendRequest) ([]bool, error) { return ask(ctx, calls, true) }
	return ts
}

// start has an append to an aggregate begin, and returns when it waits for something.
func (ts *groupTurns) start(ctx context.Context, id string) { ts.startRows(ctx, id, 1, 0) }

// startRows is start for an append of n rows, each with so many bytes.
func (ts *groupTurns) startRows(ctx context.Context, id string, n, bytes int) {
	a := &appendRequest{stream: "s", aggregateID: id, rows: make([]record, n)}
	for i := range a.rows {
		a.rows[i].data = make([]byte, bytes)
	}
	go func() {
		err := ts.append(ctx, a)
		ts.mu.Lock()
		defer ts.mu.Unlock()
		ts.returned[id] = err
	}()
	synctest.Wait()
}

// want checks which statements there have been, each written as its aggregates, a group's in brackets.
func (ts *groupTurns) want(what string, want ...string) {
	ts.t.Helper()
	wantStatements(ts, what, want, func(st *turnStatement) string {
		if !st.group {
			return st.of[0]
		}
		return fmt.Sprint(st.of)
	})
}

// startMany has n appends begin, each to an aggregate of its own.
func (ts *groupTurns) startMany(prefix string, n int) {
	for i := range n {
		ts.start(ts.t.Context(), fmt.Sprintf("%s%03d", prefix, i))
	}
}

// wantSizes checks of how many appends each statement has been.
func (ts *groupTurns) wantSizes(what string, want ...int) {
	ts.t.Helper()
	wantStatements(ts, what, want, func(st *turnStatement) int { return len(st.of) })
}

func wantStatements[T comparable](ts *groupTurns, what string, want []T, of func(*turnStatement) T) {
	ts.t.Helper()
	synctest.Wait()
	ts.mu.Lock()
	defer ts.mu.Unlock()
	var got []T
	for _, st := range ts.statements {
		got = append(got, of(st))
	}
	if !slices.Equal(got, want) {
		ts.t.Fatalf("%s: statements %v, want %v", what, got, want)
	}
}

// endAll ends the nth statement, which has stored all.
func (ts *groupTurns) endAll(n int) {
	ts.end(n, nil, slices.Repeat([]bool{true}, len(ts.statements[n].of))...)
}

// end ends the nth statement.
func (ts *groupTurns) end(n int, err error, stored ...bool) {
	ts.mu.Lock()
	st := ts.statements[n]
	ts.mu.Unlock()
	st.answer <- turnAnswer{stored, err}
	synctest.Wait()
}

// wantReturned checks that an append has returned an error, or nil.
func (ts *groupTurns) wantReturned(id string, want error) {
	ts.t.Helper()
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if err, ok := ts.returned[id]; !ok {
		ts.t.Errorf("append to %s has not returned", id)
	} else if !errors.Is(err, want) || (err == nil) != (want == nil) {
		ts.t.Errorf("append to %s returned %v, want %v", id, err, want)
	} else if err != nil && !strings.HasPrefix(err.Error(), prefix) {
		ts.t.Errorf("append to %s returned %q, want it to begin with %q", id, err, prefix)
	}
}

// wantAtRest checks that nothing is left of what there was, and that the next append goes at once.
func (ts *groupTurns) wantAtRest() {
	ts.t.Helper()
	synctest.Wait()
	ts.groupCommit.mu.Lock()
	if len(ts.inFlight)+len(ts.waiting)+len(ts.keys)+len(ts.solo)+ts.rows+ts.bytes > 0 || ts.dispatching {
		ts.t.Errorf("left over: turns %v, waiting %v, %v, apart %v", ts.inFlight, ts.waiting, ts.keys, ts.solo)
	}
	ts.groupCommit.mu.Unlock()
	n := len(ts.statements)
	began := time.Now()
	ts.start(ts.t.Context(), "last")
	if len(ts.statements) != n+1 || time.Since(began) != 0 {
		ts.t.Errorf("the next append did not go at once")
		return
	}
	ts.end(n, nil)
	ts.wantReturned("last", nil)
}

func inTurns(t *testing.T, name string, test func(t *testing.T, ts *groupTurns)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, newTurns(t)) })
	})
}

// TestAppendTurns says which appends go out when, and together with which.
func TestAppendTurns(t *testing.T) {
	failed := errors.New("eventstore: append: failed")
	inTurns(t, "those that come meanwhile go together", func(t *testing.T, ts *groupTurns) {
		for _, id := range []string{"d", "c", "a", "b"} {
			ts.start(t.Context(), id)
		}
		ts.want("while the first is under way", "d")
		ts.end(0, nil)
		ts.want("then", "d", "[a b c]")
		ts.start(t.Context(), "e")
		ts.end(1, nil, true, true, true)
		for _, id := range []string{"a", "b", "c", "d"} {
			ts.wantReturned(id, nil)
		}
		ts.want("one that came alone goes alone", "d", "[a b c]", "e")
		ts.end(2, nil)
		ts.wantReturned("e", nil)
		ts.wantAtRest()
	})
	inTurns(t, "each has its own outcome", func(t *testing.T, ts *groupTurns) {
		for _, id := range []string{"0", "a", "b", "c"} {
			ts.start(t.Context(), id)
		}
		ts.end(0, failed)
		ts.wantReturned("0", failed)
		ts.end(1, nil, true, false, true)
		ts.wantReturned("a", nil)
		ts.wantReturned("c", nil)
		ts.want("the one left out goes alone", "0", "[a b c]", "b")
		ts.start(t.Context(), "b")
		ts.want("and so do others to its aggregate", "0", "[a b c]", "b", "b")
		ts.end(3, failed)
		ts.end(2, failed)
		ts.wantReturned("b", failed)
		ts.wantAtRest()
	})
	inTurns(t, "an error is everybody's", func(t *testing.T, ts *groupTurns) {
		for _, id := range []string{"0", "a", "b"} {
			ts.start(t.Context(), id)
		}
		ts.end(0, nil)
		ts.end(1, failed)
		ts.wantReturned("a", failed)
		ts.wantReturned("b", failed)
		ts.want("nobody goes again", "0", "[a b]")
		ts.wantAtRest()
	})
	inTurns(t, "two to one aggregate do not go together", func(t *testing.T, ts *groupTurns) {
		ts.start(t.Context(), "0")
		ts.start(t.Context(), "0")
		ts.want("beside the one under way", "0", "0")
		ts.start(t.Context(), "a")
		ts.start(t.Context(), "a")
		ts.want("beside the one that waits", "0", "0", "a")
		for n := range 3 {
			ts.end(n, nil)
		}
		ts.want("and that one in its turn", "0", "0", "a", "a")
		ts.end(3, nil)
		ts.wantAtRest()
	})
	inTurns(t, "a statement is waited for only a moment", func(t *testing.T, ts *groupTurns) {
		began := time.Now()
		for _, id := range []string{"held", "a", "b"} {
			ts.start(t.Context(), id)
		}
		time.Sleep(groupPatience)
		ts.want("after a moment", "held", "[a b]")
		ts.start(t.Context(), "c")
		ts.end(1, nil, true, true)
		ts.want("and then the next", "held", "[a b]", "c")
		ts.end(2, nil)
		ts.start(t.Context(), "d")
		ts.want("and then nobody waits for it any more", "held", "[a b]", "c", "d")
		ts.end(3, nil)
		if took := time.Since(began); took != groupPatience {
			t.Errorf("took %v, want %v", took, groupPatience)
		}
		ts.end(0, failed)
		ts.wantReturned("held", failed)
		ts.wantAtRest()
	})
	inTurns(t, "a driver that panics holds up nobody", func(t *testing.T, ts *groupTurns) {
		ask := ts.insertAlone
		ts.insertAlone = func(context.Context, *appendRequest) error { panic("driver") }
		func() {
			defer func() { _ = recover() }()
			_ = ts.append(t.Context(), &appendRequest{stream: "s", aggregateID: "a", rows: make([]record, 1)})
			t.Error("the panic did not get through")
		}()
		ts.insertAlone = ask
		ts.wantAtRest()
	})
	for what, do := range map[string]func(){"panics": func() { panic("driver") }, "ends the goroutine": runtime.Goexit} {
		inTurns(t, "a driver that "+what+" in a group's statement has each go solo", func(t *testing.T, ts *groupTurns) {
			ts.insertGroup = func(context.Context, []*appendRequest) ([]bool, error) {
				do()
				return nil, nil
			}
			ts.start(t.Context(), "first")
			ts.start(t.Context(), "a")
			ts.start(t.Context(), "b")
			ts.end(0, nil)
			ts.wantSizes("each for itself", 1, 1, 1)
			ts.end(1, nil)
			ts.end(2, nil)
			ts.wantReturned("a", nil)
			ts.wantReturned("b", nil)
			ts.wantAtRest()
		})
	}
	inTurns(t, "many go in two groups", func(t *testing.T, ts *groupTurns) {
		ts.startMany("a", twoGroupsRows-1)
		ts.wantSizes("too few for two", 1)
		ts.startMany("b", 1)
		ts.wantSizes("half of them, beside the first", 1, twoGroupsRows/2)
		ts.endAll(1)
		ts.startMany("c", 1)
		ts.wantSizes("too few again", 1, twoGroupsRows/2)
		ts.end(0, nil)
		ts.wantSizes("all that have come meanwhile", 1, twoGroupsRows/2, twoGroupsRows/2)
		ts.startMany("d", 2*twoGroupsRows)
		ts.wantSizes("half of those that are enough", 1, twoGroupsRows/2, twoGroupsRows/2, twoGroupsRows/2)
		ts.endAll(2)
		ts.wantSizes("half of those that there are by now", 1, twoGroupsRows/2, twoGroupsRows/2, twoGroupsRows/2, twoGroupsRows)
		ts.endAll(3)
		ts.wantSizes("too few beside so many", 1, twoGroupsRows/2, twoGroupsRows/2, twoGroupsRows/2, twoGroupsRows)
		ts.endAll(4)
		ts.wantSizes("the rest", 1, twoGroupsRows/2, twoGroupsRows/2, twoGroupsRows/2, twoGroupsRows, twoGroupsRows/2)
		ts.endAll(5)
		ts.wantAtRest()
	})
	inTurns(t, "a full group goes without waiting", func(t *testing.T, ts *groupTurns) {
		ts.startMany("a", twoGroupsRows)
		ts.startMany("b", maxGroupAppends+2-(twoGroupsRows/2-1))
		ts.wantSizes("beside two", 1, twoGroupsRows/2, maxGroupAppends)
		ts.endAll(2)
		ts.endAll(1)
		ts.end(0, nil)
		ts.wantSizes("those that did not fit in", 1, twoGroupsRows/2, maxGroupAppends, 2)
		ts.endAll(3)
		ts.wantAtRest()
	})
	inTurns(t, "a group is bounded in rows and bytes", func(t *testing.T, ts *groupTurns) {
		ts.twoGroups = false
		ts.start(t.Context(), "0")
		for i := range maxGroupRows/maxSharedRows - 1 {
			ts.startRows(t.Context(), fmt.Sprintf("a%03d", i), maxSharedRows, 1)
		}
		ts.startRows(t.Context(), "b", maxSharedRows-1, 1)
		ts.wantSizes("not full", 1)
		ts.startRows(t.Context(), "large", 2, 1)
		ts.wantSizes("full of rows, without the one too many", 1, maxGroupRows/maxSharedRows)
		for i := range maxGroupBytes/maxSharedBytes - 1 {
			ts.startRows(t.Context(), fmt.Sprintf("c%03d", i), 1, maxSharedBytes)
		}
		ts.wantSizes("not full", 1, maxGroupRows/maxSharedRows)
		ts.startRows(t.Context(), "d", 1, maxSharedBytes)
		ts.wantSizes("full of bytes", 1, maxGroupRows/maxSharedRows, maxGroupBytes/maxSharedBytes)
		if !slices.Contains(ts.statements[2].of, "large") {
			t.Error("the one passed over was not the first of the next")
		}
		for n := 2; n >= 1; n-- {
			ts.endAll(n)
		}
		ts.end(0, nil)
		ts.endAll(3)
		ts.wantAtRest()
	})
	inTurns(t, "a statement is waited for only a moment, however many come", func(t *testing.T, ts *groupTurns) {
		ts.start(t.Context(), "0")
		ts.start(t.Context(), "k")
		ts.end(0, nil)
		ts.want("one in its turn", "0", "k")
		ts.start(t.Context(), "k")
		ended := 2
		for i := range 2 * groupPatience.Milliseconds() {
			ts.startMany(fmt.Sprintf("%d-", i), twoGroupsRows)
			time.Sleep(time.Millisecond)
			synctest.Wait()
			for n := len(ts.statements); ended < n; ended++ {
				ts.endAll(ended)
			}
		}
		if _, ok := ts.returned["k"]; !ok {
			t.Error("an append has waited for one that can't go on")
		}
		for n := len(ts.statements); ended < n; ended, n = ended+1, len(ts.statements) {
			ts.endAll(ended)
		}
		ts.end(1, nil)
		ts.wantAtRest()
	})
	inTurns(t, "two to one aggregate do not go in two groups", func(t *testing.T, ts *groupTurns) {
		ts.startMany("a", twoGroupsRows)
		again := ts.statements[1].of[0]
		ts.start(t.Context(), again)
		ts.end(0, nil)
		ts.wantSizes("without it", 1, twoGroupsRows/2, twoGroupsRows/2-1)
		ts.endAll(2)
		ts.endAll(1)
		ts.wantSizes("in its turn", 1, twoGroupsRows/2, twoGroupsRows/2-1, 1)
		if got := ts.statements[3].of[0]; got != again {
			t.Errorf("statement of %s, want %s", got, again)
		}
		ts.end(3, nil)
		ts.wantAtRest()
	})
}

// TestAppendTurnsCancelled ends contexts of appends in every stage of a group's life.
func TestAppendTurnsCancelled(t *testing.T) {
	type key struct{}
	inTurns(t, "before it goes", func(t *testing.T, ts *groupTurns) {
		ctx, cancel := context.WithCancel(t.Context())
		ts.start(t.Context(), "0")
		ts.start(ctx, "a")
		ts.start(t.Context(), "b")
		ts.start(t.Context(), "c")
		cancel()
		synctest.Wait()
		ts.wantReturned("a", context.Canceled)
		ts.start(t.Context(), "a")
		ts.end(0, nil)
		ts.want("one that has gone takes no part", "0", "[a b c]")
		ts.end(1, nil, true, true, true)
		ts.wantReturned("a", nil)
		ts.wantAtRest()
	})
	inTurns(t, "all before it goes", func(t *testing.T, ts *groupTurns) {
		ctx, cancel := context.WithCancel(t.Context())
		ts.start(t.Context(), "0")
		ts.start(ctx, "a")
		ts.start(ctx, "b")
		cancel()
		synctest.Wait()
		ts.wantReturned("a", context.Canceled)
		ts.wantReturned("b", context.Canceled)
		ts.end(0, nil)
		ts.want("nobody is left", "0")
		ts.wantAtRest()
	})
	inTurns(t, "under way", func(t *testing.T, ts *groupTurns) {
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "first"))
		other, cancelOther := context.WithTimeout(t.Context(), time.Second)
		defer cancelOther()
		ts.start(t.Context(), "0")
		ts.start(ctx, "a")
		ts.start(other, "b")
		ts.start(t.Context(), "c")
		ts.end(0, nil)
		cancel()
		synctest.Wait()
		ts.wantReturned("a", context.Canceled)
		time.Sleep(time.Second)
		synctest.Wait()
		ts.wantReturned("b", context.DeadlineExceeded)
		if err := ts.statements[1].ctx.Err(); err != nil {
			t.Errorf("the statement's context has ended with theirs: %v", err)
		}
		if got := ts.statements[1].ctx.Value(key{}); got != "first" {
			t.Errorf("the statement has the value %v, want that of one of their contexts", got)
		}
		ts.end(1, nil, false, true, true)
		ts.wantReturned("c", nil)
		ts.want("nobody decides what nobody waits for", "0", "[a b c]")
		ts.wantAtRest()
	})
	inTurns(t, "all under way", func(t *testing.T, ts *groupTurns) {
		ctx, cancel := context.WithCancel(t.Context())
		ts.start(t.Context(), "0")
		ts.start(ctx, "a")
		ts.start(ctx, "b")
		ts.end(0, nil)
		ts.want("both", "0", "[a b]")
		cancel()
		synctest.Wait()
		if ts.statements[1].ctx.Err() == nil {
			t.Error("the statement goes on for nobody")
		}
		ts.wantReturned("a", context.Canceled)
		ts.wantReturned("b", context.Canceled)
		ts.wantAtRest()
	})
	inTurns(t, "while it is decided alone", func(t *testing.T, ts *groupTurns) {
		ctx, cancel := context.WithCancel(t.Context())
		ts.start(t.Context(), "0")
		ts.start(ctx, "a")
		ts.start(t.Context(), "b")
		ts.end(0, nil)
		ts.end(1, nil, false, false)
		cancel()
		synctest.Wait()
		ts.wantReturned("a", context.Canceled)
		ts.end(3, nil)
		ts.end(2, nil)
		ts.wantReturned("b", nil)
		ts.wantAtRest()
	})
}

// TestAppendTurnsRandom has appends of all fates come and go in great numbers: each returns with
// what was decided about it, and nothing is left over.
func TestAppendTurnsRandom(t *testing.T) {
	failed := errors.New("eventstore: append: failed")
	var n, gone, groups atomic.Int64
	g := &groupCommit{twoGroups: true}
	pause := func(ctx context.Context, n int64) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(n%7) * 100 * time.Microsecond):
			return nil
		}
	}
	g.insertAlone = func(ctx context.Context, a *appendRequest) error {
		if err := pause(ctx, n.Add(1)); err != nil {
			return err
		}
		if a.expected == 1 {
			return failed
		}
		a.rows[0].version++
		return nil
	}
	g.insertGroup = func(ctx context.Context, calls []*appendRequest) ([]bool, error) {
		groups.Add(1)
		if err := pause(ctx, n.Add(1)); err != nil {
			return nil, err
		}
		stored := make([]bool, len(calls))
		seen := map[string]bool{}
		for i, a := range calls {
			if seen[a.aggregateID] {
				t.Errorf("two of %s in one statement", a.aggregateID)
			}
			seen[a.aggregateID] = true
			if stored[i] = a.expected == 0 && i%5 > 0; stored[i] {
				a.rows[0].version++
			}
		}
		return stored, nil
	}
	before := runtime.NumGoroutine()
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for j := range 200 {
				ctx, cancel := context.WithCancel(t.Context())
				if (i+j)%7 == 0 {
					time.AfterFunc(time.Duration(i*j%900)*time.Microsecond, cancel)
				}
				a := &appendRequest{stream: "s", aggregateID: fmt.Sprint(i * j % 41), lastEvent: lastEvent{expected: ExpectedVersion((i + j) % 9 / 8)}, rows: make([]record, 1)}
				err := g.append(ctx, a)
				cancel()
				switch {
				case errors.Is(err, context.Canceled):
					gone.Add(1)
				case a.expected == 1 && !errors.Is(err, failed), a.expected == 0 && err != nil:
					t.Errorf("returned %v", err)
				case a.expected == 0 && a.rows[0].version != 1:
					t.Errorf("stored %d times, want 1", a.rows[0].version)
				}
			}
		})
	}
	wg.Wait()
	if gone.Load() == 0 || groups.Load() == 0 {
		t.Errorf("%d cancelled, %d groups, want some of both", gone.Load(), groups.Load())
	}
	for range 100 {
		if runtime.NumGoroutine() <= before {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines, %d before", n, before)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.inFlight)+len(g.waiting)+len(g.keys)+len(g.solo)+g.rows+g.bytes > 0 {
		t.Errorf("left over: turns %v, waiting %v, %v, apart %v", g.inFlight, g.waiting, g.keys, g.solo)
	}
}
