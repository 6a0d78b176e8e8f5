package eventstore_test

import (
	"context"
	"errors"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

type (
	open    struct{ Owner string }
	deposit struct{ Cents int64 }
	shut    struct{}
)

var errTooMuch = errors.New("too much at once")

var commanded = es.Aggregate[storetest.Account]{
	Stream: "accounts",
	When:   storetest.Accounts.When,
	Commands: []es.Command[storetest.Account]{
		es.OnCommand(func(_ context.Context, r *es.Root[storetest.Account], c open) error {
			if r.Version() > 0 {
				return errors.New("it is open")
			}
			r.Record(storetest.Opened(c))
			return nil
		}),
		es.OnCommand(func(ctx context.Context, r *es.Root[storetest.Account], c deposit) error {
			r.Record(storetest.Deposited(c))
			if c.Cents > 1000 {
				return errTooMuch
			}
			return ctx.Err()
		}),
	},
	Attempts: 1000,
}

func TestHandle(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts")
		if r, err := commanded.Handle(ctx, s, "a", open{"ann"}); err != nil || r.State().Owner != "ann" || r.Version() != 1 || len(r.Uncommitted()) != 0 {
			t.Fatalf("open: %+v, %v", r, err)
		}
		if r, err := commanded.Handle(ctx, s, "a", &deposit{5}); err != nil || r.State().Cents != 5 {
			t.Fatalf("deposit, by pointer: %v", err)
		}
		// The application's errors come back as they are, with nothing stored.
		if r, err := commanded.Handle(ctx, s, "a", deposit{1001}); err != errTooMuch || r != nil {
			t.Errorf("a deposit of too much: %v, want the very error of the handler", err)
		}
		for _, unknown := range []any{shut{}, nil, (*deposit)(nil), "deposit"} {
			_, err := commanded.Handle(ctx, s, "a", unknown)
			storetest.WantErr(t, "an unknown command", err, es.ErrUnknownCommand)
		}
		for i, err := range storetest.Race(16, func(int) error { _, err := commanded.Handle(ctx, s, "a", deposit{1}); return err }) {
			if err != nil {
				t.Errorf("racer %d: %v", i, err)
			}
		}
		r, err := commanded.Load(ctx, s, "a")
		if err != nil || r.State().Cents != 21 || r.Version() != 18 {
			t.Errorf("in the end %+v at %d (%v), want 21 cents at 18", r.State(), r.Version(), err)
		}

		twice := commanded
		twice.Commands = append(append([]es.Command[storetest.Account](nil), commanded.Commands...), commanded.Commands[0])
		_, err = twice.Handle(ctx, s, "a", open{})
		storetest.WantInvalid(t, "two entries for a type", err, "Aggregate.Commands")
		missing := es.Aggregate[storetest.Account]{Stream: "accounts", When: storetest.Accounts.When, Commands: []es.Command[storetest.Account]{es.OnCommand[open, storetest.Account](nil)}}
		_, err = missing.Handle(ctx, s, "a", open{})
		storetest.WantInvalid(t, "an entry without a function", err, "Aggregate.Commands[0]")
		zero := es.Aggregate[storetest.Account]{Stream: "accounts", When: storetest.Accounts.When, Commands: []es.Command[storetest.Account]{{}}}
		_, err = zero.Handle(ctx, s, "a", open{})
		storetest.WantInvalid(t, "the zero entry", err, "Aggregate.Commands[0]")
	})
}
