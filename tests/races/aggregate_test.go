package races_test

import (
	"context"
	"sync"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

func TestExecuteRaces(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		times := 20
		if l.Odd {
			times = 5
		}
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range times {
					_, err := storetest.Accounts.Execute(context.Background(), s, "shared", func(r *es.Root[storetest.Account]) error {
						r.Record(storetest.Deposited{Cents: 1})
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		r, err := storetest.Accounts.Load(t.Context(), s, "shared")
		if err != nil {
			t.Fatal(err)
		}
		if want := int64(16 * times); r.State().Cents != want || r.Version() != want {
			t.Errorf("%d cents at version %d, want %d", r.State().Cents, r.Version(), want)
		}
	})
}
