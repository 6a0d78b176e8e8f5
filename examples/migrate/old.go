package main

import (
	"bytes"
	"context"
	"crypto/sha1"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"example.com/eventstore"
)

// oldStream is a stream as go-event-store/eventstore has it on Postgres: one table, named after the
// SHA-1 of the stream's name, with what identifies the aggregate among the metadata.
type oldStream struct {
	db   *sql.DB
	name string
	zone *time.Location
}

// oldEvent is one of its rows.
type oldEvent struct {
	no            int64
	id            uuid.UUID
	name          string
	payload       []byte
	metadata      eventstore.Metadata // without the three below
	aggregateID   string
	aggregateType string
	version       int64
	createdAt     time.Time
}

// table returns the name of the stream's table: forty hexadecimal digits, whatever the stream is called.
func (s *oldStream) table() string {
	sum := sha1.Sum([]byte(s.name))
	return "_" + hex.EncodeToString(sum[:])
}

// page returns up to limit rows behind a number, in order.
func (s *oldStream) page(ctx context.Context, after int64, limit int) ([]oldEvent, error) {
	rows, err := s.db.QueryContext(ctx, `
SELECT no, event_id, event_name, payload, metadata, created_at
FROM "`+s.table()+`" WHERE no > $1 ORDER BY no LIMIT $2`, after, limit)
	if err != nil {
		return nil, fmt.Errorf("read stream %q: %w", s.name, err)
	}
	var out []oldEvent
	for rows.Next() {
		var e oldEvent
		var metadata []byte
		err := rows.Scan(&e.no, &e.id, &e.name, &e.payload, &metadata, &e.createdAt)
		if err == nil {
			// The column has no zone: what it holds is a clock's face somewhere.
			t := e.createdAt
			e.createdAt = time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), s.zone).UTC()
			err = e.take(metadata)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("row %d of stream %q: %w", e.no, s.name, err), rows.Close())
		}
		out = append(out, e)
	}
	return out, errors.Join(rows.Err(), rows.Close())
}

// take takes the metadata apart. Whole numbers become int64 and others float64; what this package's
// metadata can't hold (lists, objects, null) is kept as its JSON text.
func (e *oldEvent) take(text []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return err
	}
	e.metadata = eventstore.Metadata{}
	for key, raw := range fields {
		v, err := scalar(raw)
		if err != nil {
			return fmt.Errorf("metadata %q: %w", key, err)
		}
		switch key {
		case "_aggregate_id":
			e.aggregateID, _ = v.(string)
		case "_aggregate_type":
			e.aggregateType, _ = v.(string)
		case "_aggregate_version":
			e.version, _ = v.(int64)
		default:
			e.metadata[key] = v
		}
	}
	if e.aggregateID == "" || e.aggregateType == "" || e.version < 1 {
		return fmt.Errorf("the metadata lack the aggregate's ID, type or version: %s", text)
	}
	return nil
}

func scalar(raw json.RawMessage) (any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case string, bool:
		return v, nil
	case json.Number:
		if n, err := v.Int64(); err == nil && !strings.ContainsAny(v.String(), ".eE") {
			return n, nil
		}
		return v.Float64()
	}
	return string(raw), nil
}
