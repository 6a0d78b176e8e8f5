package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	es "example.com/eventstore"
)

func (b *databaseBench) appends() []benchCase {
	var out []benchCase
	for _, c := range []struct {
		events, writers int
		goal            float64
	}{{1, 1, .90}, {1, 16, 1.1}, {1, 64, 2.5}, {10, 16, .95}, {1000, 1, .85}} {
		out = append(out, benchCase{
			name: fmt.Sprintf("append %d x %d", c.events, c.writers), unit: "appends", goal: c.goal,
			lib: b.writers(c.events, c.writers, b.libAppend), raw: b.writers(c.events, c.writers, b.rawAppend),
		})
	}
	return append(out, benchCase{
		name: "execute on 10 events", unit: "commands", goal: .90,
		lib: b.pooled(libPrefix, b.libExecute), raw: b.pooled(rawPrefix, b.rawExecute),
	})
}

// appendsBeside are appends with something else going on, compared with appends without.
func (b *databaseBench) appendsBeside() []benchCase {
	return []benchCase{
		{name: "append 1 x 4 while a projection follows, to without", unit: "appends", goal: .85, lib: b.followed, raw: b.writers(1, 4, b.libAppend)},
		{name: "append 1 x 16 while sealing, to without", unit: "appends", goal: .85, lib: b.whileSealing, raw: b.writers(1, 16, b.libAppend)},
	}
}

// appender appends rows as the next versions of an aggregate.
type appender func(ctx context.Context, aggregate string, version int, rows []deposited) error

// writers has n writers append, each to an aggregate of its own.
func (b *databaseBench) writers(rows, n int, fn appender) side {
	return func(ctx context.Context, d time.Duration) (int, time.Duration, error) {
		began := time.Now()
		var done atomic.Int64
		err := together(n, func() error {
			aggregate, version := b.newAccount(), 0
			for time.Since(began) < d {
				evs := make([]deposited, rows)
				for i := range evs {
					evs[i] = deposit(version + i)
				}
				if err := fn(ctx, aggregate, version, evs); err != nil {
					return err
				}
				version += rows
				done.Add(1)
			}
			return nil
		})
		return int(done.Load()), time.Since(began), err
	}
}

// newAccount names an aggregate that is not there yet.
func (b *databaseBench) newAccount() string { return fmt.Sprintf("new-%07d", b.next.Add(1)) }

func (b *databaseBench) libAppend(ctx context.Context, aggregate string, version int, rows []deposited) error {
	evs := make([]es.NewEvent, len(rows))
	for i := range evs {
		evs[i].Payload = rows[i]
	}
	_, err := b.stores[libPrefix].Append(ctx, "accounts", aggregate, es.ExpectedVersion(version), evs...)
	return err
}

func (b *databaseBench) rawAppend(ctx context.Context, aggregate string, version int, rows []deposited) error {
	evs := make([]rawEvent, len(rows))
	for i := range evs {
		evs[i] = rawEvent{"accounts", aggregate, version + i + 1, rows[i]}
	}
	return b.insert(ctx, rawPrefix, evs)
}

// pooled does fn with one after the other of aggregates of about 10 events, which are made before
// each round.
func (b *databaseBench) pooled(prefix string, fn func(ctx context.Context, aggregate string) error) side {
	const aggregates, each = 500, 9
	return func(ctx context.Context, d time.Duration) (int, time.Duration, error) {
		names := make([]string, aggregates)
		for i := range names {
			names[i] = b.newAccount()
		}
		if err := b.fill(ctx, prefix, aggregates*each, func(i int) rawEvent {
			return rawEvent{"accounts", names[i/each], i%each + 1, deposit(i)}
		}); err != nil {
			return 0, 0, err
		}
		next := 0
		return repeated(func(ctx context.Context) error {
			next++
			return fn(ctx, names[next%aggregates])
		})(ctx, d)
	}
}

func (b *databaseBench) libExecute(ctx context.Context, aggregate string) error {
	_, err := accounts.Execute(ctx, b.stores[libPrefix], aggregate, func(r *es.Root[account]) error {
		r.Record(deposit(int(r.State().Deposits)))
		return nil
	})
	return err
}

func (b *databaseBench) rawExecute(ctx context.Context, aggregate string) error {
	var a account
	n, err := b.selectAggregate(ctx, rawPrefix, aggregate, 0, &a)
	if err != nil {
		return err
	}
	e := deposit(int(a.Deposits))
	a.add(e)
	return b.rawAppend(ctx, aggregate, n, []deposited{e})
}

// followed appends while a projection takes in what is appended.
func (b *databaseBench) followed(ctx context.Context, d time.Duration) (int, time.Duration, error) {
	s := b.stores[libPrefix]
	p := &es.Projection[account]{Name: "follower", From: es.FromAll(), When: []es.Handler[account]{es.On((*account).add)}}
	if _, err := p.CatchUp(ctx, s); err != nil {
		return 0, 0, err
	}
	return b.beside(ctx, d, 4, func(ctx context.Context) error { return p.Run(ctx, s) })
}

// whileSealing appends while somebody looks for what is sealed, again and again.
func (b *databaseBench) whileSealing(ctx context.Context, d time.Duration) (int, time.Duration, error) {
	s := b.stores[libPrefix]
	if _, err := s.Sealed(ctx); err != nil {
		return 0, 0, err
	}
	return b.beside(ctx, d, 16, func(ctx context.Context) error {
		for {
			if _, err := s.Sealed(ctx); err != nil {
				return err
			}
		}
	})
}

// beside has writers append while fn runs, until its context ends.
func (b *databaseBench) beside(ctx context.Context, d time.Duration, writers int, fn func(context.Context) error) (int, time.Duration, error) {
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- fn(running) }()
	n, took, err := b.writers(1, writers, b.libAppend)(ctx, d)
	stop()
	if e := <-ended; running.Err() == nil || !errors.Is(e, context.Canceled) {
		err = errors.Join(err, e)
	}
	return n, took, err
}
