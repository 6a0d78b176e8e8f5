package runners_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
	"example.com/eventstore/internal/testserver"
)

// TestRunnerOfDeleted has a projection deleted and begun anew, by another process, while its runner
// is in a handler: the runner can't write into its successor's row, and ends.
func TestRunnerOfDeleted(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		if l.DB != nil && l.DB.Stats().MaxOpenConnections == 1 {
			return // two processes would not share a connection
		}
		s, other := l.OpenTwice(t)
		storetest.CreateStream(t, s, "accounts")
		stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(3, 1)...)
		handling, goOn := make(chan struct{}), make(chan struct{})
		old := storetest.TotalsOf("again", es.Do(func(_ context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
			if step.Event.Version == 1 {
				close(handling)
				<-goOn
			}
			step.State.Names = append(step.State.Names, "old")
			return nil
		}))
		done := make(chan error, 1)
		go func() { done <- old.Run(t.Context(), s) }()
		<-handling
		p := storetest.TotalsOf("again")
		if err := p.Delete(t.Context(), other, false); err != nil {
			t.Fatal(err)
		}
		end := storetest.Running(t, p, other)
		if err := p.Wait(t.Context(), other, stored[2].Position); err != nil {
			t.Fatal(err)
		}
		close(goOn)
		storetest.Eventually(t, "the old runner to end", func() bool {
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("the old runner returned %v, want nil", err)
				}
				return true
			default:
				return false
			}
		})
		if cp, err := p.Load(t.Context(), s); err != nil || cp.State.Events != 3 || len(cp.State.Names) != 0 {
			t.Errorf("loaded %+v (%v), want nothing of the old runner", cp, err)
		}
		_ = end()
	})
}

// TestRunnerFailuresLikeFaults has handlers fail with errors that look like a fault of the database
// or of the lease, and are none: OnError decides about them as about any other.
func TestRunnerFailuresLikeFaults(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(3, 1)...)
		refused := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused by a broker")}
		for i, failure := range []error{io.EOF, io.ErrUnexpectedEOF, refused, es.ErrRetryTx, es.ErrLeaseLost, context.DeadlineExceeded, context.Canceled} {
			for _, inTx := range []bool{false, true} {
				if inTx && l.DB == nil {
					continue // memory has no transactions
				}
				tries := 0
				p := storetest.TotalsOf(fmt.Sprint("failing", i, inTx), es.Do(func(_ context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
					if step.Event.Version != 2 {
						return nil
					}
					if tries++; inTx {
						if _, err := step.Tx(); err != nil {
							return err
						}
					}
					return fmt.Errorf("ask the broker: %w", failure)
				}))
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				_, err := p.CatchUp(ctx, s)
				cancel()
				var pe *es.ProjectionError
				if !errors.As(err, &pe) || !errors.Is(err, failure) || pe.Event.Position != stored[1].Position || tries != 4 {
					t.Errorf("%v (in a transaction: %v): %d tries, then %v, want a *ProjectionError after 4", failure, inTx, tries, err)
				}
				if got := storetest.Info(t, s, p.Name); got.Status != es.StatusFailed || got.Owner != "" {
					t.Errorf("%v: listed as %+v, want it failed", failure, got)
				}
			}
		}
	})
}

// TestRunnerDialTimeouts has the driver's own time-out end its attempts to connect, which is not
// the end of the caller's context.
func TestRunnerDialTimeouts(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		var unreachable atomic.Bool
		var timeouts atomic.Int64
		var mu sync.Mutex
		var conns []net.Conn
		dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
			var d net.Dialer
			if unreachable.Load() {
				timeouts.Add(1)
				d.Timeout = 1 // ns
			}
			c, err := d.DialContext(ctx, network, addr)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				conns = append(conns, c)
			}
			return c, err
		}
		l.DB = dialedBy(t, l, dial)
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		p := storetest.TotalsOf("totals")
		end := storetest.Running(t, p, s)
		storetest.Eventually(t, "the projection to run", func() bool { return storetest.Info(t, s, "totals").Status == es.StatusRunning })

		unreachable.Store(true)
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		waited := make(chan error, 1)
		go func() { waited <- p.Wait(t.Context(), s, 1) }()
		storetest.Eventually(t, "time-outs", func() bool { return timeouts.Load() > 10 })
		unreachable.Store(false)

		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
		storetest.Eventually(t, "Wait to return", func() bool {
			select {
			case err := <-waited:
				if err != nil {
					t.Errorf("Wait returned %v", err)
				}
				return true
			default:
				return false
			}
		})
		if err := end(); !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v, want context.Canceled", err)
		}
	})
}

