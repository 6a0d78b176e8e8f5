package tables_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestGatheredWrites runs the same random program with gathered writes and with a statement for each: the rows, what
// handlers have read, and the events that have failed are the same.
func TestGatheredWrites(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a test
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		for range 10 {
			storetest.MustAppend(t, s, "accounts", fmt.Sprint("account-", r.IntN(40)), es.AnyVersion, storetest.Deposits(10, r.Int64N(1<<40))...)
		}
		list := schemas
		if l.Odd {
			list = schemas[:2]
		}
		for i, schema := range list {
			t.Run(schema.name, func(t *testing.T) { comparePrograms(t, l, s, schema, seed+uint64(i)) })
		}
	})
}

func comparePrograms(t *testing.T, l storetest.Lane, s *es.Store, schema schema, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 2)) //nolint:gosec // a test
	p := newProgram(t, l, schema)
	for _, odd := range []int{0, 30} {
		p.odd, p.reads, p.salt = odd, r.IntN(3) == 0, r.Uint64()
		batch := []int{20, 50, 100}[r.IntN(3)]
		action := []es.ErrorAction{es.Skip, es.Park}[r.IntN(2)]
		var results []string
		for _, p.atOnce = range []bool{true, false} {
			p.empty(t)
			cp := storetest.CatchUp(t, p.projection(action, batch), s)
			results = append(results, p.result(t, s)+fmt.Sprintln("read:", cp.State.Sum))
		}
		if results[0] != results[1] {
			t.Errorf("seed %d, batches of %d, action %v, 1 of %d odd, reads %v\na statement for each write:\n%s\ngathered:\n%s", seed, batch, action, odd, p.reads, results[0], results[1])
		}
	}
}

// TestGatheredStatements counts the statements that 400 events take, whose handlers write two tables in four ways.
func TestGatheredStatements(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		plain := newProgram(t, l, schemas[0])
		var statements atomic.Int64
		s := l.InjectedAfter(t, 4, func(string) error { return nil }, func(text string) {
			if strings.Contains(text, plain.prefix) {
				statements.Add(1)
			}
		}).Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(400, 1)...)
		p := storetest.TotalsOf("totals", es.Do(func(ctx context.Context, step *es.Step[storetest.Totals], e storetest.Deposited) error {
			id := e.Cents / 5
			if err := plain.side.Upsert(ctx, step, es.Row{"id": e.Cents, "n": e.Cents}); err != nil {
				return err
			}
			switch e.Cents % 5 {
			case 0:
				return plain.main.Insert(ctx, step, es.Row{"id": id, "n": 0, "note": "new"})
			case 1:
				return plain.main.Upsert(ctx, step, es.Row{"id": id, "n": e.Cents})
			case 2:
				return plain.main.Upsert(ctx, step, es.Row{"id": id, "note": "upserted"})
			case 3:
				return storetest.Second(plain.main.Update(ctx, step, es.Row{"id": id}, es.Row{"code": e.Cents}))
			}
			return storetest.Second(plain.main.Remove(ctx, step, es.Row{"id": id - 1}))
		}))
		storetest.CatchUp(t, p, s)
		// They come in some batches, since the first ones are small. In each there are 2 statements, or a few of powers
		// of two, for each way.
		if n := statements.Load(); n > 60 {
			t.Errorf("%d statements for 800 writes, want at most 60", n)
		}
		if rows := plain.rows(t, plain.main, plain.columns, ""); len(rows) != 2 {
			t.Errorf("rows %v, want the last two", rows)
		}
		if rows := plain.rows(t, plain.side, []string{"id", "n"}, ""); len(rows) != 400 {
			t.Errorf("%d rows beside, want 400", len(rows))
		}
	})
}
