package eventstore_test

import (
	"context"
	"strings"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

func FuzzNames(f *testing.F) {
	f.Add("accounts", "a", "opened")
	f.Add("A b", "ä\u0301", "日本語")
	f.Add("%_\\'\"", " ", "\x7f")
	f.Add("", "\xff", "\x00")
	f.Add(strings.Repeat("x", 255), strings.Repeat("深", 85), strings.Repeat("n", 256))
	fz := newFuzzed(f, &es.Options{Codec: storetest.Verbatim{}})
	f.Fuzz(func(t *testing.T, stream, id, name string) {
		ctx := context.Background()
		fz.mu.Lock()
		defer fz.mu.Unlock()
		fz.each(t, func(s *es.Store) error {
			defer func() { _ = s.DeleteStream(ctx, stream) }()
			if err := s.CreateStream(ctx, stream, nil); err != nil {
				return err
			}
			if _, err := s.Append(ctx, stream, id, es.MustNotExist, es.NewEvent{Payload: storetest.Raw{Name: name, Text: "1"}}); err != nil {
				return err
			}
			n := 0
			for ev, err := range s.Read(ctx, es.FromStream(stream, es.ByAggregateID.Equals(id), es.ByEventName.In(name, "x")), es.ReadOptions{}) {
				if err != nil {
					return err
				}
				if ev.Stream != stream || ev.AggregateID != id || ev.Name != name {
					t.Errorf("%q/%q %q came back as %q/%q %q", stream, id, name, ev.Stream, ev.AggregateID, ev.Name)
				}
				n++
			}
			infos, err := s.Streams(ctx, stream)
			if n != 1 || len(infos) != 1 || infos[0].Name != stream {
				t.Errorf("%q/%q %q: %d events, streams %v", stream, id, name, n, infos)
			}
			return err
		})
	})
}