// TestCatchUpStopped has a catch-up stopped, or its projection deleted, in the middle of a batch and
// while it stands by: what it returns is what is stored.
func TestCatchUpStopped(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		if l.DB != nil && l.DB.Stats().MaxOpenConnections == 1 {
			return // the test holds a lease while a catch-up waits for it
		}
		s, other := l.OpenTwice(t)
		ctx := context.WithoutCancel(t.Context())
		storetest.CreateStream(t, s, "accounts")
		stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(5, 1)...)
		for name, c := range map[string]struct {
			end  func(name string) error
			want int // events
		}{
			"stop":   {func(name string) error { return s.StopProjection(ctx, name) }, 2},
			"delete": {func(name string) error { return s.DeleteProjection(ctx, name, false) }, 0},
		} {
			check := func(what string, cp es.Checkpoint[storetest.Totals], err error) {
				t.Helper()
				var at es.Position
				if c.want > 0 {
					at = stored[c.want-1].Position
				}
				if err != nil || cp.Position != at || cp.State.Events != c.want || cp.State.Accounts == nil {
					t.Errorf("%s %s: returned %+v (%v), want %d events", name, what, cp, err, c.want)
				}
			}
			p := storetest.TotalsOf(name, es.Do(func(_ context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
				if step.Event.Version == 4 {
					return c.end(name)
				}
				return nil
			}))
			p.BatchSize = 2
			cp, err := p.CatchUp(t.Context(), s)
			check("in a batch", cp, err)

			handling, goOn := make(chan struct{}), make(chan struct{})
			p.Name += "-held"
			p.When[1] = es.Do(func(_ context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
				if step.Event.Version == 4 {
					close(handling)
					<-goOn
				}
				return nil
			})
			done := make(chan error, 1)
			go func() { done <- p.Run(t.Context(), s) }()
			<-handling
			returned := make(chan func(), 1)
			go func() {
				cp, err := p.CatchUp(t.Context(), other)
				returned <- func() { check("standing by", cp, err) }
			}()
			_ = storetest.Pause(t.Context(), 500*time.Millisecond) // that it stands by can't be seen
			if err := c.end(p.Name); err != nil {
				t.Error(err)
			}
			select {
			case verdict := <-returned:
				verdict()
			case <-time.After(20 * time.Second):
				t.Errorf("%s: CatchUp has not returned", name)
			}
			close(goOn)
			if err := <-done; err != nil {
				t.Errorf("%s: Run returned %v, want nil", name, err)
			}
		}
	})
}

// TestRunnerErrorText has a handler fail with text that not every database takes as it is.
func TestRunnerErrorText(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
		for i, text := range []string{"no \xff such \x00 luck", "", strings.Repeat("no such luck ", 2<<20)} {
			failing := func(decision es.ErrorAction) *es.Projection[storetest.Totals] {
				p := storetest.TotalsOf(fmt.Sprint(decision, i), es.Do(func(context.Context, *es.Step[storetest.Totals], storetest.Deposited) error { return errors.New(text) }))
				p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return decision }
				return p
			}
			p := failing(es.Fail)
			var pe *es.ProjectionError
			if _, err := p.CatchUp(t.Context(), s); !errors.As(err, &pe) || pe.Err.Error() != text {
				t.Errorf("text %d: error is %.200v, want a *ProjectionError with the text as it is", i, err)
			}
			if got := storetest.Info(t, s, p.Name); got.Status != es.StatusFailed || got.Owner != "" || got.Error == "" {
				t.Errorf("text %d: listed as %.200v, want it failed", i, got)
			}
			p = failing(es.Park)
			storetest.CatchUp(t, p, s)
			if err := s.RetryParked(t.Context(), p.Name); err != nil {
				t.Fatal(err)
			}
			storetest.CatchUp(t, p, s)
			if parked, err := s.ParkedEvents(t.Context(), p.Name); err != nil || len(parked) != 1 || parked[0].Error == "" {
				t.Errorf("text %d: parked %.200v (%v), want one with an error", i, parked, err)
			}
		}
	})
}

