package main

import (
	"context"
	"errors"
	"time"

	"example.com/eventstore"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// measure counts and times what goes through a store:
//
//	eventstore.append.duration   histogram, seconds, by stream and outcome; its count is that of appends
//	eventstore.events.appended   counter, by stream; a repeated append counts again
//	eventstore.events.read       counter, by stream
func measure(meter metric.Meter) (eventstore.Middleware, error) {
	duration, err1 := meter.Float64Histogram("eventstore.append.duration", metric.WithUnit("s"),
		metric.WithDescription("How long appends take."))
	appended, err2 := meter.Int64Counter("eventstore.events.appended", metric.WithUnit("{event}"),
		metric.WithDescription("Events that appends have returned as stored."))
	read, err3 := meter.Int64Counter("eventstore.events.read", metric.WithUnit("{event}"),
		metric.WithDescription("Events read, by whatever reads."))
	return eventstore.Middleware{
		Append: func(ctx context.Context, b eventstore.Batch, next func(context.Context, eventstore.Batch) ([]eventstore.Event, error)) ([]eventstore.Event, error) {
			stream := attribute.String("eventstore.stream", b.Stream)
			start := time.Now()
			stored, err := next(ctx, b)
			duration.Record(ctx, time.Since(start).Seconds(), metric.WithAttributes(stream, attribute.String("eventstore.outcome", outcome(err))))
			appended.Add(ctx, int64(len(stored)), metric.WithAttributes(stream))
			return stored, err
		},
		Load: func(ctx context.Context, ev eventstore.Event) (eventstore.Event, error) {
			read.Add(ctx, 1, metric.WithAttributes(attribute.String("eventstore.stream", ev.Stream)))
			return ev, nil
		},
	}, errors.Join(err1, err2, err3)
}

// observe reports on sealing and on all projections and relays of a store whenever metrics are
// collected, from any process that has the store:
//
//	eventstore.sealed.lag          gauge: positions that exist and are not sealed yet
//	eventstore.sealing.waited      gauge, seconds: how long sealing has been waiting for one transaction
//	eventstore.projection.lag      gauge: positions behind, an upper bound of the events to come
//	eventstore.projection.behind   gauge, seconds: age of the first event to come
//	eventstore.projection.parked   gauge: events set aside
//	eventstore.projection.running  gauge: 1 if somebody runs it, or 0
func observe(meter metric.Meter, store *eventstore.Store) error {
	unsealed, err1 := meter.Int64ObservableGauge("eventstore.sealed.lag",
		metric.WithDescription("How many positions exist that are not sealed yet."))
	waited, err2 := meter.Float64ObservableGauge("eventstore.sealing.waited", metric.WithUnit("s"),
		metric.WithDescription("How long sealing has been waiting for one transaction."))
	lag, err3 := meter.Int64ObservableGauge("eventstore.projection.lag",
		metric.WithDescription("How many positions a projection is behind."))
	behind, err4 := meter.Float64ObservableGauge("eventstore.projection.behind", metric.WithUnit("s"),
		metric.WithDescription("How long ago the first event that a projection has not got to was recorded."))
	parked, err5 := meter.Int64ObservableGauge("eventstore.projection.parked", metric.WithUnit("{event}"),
		metric.WithDescription("Events that a projection has set aside."))
	running, err6 := meter.Int64ObservableGauge("eventstore.projection.running",
		metric.WithDescription("Whether a projection is being run."))
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return err
	}
	_, err := meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		stats, err := store.Stats(ctx)
		if err != nil {
			return err
		}
		o.ObserveInt64(unsealed, stats.Lag)
		o.ObserveFloat64(waited, stats.Waited.Seconds())
		for _, p := range stats.Projections {
			name := metric.WithAttributes(attribute.String("eventstore.projection", p.Name))
			o.ObserveInt64(lag, p.Lag, name)
			o.ObserveFloat64(behind, p.Behind.Seconds(), name)
			o.ObserveInt64(parked, int64(p.Parked), name)
			isRunning := int64(0)
			if p.Owner != "" {
				isRunning = 1
			}
			o.ObserveInt64(running, isRunning, name)
		}
		return nil
	}, unsealed, waited, lag, behind, parked, running)
	return err
}
