package main

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	es "example.com/eventstore"
)

func (b *databaseBench) projections() []benchCase {
	return []benchCase{
		{name: "projection into a table", unit: "events", goal: .90, lib: b.libProject, raw: b.rawProject},
		{name: "projection with gathered writes", unit: "events", goal: 3, lib: b.libProjectGathered, raw: b.rawProjectUpserts},
		{name: "projection of folds", unit: "events", goal: .90, lib: b.libProjectFolds, raw: b.rawProjectFolds},
	}
}

// projected is how many events a projection takes in.
func projected() int { return *logSize / 2 }

// batchSize is how many events a projection takes in at once, on both sides.
const batchSize = 1000

// balances makes the table that projections write anew, and returns the statement that does.
func (b *databaseBench) balances(ctx context.Context) (*sql.Stmt, error) {
	text := "VARBINARY(64)"
	upsert := "INSERT INTO bench_balances (account, cents) VALUES (?, ?) ON DUPLICATE KEY UPDATE cents = cents + VALUES(cents)"
	if b.postgres {
		text = "text"
		upsert = "INSERT INTO bench_balances (account, cents) VALUES (?, ?) ON CONFLICT (account) DO UPDATE SET cents = bench_balances.cents + EXCLUDED.cents"
	}
	for _, statement := range []string{
		"DROP TABLE IF EXISTS bench_balances",
		"CREATE TABLE bench_balances (account " + text + " PRIMARY KEY, cents BIGINT NOT NULL)",
	} {
		if _, err := b.db.ExecContext(ctx, statement); err != nil {
			return nil, err
		}
	}
	return b.db.PrepareContext(ctx, b.bind(upsert))
}

