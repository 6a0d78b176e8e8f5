package eventstoretest

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"testing"

	"example.com/eventstore"
)

// DocumentReading is what documents come of a history: given, when, then for [eventstore.Documents]. It belongs to the
// goroutine of its test.
type DocumentReading[S any] struct {
	reading *Reading[map[string]S] // of all documents, by key
	keys    func(ctx context.Context, label string) ([]string, error)
}

// GivenDocuments begins a test of documents on a store in which history has happened. Store, OnError and the moment of
// the run are those of [GivenProjection].
//
//	eventstoretest.GivenDocuments(t, nil, &balances,
//		eventstoretest.On("accounts", "A-1", Deposited{Cents: 500}, Withdrawn{Cents: 300}),
//	).ThenDocument("A-1", Balance{Cents: 200})
func GivenDocuments[S any](t testing.TB, s *eventstore.Store, ds *eventstore.Documents[S], history ...Happened) *DocumentReading[S] {
	t.Helper()
	r := newReading[map[string]S](t, s, history)
	r.read = func(ctx context.Context) (all map[string]S, failure, err error) {
		run := *ds
		run.OnError = onError(ds.OnError, &failure)
		if _, err = run.CatchUp(ctx, r.store); err != nil {
			return nil, failure, err
		}
		all = map[string]S{}
		for doc, err := range ds.All(ctx, r.store, eventstore.DocumentOptions{}) {
			if err != nil {
				return nil, failure, err
			}
			all[doc.Key] = doc.State
		}
		return all, failure, nil
	}
	keys := func(ctx context.Context, label string) (keys []string, err error) {
		for doc, err := range ds.All(ctx, r.store, eventstore.DocumentOptions{Label: label}) {
			if err != nil {
				return nil, err
			}
			keys = append(keys, doc.Key)
		}
		return keys, nil
	}
	return &DocumentReading[S]{r, keys}
}

// When lets more happen.
func (r *DocumentReading[S]) When(more ...Happened) *DocumentReading[S] {
	r.reading.t.Helper()
	r.reading.When(more...)
	return r
}

// ThenDocument checks the document of a key, as it is stored.
func (r *DocumentReading[S]) ThenDocument(key string, want S) *DocumentReading[S] {
	r.reading.t.Helper()
	all := r.reading.state("ThenDocument")
	switch got, there := all[key]; {
	case !there:
		r.reading.t.Errorf("there is no document %q, but of: %q", key, slices.Sorted(maps.Keys(all)))
	case !reflect.DeepEqual(got, want):
		r.reading.t.Errorf("document %q is not the one wanted (-want +got):\n%s", key, diff(lines(got), lines(want)))
	}
	return r
}

// ThenNoDocument checks that a key has no document.
func (r *DocumentReading[S]) ThenNoDocument(key string) *DocumentReading[S] {
	r.reading.t.Helper()
	if got, there := r.reading.state("ThenNoDocument")[key]; there {
		r.reading.t.Errorf("there is a document %q, want none: %+v", key, got)
	}
	return r
}

// ThenDocuments checks all documents, by key: these and no others.
func (r *DocumentReading[S]) ThenDocuments(want map[string]S) *DocumentReading[S] {
	r.reading.t.Helper()
	got := r.reading.state("ThenDocuments")
	if len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
		r.reading.t.Errorf("the documents are not those wanted (-want +got):\n%s", diff(lines(got), lines(want)))
	}
	return r
}

// ThenLabel checks the keys of all documents that have a label, whatever the order in which it is given them.
func (r *DocumentReading[S]) ThenLabel(label string, keys ...string) *DocumentReading[S] {
	r.reading.t.Helper()
	if label == "" {
		r.reading.t.Fatal("ThenLabel: the label is empty")
	}
	r.reading.state("ThenLabel")
	got, err := r.keys(r.reading.t.Context(), label)
	if err != nil {
		r.reading.t.Fatalf("ThenLabel: %v", err)
	}
	if d := diff(got, slices.Sorted(slices.Values(keys))); d != "" {
		r.reading.t.Errorf("the documents with label %q are not those wanted (-want +got):\n%s", label, d)
	}
	return r
}

// ThenError is [Reading.ThenError] for documents: their handlers, keys, labels and sizes.
func (r *DocumentReading[S]) ThenError(target error) *DocumentReading[S] {
	r.reading.t.Helper()
	r.reading.ThenError(target)
	return r
}
