package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	es "example.com/eventstore"
)

// Kind is what a [Definition] is run as.
type Kind string

// The kinds.
const (
	Projection Kind = "projection"
	Documents  Kind = "documents"
)

// Kinds are all of them.
var Kinds = []Kind{Projection, Documents}

// Definition is a projection, or the same as documents: with one document, of all events, whose state is that of the
// projection. So a test of what the two have in common is written once.
type Definition[S any] struct {
	es.Projection[S]
	Kind Kind

	Key    func(ev es.Event) string        // of the documents; nil: a constant
	Labels func(key string, s *S) []string // of the documents
}

// theKey is the key of a definition's only document.
const theKey = "all"

// Define makes a definition of a kind.
func Define[S any](k Kind, p *es.Projection[S]) *Definition[S] {
	return &Definition[S]{Projection: *p, Kind: k}
}

// TotalsOf is the function [TotalsOf] for definitions of a kind.
func (k Kind) TotalsOf(name string, more ...es.Handler[Totals]) *Definition[Totals] {
	return Define(k, TotalsOf(name, more...))
}

// ForEachDefinition runs a test on the lanes for which wanted returns true: as projections on each of them, and as
// documents on the usual ones.
func ForEachDefinition(t *testing.T, atOnce int, wanted func(Lane) bool, test func(t *testing.T, l Lane, k Kind)) {
	t.Helper()
	type run struct {
		lane Lane
		kind Kind
	}
	var runs []run
	for _, l := range Lanes() {
		if !wanted(l) {
			continue
		}
		if runs = append(runs, run{l, Projection}); Usual(l) {
			runs = append(runs, run{l, Documents})
		}
	}
	RunEach(t, atOnce, runs, func(r run) string { return fmt.Sprint(r.lane.Name, "/", r.kind) }, func(t *testing.T, r run) {
		if r.kind == Documents && r.lane.DB != nil {
			// A pool of their own: the projections' test runs meanwhile, and either counts connections.
			r.lane = r.lane.Pool(t, r.lane.DSN, r.lane.DB.Stats().MaxOpenConnections)
		}
		test(t, r.lane, r.kind)
	})
}

// ForEachDefinitionsStore is [ForEachDefinition] with a fresh, installed store of every lane.
func ForEachDefinitionsStore(t *testing.T, test func(t *testing.T, s *es.Store, k Kind)) {
	t.Helper()
	ForEachDefinition(t, SomeLanes, AnyLane, func(t *testing.T, l Lane, k Kind) { test(t, l.Open(t, nil), k) })
}

// documents returns the definition as documents.
func (d *Definition[S]) documents() *es.Documents[S] {
	p := &d.Projection
	ds := &es.Documents[S]{
		Name: p.Name, Version: p.Version, From: p.From, After: p.After, OnChange: p.OnChange, Init: p.Init,
		Key: d.Key, When: p.When, Labels: d.Labels,
		OnError: p.OnError, BatchSize: p.BatchSize, Poll: p.Poll, Lease: p.Lease,
	}
	if ds.Key == nil {
		ds.Key = func(es.Event) string { return theKey }
	}
	return ds
}

// Run is [es.Projection.Run].
func (d *Definition[S]) Run(ctx context.Context, s *es.Store) error {
	if d.Kind == Documents {
		return d.documents().Run(ctx, s)
	}
	return d.Projection.Run(ctx, s)
}

// CatchUp is [es.Projection.CatchUp].
func (d *Definition[S]) CatchUp(ctx context.Context, s *es.Store) (es.Checkpoint[S], error) {
	if d.Kind != Documents {
		return d.Projection.CatchUp(ctx, s)
	}
	position, err := d.documents().CatchUp(ctx, s)
	if err != nil {
		return es.Checkpoint[S]{}, err
	}
	return d.checkpoint(ctx, s, position)
}

// Load is [es.Projection.Load]. Of documents the state may be younger than the position.
func (d *Definition[S]) Load(ctx context.Context, s *es.Store) (es.Checkpoint[S], error) {
	if d.Kind != Documents {
		return d.Projection.Load(ctx, s)
	}
	name := d.Name
	if d.Version > 1 {
		name = fmt.Sprint(name, "@", d.Version)
	}
	infos, err := s.Projections(ctx)
	if err != nil {
		return es.Checkpoint[S]{}, err
	}
	for _, p := range infos {
		if p.Name == name {
			return d.checkpoint(ctx, s, p.Position)
		}
	}
	return es.Checkpoint[S]{}, fmt.Errorf("%w: %q", es.ErrProjectionNotFound, name)
}

// checkpoint reads the document.
func (d *Definition[S]) checkpoint(ctx context.Context, s *es.Store, position es.Position) (es.Checkpoint[S], error) {
	doc, err := d.documents().Get(ctx, s, theKey)
	if errors.Is(err, es.ErrDocumentNotFound) {
		if err = nil; d.Init != nil {
			doc.State = d.Init()
		}
	}
	return es.Checkpoint[S]{Position: position, State: doc.State}, err
}

// Wait is [es.Projection.Wait].
func (d *Definition[S]) Wait(ctx context.Context, s *es.Store, at es.Position) error {
	if d.Kind == Documents {
		return d.documents().Wait(ctx, s, at)
	}
	return d.Projection.Wait(ctx, s, at)
}

// Reset is [es.Projection.Reset].
func (d *Definition[S]) Reset(ctx context.Context, s *es.Store) error {
	if d.Kind == Documents {
		return d.documents().Reset(ctx, s)
	}
	return d.Projection.Reset(ctx, s)
}

// Delete is [es.Projection.Delete].
func (d *Definition[S]) Delete(ctx context.Context, s *es.Store, emitted bool) error {
	if d.Kind == Documents {
		return d.documents().Delete(ctx, s, emitted)
	}
	return d.Projection.Delete(ctx, s, emitted)
}
