package main

import (
	"context"

	"example.com/eventstore"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// The domain of the example: accounts, and a projection that emits an event of its own.

type deposited struct {
	Cents int64 `json:"cents"`
}

type flagged struct {
	Cents int64 `json:"cents"`
}

func (deposited) EventName() string { return "account.deposited" }
func (flagged) EventName() string   { return "account.flagged" }

type account struct{ Cents int64 }

var accounts = eventstore.Aggregate[account]{
	Stream: "accounts",
	When: []eventstore.Fold[account]{
		eventstore.On(func(a *account, e deposited) { a.Cents += e.Cents }),
	},
}

// review is the projection "review": it flags large deposits.
func review(tracer trace.Tracer, p propagation.TextMapPropagator) *eventstore.Projection[int] {
	return &eventstore.Projection[int]{
		Name: "review", From: eventstore.FromStream("accounts"),
		When: []eventstore.Handler[int]{
			traced(tracer, p, "review", func(ctx context.Context, step *eventstore.Step[int], e deposited) error {
				if e.Cents < 1_000_000 {
					return nil
				}
				*step.State++
				return step.Emit(ctx, eventstore.NewEvent{Payload: flagged(e)})
			}),
		},
	}
}
