package eventstore_test

import (
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// BenchmarkLoad loads an aggregate of 100 events, again and again.
func BenchmarkLoad(b *testing.B) {
	for _, l := range storetest.Lanes() {
		if l.Odd {
			continue
		}
		b.Run(l.Name, func(b *testing.B) {
			s := l.Open(b, nil)
			storetest.CreateStream(b, s, "accounts")
			storetest.MustAppend(b, s, "accounts", "a", es.MustNotExist, storetest.Deposits(100, 1)...)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := storetest.Accounts.Load(b.Context(), s, "a"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
