package panics_test

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// The events: a fuse has functions of the application panic, a spark is one that only OnAny and DoAny want,
// emitted is what the handlers of a fuse emit.
type (
	fuse    struct{ N int }
	fuseV1  struct{ N int }
	spark   struct{}
	emitted struct{ B *bomb }
)

func (fuse) EventName() string   { return "fuse" }
func (fuseV1) EventName() string { return "fuse.v1" }
func (spark) EventName() string  { return "spark" }

func (e emitted) EventName() string {
	e.B.at("EventName")
	return "emitted"
}

func (e emitted) MarshalJSON() ([]byte, error) {
	e.B.at("MarshalJSON")
	return []byte("{}"), nil
}

// tally is the state of projections here, and of aggregates.
type tally struct{ Deposits, Fuses, Sparks int }

var errBoom = errors.New("boom")

// bomb panics where it is armed.
type bomb struct {
	mu    sync.Mutex
	place string
	do    func() // instead of a panic; nil: panic
}

func (b *bomb) arm(place string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.place, b.do = place, nil
}

// armWith has the place call something else.
func (b *bomb) armWith(place string, do func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.place, b.do = place, do
}

func (b *bomb) disarm() { b.arm("") }

// at panics if the bomb is armed for the place.
func (b *bomb) at(place string) {
	if b == nil {
		return // the zero value, of which the store asks the name
	}
	b.mu.Lock()
	armed, do := b.place == place, b.do
	b.mu.Unlock()
	switch {
	case armed && do != nil:
		do()
	case armed:
		panic(errBoom)
	}
}

// bombCodec is encoding/json with a bomb in it.
type bombCodec struct{ b *bomb }

func (c bombCodec) Marshal(v any) ([]byte, error) {
	switch v := v.(type) {
	case tally:
		if v.Fuses > 0 {
			c.b.at("Codec.Marshal of the state")
		}
	case fuse, emitted:
		c.b.at("Codec.Marshal")
	}
	return json.Marshal(v)
}

func (c bombCodec) Unmarshal(data []byte, v any) error {
	switch v.(type) {
	case *tally:
		c.b.at("Codec.Unmarshal of the state")
	case *fuse, *fuseV1:
		c.b.at("Codec.Unmarshal")
	}
	return json.Unmarshal(data, v)
}

// options returns those of a store with the bomb wherever it calls the application.
func (b *bomb) options() *es.Options {
	return &es.Options{
		Codec: bombCodec{b},
		Upcasters: []es.Upcaster{es.Upcast(func(e fuseV1) fuse {
			b.at("Upcast")
			return fuse(e)
		})},
		Metadata: func(context.Context) es.Metadata {
			b.at("Options.Metadata")
			return nil
		},
		Now: func() time.Time {
			b.at("Options.Now")
			return time.Now()
		},
		Middleware: []es.Middleware{{
			Append: func(ctx context.Context, batch es.Batch, next func(context.Context, es.Batch) ([]es.Event, error)) ([]es.Event, error) {
				b.at("Middleware.Append")
				stored, err := next(ctx, batch)
				b.at("Middleware.Append, after next")
				return stored, err
			},
			Load: func(_ context.Context, ev es.Event) (es.Event, error) {
				if strings.HasPrefix(ev.Name, "fuse") {
					b.at("Middleware.Load")
				}
				return ev, nil
			},
		}},
	}
}

// valuer is a parameter of a statement that panics.
type valuer struct{ b *bomb }

func (v valuer) Value() (driver.Value, error) {
	v.b.at("driver.Valuer")
	return int64(1), nil
}

