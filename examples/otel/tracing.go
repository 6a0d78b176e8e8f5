package main

import (
	"context"
	"errors"

	"example.com/eventstore"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// traceAppends makes a span for every append, and so for every attempt of Execute and Handle. An
// aggregate ID is a fine attribute of a span; it would be a bad one of a metric.
func traceAppends(tracer trace.Tracer) eventstore.Middleware {
	return eventstore.Middleware{
		Append: func(ctx context.Context, b eventstore.Batch, next func(context.Context, eventstore.Batch) ([]eventstore.Event, error)) ([]eventstore.Event, error) {
			ctx, span := tracer.Start(ctx, "append "+b.Stream, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
				attribute.String("eventstore.stream", b.Stream),
				attribute.String("eventstore.aggregate", b.AggregateID),
				attribute.Int("eventstore.events", len(b.Events)),
			))
			defer span.End()
			stored, err := next(ctx, b)
			if len(stored) > 0 {
				span.SetAttributes(attribute.Int64("eventstore.position", int64(stored[len(stored)-1].Position)))
			}
			span.SetAttributes(attribute.String("eventstore.outcome", outcome(err)))
			fail(span, err)
			return stored, err
		},
	}
}

// outcome sorts errors for attributes, which must not be many.
func outcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, eventstore.ErrConflict):
		return "conflict"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "canceled"
	}
	return "error"
}

// fail marks a span as failed. That another append was faster is no failure.
func fail(span trace.Span, err error) {
	if err != nil && !errors.Is(err, eventstore.ErrConflict) {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
}

// traced makes a span for every event that a projection handles: what the handler does with its ctx
// is a child of it, down to the events that it emits.
//
// The span begins a trace of its own, linked with that of whoever appended the event: a projection
// that is built anew takes in years of events, and must not make requests of last year grow.
func traced[E eventstore.Payload, S any](tracer trace.Tracer, p propagation.TextMapPropagator, projection string,
	handle func(ctx context.Context, step *eventstore.Step[S], e E) error) eventstore.Effect[S] {
	return eventstore.Do(func(ctx context.Context, step *eventstore.Step[S], e E) error {
		ctx, span := startConsumer(ctx, tracer, p, projection, step.Event)
		defer span.End()
		err := handle(ctx, step, e)
		fail(span, err)
		return err
	})
}

// startConsumer begins a span for an event's turn, in a projection or wherever else it is consumed.
func startConsumer(ctx context.Context, tracer trace.Tracer, p propagation.TextMapPropagator, consumer string, ev eventstore.Event) (context.Context, trace.Span) {
	opts := []trace.SpanStartOption{
		trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
			attribute.String("eventstore.stream", ev.Stream),
			attribute.String("eventstore.aggregate", ev.AggregateID),
			attribute.String("eventstore.event", ev.Name),
			attribute.Int64("eventstore.position", int64(ev.Position)),
		)}
	if producer := trace.LinkFromContext(producerOf(p, ev)); producer.SpanContext.IsValid() {
		opts = append(opts, trace.WithLinks(producer))
	}
	return tracer.Start(ctx, consumer+" "+ev.Name, opts...)
}
