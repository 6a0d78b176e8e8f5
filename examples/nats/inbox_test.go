package main

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"testing"
	"time"

	"example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestSlowConsumers has two consumers of one name, and an effect that takes so long that the other
// consumer is given the event too: what each event is about is still done once, and in order.
func TestSlowConsumers(t *testing.T) {
	// It is about transactions, which memory has none of.
	storetest.ForEach(t, 1, storetest.AnyKind, func(t *testing.T, l storetest.Lane) {
		s, prefix := openLane(t, l)
		b := newBroker(t)
		if err := createStream(t.Context(), b.connect(t), 2*time.Minute); err != nil {
			t.Fatal(err)
		}
		db := l.DB
		t.Cleanup(func() {
			for _, table := range []string{"inbox", "done"} {
				if _, err := db.Exec("DROP TABLE IF EXISTS " + prefix + table); err != nil {
					t.Error(err)
				}
			}
		})
		in, err := newInbox(t.Context(), db, l.Dialect, prefix+"inbox", "books")
		if err != nil {
			t.Fatal(err)
		}
		// Without a key: what is done twice stands there twice.
		if _, err := db.Exec("CREATE TABLE " + prefix + "done (position bigint)"); err != nil {
			t.Fatal(err)
		}

		var once sync.Once
		var mu sync.Mutex
		given := map[eventstore.Position]int{}
		again := make(chan struct{}) // the first event has been given to somebody else as well
		books := consumer{name: "books", ackWait: 200 * time.Millisecond}
		books.apply = func(ctx context.Context, ev eventstore.Event) (bool, error) {
			mu.Lock()
			if given[ev.Position]++; len(given) == 1 && given[ev.Position] == 2 {
				close(again)
			}
			mu.Unlock()
			return in.apply(ctx, "books", ev, func(ctx context.Context, tx *sql.Tx) error {
				once.Do(func() {
					select {
					case <-again:
					case <-ctx.Done():
					}
				})
				_, err := tx.ExecContext(ctx, fmt.Sprintf("INSERT INTO %sdone (position) VALUES (%d)", prefix, ev.Position))
				return err
			})
		}
		for range 2 {
			background(t, func(ctx context.Context) error { return books.run(ctx, b.connect(t)) })
		}
		startRelay(t, s, b.connect(t))
		const events = 20
		for i := range events {
			deposit(t, s, "A-1", int64(i))
		}
		var rows, different int
		eventually(t, "all events", func() bool {
			err := db.QueryRow("SELECT count(*), count(DISTINCT position) FROM "+prefix+"done").Scan(&rows, &different)
			return err == nil && different == events
		})
		if rows != events {
			t.Errorf("%d effects, want %d", rows, events)
		}
	})
}
