package documents_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// Put sets a document's text, and says which labels and keys are to be returned.
type Put struct {
	Text   string
	Labels []string
	Keys   []string
}

// Read has its handler read documents through the step's store.
type Read struct{}

func (Put) EventName() string  { return "page.put" }
func (Read) EventName() string { return "page.read" }

// page is the state of a document.
type page struct {
	Text   string
	Labels []string `json:",omitempty"`
	Puts   int
}

func (p *page) put(e Put) { p.Text, p.Labels, p.Puts = e.Text, e.Labels, p.Puts+1 }

// pages returns documents of the events of stream "pages". The events that failed for good are parked, and OnError
// appends their positions to failed.
func pages(failed *[]es.Position, more ...es.Handler[page]) *es.Documents[page] {
	return &es.Documents[page]{
		Name: "pages", From: es.FromStream("pages"),
		When:   append([]es.Handler[page]{es.On(func(p *page, e Put) { p.put(e) })}, more...),
		Labels: func(_ string, p *page) []string { return p.Labels },
		OnError: func(_ context.Context, ev es.Event, _ error, _ int) es.ErrorAction {
			*failed = append(*failed, ev.Position)
			return es.Park
		},
	}
}

func putEvent(t testing.TB, s *es.Store, id string, p es.Payload) es.Position {
	t.Helper()
	return storetest.MustAppend(t, s, "pages", id, es.AnyVersion, event(p))[0].Position
}

// texts returns the documents as "key=text".
func texts(t testing.TB, ds *es.Documents[page], s *es.Store, opts es.DocumentOptions) (out []string) {
	t.Helper()
	for d, err := range ds.All(t.Context(), s, opts) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, d.Key+"="+d.State.Text)
	}
	return out
}

// TestKeysAndLabels has events make keys and labels that can be stored and others that can't: these events alone fail.
func TestKeysAndLabels(t *testing.T) {
	long, label := strings.Repeat("é", 127)+"x", strings.Repeat("l", 255)
	many := func(n int) (labels []string) {
		for i := range n {
			labels = append(labels, fmt.Sprint("l", i))
		}
		return labels
	}
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "pages")
		var bad []es.Position
		for i, p := range []struct {
			put Put
			bad string
		}{
			{Put{Text: "1", Keys: []string{long, "b", "", "b"}}, ""},
			{Put{Text: "2", Keys: []string{"b", long + "x"}}, "document key"},
			{Put{Text: "3", Keys: []string{"b", "a\x00"}}, "document key"},
			{Put{Text: "4", Keys: []string{"b", "not UTF-8"}}, "document key"},
			{Put{Text: "5", Keys: []string{"c5"}, Labels: many(32)}, ""},
			{Put{Text: "6", Keys: []string{"c6"}, Labels: many(33)}, "33 labels"},
			{Put{Text: "7", Keys: []string{"c"}, Labels: []string{label}}, ""},
			{Put{Text: "8", Keys: []string{"d8"}, Labels: []string{label + "x"}}, "label"},
			{Put{Text: "9", Keys: []string{"d9"}, Labels: []string{"a\x00"}}, "label"},
			{Put{Text: "10", Keys: []string{"d"}, Labels: append(many(32), many(32)...)}, ""},
			{Put{Text: "11", Keys: []string{"e"}, Labels: append(many(30), "", "l1", "")}, ""},
			{Put{Text: "12", Keys: nil}, ""},
		} {
			// Each an aggregate of its own, so that none waits for a parked one.
			if at := putEvent(t, s, fmt.Sprint("p", i), p.put); p.bad != "" {
				bad = append(bad, at)
			}
		}
		var failed []es.Position
		for _, byKey := range []bool{false, true} {
			ds := pages(&failed)
			first := func(keys []string) string {
				if slices.Contains(keys, "not UTF-8") {
					return "\xff"
				}
				if len(keys) == 0 {
					return ""
				}
				return keys[len(keys)-1]
			}
			if byKey {
				ds.Name = "by key"
				ds.Key = func(ev es.Event) string { return first(decoded[Put](t, ev).Keys) }
			} else {
				ds.When = []es.Handler[page]{es.OnKey(func(e Put) []string {
					if first(e.Keys) == "\xff" {
						return []string{"b", "\xff"}
					}
					return e.Keys
				}, func(p *page, e Put) { p.put(e) })}
			}
			failed = nil
			if _, err := ds.CatchUp(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(failed, bad) {
				t.Errorf("failed are %v, want %v", failed, bad)
			}
			all := []string{"b=1", "c5=5", "c=7", "d=10", "e=11"}
			if !byKey {
				all = append(all, long+"=1")
			}
			want(t, "all", slices.Sorted(slices.Values(texts(t, ds, s, es.DocumentOptions{}))), slices.Sorted(slices.Values(all))...)
			want(t, "the last label", texts(t, ds, s, es.DocumentOptions{Label: "l31"}), "c5=5", "d=10")
			want(t, "a label", texts(t, ds, s, es.DocumentOptions{Label: "l1"}), "c5=5", "d=10", "e=11")
			want(t, "the longest label", texts(t, ds, s, es.DocumentOptions{Label: label}), "c=7")
			parked, err := s.ParkedEvents(t.Context(), ds.Name)
			if err != nil || len(parked) != len(bad) {
				t.Fatalf("%d parked events, %v, want %d", len(parked), err, len(bad))
			}
			for i, word := range []string{"document key", "document key", "document key", "33 labels", "label", "label"} {
				if !strings.Contains(parked[i].Error, word) {
					t.Errorf("event %d failed with %q, want it to name the %s", parked[i].Event.Position, parked[i].Error, word)
				}
			}
		}
		for _, key := range []string{"", "a\x00", "\xff", long + "x"} {
			_, err := pages(&failed).Get(t.Context(), s, key)
			storetest.WantInvalid(t, "Get", err, "document key")
		}
	})
}

