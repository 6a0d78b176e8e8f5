package eventstore_test

import (
	"context"
	"fmt"
	"maps"
	"math"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestMetadataDecodedForThoseWhoSeeIt has metadata that nobody can decode: only who asks for them
// finds that out.
func TestMetadataDecodedForThoseWhoSeeIt(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", 0, storetest.Deposits(3, 1)...)
		if _, err := l.DB.ExecContext(ctx, "UPDATE "+prefix+"events SET metadata = '[]'"); err != nil {
			t.Fatal(err)
		}

		runs := 0
		plain := es.On(func(n *int, _ storetest.Deposited) { *n++ })
		curious := es.OnEvent(func(n *int, _ storetest.Deposited, _ es.Event) { *n++ })
		for what, run := range map[string]func(es.Fold[int]) (int, error){
			"an aggregate": func(f es.Fold[int]) (int, error) {
				a := es.Aggregate[int]{Stream: "accounts", When: []es.Fold[int]{f}}
				r, err := a.Load(ctx, s, "a")
				if err != nil {
					return 0, err
				}
				return r.State(), nil
			},
			"a query": func(f es.Fold[int]) (int, error) {
				return (&es.Query[int]{From: es.FromAll(), When: []es.Fold[int]{f}}).Run(ctx, s)
			},
			"a projection": func(f es.Fold[int]) (int, error) {
				runs++
				p := &es.Projection[int]{Name: fmt.Sprint("p", runs), From: es.FromAll(), When: []es.Handler[int]{f}}
				p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Fail }
				cp, err := p.CatchUp(ctx, s)
				return cp.State, err
			},
		} {
			if n, err := run(plain); n != 3 || err != nil {
				t.Errorf("%s with On: %d events, %v; want 3", what, n, err)
			}
			if _, err := run(curious); err == nil {
				t.Errorf("%s with OnEvent: no error, want one of metadata", what)
			}
		}
	})
}

func FuzzMetadata(f *testing.F) {
	f.Add("key", "text", int64(1), 1.5, true)
	f.Add("", "\"key\":1", int64(math.MinInt64), math.MaxFloat64, false)
	f.Add(`k"\`, "\u0000\u2028<>&", int64(1)<<53+1, math.Copysign(0, -1), true)
	f.Add("\xff", "\xff", int64(0), math.NaN(), true)
	fz := newFuzzed(f, nil)
	f.Fuzz(func(t *testing.T, key, text string, n int64, x float64, b bool) {
		ctx := context.Background()
		stream := fz.fresh()
		md := es.Metadata{key: text, "n" + key: n, "x" + key: x, "b" + key: b}
		fz.each(t, func(s *es.Store) error {
			if err := s.CreateStream(ctx, stream, nil); err != nil {
				return err
			}
			defer func() { _ = s.DeleteStream(ctx, stream) }()
			if _, err := s.Append(ctx, stream, "a", 0, es.NewEvent{Payload: storetest.Deposited{Cents: 1}, Metadata: md}); err != nil {
				return err
			}
			found := 0
			for ev, err := range s.Read(ctx, es.FromStream(stream, es.Meta(key).Equals(text), es.Meta("n"+key).Equals(n), es.Meta("x"+key).AtMost(x), es.Meta("b"+key).In(b)), es.ReadOptions{}) {
				if err != nil {
					return err
				}
				if found++; !maps.Equal(ev.Metadata, md) {
					t.Errorf("%#v came back as %#v", md, ev.Metadata)
				}
			}
			if found != 1 {
				t.Errorf("%#v was found %d times", md, found)
			}
			return nil
		})
	})
}
