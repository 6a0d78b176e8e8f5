package main

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	es "example.com/eventstore"
)

// documented is how many events documents take in.
const documented = 50_000

// documentLogs are how many keys these events are of, by the prefix of their log.
var documentLogs = map[string]int{fewPrefix: 500, manyPrefix: 50_000}

// documents are measured beside what a careful programmer writes by hand, and beside one upsert for each event.
func (b *databaseBench) documents() (out []benchCase) {
	for _, prefix := range []string{fewPrefix, manyPrefix} {
		name := fmt.Sprintf("documents of %d keys", documentLogs[prefix])
		lib := func(ctx context.Context, _ time.Duration) (int, time.Duration, error) {
			return b.libDocuments(ctx, prefix)
		}
		out = append(out, benchCase{
			name: name, unit: "events", goal: .90, lib: lib,
			raw: func(ctx context.Context, _ time.Duration) (int, time.Duration, error) {
				return b.rawDocuments(ctx, prefix, documented, b.upsertSums)
			},
		}, benchCase{
			name: name + ", to one upsert for each event", unit: "events", goal: 5, lib: lib,
			raw: func(ctx context.Context, _ time.Duration) (int, time.Duration, error) {
				return b.rawDocuments(ctx, prefix, documented/5, b.upsertEach)
			},
		})
	}
	return out
}

// documentKey is the aggregate of an event of a log of documents. Neighbours in the log have keys far apart.
func documentKey(i, keys int) string { return anAccount(i * 7919 % keys) }

// libDocuments keeps an account for each aggregate, in a table that is empty at first.
func (b *databaseBench) libDocuments(ctx context.Context, prefix string) (int, time.Duration, error) {
	if _, err := b.db.ExecContext(ctx, "TRUNCATE TABLE "+prefix+"documents"); err != nil {
		return 0, 0, err
	}
	ds := &es.Documents[account]{Name: b.newAccount(), From: es.FromAll(), When: []es.Handler[account]{es.On((*account).add)}, BatchSize: batchSize}
	s := b.stores[prefix]
	began := time.Now()
	if _, err := ds.CatchUp(ctx, s); err != nil {
		return 0, 0, err
	}
	took := time.Since(began)
	keys, sum := 0, account{}
	for doc, err := range ds.All(ctx, s, es.DocumentOptions{}) {
		if err != nil {
			return 0, 0, err
		}
		keys++
		sum.Deposits += doc.State.Deposits
	}
	return documented, took, kept(prefix, keys, sum, documented)
}

// kept checks that so many events went into the accounts of all their keys.
func kept(prefix string, keys int, sum account, events int) error {
	if want := min(documentLogs[prefix], events); keys != want {
		return fmt.Errorf("%d keys, want %d", keys, want)
	}
	return loaded(sum, events)
}

// rawDocuments does the same by hand, in a table of its own with a column for each field: what a page adds is written
// in one transaction with the checkpoint. It goes through the log's first events, of which there are so many.
func (b *databaseBench) rawDocuments(ctx context.Context, prefix string, events int, upsert func(context.Context, *sql.Tx, []deposited, []string) error) (int, time.Duration, error) {
	text := "VARBINARY(255)"
	if b.postgres {
		text = `text COLLATE "C"`
	}
	for _, statement := range []string{
		"DROP TABLE IF EXISTS bench_accounts",
		"CREATE TABLE bench_accounts (account " + text + " PRIMARY KEY, cents BIGINT NOT NULL, deposits BIGINT NOT NULL)",
	} {
		if _, err := b.db.ExecContext(ctx, statement); err != nil {
			return 0, 0, err
		}
	}
	checkpoint, err := b.prepared(ctx, "UPDATE "+prefix+"projections SET position = ? WHERE name = ?")
	if err != nil {
		return 0, 0, err
	}
	done, took, err := b.rawCatchUp(ctx, prefix, events, func(name string, events []deposited, keys []string, last int64) error {
		tx, err := b.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // does nothing after the commit
		if err := upsert(ctx, tx, events, keys); err != nil {
			return err
		}
		if _, err := tx.StmtContext(ctx, checkpoint).ExecContext(ctx, last, name); err != nil {
			return err
		}
		return tx.Commit()
	})
	if err != nil {
		return 0, 0, err
	}
	var keys int
	var sum account
	if err := b.db.QueryRowContext(ctx, "SELECT COUNT(*), SUM(cents), SUM(deposits) FROM bench_accounts").Scan(&keys, &sum.Cents, &sum.Deposits); err != nil {
		return 0, 0, err
	}
	return done, took, kept(prefix, keys, sum, events)
}

// upsertSums groups the events of a page by account and adds what each has got with one statement. Accounts come in
// order, which keeps two of these from a deadlock, and lets the table be gone through from one end to the other.
func (b *databaseBench) upsertSums(ctx context.Context, tx *sql.Tx, events []deposited, keys []string) error {
	sums := make(map[string]*account, len(events))
	for i, e := range events {
		a := sums[keys[i]]
		if a == nil {
			a = &account{}
			sums[keys[i]] = a
		}
		a.add(e)
	}
	st, err := b.prepared(ctx, b.upsertText(len(sums)))
	if err != nil {
		return err
	}
	args := make([]any, 0, 3*len(sums))
	for _, key := range slices.Sorted(maps.Keys(sums)) {
		args = append(args, key, sums[key].Cents, sums[key].Deposits)
	}
	_, err = tx.StmtContext(ctx, st).ExecContext(ctx, args...)
	return err
}

// upsertEach adds each event by itself.
func (b *databaseBench) upsertEach(ctx context.Context, tx *sql.Tx, events []deposited, keys []string) error {
	st, err := b.prepared(ctx, b.upsertText(1))
	if err != nil {
		return err
	}
	inside := tx.StmtContext(ctx, st)
	for i, e := range events {
		if _, err := inside.ExecContext(ctx, keys[i], e.Cents, 1); err != nil {
			return err
		}
	}
	return nil
}

// upsertText is the statement that adds to so many accounts.
func (b *databaseBench) upsertText(accounts int) string {
	tail := " ON DUPLICATE KEY UPDATE cents = cents + VALUES(cents), deposits = deposits + VALUES(deposits)"
	if b.postgres {
		tail = " ON CONFLICT (account) DO UPDATE SET cents = bench_accounts.cents + EXCLUDED.cents, deposits = bench_accounts.deposits + EXCLUDED.deposits"
	}
	return "INSERT INTO bench_accounts (account, cents, deposits) VALUES " + strings.TrimSuffix(strings.Repeat("(?, ?, ?), ", accounts), ", ") + tail
}
