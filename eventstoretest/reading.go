package eventstoretest

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"example.com/eventstore"
)

// Reading is what a projection or a query makes of a history: given, when, then for what reads events. It belongs to
// the goroutine of its test.
type Reading[S any] struct {
	t     testing.TB
	store *eventstore.Store
	read  func(context.Context) (state S, failure, err error)
}

// GivenProjection begins a test of a projection on a store in which history has happened, in order; streams are made
// as they are named. A nil store is a fresh one in memory. The projection runs when a Then asks for it, up to the end
// of the log.
//
//	eventstoretest.GivenProjection(t, nil, &balances,
//		eventstoretest.On("accounts", "A-1", Deposited{Cents: 500}, Withdrawn{Cents: 300}),
//	).ThenState(map[string]int64{"A-1": 200})
//
// OnError decides as it does in production, but nothing is retried: it is asked again at once, with the next attempt,
// until it answers otherwise than Retry, 100 times at most. Without OnError the first error is the last.
//
// A projection that asks for [eventstore.Step.Tx] needs a store in a database.
func GivenProjection[S any](t testing.TB, s *eventstore.Store, p *eventstore.Projection[S], history ...Happened) *Reading[S] {
	t.Helper()
	r := newReading[S](t, s, history)
	r.read = func(ctx context.Context) (state S, failure, err error) {
		run := *p
		run.OnError = onError(p.OnError, &failure)
		if _, err = run.CatchUp(ctx, r.store); err != nil {
			return state, failure, err
		}
		done, err := p.Load(ctx, r.store) // what of the state is stored
		return done.State, failure, err
	}
	return r
}

// onErrorFunc decides about a handler's error, as [eventstore.Projection].OnError does.
type onErrorFunc = func(ctx context.Context, ev eventstore.Event, err error, attempt int) eventstore.ErrorAction

// onError decides as decide does, without retries, and keeps the first error in failure.
func onError(decide onErrorFunc, failure *error) onErrorFunc {
	return func(ctx context.Context, ev eventstore.Event, err error, attempt int) eventstore.ErrorAction {
		if *failure == nil {
			*failure = err
		}
		for ; decide != nil && attempt <= 100; attempt++ {
			if action := decide(ctx, ev, err, attempt); action != eventstore.Retry {
				return action
			}
		}
		return eventstore.Fail
	}
}

// GivenQuery begins a test of a query, otherwise like [GivenProjection].
func GivenQuery[S any](t testing.TB, s *eventstore.Store, q *eventstore.Query[S], history ...Happened) *Reading[S] {
	t.Helper()
	r := newReading[S](t, s, history)
	r.read = func(ctx context.Context) (state S, failure, err error) {
		state, err = q.Run(ctx, r.store)
		return state, nil, err
	}
	return r
}

func newReading[S any](t testing.TB, s *eventstore.Store, history []Happened) *Reading[S] {
	t.Helper()
	if s == nil {
		s = eventstore.NewMemStore(nil)
	}
	Append(t, s, history...)
	return &Reading[S]{t: t, store: s}
}

// When lets more happen.
func (r *Reading[S]) When(more ...Happened) *Reading[S] {
	r.t.Helper()
	Append(r.t, r.store, more...)
	return r
}

// ThenState checks the state that all that has happened comes to. A projection's is the one that is stored, as
// [eventstore.Projection.Load] returns it.
func (r *Reading[S]) ThenState(want S) *Reading[S] {
	r.t.Helper()
	if got := r.state("ThenState"); !reflect.DeepEqual(got, want) {
		r.t.Errorf("the state is not the one wanted (-want +got):\n%s", diff(lines(got), lines(want)))
	}
	return r
}

// state returns what all that has happened comes to. An error ends the test.
func (r *Reading[S]) state(what string) S {
	r.t.Helper()
	state, _, err := r.read(r.t.Context())
	if err != nil {
		if p := (*eventstore.PanicError)(nil); errors.As(err, &p) {
			r.t.Fatalf("%s: %v\n%s", what, err, p.Stack)
		}
		r.t.Fatalf("%s: %v", what, err)
	}
	return state
}

// ThenError checks that what has happened since the Then before leads to an error that [errors.Is] finds to be target
// (nil: any error). It is the first of a handler, whatever OnError has decided about it, or else the one with which
// the projection or the query has ended.
func (r *Reading[S]) ThenError(target error) *Reading[S] {
	r.t.Helper()
	_, failure, err := r.read(r.t.Context())
	if failure != nil {
		err = failure
	}
	switch {
	case err == nil:
		r.t.Errorf("all has succeeded, want the error: %v", target)
	case target != nil && !errors.Is(err, target):
		r.t.Errorf("the error is: %v\nwant: %v", err, target)
	}
	return r
}
