package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"example.com/eventstore"
	"github.com/google/uuid"
)

const (
	// maxBatch is how many events go into one append.
	maxBatch = 1000

	// appenders is how many files are appended to at once. Appends to different aggregates do
	// not wait for each other, so a server can share its commits among them.
	appenders = 8
)

// imported says what an import did.
type imported struct {
	newCommits, newEvents int
	earlier               int // events of this history that were stored before
	strangers             int // stored commits that this history does not have
}

// importHistory stores the events of a history that are not stored yet. It may end at any point
// and be repeated: the IDs say what is there already, and a commit's own event comes after those
// of its files, so that no commit is ever there without them.
func importHistory(ctx context.Context, s *eventstore.Store, commits []*commit, progress func(done, total int)) (imported, error) {
	var sum imported
	for _, name := range []string{filesStream, commitsStream} {
		if err := s.CreateStream(ctx, name, nil); err != nil && !errors.Is(err, eventstore.ErrStreamExists) {
			return sum, err
		}
	}
	stored, storedCommits, err := storedIDs(ctx, s)
	if err != nil {
		return sum, err
	}

	// What is missing, as one batch for each file, in the order of history.
	var (
		batches    []*batch
		byFile     = make(map[string]*batch)
		newCommits []eventstore.NewEvent
		total      int
	)
	for _, c := range commits {
		for _, e := range fileEvents(c) {
			total++
			if stored[e.event.ID] {
				sum.earlier++
				continue
			}
			b := byFile[e.fileID]
			if b == nil {
				b = &batch{stream: filesStream, aggregateID: e.fileID}
				byFile[e.fileID] = b
				batches = append(batches, b)
			}
			b.events = append(b.events, e.event)
		}
		total++
		if e := commitEvent(c); !stored[e.ID] {
			newCommits = append(newCommits, e)
			continue
		}
		sum.earlier++
	}
	sum.strangers = storedCommits - (len(commits) - len(newCommits))

	var mu sync.Mutex
	done := sum.earlier
	store := func(ctx context.Context, b *batch) error {
		for events := range slices.Chunk(b.events, maxBatch) {
			n, err := appendMissing(ctx, s, b.stream, b.aggregateID, events)
			mu.Lock()
			sum.newEvents += n
			done += len(events)
			progress(done, total)
			mu.Unlock()
			if err != nil {
				return fmt.Errorf("store %s of %s: %w", b.stream, b.aggregateID, err)
			}
		}
		return nil
	}
	if err := inParallel(ctx, batches, store); err != nil {
		return sum, err
	}
	before := sum.newEvents
	err = store(ctx, &batch{stream: commitsStream, aggregateID: historyID, events: newCommits})
	sum.newCommits = sum.newEvents - before
	return sum, err
}

// checkConnected checks that the parents of commits are among them or in the store already. As a
// commit is stored behind its files and its ancestors, all that came before is then stored, too.
func checkConnected(ctx context.Context, s *eventstore.Store, commits []*commit) error {
	seen := make(map[string]bool, len(commits))
	missing := make(map[uuid.UUID]bool) // events of parents
	for _, c := range commits {
		seen[c.hash] = true
		for _, parent := range c.parents {
			if !seen[parent] {
				missing[commitEventID(parent)] = true
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	for ev, err := range s.ReadAggregate(ctx, commitsStream, historyID, 0) {
		if errors.Is(err, eventstore.ErrStreamNotFound) {
			break
		}
		if err != nil {
			return err
		}
		delete(missing, ev.ID)
	}
	for _, c := range commits {
		for _, parent := range c.parents {
			if missing[commitEventID(parent)] {
				return fmt.Errorf("the parent %.12s of commit %.12s is neither in this history nor in the store: store the history from its beginning, or leave out -store", parent, c.hash)
			}
		}
	}
	return nil
}

// batch is what is to be appended to one aggregate.
type batch struct {
	stream, aggregateID string
	events              []eventstore.NewEvent
}

// storedIDs returns the IDs of all events in the store, and how many of these are commits.
func storedIDs(ctx context.Context, s *eventstore.Store) (ids map[uuid.UUID]bool, commits int, err error) {
	ids = make(map[uuid.UUID]bool)
	for ev, err := range s.Read(ctx, eventstore.FromStreams(filesStream, commitsStream), eventstore.ReadOptions{}) {
		if err != nil {
			return nil, 0, err
		}
		ids[ev.ID] = true
		if ev.Stream == commitsStream {
			commits++
		}
	}
	return ids, commits, nil
}

// appendMissing appends events, and returns how many were new. If another import has stored some
// of them since this one looked, the append is a conflict, and the others are tried again.
func appendMissing(ctx context.Context, s *eventstore.Store, stream, aggregateID string, events []eventstore.NewEvent) (int, error) {
	const attempts = 20
	for attempt := 1; ; attempt++ {
		_, err := s.Append(ctx, stream, aggregateID, eventstore.AnyVersion, events...)
		if err == nil {
			return len(events), nil
		}
		if !errors.Is(err, eventstore.ErrConflict) || attempt == attempts {
			return 0, err
		}
		stored := make(map[uuid.UUID]bool)
		for ev, err := range s.ReadAggregate(ctx, stream, aggregateID, 0) {
			if err != nil {
				return 0, err
			}
			stored[ev.ID] = true
		}
		missing := make([]eventstore.NewEvent, 0, len(events))
		for _, e := range events {
			if !stored[e.ID] {
				missing = append(missing, e)
			}
		}
		events = missing
	}
}

// inParallel calls fn for each item, some at a time, until all are done or one has failed.
func inParallel[T any](ctx context.Context, items []T, fn func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan T)
	var workers sync.WaitGroup
	for range appenders {
		workers.Go(func() {
			for item := range next {
				if err := fn(ctx, item); err != nil {
					cancel(err)
				}
			}
		})
	}
feed:
	for _, item := range items {
		select {
		case next <- item:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	workers.Wait()
	return context.Cause(ctx)
}
