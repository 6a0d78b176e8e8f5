// Command otel traces and measures an event store with OpenTelemetry. See README.md.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"example.com/eventstore"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// scope names the instrumentation.
const scope = "example.com/eventstore/examples/otel"

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "otel:", err)
		os.Exit(1)
	}
}

// openStore returns a store that is traced and measured. Over a database it is eventstore.Open with
// the same options.
func openStore(tracer trace.Tracer, meter metric.Meter, p propagation.TextMapPropagator) (*eventstore.Store, error) {
	measuring, err := measure(meter)
	if err != nil {
		return nil, err
	}
	store := eventstore.NewMemStore(&eventstore.Options{
		Metadata:   traceMetadata(p),
		Middleware: []eventstore.Middleware{traceAppends(tracer), measuring},
	})
	return store, observe(meter, store)
}

// run deposits money, has the projection look at it, and writes the spans and the metrics. A service
// has exporters for a collector in the place of these in memory.
func run(ctx context.Context, w io.Writer) error {
	spans := tracetest.NewInMemoryExporter()
	traces := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	defer func() { _ = traces.Shutdown(ctx) }()
	reader := sdkmetric.NewManualReader()
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	defer func() { _ = meters.Shutdown(ctx) }()
	tracer, propagator := traces.Tracer(scope), propagation.TraceContext{}

	store, err := openStore(tracer, meters.Meter(scope), propagator)
	if err != nil {
		return err
	}
	// A projection makes the stream that it emits to when it is missing; then its first span shows
	// an append that has failed.
	if err := store.CreateStream(ctx, "accounts", nil); err != nil {
		return err
	}
	for _, cents := range []int64{100, 2_500_000} {
		if err := deposit(ctx, tracer, store, "A-1", cents); err != nil {
			return err
		}
	}
	if _, err := review(tracer, propagator).CatchUp(ctx, store); err != nil {
		return err
	}

	writeSpans(w, spans.GetSpans())
	var collected metricdata.ResourceMetrics
	if err := reader.Collect(ctx, &collected); err != nil {
		return err
	}
	writeMetrics(w, collected)
	return nil
}

// deposit is a request, with the span that a service's HTTP middleware makes for it.
func deposit(ctx context.Context, tracer trace.Tracer, store *eventstore.Store, id string, cents int64) error {
	ctx, span := tracer.Start(ctx, "POST /deposits", trace.WithSpanKind(trace.SpanKindServer))
	defer span.End()
	_, err := accounts.Execute(ctx, store, id, func(r *eventstore.Root[account]) error {
		r.Record(deposited{cents})
		return nil
	})
	return err
}

// writeSpans writes each trace as a tree, in the order in which they began.
func writeSpans(w io.Writer, spans tracetest.SpanStubs) {
	number := map[trace.TraceID]int{}
	var below func(parent trace.SpanID, t trace.TraceID, indent string)
	below = func(parent trace.SpanID, t trace.TraceID, indent string) {
		for _, s := range spans {
			if s.SpanContext.TraceID() == t && s.Parent.SpanID() == parent {
				fmt.Fprintf(w, "%s%s", indent, s.Name)
				for _, link := range s.Links {
					fmt.Fprintf(w, "  (about trace %d)", number[link.SpanContext.TraceID()])
				}
				fmt.Fprintln(w)
				below(s.SpanContext.SpanID(), t, indent+"  ")
			}
		}
	}
	for _, s := range spans {
		t := s.SpanContext.TraceID()
		if number[t] == 0 {
			number[t] = len(number) + 1
			fmt.Fprintf(w, "trace %d\n", number[t])
			below(trace.SpanID{}, t, "  ")
		}
	}
}

// writeMetrics writes a line for each series.
func writeMetrics(w io.Writer, collected metricdata.ResourceMetrics) {
	fmt.Fprintln(w, "metrics")
	line := func(name string, attrs attribute.Set, value any) {
		text := fmt.Sprintf("  %-31s %3v  %s", name, value, attrs.Encoded(attribute.DefaultEncoder()))
		fmt.Fprintln(w, strings.TrimRight(text, " "))
	}
	for _, scope := range collected.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					line(m.Name, p.Attributes, p.Value)
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					line(m.Name, p.Attributes, p.Value)
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					line(m.Name, p.Attributes, fmt.Sprintf("%.1f", p.Value))
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					line(m.Name+" (n)", p.Attributes, p.Count)
				}
			}
		}
	}
}
