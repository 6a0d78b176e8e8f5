package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	es "example.com/eventstore"
)

// projected is how many events a projection takes in.
func projected() int { return *logSize / 2 }

// balances makes the table that projections write anew, and returns the statement that does.
func (b *databaseBench) balances(ctx context.Context) (upsert string, err error) {
	text := "VARBINARY(64)"
	upsert = "INSERT INTO bench_balances (account, cents) VALUES (?, ?) ON DUPLICATE KEY UPDATE cents = cents + VALUES(cents)"
	if b.postgres {
		text = "text"
		upsert = "INSERT INTO bench_balances (account, cents) VALUES (?, ?) ON CONFLICT (account) DO UPDATE SET cents = bench_balances.cents + EXCLUDED.cents"
	}
	for _, statement := range []string{
		"DROP TABLE IF EXISTS bench_balances",
		"CREATE TABLE bench_balances (account " + text + " PRIMARY KEY, cents BIGINT NOT NULL)",
	} {
		if _, err := b.db.ExecContext(ctx, statement); err != nil {
			return "", err
		}
	}
	return b.bind(upsert), nil
}

// libProject runs a projection that adds each event to its account's row.
func (b *databaseBench) libProject(ctx context.Context, _ time.Duration) (int, time.Duration, error) {
	upsert, err := b.balances(ctx)
	if err != nil {
		return 0, 0, err
	}
	st, err := b.db.PrepareContext(ctx, upsert)
	if err != nil {
		return 0, 0, err
	}
	defer st.Close()
	p := &es.Projection[struct{}]{
		Name: fmt.Sprintf("balances-%d", b.next.Add(1)),
		From: es.FromAll(),
		When: []es.Handler[struct{}]{es.Do(func(ctx context.Context, step *es.Step[struct{}], e deposited) error {
			tx, err := step.Tx()
			if err != nil {
				return err
			}
			_, err = tx.StmtContext(ctx, st).ExecContext(ctx, e.Account, e.Cents)
			return err
		})},
	}
	began := time.Now()
	_, err = p.CatchUp(ctx, b.half)
	return projected(), time.Since(began), err
}

// rawProject does the same by hand: pages of 1000 and a transaction for each, with its checkpoint.
func (b *databaseBench) rawProject(ctx context.Context, _ time.Duration) (int, time.Duration, error) {
	upsert, err := b.balances(ctx)
	if err != nil {
		return 0, 0, err
	}
	st, err := b.db.PrepareContext(ctx, upsert)
	if err != nil {
		return 0, 0, err
	}
	defer st.Close()
	page, err := b.prepared(ctx, b.pageText(newPrefix))
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	last := int64(0)
	for done := 0; done < projected(); {
		var events []deposited
		rows, err := page.QueryContext(ctx, last)
		if err != nil {
			return 0, 0, err
		}
		for rows.Next() {
			var (
				version                 int64
				stream, aggregate, name string
				id, data, metadata      []byte
				recordedAt              any
				e                       deposited
			)
			if err := errors.Join(rows.Scan(&last, &stream, &aggregate, &version, &id, &name, &data, &metadata, &recordedAt), json.Unmarshal(data, &e)); err != nil {
				return 0, 0, errors.Join(err, rows.Close())
			}
			events = append(events, e)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return 0, 0, err
		}
		if err := b.rawBatch(ctx, st, events, last); err != nil {
			return 0, 0, err
		}
		done += len(events)
	}
	return projected(), time.Since(began), nil
}

func (b *databaseBench) rawBatch(ctx context.Context, st *sql.Stmt, events []deposited, last int64) error {
	tx, err := b.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after the commit
	inside := tx.StmtContext(ctx, st)
	for _, e := range events {
		if _, err := inside.ExecContext(ctx, e.Account, e.Cents); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, b.bind("UPDATE "+newPrefix+"meta SET value = ? WHERE name = 'nothing'"), last); err != nil {
		return err
	}
	return tx.Commit()
}

// followed appends while a projection takes in what is appended.
func (b *databaseBench) followed(ctx context.Context, d time.Duration) (int, time.Duration, error) {
	p := &es.Projection[account]{Name: "follower", From: es.FromAll(), When: []es.Handler[account]{es.On((*account).add)}}
	if _, err := p.CatchUp(ctx, b.lib); err != nil {
		return 0, 0, err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- p.Run(running, b.lib) }()
	n, took, err := b.writers(1, 4, b.libAppend)(ctx, d)
	stop()
	if e := <-ended; e != nil && !errors.Is(e, context.Canceled) {
		err = errors.Join(err, e)
	}
	return n, took, err
}
