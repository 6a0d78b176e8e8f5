package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"

	"example.com/eventstore"
)

// Touched are the authors who have touched each path, by aggregate ID.
type Touched map[string]map[string]bool

// touched is the projection for a memory store: it keeps them as its state.
var touched = eventstore.Projection[Touched]{
	Name: touchedName,
	From: eventstore.FromStream(filesStream),
	Init: func() Touched { return Touched{} },
	When: []eventstore.Handler[Touched]{
		remember[FileAdded](), remember[FileChanged](), remember[FileRenamed](), remember[FileDeleted](),
	},
}

const touchedName = "gitlog.touched"

func remember[E changing]() eventstore.Handler[Touched] {
	return eventstore.OnEvent(func(t *Touched, e E, ev eventstore.Event) {
		authors := (*t)[ev.AggregateID]
		if authors == nil {
			authors = make(map[string]bool)
			(*t)[ev.AggregateID] = authors
		}
		authors[tableKey(e.change())] = true
	})
}

// touchedTable is the table that holds them on a server.
func touchedTable(s *store) *eventstore.Table {
	text := "varchar(255) COLLATE \"C\""
	if s.dialect == eventstore.MySQL {
		text = "varbinary(255)"
	}
	name := s.prefix + "touched"
	return &eventstore.Table{
		Dialect: s.dialect,
		Name:    name,
		Create:  "CREATE TABLE IF NOT EXISTS " + name + " (path " + text + " NOT NULL, author " + text + " NOT NULL, PRIMARY KEY (path, author))",
		Key:     []string{"path", "author"},
	}
}

// touchedInto is the projection for a server: its rows are stored in the transaction that also
// stores how far it is.
func touchedInto(table *eventstore.Table) *eventstore.Projection[struct{}] {
	return &eventstore.Projection[struct{}]{
		Name:      touchedName,
		From:      eventstore.FromStream(filesStream),
		ReadModel: table,
		When: []eventstore.Handler[struct{}]{
			note[FileAdded](table), note[FileChanged](table), note[FileRenamed](table), note[FileDeleted](table),
		},
	}
}

func note[E changing](table *eventstore.Table) eventstore.Handler[struct{}] {
	return eventstore.Do(func(ctx context.Context, step *eventstore.Step[struct{}], e E) error {
		return table.Upsert(ctx, step, eventstore.Row{"path": step.Event.AggregateID, "author": tableKey(e.change())})
	})
}

// tableKey is an author's key as the table takes it: one that is too long is cut and ends in a hash.
func tableKey(ch Change) string {
	key := authorKey(ch.Author, ch.Email)
	if len(key) <= maxID {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// singleAuthors returns the paths that only one author has touched, by aggregate ID, each with the
// author's key.
func singleAuthors(ctx context.Context, s *store) (map[string]string, error) {
	single := make(map[string]string)
	if s.db == nil {
		cp, err := touched.CatchUp(ctx, s.Store)
		for id, authors := range cp.State {
			for author := range authors {
				if len(authors) == 1 {
					single[id] = author
				}
			}
		}
		return single, err
	}
	table := touchedTable(s)
	if _, err := touchedInto(table).CatchUp(ctx, s.Store); err != nil {
		return nil, err
	}
	rows, err := s.db.QueryContext(ctx, "SELECT path, MIN(author) FROM "+table.Name+" GROUP BY path HAVING COUNT(*) = 1")
	if err != nil {
		return nil, err
	}
	err = scanPairs(rows, single)
	return single, err
}

// scanPairs reads rows of two columns into a map.
func scanPairs(rows *sql.Rows, into map[string]string) error {
	for rows.Next() {
		var key, value string
		if err := rows.Scan(&key, &value); err != nil {
			return errors.Join(err, rows.Close())
		}
		into[key] = value
	}
	return errors.Join(rows.Err(), rows.Close())
}
