package eventstore_test

import (
	"fmt"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// BenchmarkQuery folds 20,000 events.
func BenchmarkQuery(b *testing.B) {
	for _, l := range storetest.Lanes() {
		if l.Odd {
			continue
		}
		b.Run(l.Name, func(b *testing.B) {
			s := l.Open(b, nil)
			storetest.CreateStream(b, s, "accounts")
			for i := range 200 {
				storetest.MustAppend(b, s, "accounts", fmt.Sprint(i), es.MustNotExist, storetest.Deposits(100, 1)...)
			}
			q := es.Query[int64]{From: es.FromAll(), When: []es.Fold[int64]{es.On(func(cents *int64, e storetest.Deposited) { *cents += e.Cents })}}
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
