package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	es "example.com/eventstore"
)

func (b *databaseBench) loads() []benchCase {
	var out []benchCase
	for _, c := range []struct {
		prefix       string
		events, many int
	}{{logPrefix, logAggregate, *logSize / logAggregate}, {bigPrefix, bigAggregate, projected() / bigAggregate}} {
		out = append(out, benchCase{
			name: fmt.Sprintf("load %d", c.events), unit: "loads", goal: .90,
			lib: repeated(func(ctx context.Context) error { return b.libLoad(ctx, accounts, c.prefix, c.events, c.many) }),
			raw: repeated(func(ctx context.Context) error { return b.rawLoad(ctx, c.prefix, c.events, c.many) }),
		}, benchCase{
			name: fmt.Sprintf("load %d, snapshot and %d", c.events, behind), unit: "loads", goal: .90,
			lib: repeated(func(ctx context.Context) error { return b.libLoad(ctx, snapshotted, c.prefix, c.events, c.many) }),
			raw: repeated(func(ctx context.Context) error { return b.rawLoadSnapshot(ctx, c.prefix, c.events, c.many) }),
		})
	}
	return out
}

// oneOf names one of so many aggregates, each in its turn.
func (b *databaseBench) oneOf(many int) string { return anAccount(int(b.next.Add(1)) % many) }

func (b *databaseBench) libLoad(ctx context.Context, a *es.Aggregate[account], prefix string, events, many int) error {
	r, err := a.Load(ctx, b.stores[prefix], b.oneOf(many))
	if err != nil {
		return err
	}
	return loaded(r.State(), events)
}

// loaded checks that as many events went into a state as there are.
func loaded(a account, events int) error {
	if int(a.Deposits) != events {
		return fmt.Errorf("%d events, want %d", a.Deposits, events)
	}
	return nil
}

func (b *databaseBench) rawLoad(ctx context.Context, prefix string, events, many int) error {
	var a account
	if _, err := b.selectAggregate(ctx, prefix, b.oneOf(many), 0, &a); err != nil {
		return err
	}
	return loaded(a, events)
}

// rawLoadSnapshot reads the snapshot's row, and then the events behind it.
func (b *databaseBench) rawLoadSnapshot(ctx context.Context, prefix string, events, many int) error {
	st, err := b.prepared(ctx, "SELECT version, state FROM "+prefix+"snapshots WHERE stream_id = ? AND aggregate_id = ? AND schema_no = ?")
	if err != nil {
		return err
	}
	var (
		a       account
		version int64
		state   []byte
	)
	aggregate := b.oneOf(many)
	if err := st.QueryRowContext(ctx, b.streams[prefix+"accounts"], aggregate, snapshotted.Snapshot.Schema).Scan(&version, &state); err != nil {
		return err
	}
	if err := json.Unmarshal(state, &a); err != nil {
		return err
	}
	if _, err := b.selectAggregate(ctx, prefix, aggregate, version, &a); err != nil {
		return err
	}
	return loaded(a, events)
}

// columns are what is read of an event by hand.
const columns = "e.position, s.name, e.aggregate_id, e.version, e.event_id, e.name, e.data, e.metadata, e.recorded_at"

// selectAggregate reads the events of an aggregate behind a version and folds them.
func (b *databaseBench) selectAggregate(ctx context.Context, prefix, aggregate string, after int64, a *account) (n int, err error) {
	st, err := b.prepared(ctx, "SELECT "+columns+" FROM "+prefix+"streams s JOIN "+prefix+"events e ON e.stream_id = s.id WHERE s.id = ? AND e.aggregate_id = ? AND e.version > ? ORDER BY e.version")
	if err != nil {
		return 0, err
	}
	n, _, err = foldRows(ctx, st, func(e deposited, _ string) { a.add(e) }, b.streams[prefix+"accounts"], aggregate, after)
	return n, err
}

// foldRows runs a statement that returns columns and folds its rows, each with its aggregate.
func foldRows[E any](ctx context.Context, st *sql.Stmt, fold func(e E, aggregate string), args ...any) (n int, last int64, err error) {
	rows, err := st.QueryContext(ctx, args...)
	if err != nil {
		return 0, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var (
			version                 int64
			stream, aggregate, name string
			id, data, metadata      []byte
			recordedAt              any
			e                       E
		)
		if err := rows.Scan(&last, &stream, &aggregate, &version, &id, &name, &data, &metadata, &recordedAt); err != nil {
			return n, last, err
		}
		if err := json.Unmarshal(data, &e); err != nil {
			return n, last, err
		}
		fold(e, aggregate)
		n++
	}
	return n, last, rows.Err()
}