// TestControlOfDeleted resets a projection whose deletion waits for its definition, and asks for its
// parked events: it stays deleted, and nothing but another delete finds it.
func TestControlOfDeleted(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(3, 1)...)
		table := storetest.NewRows(t, l)
		p := storetest.TotalsOf("deleted", table.Insert())
		p.ReadModel = table.Table()
		storetest.CatchUp(t, p, s)
		if err := s.DeleteProjection(t.Context(), "deleted", false); err != nil {
			t.Fatal(err)
		}
		storetest.WantErr(t, "reset", p.Reset(t.Context(), s), es.ErrProjectionNotFound)
		storetest.WantErr(t, "reset by name", s.ResetProjection(t.Context(), "deleted"), es.ErrProjectionNotFound)
		storetest.WantErr(t, "parked events", storetest.Second(s.ParkedEvents(t.Context(), "deleted")), es.ErrProjectionNotFound)
		storetest.WantErr(t, "retry", s.RetryParked(t.Context(), "deleted"), es.ErrProjectionNotFound)
		storetest.WantErr(t, "drop", s.DropParked(t.Context(), "deleted", stored[0].Position), es.ErrProjectionNotFound)
		if got := storetest.Info(t, s, "deleted"); got.Status != es.StatusDeleting {
			t.Errorf("listed as %+v, want it deleting", got)
		}
		if err := p.Delete(t.Context(), s, false); err != nil {
			t.Fatal(err)
		}
		if infos, err := s.Projections(t.Context()); err != nil || len(infos) != 0 {
			t.Errorf("listed after the delete: %+v (%v)", infos, err)
		}
	})
}

// TestRunnerHiddenDeadlock has a handler keep quiet about a deadlock of what it emits, which on MySQL
// undoes what the whole batch has done so far: the batch is handled again, all of it.
func TestRunnerHiddenDeadlock(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
		table, locks := storetest.NewRows(t, l), storetest.NewRows(t, l)
		for _, text := range []string{
			"CREATE TABLE " + locks.Name + " (id int PRIMARY KEY, n int)",
			"INSERT INTO " + locks.Name + " VALUES (1, 0)",
		} {
			if _, err := l.DB.Exec(text); err != nil {
				t.Fatal(err)
			}
		}
		update := func(tx *sql.Tx) error {
			_, err := tx.Exec("UPDATE " + locks.Name + " SET n = n + 1 WHERE id = 1")
			return err
		}
		deadlocks := 0
		p := storetest.TotalsOf("quiet", table.Insert(), es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
			switch {
			case step.Event.Version != 1 && step.Event.Version != 4:
				return nil
			case step.Event.Version == 1, deadlocks > 0:
				return step.Emit(ctx, es.NewEvent{Payload: e})
			}
			mine, err := step.Tx()
			if err != nil {
				return err
			}
			others, err := l.DB.Begin()
			if err != nil {
				return err
			}
			defer func() { _ = others.Rollback() }()
			// The other transaction has done more, so that it is not the one to be undone.
			for range 200 {
				if _, err := others.Exec("INSERT INTO " + table.Name + " VALUES (0, 'other', 0)"); err != nil {
					return err
				}
			}
			if _, err := s.WithTx(others).Append(ctx, "quiet", "a", es.AnyVersion, es.NewEvent{Payload: e}); err != nil {
				return err
			}
			if err := update(mine); err != nil {
				return err
			}
			done := make(chan error, 1)
			go func() {
				_ = storetest.Pause(ctx, 100*time.Millisecond) // until the other waits
				done <- update(others)
			}()
			err = step.Emit(ctx, es.NewEvent{Payload: e})
			if other := <-done; err != nil && other == nil {
				deadlocks++ // and nobody hears of it
			}
			return nil
		}))
		p.ReadModel = table.Table()
		storetest.CatchUp(t, p, s) // which makes the projection's stream
		stored = append(stored, storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(5, 2)...)...)
		var want []int64
		for _, ev := range stored {
			want = append(want, int64(ev.Position))
		}
		cp := storetest.CatchUp(t, p, s)
		if got := table.Positions(t); !slices.Equal(got, want) || cp.State.Events != len(want) {
			t.Errorf("the table has the rows of %v, and the state %d events: want %v", got, cp.State.Events, want)
		}
		if got := storetest.Collect(t, s.Read(t.Context(), es.FromStream("quiet"), es.ReadOptions{})); deadlocks != 1 || len(got) != 2 {
			t.Errorf("%d events emitted with %d deadlocks, want 2 with 1", len(got), deadlocks)
		}
	})
}

