package main

import (
	"context"

	"example.com/eventstore"
	"go.opentelemetry.io/otel/propagation"
)

// carrier lets a propagator write into an event's metadata ("traceparent", "tracestate", "baggage")
// and read from it.
type carrier eventstore.Metadata

func (c carrier) Set(key, value string) { c[key] = value }

func (c carrier) Get(key string) string {
	s, _ := c[key].(string)
	return s
}

func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for key := range c {
		keys = append(keys, key)
	}
	return keys
}

// traceMetadata is for [eventstore.Options].Metadata: every event gets the trace context of whoever
// appends it, and so do those that a projection emits.
func traceMetadata(p propagation.TextMapPropagator) func(context.Context) eventstore.Metadata {
	return func(ctx context.Context) eventstore.Metadata {
		md := eventstore.Metadata{}
		p.Inject(ctx, carrier(md))
		return md
	}
}

// producerOf returns a context that carries the trace context of whoever appended an event.
func producerOf(p propagation.TextMapPropagator, ev eventstore.Event) context.Context {
	return p.Extract(context.Background(), carrier(ev.Metadata))
}
