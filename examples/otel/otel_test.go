package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"example.com/eventstore"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// telemetry is a store whose spans and metrics stay in memory.
type telemetry struct {
	store      *eventstore.Store
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
	spans      *tracetest.InMemoryExporter
	reader     *sdkmetric.ManualReader
}

func newTelemetry(t *testing.T) *telemetry {
	t.Helper()
	tel := &telemetry{propagator: propagation.TraceContext{}, spans: tracetest.NewInMemoryExporter(), reader: sdkmetric.NewManualReader()}
	traces := sdktrace.NewTracerProvider(sdktrace.WithSyncer(tel.spans))
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(tel.reader))
	t.Cleanup(func() {
		if err := errors.Join(traces.Shutdown(context.Background()), meters.Shutdown(context.Background())); err != nil {
			t.Error(err)
		}
	})
	tel.tracer = traces.Tracer(scope)
	var err error
	if tel.store, err = openStore(tel.tracer, meters.Meter(scope), tel.propagator); err == nil {
		err = tel.store.CreateStream(t.Context(), "accounts", nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

// span returns the nth span of a name.
func (tel *telemetry) span(t *testing.T, name string, nth int) tracetest.SpanStub {
	t.Helper()
	for _, s := range tel.spans.GetSpans() {
		if s.Name == name {
			if nth--; nth == 0 {
				return s
			}
		}
	}
	t.Fatalf("there is no such span %q", name)
	return tracetest.SpanStub{}
}

func (tel *telemetry) events(t *testing.T, stream string) []eventstore.Event {
	t.Helper()
	var events []eventstore.Event
	for ev, err := range tel.store.Read(t.Context(), eventstore.FromStream(stream), eventstore.ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, ev)
	}
	return events
}

// wantProducer compares the span that an event's metadata names.
func (tel *telemetry) wantProducer(t *testing.T, ev eventstore.Event, want tracetest.SpanStub) {
	t.Helper()
	got := trace.SpanContextFromContext(producerOf(tel.propagator, ev))
	if got.TraceID() != want.SpanContext.TraceID() || got.SpanID() != want.SpanContext.SpanID() {
		t.Errorf("event %d, %v, is of span %v, want %v", ev.Position, ev.Metadata, got.SpanID(), want.SpanContext.SpanID())
	}
}

func wantAttribute(t *testing.T, s tracetest.SpanStub, key string, want any) {
	t.Helper()
	set := attribute.NewSet(s.Attributes...)
	if v, _ := set.Value(attribute.Key(key)); v.AsInterface() != want {
		t.Errorf("span %s: %s is %v, want %v", s.Name, key, v.AsInterface(), want)
	}
}

// TestTrace follows a request into its append, over the event into a projection, and into what that
// emits.
func TestTrace(t *testing.T) {
	tel := newTelemetry(t)
	if err := deposit(t.Context(), tel.tracer, tel.store, "A-1", 2_500_000); err != nil {
		t.Fatal(err)
	}
	if _, err := review(tel.tracer, tel.propagator).CatchUp(t.Context(), tel.store); err != nil {
		t.Fatal(err)
	}
	request, appended := tel.span(t, "POST /deposits", 1), tel.span(t, "append accounts", 1)
	if appended.Parent.SpanID() != request.SpanContext.SpanID() {
		t.Error("the append is no child of the request")
	}
	wantAttribute(t, appended, "eventstore.stream", "accounts")
	wantAttribute(t, appended, "eventstore.aggregate", "A-1")
	wantAttribute(t, appended, "eventstore.events", int64(1))
	wantAttribute(t, appended, "eventstore.position", int64(1))
	wantAttribute(t, appended, "eventstore.outcome", "ok")
	tel.wantProducer(t, tel.events(t, "accounts")[0], request)

	handled := tel.span(t, "review account.deposited", 1)
	if handled.Parent.IsValid() || handled.SpanContext.TraceID() == request.SpanContext.TraceID() || handled.SpanKind != trace.SpanKindConsumer {
		t.Error("the projection's span begins no trace of its own")
	}
	if len(handled.Links) != 1 || handled.Links[0].SpanContext.SpanID() != request.SpanContext.SpanID() {
		t.Errorf("the projection's span is linked with %v, want the request", handled.Links)
	}
	tel.wantProducer(t, tel.events(t, "review")[0], handled)
	emitted := tel.span(t, "append review", 1)
	if emitted.Parent.SpanID() != handled.SpanContext.SpanID() {
		t.Error("what the projection emits is no child of its span")
	}
}

// TestFailures shows what becomes of an append that fails: a conflict is none of a span's failures.
func TestFailures(t *testing.T) {
	tel := newTelemetry(t)
	ctx := t.Context()
	ev := eventstore.NewEvent{Payload: deposited{1}}
	if _, err := tel.store.Append(ctx, "accounts", "A-1", 7, ev); !errors.Is(err, eventstore.ErrConflict) {
		t.Fatal(err)
	}
	conflict := tel.span(t, "append accounts", 1)
	wantAttribute(t, conflict, "eventstore.outcome", "conflict")
	if conflict.Status.Code != codes.Unset {
		t.Errorf("after a conflict the span is %v", conflict.Status)
	}
	if _, err := tel.store.Append(ctx, "cards", "A-1", 0, ev); !errors.Is(err, eventstore.ErrStreamNotFound) {
		t.Fatal(err)
	}
	failed := tel.span(t, "append cards", 1)
	wantAttribute(t, failed, "eventstore.outcome", "error")
	if failed.Status.Code != codes.Error || len(failed.Events) != 1 {
		t.Errorf("after a failure the span is %v with %v", failed.Status, failed.Events)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := tel.store.Append(gone, "accounts", "A-1", 0, ev); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	wantAttribute(t, tel.span(t, "append accounts", 2), "eventstore.outcome", "canceled")
}

// TestHandlerFails shows a handler's error on its span, once for each try.
func TestHandlerFails(t *testing.T) {
	tel := newTelemetry(t)
	if err := deposit(t.Context(), tel.tracer, tel.store, "A-1", 1); err != nil {
		t.Fatal(err)
	}
	failing := eventstore.Projection[int]{
		Name: "failing", From: eventstore.FromAll(),
		When: []eventstore.Handler[int]{
			traced(tel.tracer, tel.propagator, "failing", func(context.Context, *eventstore.Step[int], deposited) error {
				return errors.New("out of paper")
			}),
		},
		OnError: func(_ context.Context, _ eventstore.Event, _ error, attempt int) eventstore.ErrorAction {
			if attempt == 1 {
				return eventstore.Retry
			}
			return eventstore.Park
		},
	}
	if _, err := failing.CatchUp(t.Context(), tel.store); err != nil {
		t.Fatal(err)
	}
	for try := range 2 {
		if s := tel.span(t, "failing account.deposited", try+1); s.Status != (sdktrace.Status{Code: codes.Error, Description: "out of paper"}) {
			t.Errorf("try %d: the span is %v", try+1, s.Status)
		}
	}
	tel.wantMetrics(t, `eventstore.projection.parked eventstore.projection=failing 1`)
}

// TestUntraced appends without a span: nothing is added to the metadata, and nothing is linked.
func TestUntraced(t *testing.T) {
	tel := newTelemetry(t)
	md := eventstore.Metadata{"by": "Ann"}
	if _, err := tel.store.Append(t.Context(), "accounts", "A-1", 0, eventstore.NewEvent{Payload: deposited{1}, Metadata: md}); err != nil {
		t.Fatal(err)
	}
	if got := tel.events(t, "accounts")[0].Metadata; !maps.Equal(got, md) {
		t.Errorf("the metadata is %v, want %v", got, md)
	}
	if _, err := review(tel.tracer, tel.propagator).CatchUp(t.Context(), tel.store); err != nil {
		t.Fatal(err)
	}
	if links := tel.span(t, "review account.deposited", 1).Links; len(links) != 0 {
		t.Errorf("the projection's span is linked with %v", links)
	}
}

func TestMetrics(t *testing.T) {
	tel := newTelemetry(t)
	ctx := t.Context()
	projection := review(tel.tracer, tel.propagator)
	for range 3 {
		if err := deposit(ctx, tel.tracer, tel.store, "A-1", 1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := projection.CatchUp(ctx, tel.store); err != nil {
		t.Fatal(err)
	}
	if _, err := tel.store.Append(ctx, "accounts", "A-1", 0, eventstore.NewEvent{Payload: deposited{1}}); err == nil {
		t.Fatal("there is no conflict")
	}
	// The three deposits have read 0, 1 and 2 events, and the projection 3.
	tel.wantMetrics(t,
		`eventstore.append.duration eventstore.outcome=ok,eventstore.stream=accounts 3`,
		`eventstore.append.duration eventstore.outcome=conflict,eventstore.stream=accounts 1`,
		`eventstore.events.appended eventstore.stream=accounts 3`,
		`eventstore.events.read eventstore.stream=accounts 6`,
		`eventstore.sealed.lag  0`,
		`eventstore.sealing.waited  0`,
		`eventstore.projection.lag eventstore.projection=review 0`,
		`eventstore.projection.behind eventstore.projection=review 0`,
		`eventstore.projection.running eventstore.projection=review 0`,
	)
	if err := deposit(ctx, tel.tracer, tel.store, "A-1", 1); err != nil {
		t.Fatal(err)
	}
	tel.wantMetrics(t, `eventstore.projection.lag eventstore.projection=review 1`)

	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- projection.Run(running, tel.store) }()
	if err := projection.Wait(ctx, tel.store, 4); err != nil {
		t.Error(err)
	}
	tel.wantMetrics(t, `eventstore.projection.lag eventstore.projection=review 0`, `eventstore.projection.running eventstore.projection=review 1`)
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// wantMetrics looks for series, each given as name, attributes, and value or count.
func (tel *telemetry) wantMetrics(t *testing.T, want ...string) {
	t.Helper()
	var collected metricdata.ResourceMetrics
	if err := tel.reader.Collect(t.Context(), &collected); err != nil {
		t.Fatal(err)
	}
	var got []string
	add := func(name string, attrs attribute.Set, value any) {
		got = append(got, fmt.Sprintf("%s %s %v", name, attrs.Encoded(attribute.DefaultEncoder()), value))
	}
	for _, m := range collected.ScopeMetrics[0].Metrics {
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range data.DataPoints {
				add(m.Name, p.Attributes, p.Value)
			}
		case metricdata.Gauge[int64]:
			for _, p := range data.DataPoints {
				add(m.Name, p.Attributes, p.Value)
			}
		case metricdata.Gauge[float64]:
			for _, p := range data.DataPoints {
				add(m.Name, p.Attributes, p.Value)
			}
		case metricdata.Histogram[float64]:
			for _, p := range data.DataPoints {
				add(m.Name, p.Attributes, p.Count)
			}
		}
	}
	for _, series := range want {
		if !slices.Contains(got, series) {
			t.Errorf("there is no %s in\n%s", series, strings.Join(got, "\n"))
		}
	}
}

// TestRun runs the program.
func TestRun(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	const want = `trace 1
  POST /deposits
    append accounts
trace 2
  POST /deposits
    append accounts
trace 3
  review account.deposited  (about trace 1)
trace 4
  review account.deposited  (about trace 2)
    append review
metrics
`
	if !strings.HasPrefix(out.String(), want) {
		t.Errorf("it wrote\n%s\nwant it to begin\n%s", out.String(), want)
	}
}
