package storm_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// commits are the commits whose events are not yet seen to be sealed, and how long it took for the others.
type commits struct {
	mu     sync.Mutex
	open   []commit
	delays []time.Duration
}

type commit struct {
	at   time.Time
	last es.Position
}

func (c *commits) add(stored []es.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = append(c.open, commit{time.Now(), stored[len(stored)-1].Position})
}

func (c *commits) sealed(p es.Position) (left int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.open = slices.DeleteFunc(c.open, func(o commit) bool {
		if o.last <= p {
			c.delays = append(c.delays, now.Sub(o.at))
		}
		return o.last <= p
	})
	return len(c.open)
}

// TestSealingUnderStorm has 16 writers append alone, and in transactions that stay open for up to 60 ms, of
// which 30 of 100 are rolled back: to many aggregates, and to few, which others delete meanwhile. It measures
// the time from a commit until the sealed position has passed its events, and how long a projection takes to
// catch up at the end.
func TestSealingUnderStorm(t *testing.T) {
	const (
		writers = 16
		lasts   = 3 * time.Second
		limit   = 2 * time.Second
	)
	storm := func(t *testing.T, l storetest.Lane, aggregates, deletes int) {
		s, other := l.OpenTwice(t)
		storetest.CreateStream(t, s, "accounts")
		var all commits
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		reader := make(chan error, 1)
		go func() {
			for {
				p, err := other.Sealed(ctx)
				if err != nil {
					reader <- err
					return
				}
				all.sealed(p)
				_ = storetest.Pause(ctx, 2*time.Millisecond)
			}
		}()
		projection := storetest.TotalsOf("totals")
		run := make(chan error, 1)
		go func() { run <- projection.Run(ctx, s) }()

		began := time.Now()
		for w, err := range storetest.Race(writers, func(w int) error {
			for time.Since(began) < lasts {
				var err error
				if id := fmt.Sprint("a", rand.N(aggregates)); rand.N(100) < deletes {
					err = deleteOnce(t, l, s, w, id)
				} else {
					err = stormOnce(t, l, s, &all, id)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}) {
			if err != nil {
				t.Errorf("writer %d: %v", w, err)
			}
		}
		began = time.Now()
		storetest.CatchUp(t, projection, s)
		caughtUp := time.Since(began)
		storetest.Eventually(t, "all is sealed", func() bool { return all.sealed(0) == 0 })
		cancel()
		for _, ended := range []chan error{reader, run} {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		slices.Sort(all.delays)
		n := len(all.delays)
		worst := all.delays[n-1]
		t.Logf("%d aggregates, %d of 100 are deletes: %d commits, sealed after %v in the median, %v for 99 of 100, %v at worst; CatchUp took %v",
			aggregates, deletes, n, all.delays[n/2], all.delays[n*99/100], worst, caughtUp)
		if worst > limit || caughtUp > limit {
			t.Errorf("an event was sealed %v after its commit, CatchUp took %v; want at most %v", worst, caughtUp, limit)
		}
	}
	storetest.ForEach(t, 1, storetest.AnyKind, func(t *testing.T, l storetest.Lane) {
		storm(t, l, 64, 0)
		storm(t, l, 6, 10)
	})
}

// deleteOnce deletes an aggregate, alone or in a transaction that stays open, or a stream of the writer's own.
func deleteOnce(t *testing.T, l storetest.Lane, s *es.Store, w int, id string) error {
	ctx := context.WithoutCancel(t.Context())
	var err error
	switch rand.N(4) {
	case 0:
		name := fmt.Sprint("cards", w)
		err = errors.Join(s.CreateStream(ctx, name, nil),
			storetest.Second(s.Append(ctx, name, id, es.AnyVersion, storetest.Deposits(20, 1)...)),
			s.DeleteStream(ctx, name))
	case 1:
		err = storetest.InOwnTx(ctx, l, s, nil, func(in *es.Store) error {
			if err := in.DeleteAggregate(ctx, "accounts", id); err != nil {
				return err
			}
			return storetest.Pause(ctx, rand.N(60*time.Millisecond))
		})
	default:
		err = s.DeleteAggregate(ctx, "accounts", id)
	}
	if errors.Is(err, es.ErrAggregateNotFound) || errors.Is(err, es.ErrRetryTx) {
		err = nil
	}
	return err
}

// stormOnce does what one writer does once.
func stormOnce(t *testing.T, l storetest.Lane, s *es.Store, all *commits, id string) error {
	ctx := context.WithoutCancel(t.Context())
	events := storetest.Deposits(1+rand.N(3), 1)
	if rand.N(2) == 0 {
		stored, err := s.Append(ctx, "accounts", id, es.AnyVersion, events...)
		if err == nil {
			all.add(stored)
		}
		return err
	}
	tx, err := l.DB.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after the commit
	stored, err := s.WithTx(tx).Append(ctx, "accounts", id, es.AnyVersion, events...)
	if errors.Is(err, es.ErrRetryTx) || errors.Is(err, es.ErrConflict) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := storetest.Pause(ctx, rand.N(60*time.Millisecond)); err != nil {
		return err
	}
	if rand.N(10) < 3 {
		return tx.Rollback()
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	all.add(stored)
	return nil
}
