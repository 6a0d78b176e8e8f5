package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"testing"
	"time"

	es "example.com/eventstore"
)

// runMemory measures the store in memory: loads and a projection beside the decoding alone, and
// what each operation takes in time and allocations.
func runMemory(ctx context.Context, wanted *regexp.Regexp) error {
	m, err := newMemoryBench(ctx)
	if err != nil {
		return err
	}
	if err := report(ctx, "memory, beside the decoding alone", []benchCase{
		{name: "memory load 100", unit: "loads", goal: .90, lib: repeated(m.load), raw: repeated(func(context.Context) error { return m.decode(logAggregate) })},
		{name: "memory projection", unit: "projections", goal: .90, lib: repeated(m.project), raw: repeated(func(context.Context) error { return m.decode(memoryLog) })},
	}, wanted); err != nil {
		return err
	}
	var rows [][]string
	for _, c := range []struct {
		name string
		per  int // units of one operation
		goal string
		run  func(*testing.B)
	}{
		{"memory append of a small event", 1, "1.5µs", memoryAppend(ctx)},
		{"memory load 100, for each event", logAggregate, "–", each(ctx, m.load)},
		{"memory projection, for each event", memoryLog, "–", each(ctx, m.project)},
	} {
		if !wanted.MatchString(c.name) {
			continue
		}
		var took, allocs, bytes []float64
		for range *rounds {
			r := testing.Benchmark(c.run)
			n := float64(r.N * c.per)
			took, allocs, bytes = append(took, float64(r.T)/n), append(allocs, float64(r.MemAllocs)/n), append(bytes, float64(r.MemBytes)/n)
		}
		rows = append(rows, []string{c.name, time.Duration(quantile(took, .5)).String(), fmt.Sprintf("%.1f", quantile(allocs, .5)), fmt.Sprintf("%.0f", quantile(bytes, .5)), c.goal})
	}
	return printTable(os.Stdout, "memory, by itself", []string{"case", "time", "allocations", "bytes", "goal"}, rows)
}

// memoryLog is how many events the store in memory holds.
const memoryLog = 10_000

// memoryBench is a store in memory, and the same events as their text only.
type memoryBench struct {
	store       *es.Store
	texts       [][]byte
	aggregate   int
	projections int
}

func newMemoryBench(ctx context.Context) (*memoryBench, error) {
	m := &memoryBench{store: es.NewMemStore(nil)}
	if err := m.store.CreateStream(ctx, "accounts", nil); err != nil {
		return nil, err
	}
	for i := 0; i < memoryLog; i += logAggregate {
		evs := make([]es.NewEvent, logAggregate)
		for j := range evs {
			evs[j].Payload = deposit(i + j)
			data, err := json.Marshal(evs[j].Payload)
			if err != nil {
				return nil, err
			}
			m.texts = append(m.texts, data)
		}
		if _, err := m.store.Append(ctx, "accounts", anAccount(i/logAggregate), es.MustNotExist, evs...); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// decode folds the texts of n events.
func (m *memoryBench) decode(n int) error {
	m.aggregate++
	first := m.aggregate * n % memoryLog
	var a account
	for _, text := range m.texts[first : first+n] {
		var e deposited
		if err := json.Unmarshal(text, &e); err != nil {
			return err
		}
		a.add(e)
	}
	return loaded(a, n)
}

func (m *memoryBench) load(ctx context.Context) error {
	m.aggregate++
	r, err := accounts.Load(ctx, m.store, anAccount(m.aggregate%(memoryLog/logAggregate)))
	if err != nil {
		return err
	}
	return loaded(r.State(), logAggregate)
}

func (m *memoryBench) project(ctx context.Context) error {
	m.projections++
	p := &es.Projection[account]{
		Name: fmt.Sprintf("p-%d", m.projections), From: es.FromAll(), When: []es.Handler[account]{es.On((*account).add)}, BatchSize: batchSize,
	}
	cp, err := p.CatchUp(ctx, m.store)
	if err != nil {
		return err
	}
	return loaded(cp.State, memoryLog)
}

// each is a benchmark of fn.
func each(ctx context.Context, fn func(context.Context) error) func(*testing.B) {
	return func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			if err := fn(ctx); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// memoryAppend appends one small event after the other to an aggregate.
func memoryAppend(ctx context.Context) func(*testing.B) {
	return func(b *testing.B) {
		b.ReportAllocs()
		s := es.NewMemStore(nil)
		if err := s.CreateStream(ctx, "accounts", nil); err != nil {
			b.Fatal(err)
		}
		b.ResetTimer()
		for i := range b.N {
			if _, err := s.Append(ctx, "accounts", "a", es.ExpectedVersion(i), es.NewEvent{Payload: smallEvent{i}}); err != nil {
				b.Fatal(err)
			}
		}
	}
}

type smallEvent struct {
	Cents int `json:"cents"`
}

func (smallEvent) EventName() string { return "account.deposited" }
