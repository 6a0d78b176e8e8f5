package batches_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestTransactionsDontWait has eight clients hold transactions, which are all connections but a few, and ask in
// them for what is sealed, while projections look for it and wait for a connection.
func TestTransactionsDontWait(t *testing.T) {
	storetest.ForEach(t, 2, storetest.AnyKind, func(t *testing.T, l storetest.Lane) {
		prefix := l.NewPrefix(t)
		l = l.Pool(t, l.DSN, 5)
		s := l.OpenIn(t, prefix, nil)
		if err := s.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		storetest.CreateStream(t, s, "accounts")
		ctx, cancel := context.WithCancel(t.Context())
		runs := make(chan error, 1)
		go func() {
			runs <- errors.Join(storetest.Race(2, func(i int) error { return storetest.TotalsOf(fmt.Sprint("totals", i)).Run(ctx, s) })...)
		}()
		began := time.Now()
		for i, err := range storetest.Race(8, func(w int) error {
			for n := 0; time.Since(began) < 2*time.Second; n++ {
				if err := askInTransaction(t, l, s, w, n); err != nil {
					return err
				}
			}
			return nil
		}) {
			if err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		}
		cancel()
		if err := <-runs; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func askInTransaction(t *testing.T, l storetest.Lane, s *es.Store, w, n int) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 3*time.Second)
	defer cancel()
	tx, err := l.DB.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	in := s.WithTx(tx)
	if _, err := in.Append(ctx, "accounts", fmt.Sprint("a", w), es.AnyVersion, storetest.Deposits(1, 1)...); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	switch n % 4 {
	case 0:
		_, err = in.Sealed(ctx)
	case 1:
		_, err = in.Stats(ctx)
	case 2:
		_, err = in.Projections(ctx)
	default:
		err = storetest.FirstError(in.Read(ctx, es.FromAll(), es.ReadOptions{Sealed: true}))
	}
	if err != nil {
		return fmt.Errorf("call %d: %w", n%4, err)
	}
	return tx.Commit()
}

// TestHandlersThatHoldAllConnections has handlers call the store outside the transaction which they have begun,
// when that holds the pool's last connection: they get an error that says so. A pool with one more connection,
// or a handler that has not begun its transaction, gets none.
func TestHandlersThatHoldAllConnections(t *testing.T) {
	storetest.ForEach(t, 2, storetest.AnyKind, func(t *testing.T, l storetest.Lane) {
		for _, c := range []struct {
			name                 string
			conns, projections   int
			begins, wantsRefusal bool
		}{
			{"one connection", 1, 1, true, true},
			{"one connection, no transaction", 1, 1, false, false},
			{"two connections", 2, 1, true, false},
			{"two connections, two projections", 2, 2, true, true},
			{"three connections, two projections", 3, 2, true, false},
		} {
			t.Run(c.name, func(t *testing.T) {
				prefix := l.NewPrefix(t)
				l := l.Pool(t, l.DSN, c.conns)
				s := l.OpenIn(t, prefix, nil)
				if err := s.Install(t.Context()); err != nil {
					t.Fatal(err)
				}
				storetest.CreateStream(t, s, "accounts", "others")
				storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
				var begun, refused atomic.Int32
				meet := make(chan struct{})
				calls := func(ctx context.Context) error {
					var errs []error
					_, err := s.Append(ctx, "others", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
					errs = append(errs, err)
					_, err = s.Sealed(ctx)
					errs = append(errs, err)
					_, err = s.Stats(ctx)
					errs = append(errs, err, storetest.FirstError(s.Read(ctx, es.FromStream("others"), es.ReadOptions{Sealed: true})))
					_, err = s.HasStream(ctx, "others")
					return errors.Join(append(errs, err)...)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				for i, err := range storetest.Race(c.projections, func(i int) error {
					p := storetest.TotalsOf(fmt.Sprint("totals", i), es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], _ storetest.Deposited) error {
						step.Stop()
						if c.begins {
							if _, err := step.Tx(); err != nil {
								return err
							}
							// All transactions have begun before the first call.
							if begun.Add(1) == int32(c.projections) {
								close(meet)
							}
							<-meet
						}
						err := calls(ctx)
						if errors.Is(err, es.ErrInvalid) {
							refused.Add(1)
							return nil
						}
						return err
					}))
					p.From = es.FromStream("accounts")
					return p.Run(ctx, s)
				}) {
					if err != nil {
						t.Errorf("projection %d: %v", i, err)
					}
				}
				if got := refused.Load() > 0; got != c.wantsRefusal {
					t.Errorf("%d handlers were refused a connection", refused.Load())
				}
			})
		}
	})
}
