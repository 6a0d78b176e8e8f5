package eventstore_test

import (
	"context"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

func FuzzPayload(f *testing.F) {
	for _, text := range []string{`{}`, ` {"b":1, "a" : 12345678901234567890.10 } `, `"\u0000\ud800"`, `[1e400,-0.0]`, "null", "{", "\"\xff\"", ""} {
		f.Add([]byte(text))
	}
	fz := newFuzzed(f, &es.Options{Codec: storetest.Verbatim{}})
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx := context.Background()
		stream := fz.fresh()
		fz.each(t, func(s *es.Store) error {
			if err := s.CreateStream(ctx, stream, nil); err != nil {
				return err
			}
			defer func() { _ = s.DeleteStream(ctx, stream) }()
			stored, err := s.Append(ctx, stream, "a", 0, es.NewEvent{Payload: storetest.Raw{Name: "raw", Text: string(data)}})
			if err != nil {
				return err
			}
			for ev, err := range s.ReadAggregate(ctx, stream, "a", 0) {
				if err != nil {
					return err
				}
				if string(ev.Data) != string(data) || string(stored[0].Data) != string(data) {
					t.Errorf("%q came back as %q", data, ev.Data)
				}
			}
			return nil
		})
	})
}
