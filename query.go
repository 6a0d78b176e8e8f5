// Query: a state built from events whenever it is run.

package eventstore

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// Query builds an S from events whenever it is run, and keeps nothing. It is a literal, checked
// when it runs, and safe for concurrent use.
type Query[S any] struct {
	From  Selection
	Init  func() S // the state before the first event; default: the zero S
	When  []Fold[S]
	Until func(S) bool // asked after each event that a fold took: true ends the run; default: never
}

// Run folds the events that From picks, in position order: at least those committed when it
// begins. Events that no entry of When wants are passed over; the database sends only those that
// some entry can want.
func (q *Query[S]) Run(ctx context.Context, s *Store) (S, error) {
	var state S
	folds, err := newFolds("Query.When", q.When)
	if err != nil {
		return state, err
	}
	if err := checkFrom("Query.From", q.From); err != nil {
		return state, err
	}
	if q.Init != nil {
		state = q.Init()
	}
	took := false
	dispatcher := s.dispatcher(func(d *delivery) error {
		if len(folds.entries(d.payload.name)) == 0 {
			return nil
		}
		took = true
		return folds.apply(&state, d)
	})
	for r, err := range s.read(ctx, q.From, s.storedNames(folds.names()), ReadOptions{}, false, s.readsAhead()) {
		if err != nil {
			return state, err
		}
		took = false
		if err := dispatcher.dispatch(ctx, r); err != nil {
			return state, within(fmt.Sprintf("query, event %d", r.position), err)
		}
		if took && q.Until != nil && q.Until(state) {
			break
		}
	}
	return state, nil
}

// storedNames returns the names under which the events that folds want can be stored, in byte
// order, or nil for any: middleware that changes what is read could change names too.
func (s *Store) storedNames(wanted map[string]bool) []string {
	if wanted == nil || s.hasLoadMiddleware {
		return nil
	}
	return slices.Sorted(maps.Keys(s.codec.stored(wanted)))
}