// slowModel is a read model whose deletion waits.
type slowModel struct {
	*es.Table
	deleting, goOn chan struct{}
}

func (m *slowModel) Delete(ctx context.Context, tx *sql.Tx) error {
	close(m.deleting)
	<-m.goOn
	return m.Table.Delete(ctx, tx)
}

// TestRunnerWhileDeleting begins a run while a delete takes longer than a lease: the run waits for
// its end and then begins anew, with a table that nobody drops any more.
func TestRunnerWhileDeleting(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s, other := l.OpenTwice(t)
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(3, 1)...)
		table := storetest.NewRows(t, l)
		p := storetest.TotalsOf("deleted", table.Insert())
		p.ReadModel = table.Table()
		storetest.CatchUp(t, p, s)
		// Only the definition knows the table, so this leaves it to the next run.
		if err := s.DeleteProjection(t.Context(), "deleted", false); err != nil {
			t.Fatal(err)
		}
		slow := *p
		model := &slowModel{table.Table(), make(chan struct{}), make(chan struct{})}
		slow.ReadModel = model
		endSlow := storetest.Running(t, &slow, s)
		<-model.deleting
		end := storetest.Running(t, p, other)
		_ = storetest.Pause(t.Context(), 2*p.Lease)
		if got := storetest.Info(t, s, "deleted"); got.Status != es.StatusDeleting || got.Owner == "" {
			t.Errorf("listed as %+v while its table is being dropped", got)
		}
		close(model.goOn)
		last := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)[0].Position
		waiting, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := p.Wait(waiting, s, last); err != nil {
			t.Errorf("begun anew: %v (%+v)", err, storetest.Info(t, s, "deleted"))
		}
		for _, end := range []func() error{endSlow, end} {
			if err := end(); !errors.Is(err, context.Canceled) {
				t.Errorf("Run returned %v, want context.Canceled", err)
			}
		}
		if got := table.Positions(t); len(got) != 4 {
			t.Errorf("the table has the rows of %v, want those of 4 events", got)
		}
	})
}

// TestRunnerLosesCommits has the answers to the first COMMITs of a run be lost, that of its read
// model's creation among them.
func TestRunnerLosesCommits(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		through, proxy := l.Proxied(t, 30)
		var lost atomic.Int64
		proxy.SetHook(func(_ *testserver.Conn, dir testserver.Direction, chunk []byte) testserver.Action {
			if dir == testserver.ToServer && storetest.IsCommit(chunk) && lost.Add(1) <= 4 {
				return testserver.CutAfter
			}
			return testserver.Forward
		})
		prefix := l.NewPrefix(t)
		direct := l.OpenIn(t, prefix, nil)
		if err := direct.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		storetest.CreateStream(t, direct, "accounts")
		stored := storetest.MustAppend(t, direct, "accounts", "a", es.AnyVersion, storetest.Deposits(3, 1)...)
		cut := through.OpenIn(t, prefix, nil)
		table := storetest.NewRows(t, l)
		p := storetest.TotalsOf("totals", table.Insert())
		p.ReadModel, p.BatchSize = table.Table(), 1
		if cp := storetest.CatchUp(t, p, cut); cp.State.Events != len(stored) || len(table.Positions(t)) != len(stored) {
			t.Errorf("%d events and %d rows, want %d", cp.State.Events, len(table.Positions(t)), len(stored))
		}
		if n := lost.Load(); n < 4 {
			t.Errorf("only %d answers to COMMIT were lost", n)
		}
	})
}

// dialedBy returns the lane's database as it is reached through a function.
func dialedBy(t *testing.T, l storetest.Lane, dial func(ctx context.Context, network, addr string) (net.Conn, error)) (db *sql.DB) {
	if l.Driver == "mysql" {
		cfg, err := mysql.ParseDSN(l.DSN)
		if err != nil {
			t.Fatal(err)
		}
		network := cfg.Net
		cfg.DialFunc = func(ctx context.Context, _, addr string) (net.Conn, error) { return dial(ctx, network, addr) }
		c, err := mysql.NewConnector(cfg)
		if err != nil {
			t.Fatal(err)
		}
		db = sql.OpenDB(c)
	} else {
		cfg, err := pgx.ParseConfig(l.DSN)
		if err != nil {
			t.Fatal(err)
		}
		cfg.DialFunc = dial
		db = stdlib.OpenDB(*cfg)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}
