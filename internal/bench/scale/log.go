package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"time"

	es "example.com/eventstore"
)

// How the events of a log lie, by their positions: in blocks of 10,000, each with 100 aggregates of
// 100 events in turn, one aggregate for each of 100 streams. Every thousandth event or so has
// another name. After them comes what makes the log skewed: a stream that begins there, and a category
// of ten streams with ten events each.
const (
	chunk   = 100_000 // events filled by one statement
	block   = 10_000
	streams = 100
	length  = block / streams // of an aggregate
	late    = 1000            // events of the stream that begins late
	ten     = 100             // events of the category of ten streams
)

func streamName(i int) string         { return fmt.Sprintf("accounts-%02d", i%streams) }
func aggregateID(block, i int) string { return fmt.Sprintf("account-%d-%02d", block, i%streams) }
func tablePrefix(events int) string   { return fmt.Sprintf("bench_scale_%d_", events) }

// filled is a store with events.
type filled struct {
	db     *sql.DB
	store  *es.Store
	prefix string
	events int
}

func newFilled(ctx context.Context, db *sql.DB, events int) (*filled, error) {
	l := &filled{db: db, prefix: tablePrefix(events), events: events}
	if err := l.drop(); err != nil {
		return nil, err
	}
	var err error
	if l.store, err = es.Open(db, es.Postgres, &es.Options{TablePrefix: l.prefix}); err != nil {
		return nil, err
	}
	if err := l.store.Install(ctx); err != nil {
		return nil, err
	}
	names := []string{"late"}
	for i := range streams {
		names = append(names, streamName(i))
	}
	for i := range 10 {
		names = append(names, fmt.Sprintf("ten-%d", i))
	}
	for _, name := range names {
		if err := l.store.CreateStream(ctx, name, nil); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// fill stores the events, two statements at a time, and leaves the tables as autovacuum would.
func (l *filled) fill(ctx context.Context) error {
	began := time.Now()
	starts := make(chan int)
	ended := make(chan error, 2)
	for range cap(ended) {
		go func() {
			var err error
			for start := range starts {
				if err == nil {
					err = l.fillChunk(ctx, start)
				}
			}
			ended <- err
		}()
	}
	for start := 0; start < l.events; start += chunk {
		starts <- start
	}
	close(starts)
	for range cap(ended) {
		if err := <-ended; err != nil {
			return err
		}
	}
	events := l.prefix + "events"
	for _, statement := range []string{
		fmt.Sprintf(`
INSERT INTO %[1]sevents (position, stream_id, aggregate_id, version, event_id, name, data, metadata, recorded_at)
SELECT %[2]d + n, s.id, 'skewed', CASE WHEN n <= %[3]d THEN n ELSE (n - %[3]d - 1) / 10 + 1 END, gen_random_uuid(), 'account.deposited',
       ('{"account":"account-123","cents":' || n || ',"note":"paid in at the counter","teller":3}')::json, '{}', statement_timestamp()
FROM generate_series(1, %[4]d) n JOIN %[1]sstreams s ON s.name = CASE WHEN n <= %[3]d THEN 'late' ELSE 'ten-' || n %% 10 END
ORDER BY n`, l.prefix, l.events, late, late+ten),
		fmt.Sprintf("SELECT setval(pg_get_serial_sequence('%s', 'position'), %d)", events, l.events+late+ten),
		"VACUUM ANALYZE " + events,
	} {
		if _, err := l.db.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	filled := time.Since(began)
	began = time.Now()
	sealed, err := l.store.Sealed(ctx)
	if err == nil && int(sealed) != l.events+late+ten {
		err = fmt.Errorf("sealed up to %d", sealed)
	}
	fmt.Fprintf(os.Stderr, "%d events: filled in %v, sealed in %v\n", l.events, filled.Round(time.Second), time.Since(began).Round(time.Millisecond))
	return err
}

// fillChunk stores events behind a position, with IDs that grow like those that Append gives.
func (l *filled) fillChunk(ctx context.Context, start int) error {
	_, err := l.db.ExecContext(ctx, fmt.Sprintf(`
INSERT INTO %[1]sevents (position, stream_id, aggregate_id, version, event_id, name, data, metadata, recorded_at)
SELECT n + 1, s.id, 'account-' || n / %[2]d || '-' || lpad((n %% %[3]d)::text, 2, '0'), n %% %[2]d / %[3]d + 1,
       (lpad(to_hex(1700000000000 + n), 12, '0') || '7' || left(md5(n::text), 3) || '8' || substr(md5(n::text), 4, 15))::uuid,
       CASE WHEN n %% 1000 = n / 1000 %% %[3]d THEN 'account.opened' ELSE 'account.deposited' END,
       ('{"account":"account-123","cents":' || n || ',"note":"paid in at the counter","teller":3}')::json, '{}', statement_timestamp()
FROM generate_series(%[4]d, %[5]d) n JOIN %[1]sstreams s ON s.name = 'accounts-' || lpad((n %% %[3]d)::text, 2, '0')
ORDER BY n`, l.prefix, block, streams, start, start+chunk-1))
	return err
}

// drop removes the tables.
func (l *filled) drop() error {
	for _, table := range []string{"meta", "streams", "events", "snapshots", "projections", "parked"} {
		if _, err := l.db.Exec("DROP TABLE IF EXISTS " + l.prefix + table); err != nil {
			return err
		}
	}
	return nil
}
