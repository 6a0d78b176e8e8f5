package main

import (
	"context"
	"sync"

	"example.com/eventstore"
)

// memoryEmails are addresses beside a memory store, which has no tables: a lock, and nothing noted unless
// the events are stored, do for one process.
type memoryEmails struct {
	store *eventstore.Store
	mu    sync.Mutex
	owner map[string]string
}

func (e *memoryEmails) claim(_ context.Context, email, account string, record func(*eventstore.Store) error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if owner, taken := e.owner[email]; taken && owner != account {
		return ErrEmailTaken
	}
	if err := record(e.store); err != nil {
		return err
	}
	e.owner[email] = account
	return nil
}
