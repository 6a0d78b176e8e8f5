package transactions_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestCancelledBatchIsUndone cancels a run in a handler whose transaction is busy, so that database/sql rolls it
// back after the runner is done with it. Until then no statement may come that would commit what the handler has
// written.
func TestCancelledBatchIsUndone(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", 0, storetest.Deposits(1, 1)...)
		rows := storetest.NewRows(t, l)
		const busy = "SELECT 40 + 2"
		var entered, leave chan struct{}
		var commits atomic.Int64
		injected := l.Injected(t, 5, func(text string) error {
			switch {
			case strings.Contains(text, busy):
				close(entered)
				<-leave
			case strings.Contains(text, "autocommit = 1"):
				commits.Add(1)
			}
			return nil
		}).OpenIn(t, prefix, nil)
		for range 5 {
			entered, leave = make(chan struct{}), make(chan struct{})
			ended := make(chan error, 1)
			ctx, cancel := context.WithCancel(t.Context())
			p := storetest.TotalsOf("p", rows.Insert(), es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], _ storetest.Deposited) error {
				tx, err := step.Tx()
				if err != nil {
					return err
				}
				go func() {
					_, err := tx.ExecContext(context.WithoutCancel(ctx), busy)
					ended <- err
				}()
				<-entered
				cancel()
				// The context of the transaction has ended too, so that nothing is committed here. Once database/sql
				// has begun to roll it back, the error is another.
				storetest.Eventually(t, "the rollback to begin", func() bool { return errors.Is(tx.Commit(), sql.ErrTxDone) })
				// Most likely the runner waits for the connection by then. If not, this try shows less.
				leave := leave
				time.AfterFunc(50*time.Millisecond, func() { close(leave) })
				return ctx.Err()
			}))
			p.ReadModel = rows.Table()
			if err := p.Run(ctx, injected); !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
			_ = <-ended
			if n := commits.Load(); n != 0 {
				t.Errorf("the connection was told %d times to commit", n)
			}
			if got := rows.Positions(t); len(got) != 0 {
				t.Fatalf("a batch that was cancelled has left rows of events %v", got)
			}
		}
		p := storetest.TotalsOf("p", rows.Insert())
		p.ReadModel = rows.Table()
		if cp := storetest.CatchUp(t, p, s); cp.State.Events != 1 || len(rows.Positions(t)) != 1 {
			t.Errorf("then the state comes to %+v, and rows to %v", cp.State, rows.Positions(t))
		}
	})
}