// definition returns one with the bomb in all of its functions. Its handlers write to rows, if there are any.
func (b *bomb) definition(k storetest.Kind, name, stream string, rows *storetest.Rows) *storetest.Definition[tally] {
	p := &es.Projection[tally]{
		Name: name,
		From: es.FromStream(stream),
		Init: func() tally {
			b.at("Init")
			return tally{}
		},
		When: []es.Handler[tally]{
			es.On(func(s *tally, _ storetest.Deposited) { s.Deposits++ }),
			es.On(func(s *tally, _ fuse) {
				s.Fuses++
				b.at("On")
			}),
			es.OnEvent(func(*tally, fuse, es.Event) { b.at("OnEvent") }),
			es.OnAny(func(s *tally, _ es.Event) {
				s.Sparks++
				b.at("OnAny")
			}),
			es.Do(func(ctx context.Context, step *es.Step[tally], _ fuse) error {
				err := step.Emit(ctx, es.NewEvent{Payload: emitted{b}})
				b.at("Do")
				return err
			}),
			es.DoAny(func(context.Context, *es.Step[tally]) error {
				b.at("DoAny")
				return nil
			}),
		},
		Poll:  20 * time.Millisecond,
		Lease: time.Second,
	}
	if rows != nil {
		table := rows.Table()
		p.When = append(p.When, es.Do(func(ctx context.Context, step *es.Step[tally], _ fuse) error {
			has, err := table.Exists(ctx, step, es.Row{"position": valuer{b}, "cents": -1})
			if err != nil || has {
				return errors.Join(err, errors.New("there can be no such row"))
			}
			if err := table.Insert(ctx, step, es.Row{"position": int64(step.Event.Position), "cents": valuer{b}}); err != nil {
				return err
			}
			b.at("Do with a transaction")
			tx, err := step.Tx()
			if err != nil {
				return err
			}
			open, err := tx.QueryContext(ctx, "SELECT position FROM "+rows.Name)
			if err != nil {
				return err
			}
			for open.Next() {
				b.at("Do with open rows")
			}
			return errors.Join(open.Err(), open.Close())
		}))
	}
	if k == storetest.Documents {
		p.When = append(p.When, es.OnKey(func(fuse) []string {
			b.at("OnKey")
			return nil
		}, func(*tally, fuse) {}))
	}
	d := storetest.Define(k, p)
	d.Key = func(ev es.Event) string {
		if ev.Name == "fuse" {
			b.at("Key")
		}
		return "all"
	}
	d.Labels = func(_ string, s *tally) []string {
		if s.Fuses > 0 {
			b.at("Labels")
		}
		return nil
	}
	return d
}

// wantPanic checks that err is the bomb's panic, with the stack of the place.
func wantPanic(t testing.TB, what string, err error) {
	t.Helper()
	var p *es.PanicError
	switch {
	case !errors.As(err, &p):
		t.Errorf("%s: error is %v, want a *PanicError", what, err)
	case p.Value != errBoom || !errors.Is(err, errBoom):
		t.Errorf("%s: the panic's value is %v, want %v", what, p.Value, errBoom)
	case !strings.Contains(string(p.Stack), "panics_test.(*bomb).at("):
		t.Errorf("%s: the stack is\n%s\nwant the one of the place", what, p.Stack)
	case !strings.Contains(p.Error(), "eventstore: panic in panics_test.(*bomb).at (panic_test.go:") || !strings.HasSuffix(p.Error(), "): boom"):
		t.Errorf("%s: the text is %q, want where it was and the value", what, p.Error())
	case strings.Count(err.Error(), "eventstore: ") != 1:
		t.Errorf("%s: error reads %q, want it to name the package once", what, err)
	}
}

// wantNothingLeft checks that no connection of the lane is in use, and that no goroutine of the store is left.
func wantNothingLeft(t testing.TB, l storetest.Lane, what string) {
	t.Helper()
	storetest.WantIdle(t, l, what)
	var left string
	for range 1000 {
		if left = storeGoroutines(); left == "" {
			return
		}
		if storetest.Pause(t.Context(), time.Millisecond) != nil {
			break
		}
	}
	t.Errorf("%s: goroutines are left:\n%s", what, left)
}

// storeGoroutines returns the stacks of the goroutines that package eventstore has started.
func storeGoroutines() string {
	buf := make([]byte, 1<<20)
	var out []string
	for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, "created by example.com/eventstore.") {
			out = append(out, g)
		}
	}
	return strings.Join(out, "\n\n")
}

// oneByOne runs a test on each store, with a pool of one connection too, and alone in its process, so that it can
// count goroutines.
func oneByOne(t *testing.T, test func(t *testing.T, l storetest.Lane)) {
	t.Helper()
	storetest.ForEach(t, 1, usualOrOne, test)
}

// definitionsOneByOne is oneByOne for both kinds of definitions.
func definitionsOneByOne(t *testing.T, test func(t *testing.T, l storetest.Lane, k storetest.Kind)) {
	t.Helper()
	storetest.ForEachDefinition(t, 1, usualOrOne, test)
}

func usualOrOne(l storetest.Lane) bool { return !l.Odd || strings.HasSuffix(l.Name, "-one") }

// asked is a question to OnError.
type asked struct {
	version string // the event's aggregate
	attempt int
}