// TestReaderIsNotBlamed has a handler read documents behind an event of its batch that can't be stored: only that one
// has failed.
func TestReaderIsNotBlamed(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "pages")
		putEvent(t, s, "a", Put{Text: "1"})
		bad := putEvent(t, s, "b", Put{Text: "2", Labels: []string{strings.Repeat("x", 256)}})
		putEvent(t, s, "c", Put{Text: "3"})
		putEvent(t, s, "d", Read{})
		putEvent(t, s, "e", Put{Text: "5"})
		for _, hide := range []bool{false, true} {
			var failed []es.Position
			var ds *es.Documents[page]
			ds = pages(&failed, es.Do(func(ctx context.Context, step *es.Step[page], _ Read) error {
				in, err := step.Store()
				if err != nil {
					return err
				}
				for d, err := range ds.All(ctx, in, es.DocumentOptions{}) {
					if err != nil && !hide {
						return err
					}
					step.State.Text += d.Key
				}
				return nil
			}))
			if hide {
				ds.Name = "hidden"
			}
			if _, err := ds.CatchUp(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(failed, []es.Position{bad}) {
				t.Errorf("failed are %v, want %d", failed, bad)
			}
			want(t, "all", texts(t, ds, s, es.DocumentOptions{}), "a=1", "c=3", "d=acd", "e=5")
		}
	})
}

// TestUndecodable has a document that can't be decoded any more: the events that change it fail, and no others.
func TestUndecodable(t *testing.T) {
	type other struct{ Text int }
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "pages")
		putEvent(t, s, "a", Put{Text: "1"})
		var failed []es.Position
		ds := pages(&failed)
		if _, err := ds.CatchUp(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		changed := &es.Documents[other]{
			Name: ds.Name, From: ds.From, OnError: ds.OnError,
			When: []es.Handler[other]{es.On(func(o *other, _ Put) { o.Text++ })},
		}
		bad := putEvent(t, s, "a", Put{Text: "2"})
		putEvent(t, s, "b", Put{Text: "3"})
		if _, err := changed.CatchUp(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(failed, []es.Position{bad}) {
			t.Errorf("failed are %v, want %d", failed, bad)
		}
		if d, err := changed.Get(t.Context(), s, "b"); err != nil || d.State.Text != 1 {
			t.Errorf("got %+v, %v", d, err)
		}
		if _, err := changed.Get(t.Context(), s, "a"); err == nil || !strings.Contains(err.Error(), `document "a" of "pages"`) {
			t.Errorf("Get of what can't be decoded: %v", err)
		}
		n := 0
		for d, err := range changed.All(t.Context(), s, es.DocumentOptions{Backward: true}) {
			if n++; n == 2 && (err == nil || !strings.Contains(err.Error(), `document "a"`)) {
				t.Errorf("All: %+v, %v", d, err)
			}
		}
		if n != 2 {
			t.Errorf("All has returned %d results, want a document and an error", n)
		}
	})
}

