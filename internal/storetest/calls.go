package storetest

import (
	"context"

	es "example.com/eventstore"
)

// Call is one operation of a store.
type Call struct {
	Name string
	Call func(context.Context, *es.Store) error
}

// EveryCall is every operation that needs a store's tables, with valid arguments.
var EveryCall = []Call{
	{"CreateStream", func(ctx context.Context, s *es.Store) error { return s.CreateStream(ctx, "accounts", nil) }},
	{"HasStream", func(ctx context.Context, s *es.Store) error { _, err := s.HasStream(ctx, "accounts"); return err }},
	{"Streams", func(ctx context.Context, s *es.Store) error { _, err := s.Streams(ctx, ""); return err }},
	{"SetStreamMetadata", func(ctx context.Context, s *es.Store) error { return s.SetStreamMetadata(ctx, "accounts", nil) }},
	{"Append", func(ctx context.Context, s *es.Store) error {
		_, err := s.Append(ctx, "accounts", "a", es.AnyVersion, Deposits(1, 1)...)
		return err
	}},
	{"Append at a version", func(ctx context.Context, s *es.Store) error {
		_, err := s.Append(ctx, "accounts", "a", 1, Deposits(30, 1)...)
		return err
	}},
	{"Read", func(ctx context.Context, s *es.Store) error {
		return FirstError(s.Read(ctx, es.FromAll(), es.ReadOptions{}))
	}},
	{"Read backward", func(ctx context.Context, s *es.Store) error {
		return FirstError(s.Read(ctx, append(es.FromStreams("accounts", "cards"), es.FromCategory("order")...), es.ReadOptions{Backward: true}))
	}},
	{"Read sealed", func(ctx context.Context, s *es.Store) error {
		return FirstError(s.Read(ctx, es.FromAll(), es.ReadOptions{Sealed: true}))
	}},
	{"ReadAggregate", func(ctx context.Context, s *es.Store) error {
		return FirstError(s.ReadAggregate(ctx, "accounts", "a", 0))
	}},
	{"Subscribe", func(ctx context.Context, s *es.Store) error { return FirstError(s.Subscribe(ctx, es.FromAll(), 0)) }},
	{"Sealed", func(ctx context.Context, s *es.Store) error { _, err := s.Sealed(ctx); return err }},
	{"Stats", func(ctx context.Context, s *es.Store) error { _, err := s.Stats(ctx); return err }},
	{"Load", func(ctx context.Context, s *es.Store) error { _, err := Accounts.Load(ctx, s, "a"); return err }},
	{"Save", func(ctx context.Context, s *es.Store) error {
		r := Accounts.New("a")
		r.Record(Opened{"ann"})
		_, err := Accounts.Save(ctx, s, r)
		return err
	}},
	{"Execute", func(ctx context.Context, s *es.Store) error {
		_, err := Accounts.Execute(ctx, s, "a", func(r *es.Root[Account]) error {
			r.Record(Deposited{1})
			return nil
		})
		return err
	}},
	{"Query.Run", func(ctx context.Context, s *es.Store) error {
		_, err := (&es.Query[Account]{From: es.FromAll(), When: Accounts.When}).Run(ctx, s)
		return err
	}},
	{"DeleteStream", func(ctx context.Context, s *es.Store) error { return s.DeleteStream(ctx, "accounts") }},
}

// FirstError reads until the first event or error, and returns the error.
func FirstError(seq func(yield func(es.Event, error) bool)) error {
	for _, err := range seq {
		return err
	}
	return nil
}

// Second returns the error of a call that returns another value too.
func Second[T any](_ T, err error) error { return err }
