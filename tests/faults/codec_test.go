package faults_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// Payloads that can't be decoded, each for a reason whose text repeats the value.
type (
	small  struct{ N int8 }
	number struct{ N int }
	quoted struct {
		N int `json:",string"`
	}
	moment  struct{ At time.Time }
	strange struct{ V echoes }
	keys    struct{ M map[int]int }
)

// echoes has an UnmarshalJSON that tells what it was given, as those of many libraries do.
type echoes struct{}

func (*echoes) UnmarshalJSON(data []byte) error { return fmt.Errorf("no such thing as %s", data) }

func (small) EventName() string   { return "small" }
func (number) EventName() string  { return "number" }
func (quoted) EventName() string  { return "quoted" }
func (moment) EventName() string  { return "moment" }
func (strange) EventName() string { return "strange" }
func (keys) EventName() string    { return "keys" }

// TestErrorsTellNoPayload has payloads that can't be decoded go through everything that logs errors, keeps or
// returns them: none of the texts holds what is in a payload or in metadata.
func TestErrorsTellNoPayload(t *testing.T) {
	const secret = "7261593"
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		ctx := t.Context()
		var log bytes.Buffer // the handler writes one record at a time
		logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		s := l.Open(t, &es.Options{Logger: logger})
		storetest.CreateStream(t, s, "accounts")
		for _, raw := range []storetest.Raw{
			{Name: "small", Text: `{"N":` + secret + `}`},
			{Name: "number", Text: `{"N":"` + secret + `"}`},
			{Name: "quoted", Text: `{"N":"x` + secret + `"}`},
			{Name: "moment", Text: `{"At":"` + secret + `"}`},
			{Name: "strange", Text: `{"V":"` + secret + `"}`},
			{Name: "keys", Text: `{"M":{"x` + secret + `":1}}`},
		} {
			storetest.MustAppend(t, s, "accounts", raw.Name, es.AnyVersion, es.NewEvent{Payload: raw, Metadata: es.Metadata{"who": secret}})
		}
		check := func(what, text string) {
			t.Helper()
			if strings.Contains(text, secret) {
				t.Errorf("%s holds a value of a payload:\n%s", what, text)
			}
		}
		failed := func(what string, err error) {
			t.Helper()
			if err == nil {
				t.Errorf("%s: no error", what)
			} else {
				check(what, err.Error())
			}
		}
		folds := []es.Fold[int]{
			es.On(func(*int, small) {}), es.On(func(*int, number) {}), es.On(func(*int, quoted) {}),
			es.On(func(*int, moment) {}), es.On(func(*int, strange) {}), es.On(func(*int, keys) {}),
		}
		for _, name := range []string{"small", "number", "quoted", "moment", "strange", "keys"} {
			a := es.Aggregate[int]{Stream: "accounts", When: folds, Snapshot: es.Snapshot{Every: 1}}
			_, err := a.Load(ctx, s, name)
			failed("Load of "+name, err)
			_, err = (&es.Query[int]{From: es.FromAll(es.ByEventName.Equals(name)), When: folds}).Run(ctx, s)
			failed("Query of "+name, err)
		}
		if _, err := es.Decode[moment](storetest.Everything(t, s)[3]); !errors.As(err, new(*time.ParseError)) {
			t.Errorf("Decode: %v, want that it wraps what was said", err)
		} else {
			check("Decode", err.Error())
		}
		handlers := make([]es.Handler[int], len(folds))
		for i, f := range folds {
			handlers[i] = f
		}
		p := &es.Projection[int]{Name: "park", From: es.FromAll(), When: handlers}
		p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Park }
		storetest.CatchUp(t, p, s)
		parked, err := s.ParkedEvents(ctx, "park")
		if err != nil || len(parked) != len(handlers) {
			t.Errorf("%d events are parked (%v), want %d", len(parked), err, len(handlers))
		}
		for _, ev := range parked {
			check("the error of a parked event", ev.Error)
		}
		p = &es.Projection[int]{Name: "fail", From: es.FromAll(), When: handlers}
		p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Fail }
		_, err = p.CatchUp(ctx, s)
		failed("CatchUp", err)
		check("ProjectionInfo.Error", storetest.Info(t, s, "fail").Error)
		for what, payload := range map[string]es.Payload{
			"a broken marshaler": refuses{}, "what is not UTF-8": storetest.Raw{Name: "raw", Text: `"` + secret + "\xff\""}, "what is not JSON": storetest.Raw{Name: "raw", Text: secret + "}"},
		} {
			_, err := s.Append(ctx, "accounts", "a", es.AnyVersion, es.NewEvent{Payload: payload})
			failed(what, err)
		}
		for what, md := range map[string]es.Metadata{"a struct": {"k": struct{ S string }{secret}}, "what is not UTF-8": {"k": secret + "\xff"}, "a list": {"k": []string{secret}}} {
			_, err := s.Append(ctx, "accounts", "a", es.AnyVersion, es.NewEvent{Payload: storetest.Deposited{}, Metadata: md})
			failed("metadata with "+what, err)
		}
		check("the log", log.String())
	})
}

type refuses struct{}

func (refuses) EventName() string            { return "refuses" }
func (refuses) MarshalJSON() ([]byte, error) { return nil, errors.New("7261593 is not for you") }

// TestCodecSpeaks has an application's codec fail: what it says is in the error, but for what encoding/json says.
func TestCodecSpeaks(t *testing.T) {
	s := es.NewMemStore(&es.Options{Codec: revoked{}})
	storetest.CreateStream(t, s, "accounts")
	storetest.MustAppend(t, s, "accounts", "a", 0, storetest.Deposits(1, 1)...)
	_, err := storetest.Accounts.Load(t.Context(), s, "a")
	if !errors.Is(err, io.ErrClosedPipe) || !strings.Contains(err.Error(), io.ErrClosedPipe.Error()) {
		t.Errorf("Load: %v, want what the codec says", err)
	}
}

type revoked struct{}

func (revoked) Marshal(v any) ([]byte, error) { return json.Marshal(v) }
func (revoked) Unmarshal([]byte, any) error   { return io.ErrClosedPipe }