// TestPanicIsTheEventsFailure has every function panic that a projection calls for an event. OnError retries
// and skips one such event, parks another and ends the run at a third. Once nothing panics any more the
// projection goes on from there.
func TestPanicIsTheEventsFailure(t *testing.T) {
	places := []string{
		"On", "OnEvent", "OnAny", "Do", "DoAny", "Upcast", "Codec.Unmarshal", "Codec.Marshal", "Codec.Marshal of the state",
		"Options.Metadata", "Options.Now", "Middleware.Append", "Middleware.Append, after next", "Middleware.Load", "MarshalJSON", "EventName",
		"Do with a transaction", "Do with open rows", "driver.Valuer", "Key", "Labels", "OnKey",
	}
	definitionsOneByOne(t, func(t *testing.T, l storetest.Lane, k storetest.Kind) {
		b := &bomb{}
		s := l.Open(t, b.options())
		for i, place := range places {
			var rows *storetest.Rows
			if strings.HasPrefix(place, "Do with ") || place == "driver.Valuer" {
				if l.DB == nil || k == storetest.Documents {
					continue
				}
				rows = storetest.NewRows(t, l)
			}
			if k == storetest.Projection && slices.Contains([]string{"Key", "Labels", "OnKey"}, place) {
				continue
			}
			t.Run(place, func(t *testing.T) {
				testPlace(t, l, s, b, place, b.definition(k, fmt.Sprint("p", i), fmt.Sprint("of p", i), rows), rows)
			})
		}
	})
}

func testPlace(t *testing.T, l storetest.Lane, s *es.Store, b *bomb, place string, p *storetest.Definition[tally], rows *storetest.Rows) {
	name, stream := p.Name, "of "+p.Name
	storetest.CreateStream(t, s, stream)
	bad := es.Payload(fuseV1{1})
	if strings.HasSuffix(place, "Any") {
		bad = spark{}
	}
	for i := range 7 {
		e := bad
		if i%2 == 0 {
			e = storetest.Deposited{Cents: 1}
		}
		storetest.MustAppend(t, s, stream, fmt.Sprint(i+1), 0, es.NewEvent{Payload: e})
	}
	if rows != nil {
		p.ReadModel = rows.Table()
	}
	var questions []asked
	p.OnError = func(_ context.Context, ev es.Event, err error, attempt int) es.ErrorAction {
		questions = append(questions, asked{ev.AggregateID, attempt})
		wantPanic(t, "OnError", err)
		switch {
		case ev.AggregateID == "2" && attempt == 1:
			return es.Retry
		case ev.AggregateID == "2":
			if info := storetest.Info(t, s, name); !strings.Contains(info.Error, "boom") {
				t.Errorf("while it is retried Projections shows the error %q", info.Error)
			}
			return es.Skip
		case ev.AggregateID == "4":
			return es.Park
		}
		return es.Fail
	}
	b.arm(place)
	_, err := p.CatchUp(t.Context(), s)
	b.disarm()
	wantPanic(t, "CatchUp", err)
	var failed *es.ProjectionError
	if !errors.As(err, &failed) || failed.Event.AggregateID != "6" {
		t.Errorf("CatchUp: error is %v, want a *ProjectionError of event 6", err)
	}
	if want := fmt.Sprint([]asked{{"2", 1}, {"2", 2}, {"4", 1}, {"6", 1}}); fmt.Sprint(questions) != want {
		t.Errorf("OnError was asked about %v, want %v", questions, want)
	}
	wantNothingLeft(t, l, "after the panics")
	info := storetest.Info(t, s, name)
	if info.Status != es.StatusFailed || info.Owner != "" || info.Parked != 1 || !strings.Contains(info.Error, "boom") {
		t.Errorf("after the panics Projections shows %+v, want a failed one that nobody runs", info)
	}
	if parked, err := s.ParkedEvents(t.Context(), name); err != nil || len(parked) != 1 || !strings.Contains(parked[0].Error, "boom") {
		t.Errorf("parked are %v, %v", parked, err)
	}

	if err := s.RetryParked(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	want := tally{Deposits: 4, Fuses: 2}
	if bad == es.Payload(spark{}) {
		want = tally{Deposits: 4, Sparks: 2}
	}
	if cp := storetest.CatchUp(t, p, s); cp.State != want {
		t.Errorf("the state comes to %+v, want %+v: each event once, but for the one skipped", cp.State, want)
	}
	if rows != nil {
		if got := rows.Positions(t); len(got) != 2 {
			t.Errorf("rows of %v, want two", got)
		}
	}
	if n := len(storetest.Collect(t, s.Read(t.Context(), es.FromStream(name), es.ReadOptions{}))); n != want.Fuses {
		t.Errorf("%d events emitted, want %d", n, want.Fuses)
	}
	wantNothingLeft(t, l, "in the end")
}
