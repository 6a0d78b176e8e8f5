package eventstore_test

import (
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// BenchmarkMemoryAppend appends one small event after the other to an aggregate in memory.
func BenchmarkMemoryAppend(b *testing.B) {
	s := es.NewMemStore(nil)
	storetest.CreateStream(b, s, "accounts")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := s.Append(b.Context(), "accounts", "a", es.ExpectedVersion(i), es.NewEvent{Payload: storetest.Deposited{Cents: 1}}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAppend appends one small event after the other to an aggregate.
func BenchmarkAppend(b *testing.B) {
	for _, l := range storetest.Lanes() {
		if l.Odd {
			continue
		}
		b.Run(l.Name, func(b *testing.B) {
			s := l.Open(b, nil)
			storetest.CreateStream(b, s, "accounts")
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := s.Append(b.Context(), "accounts", "a", es.ExpectedVersion(i), es.NewEvent{Payload: storetest.Deposited{Cents: 1}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
