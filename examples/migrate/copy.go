package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"time"

	"example.com/eventstore"
)

// copier copies a stream. Running it again copies only what is new: events keep their IDs, and an
// append of IDs that are stored already changes nothing.
type copier struct {
	source *oldStream
	store  *eventstore.Store
	now    time.Time         // when the events being appended were recorded
	types  map[string]string // of aggregates, by ID
}

// verbatim is a payload as it is stored, to be stored again to the letter.
type verbatim struct {
	name string
	text []byte
}

func (v verbatim) EventName() string { return v.name }

// asItIs is a codec that keeps the text of payloads.
type asItIs struct{}

func (asItIs) Marshal(v any) ([]byte, error) {
	if p, ok := v.(verbatim); ok {
		return p.text, nil
	}
	return nil, fmt.Errorf("a %T is not to be copied", v)
}

func (asItIs) Unmarshal([]byte, any) error { return errors.New("nothing is decoded here") }

// open opens the store to copy to. Events are recorded when they once were.
func (c *copier) open(db *sql.DB, dialect *eventstore.Dialect, prefix string) (err error) {
	c.types = map[string]string{}
	c.store, err = eventstore.Open(db, dialect, &eventstore.Options{
		TablePrefix: prefix, Codec: asItIs{}, Now: func() time.Time { return c.now },
	})
	return err
}

// copy copies the stream and returns how many events it holds, all of them in the store.
func (c *copier) copy(ctx context.Context) (n int, err error) {
	if err := c.store.Install(ctx); err != nil {
		return 0, err
	}
	c.now = time.Now()
	if err := c.store.CreateStream(ctx, c.source.name, nil); err != nil && !errors.Is(err, eventstore.ErrStreamExists) {
		return 0, err
	}
	const pageSize = 1000
	for after := int64(0); ; {
		page, err := c.source.page(ctx, after, pageSize)
		if err != nil {
			return n, err
		}
		for i := range page {
			if err := c.one(ctx, &page[i]); err != nil {
				return n, fmt.Errorf("row %d: %w", page[i].no, err)
			}
			n++
		}
		if len(page) < pageSize {
			return n, nil
		}
		after = page[len(page)-1].no
	}
}

// one copies an event and compares what is stored with it.
func (c *copier) one(ctx context.Context, e *oldEvent) error {
	// A stream here is one type's: the same ID under two types would be one aggregate.
	if known, ok := c.types[e.aggregateID]; ok && known != e.aggregateType {
		return fmt.Errorf("aggregate %s is a %s and a %s: copy them to streams of their own", e.aggregateID, known, e.aggregateType)
	}
	c.types[e.aggregateID] = e.aggregateType
	c.now = e.createdAt
	stored, err := c.store.Append(ctx, c.source.name, e.aggregateID, eventstore.ExpectedVersion(e.version-1),
		eventstore.NewEvent{ID: e.id, Payload: verbatim{e.name, e.payload}, Metadata: e.metadata})
	if err != nil {
		return err
	}
	return compare(stored[0], e)
}

func compare(ev eventstore.Event, e *oldEvent) error {
	switch {
	case ev.ID != e.id, ev.AggregateID != e.aggregateID, ev.Version != e.version, ev.Name != e.name:
		return fmt.Errorf("event %s of %s at %d is stored as %s of %s at %d", e.id, e.aggregateID, e.version, ev.ID, ev.AggregateID, ev.Version)
	case string(ev.Data) != string(e.payload):
		return fmt.Errorf("the payload of event %s is stored as %s", e.id, ev.Data)
	case !maps.Equal(ev.Metadata, e.metadata):
		return fmt.Errorf("the metadata of event %s are stored as %v", e.id, ev.Metadata)
	case !ev.RecordedAt.Equal(e.createdAt):
		return fmt.Errorf("the time of event %s is stored as %v", e.id, ev.RecordedAt)
	}
	return nil
}
