package eventstore_test

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/uuid"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

func FuzzMatch(f *testing.F) {
	f.Add(0, 0, "kind", "text", int64(3), 0.5)
	f.Add(6, 8, "kind", "^t", int64(3), 0.5)
	f.Add(3, 5, "n", "", int64(1)<<53+1, math.Inf(1))
	f.Add(6, 7, "n", "", int64(math.MaxInt64), 9007199254740993.0)
	f.Add(5, 8, "", "7", int64(0), 0.0)
	f.Add(5, 8, "", "7$", int64(0), 0.0)
	// One clock for all, or a pattern finds in one store's times what it does not in another's.
	at := time.Date(2024, 2, 29, 23, 59, 58, 123457000, time.UTC)
	fz := newFuzzed(f, &es.Options{Now: func() time.Time { return at }})
	ids := make([]uuid.UUID, 6)
	for i := range ids {
		ids[i] = uuid.Must(uuid.NewV7())
	}
	for _, s := range fz.stores {
		if err := s.CreateStream(context.Background(), "accounts", nil); err != nil {
			f.Fatal(err)
		}
		for i, md := range []es.Metadata{
			nil, {"kind": "text", "n": 3}, {"kind": "Text", "n": 3.0}, {"kind": true, "n": int64(1)<<53 + 1}, {"kind": 0, "n": math.Copysign(0, -1), `k"`: `"kind":"text"`}, {"kind": "", "n": math.MaxInt64},
		} {
			if _, err := s.Append(context.Background(), "accounts", fmt.Sprint("a", i%2), es.AnyVersion, es.NewEvent{ID: ids[i], Payload: storetest.Deposited{Cents: 1}, Metadata: md}); err != nil {
				f.Fatal(err)
			}
		}
	}
	f.Fuzz(func(t *testing.T, field, op int, key, text string, n int64, x float64) {
		fields := []es.Field{es.ByAggregateID, es.ByEventName, es.ByEventID, es.ByVersion, es.ByPosition, es.ByRecordedAt, es.Meta(key), es.Meta("kind"), es.Meta("n")}
		fl := fields[abs(field)%len(fields)]
		for _, v := range []any{text, n, x, n%2 == 0, ids[abs(op)%len(ids)]} {
			m := []es.Match{
				fl.Equals(v), fl.NotEquals(v), fl.GreaterThan(v), fl.AtLeast(v), fl.LessThan(v), fl.AtMost(v), fl.In(v, text), fl.NotIn(v, n), fl.Matches(text),
			}[abs(op)%9]
			var answers []string
			fz.each(t, func(s *es.Store) error {
				found := ""
				for ev, err := range s.Read(context.Background(), es.FromAll(m), es.ReadOptions{}) {
					if err != nil {
						return err
					}
					found += fmt.Sprint(" ", ev.ID)
				}
				answers = append(answers, found)
				return nil
			})
			for _, a := range answers[min(1, len(answers)):] {
				if a != answers[0] {
					t.Errorf("%v, operator %d, %#v: Postgres finds%s, memory%s", fl, abs(op)%9, v, a, answers[0])
				}
			}
		}
	})
}

func abs(n int) int { return max(n, -(n + 1)) }
