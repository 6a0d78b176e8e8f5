package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	es "example.com/eventstore"
)

// Totals is the state of TotalsOf's projections: cents by the deposits' aggregate.
type Totals struct {
	Accounts map[string]int64
	Events   int
	Names    []string `json:",omitempty"`
}

// NewTotals returns the state before the first event.
func NewTotals() Totals { return Totals{Accounts: map[string]int64{}} }

// TotalsOf returns a projection that adds up the deposits of stream "accounts", with more handlers.
func TotalsOf(name string, more ...es.Handler[Totals]) *es.Projection[Totals] {
	return &es.Projection[Totals]{
		Name: name,
		From: es.FromStream("accounts"),
		Init: NewTotals,
		When: append([]es.Handler[Totals]{
			es.OnEvent(func(t *Totals, e Deposited, ev es.Event) { t.Accounts[ev.AggregateID] += e.Cents; t.Events++ }),
		}, more...),
		Poll:  20 * time.Millisecond,
		Lease: time.Second,
	}
}

// CatchUp runs a projection or a [Definition] up to the end of the log, and fails the test on an error.
func CatchUp[S any](t testing.TB, p catcherUp[S], s *es.Store) es.Checkpoint[S] {
	t.Helper()
	cp, err := p.CatchUp(t.Context(), s)
	if err != nil {
		t.Fatalf("catch up: %v", err)
	}
	return cp
}

type catcherUp[S any] interface {
	CatchUp(ctx context.Context, s *es.Store) (es.Checkpoint[S], error)
}

type runner interface {
	Run(ctx context.Context, s *es.Store) error
}

// Running starts a projection or a [Definition]. The function that it returns ends the run and returns Run's error.
func Running(t testing.TB, p runner, s *es.Store) (end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, s) }()
	ended := sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Second):
			return errors.New("Run has not returned within 20 s")
		}
	})
	t.Cleanup(func() { _ = ended() })
	return ended
}

// Info returns what Projections lists under a name, or a zero value.
func Info(t testing.TB, s *es.Store, name string) es.ProjectionInfo {
	t.Helper()
	infos, err := s.Projections(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range infos {
		if p.Name == name {
			return p
		}
	}
	return es.ProjectionInfo{}
}

// Rows is a table without constraints, so that nothing but the library keeps its rows unique.
type Rows struct {
	Name string
	lane Lane
}

// NewRows returns a table with a fresh name, which is dropped after the test. It is created by its Table.
func NewRows(t testing.TB, l Lane) *Rows {
	r := &Rows{lane: l, Name: fmt.Sprintf("rows_%s", strings.TrimSuffix(l.NewPrefix(t), "_"))}
	t.Cleanup(func() {
		if _, err := l.DB.Exec("DROP TABLE IF EXISTS " + r.Name); err != nil {
			t.Error(err)
		}
	})
	return r
}

// Table returns the table as a read model.
func (r *Rows) Table() *es.Table {
	return &es.Table{Dialect: r.lane.Dialect, Name: r.Name, Create: "CREATE TABLE IF NOT EXISTS " + r.Name + " (position bigint, owner varchar(100), cents bigint)"}
}

// Positions returns the positions in the table, in order.
func (r *Rows) Positions(t testing.TB) []int64 {
	t.Helper()
	found, err := r.lane.DB.Query("SELECT position FROM " + r.Name + " ORDER BY position")
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	var out []int64
	for found.Next() {
		var p int64
		if err := found.Scan(&p); err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// Insert returns an effect that writes the step's event into the table.
func (r *Rows) Insert() es.Handler[Totals] {
	table := r.Table()
	return es.Do(func(ctx context.Context, step *es.Step[Totals], e Deposited) error {
		return table.Insert(ctx, step, es.Row{"position": int64(step.Event.Position), "owner": step.Event.AggregateID, "cents": e.Cents})
	})
}
