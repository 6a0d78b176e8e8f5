package eventstore_test

import (
	"fmt"
	"testing"

	es "example.com/eventstore"
)

// BenchmarkMemoryAppend appends one small event after the other to an aggregate in memory.
func BenchmarkMemoryAppend(b *testing.B) {
	s := es.NewMemStore(nil)
	createStream(b, s, "accounts")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := s.Append(b.Context(), "accounts", "a", es.ExpectedVersion(i), es.NewEvent{Payload: deposited{1}}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAppend appends one small event after the other to an aggregate.
func BenchmarkAppend(b *testing.B) {
	for _, l := range lanes {
		if l.odd {
			continue
		}
		b.Run(l.name, func(b *testing.B) {
			s := l.open(b, nil)
			createStream(b, s, "accounts")
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := s.Append(b.Context(), "accounts", "a", es.ExpectedVersion(i), es.NewEvent{Payload: deposited{1}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLoad loads an aggregate of 100 events, again and again.
func BenchmarkLoad(b *testing.B) {
	for _, l := range lanes {
		if l.odd {
			continue
		}
		b.Run(l.name, func(b *testing.B) {
			s := l.open(b, nil)
			createStream(b, s, "accounts")
			mustAppend(b, s, "accounts", "a", es.MustNotExist, events(100, 1)...)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := accounts.Load(b.Context(), s, "a"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkQuery folds 20,000 events.
func BenchmarkQuery(b *testing.B) {
	for _, l := range lanes {
		if l.odd {
			continue
		}
		b.Run(l.name, func(b *testing.B) {
			s := l.open(b, nil)
			createStream(b, s, "accounts")
			for i := range 200 {
				mustAppend(b, s, "accounts", fmt.Sprint(i), es.MustNotExist, events(100, 1)...)
			}
			q := es.Query[int64]{From: es.FromAll(), When: []es.Fold[int64]{es.On(func(cents *int64, e deposited) { *cents += e.Cents })}}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := q.Run(b.Context(), s); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/20000, "ns/event")
		})
	}
}
