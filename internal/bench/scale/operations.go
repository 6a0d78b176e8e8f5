package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	es "example.com/eventstore"
)

type deposited struct {
	Account string `json:"account"`
	Cents   int64  `json:"cents"`
	Note    string `json:"note"`
	Teller  int    `json:"teller"`
}

func (deposited) EventName() string { return "account.deposited" }

type opened struct{}

func (opened) EventName() string { return "account.opened" }

// account takes both events.
type account struct{ Cents, Events int64 }

var folds = []es.Fold[account]{
	es.On(func(a *account, e deposited) { a.Cents += e.Cents; a.Events++ }),
	es.On(func(a *account, _ opened) { a.Events++ }),
}

// operation is something that is done with a store; run says how long it took.
type operation struct {
	name string
	run  func(l *filled, ctx context.Context, round int) (time.Duration, error)
}

// The reads go to the same few places in a log again and again, spread over all of it, so that they
// show what its length costs and not what the cache holds; "anywhere" goes to another place each time.
var operations = []operation{
	{"append", timed(200, (*filled).append)},
	{"load 100", timed(100, func(l *filled, ctx context.Context, i int) error { return l.load(ctx, l.spot(i, 20)) })},
	{"load 100 anywhere", timed(50, func(l *filled, ctx context.Context, _ int) error {
		return l.load(ctx, rand.IntN(l.events/block))
	})},
	{"read 100 of one stream", timed(50, (*filled).readStream)},
	{"read 10 of a rare name", timed(20, (*filled).readRare)},
	{"read a stream of 1000 that begins late", timed(20, func(l *filled, ctx context.Context, _ int) error {
		return l.readAll(ctx, es.FromStream("late"), late, false)
	})},
	{"the same, backward", timed(20, func(l *filled, ctx context.Context, _ int) error {
		return l.readAll(ctx, es.FromStream("late"), late, true)
	})},
	{"read a category of ten streams with 100 in all", timed(20, func(l *filled, ctx context.Context, _ int) error {
		return l.readAll(ctx, es.FromCategory("ten"), ten, false)
	})},
	{"look at what is sealed", timed(100, func(l *filled, ctx context.Context, _ int) error { _, err := l.store.Sealed(ctx); return err })},
	{"catch up with 10 events at the end", (*filled).catchUpTail},
	{"catch up with a rare name over the last 100,000", (*filled).catchUpRare},
}

// timed does fn so many times and says how long one took.
func timed(n int, fn func(l *filled, ctx context.Context, i int) error) func(*filled, context.Context, int) (time.Duration, error) {
	return func(l *filled, ctx context.Context, _ int) (time.Duration, error) {
		began := time.Now()
		for i := range n {
			if err := fn(l, ctx, i); err != nil {
				return 0, err
			}
		}
		return time.Since(began) / time.Duration(n), nil
	}
}

// spot returns the block at one of so many places, which are spread over the log.
func (l *filled) spot(i, places int) int { return i % places * (l.events / block) / places }

func (l *filled) append(ctx context.Context, i int) error {
	_, err := l.store.Append(ctx, streamName(i), fmt.Sprintf("new-%02d", i%20), es.AnyVersion, es.NewEvent{Payload: deposited{"account-123", 7, "paid in at the counter", 3}})
	return err
}

// load loads an aggregate of a block.
func (l *filled) load(ctx context.Context, in int) error {
	a := es.Aggregate[account]{Stream: streamName(7), When: folds}
	r, err := a.Load(ctx, l.store, aggregateID(in, 7))
	if err == nil && r.State().Events != length {
		err = fmt.Errorf("%d events, want %d", r.State().Events, length)
	}
	return err
}

func (l *filled) readStream(ctx context.Context, i int) error {
	return l.read(ctx, es.FromStream(streamName(i)), es.Position(l.spot(i, 10)*block/2), 100)
}

func (l *filled) readRare(ctx context.Context, i int) error {
	return l.read(ctx, es.FromAll(es.ByEventName.Equals("account.opened")), es.Position(l.spot(i, 5)*block/2), 10)
}

// readAll reads all that a selection picks.
func (l *filled) readAll(ctx context.Context, from es.Selection, n int, backward bool) error {
	got := 0
	for _, err := range l.store.Read(ctx, from, es.ReadOptions{Backward: backward}) {
		if err != nil {
			return err
		}
		got++
	}
	if got != n {
		return fmt.Errorf("%d events, want %d", got, n)
	}
	return nil
}

func (l *filled) read(ctx context.Context, from es.Selection, after es.Position, n int) error {
	got := 0
	for _, err := range l.store.Read(ctx, from, es.ReadOptions{After: after, Limit: n}) {
		if err != nil {
			return err
		}
		got++
	}
	if got != n {
		return fmt.Errorf("%d events, want %d", got, n)
	}
	return nil
}

// catchUpTail lets a projection that has taken in everything take in what has come since.
func (l *filled) catchUpTail(ctx context.Context, round int) (time.Duration, error) {
	p := &es.Projection[account]{Name: "tail", From: es.FromAll(), When: []es.Handler[account]{folds[0], folds[1]}}
	if round == 0 {
		if err := l.place(ctx, p.Name, l.events); err != nil {
			return 0, err
		}
	}
	if _, err := p.CatchUp(ctx, l.store); err != nil { // what other operations have appended
		return 0, err
	}
	for i := range 10 {
		if err := l.append(ctx, i); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	_, err := p.CatchUp(ctx, l.store)
	return time.Since(began), err
}

// catchUpRare lets a projection that wants only the rare name go through the last 100,000 events.
func (l *filled) catchUpRare(ctx context.Context, round int) (time.Duration, error) {
	p := &es.Projection[account]{Name: fmt.Sprintf("rare-%d", round), From: es.FromAll(), When: []es.Handler[account]{folds[1]}}
	if err := l.place(ctx, p.Name, l.events-chunk); err != nil {
		return 0, err
	}
	began := time.Now()
	cp, err := p.CatchUp(ctx, l.store)
	took := time.Since(began)
	if err == nil && cp.State.Events != chunk/1000 {
		err = fmt.Errorf("%d events, want %d", cp.State.Events, chunk/1000)
	}
	return took, err
}

// place makes a projection that is at a position.
func (l *filled) place(ctx context.Context, name string, at int) error {
	_, err := l.db.ExecContext(ctx, "INSERT INTO "+l.prefix+`projections
(name, position, status, owner, epoch, generation, lease_until, read_model, retry, error)
VALUES ($1, $2, 'idle', '', 1, 1, statement_timestamp(), false, false, '')`, name, at)
	return err
}