// TestUpcastersAndMiddleware keeps documents of what upcasters and middleware make of events: one event is two, with
// keys of their own.
func TestUpcastersAndMiddleware(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, &es.Options{
			Upcasters: []es.Upcaster{es.Split(func(e Read) []es.Payload { return []es.Payload{Put{Text: "first"}, Closed{}, Put{Text: "third"}} })},
			Middleware: []es.Middleware{{Load: func(_ context.Context, ev es.Event) (es.Event, error) {
				ev.AggregateID += "'"
				if ev.Metadata == nil {
					ev.Metadata = es.Metadata{}
				}
				ev.Metadata["seen"] = "yes"
				return ev, nil
			}}},
		})
		storetest.CreateStream(t, s, "pages")
		for i := range 50 {
			putEvent(t, s, fmt.Sprint("p", i%7), Read{})
			putEvent(t, s, fmt.Sprint("p", i%7), Put{Text: fmt.Sprint("put ", i)})
		}
		last := putEvent(t, s, "p0", Read{})
		var failed []es.Position
		ds := pages(&failed,
			es.OnKeyEvent(func(e Put, ev es.Event) []string { return []string{"on " + e.Text, "all"} }, func(p *page, e Put, ev es.Event) {
				p.put(Put{Text: fmt.Sprint(ev.AggregateID, ev.Metadata["seen"], e.Text)})
			}),
			es.Drop[Closed, page]())
		ds.BatchSize = 30
		if _, err := ds.CatchUp(t.Context(), s); err != nil || len(failed) > 0 {
			t.Fatal(err, failed)
		}
		for key, want := range map[string]page{
			"p0'":      {Text: "third", Puts: 1},
			"p1'":      {Text: "put 43", Puts: 2}, // third, and this
			"on third": {Text: "p0'yesthird", Puts: 51},
			"on first": {Text: "p0'yesfirst", Puts: 51},
			"all":      {Text: "p0'yesthird", Puts: 152},
		} {
			d, err := ds.Get(t.Context(), s, key)
			if err != nil || text(d.State) != text(want) || key != "p1'" && d.Position != last {
				t.Errorf("%s is %+v, %v, want %+v at %d", key, d, err, want, last)
			}
		}
	})
}

// TestPositions has events that leave a document's state as it is: they count all the same.
func TestPositions(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "pages")
		var failed []es.Position
		ds := pages(&failed, es.Do(func(context.Context, *es.Step[page], Read) error { return nil }))
		ds.Init = func() page { return page{Text: "new"} }
		ds.When[0] = es.On(func(p *page, e Put) { p.Text = e.Text })
		check := func(what, key, text string, at es.Position) {
			t.Helper()
			if _, err := ds.CatchUp(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if d, err := ds.Get(t.Context(), s, key); err != nil || d.Key != key || d.State.Text != text || d.Position != at {
				t.Errorf("%s: got %+v, %v, want %q at %d", what, d, err, text, at)
			}
		}
		check("Do that does nothing", "a", "new", putEvent(t, s, "a", Read{}))
		at := putEvent(t, s, "a", Put{Text: "x"})
		check("changed", "a", "x", at)
		check("equal", "a", "x", putEvent(t, s, "a", Put{Text: "x"}))
		at = putEvent(t, s, "a", Read{})
		putEvent(t, s, "b", Read{})
		check("Do again", "a", "x", at)
	})
}

// TestParkedDocument parks an event and retries it: the document keeps the position of its last event.
func TestParkedDocument(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "pages")
		var failed []es.Position
		broken := true
		ds := pages(&failed, es.Do(func(_ context.Context, step *es.Step[page], e Put) error {
			if e.Text == "bad" && broken {
				return errors.New("broken")
			}
			return nil
		}))
		ds.Key = func(es.Event) string { return "one" }
		putEvent(t, s, "a", Put{Text: "1"})
		bad := putEvent(t, s, "b", Put{Text: "bad"})
		behind := putEvent(t, s, "b", Put{Text: "behind"})
		last := putEvent(t, s, "c", Put{Text: "3"})
		check := func(what string, want page, parked int) {
			t.Helper()
			if _, err := ds.CatchUp(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if d, err := ds.Get(t.Context(), s, "one"); err != nil || text(d.State) != text(want) || d.Position != last {
				t.Errorf("%s: got %+v, %v, want %+v at %d", what, d, err, want, last)
			}
			if got := storetest.Info(t, s, "pages"); got.Parked != parked {
				t.Errorf("%s: %d events parked, want %d", what, got.Parked, parked)
			}
		}
		check("parked", page{Text: "3", Puts: 2}, 2)
		if err := s.RetryParked(t.Context(), "pages"); err != nil {
			t.Fatal(err)
		}
		check("it fails again", page{Text: "3", Puts: 2}, 2)
		broken = false
		if err := s.RetryParkedEvent(t.Context(), "pages", bad); err != nil {
			t.Fatal(err)
		}
		check("retried", page{Text: "behind", Puts: 4}, 0)
		if want := []es.Position{bad}; !slices.Equal(failed, want) || behind < bad {
			t.Errorf("failed are %v, want %v", failed, want)
		}
	})
}