// libProject runs a projection that adds each event to its account's row.
func (b *databaseBench) libProject(ctx context.Context, _ time.Duration) (int, time.Duration, error) {
	st, err := b.balances(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer st.Close()
	return b.libCatchUp(ctx, es.Do(func(ctx context.Context, step *es.Step[account], e deposited) error {
		tx, err := step.Tx()
		if err != nil {
			return err
		}
		_, err = tx.StmtContext(ctx, st).ExecContext(ctx, e.Account, e.Cents)
		return err
	}))
}

// last makes the table of which each row is an account's last deposit anew, with the statement that sets one.
func (b *databaseBench) last(ctx context.Context) (*es.Table, *sql.Stmt, error) {
	table := &es.Table{Dialect: es.MySQL, Name: "bench_last", Key: []string{"account"}, Create: "CREATE TABLE IF NOT EXISTS bench_last (account VARBINARY(64) PRIMARY KEY, cents BIGINT NOT NULL)"}
	upsert := "INSERT INTO bench_last (account, cents) VALUES (?, ?) ON DUPLICATE KEY UPDATE cents = VALUES(cents)"
	if b.postgres {
		table.Dialect, table.Create = es.Postgres, "CREATE TABLE IF NOT EXISTS bench_last (account text PRIMARY KEY, cents BIGINT NOT NULL)"
		upsert = "INSERT INTO bench_last (account, cents) VALUES (?, ?) ON CONFLICT (account) DO UPDATE SET cents = EXCLUDED.cents"
	}
	for _, statement := range []string{"DROP TABLE IF EXISTS bench_last", table.Create} {
		if _, err := b.db.ExecContext(ctx, statement); err != nil {
			return nil, nil, err
		}
	}
	st, err := b.db.PrepareContext(ctx, b.bind(upsert))
	return table, st, err
}

// libProjectGathered runs a projection that sets the row of each event's account, through a Table.
func (b *databaseBench) libProjectGathered(ctx context.Context, _ time.Duration) (int, time.Duration, error) {
	table, st, err := b.last(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer st.Close()
	return b.libCatchUp(ctx, es.Do(func(ctx context.Context, step *es.Step[account], e deposited) error {
		return table.Upsert(ctx, step, es.Row{"account": e.Account, "cents": e.Cents})
	}))
}

// libProjectFolds runs a projection whose only result is its state.
func (b *databaseBench) libProjectFolds(ctx context.Context, _ time.Duration) (int, time.Duration, error) {
	return b.libCatchUp(ctx, es.On((*account).add))
}

func (b *databaseBench) libCatchUp(ctx context.Context, h es.Handler[account]) (int, time.Duration, error) {
	p := &es.Projection[account]{Name: b.newAccount(), From: es.FromAll(), When: []es.Handler[account]{h}, BatchSize: batchSize}
	began := time.Now()
	_, err := p.CatchUp(ctx, b.stores[bigPrefix])
	return projected(), time.Since(began), err
}

// rawProject does the same by hand: pages, and a transaction for each, with its checkpoint.
func (b *databaseBench) rawProject(ctx context.Context, _ time.Duration) (int, time.Duration, error) {
	st, err := b.balances(ctx)
	if err != nil {
		return 0, 0, err
	}
	return b.rawProjectInto(ctx, st)
}

// rawProjectUpserts does so with the statement that sets a row.
func (b *databaseBench) rawProjectUpserts(ctx context.Context, _ time.Duration) (int, time.Duration, error) {
	_, st, err := b.last(ctx)
	if err != nil {
		return 0, 0, err
	}
	return b.rawProjectInto(ctx, st)
}

func (b *databaseBench) rawProjectInto(ctx context.Context, st *sql.Stmt) (int, time.Duration, error) {
	defer st.Close()
	return b.rawCatchUp(ctx, bigPrefix, projected(), func(name string, events []deposited, _ []string, last int64) error {
		tx, err := b.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
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
		checkpoint, err := b.prepared(ctx, "UPDATE "+bigPrefix+"projections SET position = ? WHERE name = ?")
		if err != nil {
			return err
		}
		if _, err := tx.StmtContext(ctx, checkpoint).ExecContext(ctx, last, name); err != nil {
			return err
		}
		return tx.Commit()
	})
}

// rawProjectFolds stores the state and the position behind each page.
func (b *databaseBench) rawProjectFolds(ctx context.Context, _ time.Duration) (int, time.Duration, error) {
	st, err := b.prepared(ctx, "UPDATE "+bigPrefix+"projections SET position = ?, state = ? WHERE name = ?")
	if err != nil {
		return 0, 0, err
	}
	var a account
	return b.rawCatchUp(ctx, bigPrefix, projected(), func(name string, events []deposited, _ []string, last int64) error {
		for _, e := range events {
			a.add(e)
		}
		_, err := st.ExecContext(ctx, last, fmt.Sprintf(`{"Cents":%d,"Deposits":%d}`, a.Cents, a.Deposits), name)
		return err
	})
}

// rawCatchUp reads the first events of a log in pages, and has a batch take in those of each and their aggregates.
func (b *databaseBench) rawCatchUp(ctx context.Context, prefix string, events int, batch func(name string, events []deposited, aggregates []string, last int64) error) (int, time.Duration, error) {
	name := b.newAccount()
	if _, err := b.db.ExecContext(ctx, b.bind(`
INSERT INTO `+prefix+`projections (name, position, status, owner, epoch, generation, lease_until, read_model, retry, error)
VALUES (?, 0, 'idle', '', 1, 1, CURRENT_TIMESTAMP, FALSE, FALSE, '')`), name); err != nil {
		return 0, 0, err
	}
	began := time.Now()
	st, err := b.prepared(ctx, b.pageText(prefix, ""))
	if err != nil {
		return 0, 0, err
	}
	done := 0
	for n, last := batchSize, int64(0); n == batchSize && done < events; done += n {
		page, aggregates := make([]deposited, 0, batchSize), make([]string, 0, batchSize)
		if n, last, err = foldRows(ctx, st, func(e deposited, aggregate string) {
			page, aggregates = append(page, e), append(aggregates, aggregate)
		}, last); err != nil {
			return 0, 0, err
		}
		if n == 0 {
			break
		}
		if err := batch(name, page, aggregates, last); err != nil {
			return 0, 0, err
		}
	}
	return done, time.Since(began), nil
}
