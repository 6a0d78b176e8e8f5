package main

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"testing"
	"time"

	es "example.com/eventstore"
)

// runMemory measures the store in memory: loads beside the decoding alone, an append by itself.
func runMemory(ctx context.Context, wanted *regexp.Regexp) error {
	s := es.NewMemStore(nil)
	if err := s.CreateStream(ctx, "accounts", nil); err != nil {
		return err
	}
	var texts [][]byte
	evs := make([]es.NewEvent, 100)
	for i := range evs {
		evs[i].Payload = deposit(i)
		data, err := json.Marshal(evs[i].Payload)
		if err != nil {
			return err
		}
		texts = append(texts, data)
	}
	if _, err := s.Append(ctx, "accounts", "loaded", es.MustNotExist, evs...); err != nil {
		return err
	}
	load := benchCase{
		name: "memory load 100", unit: "loads", goal: .90,
		lib: repeated(func(ctx context.Context) error { _, err := accounts.Load(ctx, s, "loaded"); return err }),
		raw: repeated(func(context.Context) error {
			var a account
			for _, text := range texts {
				var e deposited
				if err := json.Unmarshal(text, &e); err != nil {
					return err
				}
				a.add(e)
			}
			return nil
		}),
	}
	if err := report(ctx, "memory", []benchCase{load}, wanted); err != nil || !wanted.MatchString("memory append") {
		return err
	}
	var took []float64
	var allocs int64
	for range *rounds {
		r := testing.Benchmark(func(b *testing.B) {
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
		})
		took, allocs = append(took, float64(r.T)/float64(r.N)), r.AllocsPerOp()
	}
	fmt.Printf("memory append of one small event: %v, %d allocations (goal: 1.5µs)\n", time.Duration(quantile(took, .5)), allocs)
	return nil
}

type smallEvent struct {
	Cents int `json:"cents"`
}

func (smallEvent) EventName() string { return "account.deposited" }
