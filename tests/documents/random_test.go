package documents_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// Worked is handled by Do: by its kind it changes the state, leaves it alone, or reads documents first.
type Worked struct{ Kind, N int }

// Shared changes the documents of its keys and that of its aggregate.
type Shared struct{ Keys []string }

// Renewed changes the document, drops it, and begins a new one.
type Renewed struct{ Owner string }

// Other is an event that only OnAny wants.
type Other struct{}

func (Worked) EventName() string  { return "account.worked" }
func (Shared) EventName() string  { return "account.shared" }
func (Renewed) EventName() string { return "account.renewed" }
func (Other) EventName() string   { return "account.other" }

// file is the state of the documents that are compared with a map.
type file struct {
	Owner  string
	Cents  int64
	Events int
	Notes  []string
}

func (f *file) note(text string) {
	f.Notes = append(f.Notes[max(0, len(f.Notes)-3):len(f.Notes):len(f.Notes)], text)
}

func newFile() file { return file{Owner: "nobody"} }

// labelsOf returns some labels twice, and empty ones.
func labelsOf(_ string, f *file) []string {
	labels := []string{f.Owner, "", fmt.Sprint("n", f.Events%3), f.Owner}
	if f.Cents < 0 {
		labels = append(labels, "debt")
	}
	return labels
}

// keyOf has several aggregates share a document, and some have none.
func keyOf(ev es.Event) string {
	switch {
	case strings.HasPrefix(ev.AggregateID, "none"):
		return ""
	case strings.HasPrefix(ev.AggregateID, "same"):
		return "same"
	}
	return ev.AggregateID
}

// files returns the documents that are compared with a map.
func files(batchSize int) *es.Documents[file] {
	ds := &es.Documents[file]{
		Name: "files", From: es.FromStream("accounts"), Init: newFile, Key: keyOf, Labels: labelsOf,
		BatchSize: batchSize, Poll: 10 * time.Millisecond, Lease: time.Second,
		OnError: func(context.Context, es.Event, error, int) es.ErrorAction { return es.Retry },
	}
	ds.When = []es.Handler[file]{
		es.On(func(f *file, e storetest.Opened) { f.Owner = e.Owner; f.Events++ }),
		es.On(func(f *file, e storetest.Deposited) { f.Cents += e.Cents; f.Events++ }),
		es.OnEvent(func(f *file, e Noted, ev es.Event) { f.note(fmt.Sprint(ev.Version, e.Text)) }),
		es.On(func(f *file, e Worked) { f.Events++ }),
		es.Do(func(ctx context.Context, step *es.Step[file], e Worked) error { return work(ctx, ds, step, e) }),
		es.OnKey(func(e Transferred) []string { return append([]string{e.From}, e.To...) }, func(f *file, e Transferred) { f.Cents += e.Each }),
		es.OnKeyEvent(func(e Shared, ev es.Event) []string { return append(e.Keys, ev.AggregateID) },
			func(f *file, e Shared, ev es.Event) { f.note(fmt.Sprint("shared", ev.Version)) }),
		es.Drop[Closed, file](),
		es.On(func(f *file, _ Renewed) { f.Events = 1000 }),
		es.Drop[Renewed, file](),
		es.On(func(f *file, e Renewed) { f.Owner = e.Owner }),
		es.OnAny(func(f *file, ev es.Event) { f.note(ev.Name) }),
	}
	return ds
}

func work(ctx context.Context, ds *es.Documents[file], step *es.Step[file], e Worked) error {
	switch e.Kind {
	case 1:
		step.State.Cents -= int64(e.N)
	case 2:
		in, err := step.Store()
		if err != nil {
			return err
		}
		step.State.Cents += 7
		d, err := ds.Get(ctx, in, keyOf(step.Event))
		if err != nil {
			return err
		}
		if text(d.State) != text(*step.State) || d.Position != step.Event.Position {
			return fmt.Errorf("read %+v inside the batch, want %+v at %d", d, *step.State, step.Event.Position)
		}
		step.State.Cents -= int64(e.N)
	case 3:
		in, err := step.Store()
		if err != nil {
			return err
		}
		n := 0
		for _, err := range ds.All(ctx, in, es.DocumentOptions{Label: "debt"}) {
			if err != nil {
				return err
			}
			n++
		}
		step.State.note(fmt.Sprint("in debt: ", n))
	case 4:
		if rand.N(60) == 0 {
			return errors.New("this time it fails")
		}
	}
	return nil
}

func text(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// filed is a document of the map.
type filed struct {
	file
	at es.Position
}

// shelf is the map that documents are compared with.
type shelf map[string]*filed

func (s shelf) get(key string, at es.Position) *filed {
	if s[key] == nil {
		s[key] = &filed{file: newFile()}
	}
	s[key].at = at
	return s[key]
}

// each has a function change the documents of keys, each once.
func (s shelf) each(keys []string, at es.Position, change func(f *filed)) {
	seen := map[string]bool{"": true}
	for _, key := range keys {
		if !seen[key] {
			change(s.get(key, at))
		}
		seen[key] = true
	}
}

func decoded[E es.Payload](t testing.TB, ev es.Event) E {
	t.Helper()
	e, err := es.Decode[E](ev)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// apply says what an event does to the documents, once more by other means.
func (s shelf) apply(t testing.TB, ev es.Event) {
	key, at := keyOf(ev), ev.Position
	switch ev.Name {
	case "account.transferred":
		e := decoded[Transferred](t, ev)
		s.each(append([]string{e.From}, e.To...), at, func(f *filed) { f.Cents += e.Each })
		return
	case "account.shared":
		e := decoded[Shared](t, ev)
		s.each(append(e.Keys, ev.AggregateID), at, func(f *filed) { f.note(fmt.Sprint("shared", ev.Version)) })
		return
	}
	if key == "" {
		return
	}
	switch ev.Name {
	case "account.opened":
		f := s.get(key, at)
		f.Owner, f.Events = decoded[storetest.Opened](t, ev).Owner, f.Events+1
	case "account.deposited":
		f := s.get(key, at)
		f.Cents, f.Events = f.Cents+decoded[storetest.Deposited](t, ev).Cents, f.Events+1
	case "account.noted":
		s.get(key, at).note(fmt.Sprint(ev.Version, decoded[Noted](t, ev).Text))
	case "account.worked":
		e, f := decoded[Worked](t, ev), s.get(key, at)
		f.Events++
		switch e.Kind {
		case 1:
			f.Cents -= int64(e.N)
		case 2:
			f.Cents += 7 - int64(e.N)
		case 3:
			n := 0
			for _, other := range s {
				if other.Cents < 0 {
					n++
				}
			}
			f.note(fmt.Sprint("in debt: ", n))
		}
	case "account.closed":
		delete(s, key)
	case "account.renewed":
		delete(s, key)
		s.get(key, at).Owner = decoded[Renewed](t, ev).Owner
	default:
		s.get(key, at).note(ev.Name)
	}
}

// labelled returns the keys of each label, in order. "" has all.
func (s shelf) labelled() map[string][]string {
	out := map[string][]string{"": nil, "debt": nil, "nobody": nil}
	for _, key := range slices.Sorted(maps.Keys(s)) {
		out[""] = append(out[""], key)
		labels := slices.Sorted(slices.Values(labelsOf(key, &s[key].file)))
		for _, label := range slices.Compact(labels) {
			if label != "" {
				out[label] = append(out[label], key)
			}
		}
	}
	return out
}

// compare compares all documents of a store with the map that its log makes.
func compare(t testing.TB, s *es.Store, ds *es.Documents[file]) {
	t.Helper()
	want := shelf{}
	log := storetest.Collect(t, s.Read(t.Context(), es.FromStream("accounts"), es.ReadOptions{}))
	for _, ev := range log {
		want.apply(t, ev)
	}
	t.Logf("%d events, %d documents", len(log), len(want))
	for label, keys := range want.labelled() {
		for _, backward := range []bool{false, true} {
			if backward {
				slices.Reverse(keys)
			}
			var got []string
			for d, err := range ds.All(t.Context(), s, es.DocumentOptions{Label: label, Backward: backward}) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, d.Key)
				if f := want[d.Key]; f == nil || text(f.file) != text(d.State) || f.at != d.Position {
					t.Errorf("label %q: the document %q is %+v at %d, want %+v", label, d.Key, d.State, d.Position, f)
				}
			}
			if !slices.Equal(got, keys) {
				t.Errorf("label %q, backward %v: documents %q, want %q", label, backward, got, keys)
			}
		}
	}
	for _, key := range keysOfFiles {
		d, err := ds.Get(t.Context(), s, key)
		if f := want[key]; f == nil && !errors.Is(err, es.ErrDocumentNotFound) || f != nil && (err != nil || d.Position != f.at || text(f.file) != text(d.State)) {
			t.Errorf("Get(%q) = %+v, %v, want %+v", key, d, err, f)
		}
	}
}

// keysOfFiles are aggregates and keys, some of which a careless collation takes for the same.
var keysOfFiles = func() []string {
	keys := []string{"A", "a", "ä", "a ", "a\u0308", "none1", "none2", "same1", "same2", "same", `"`, `\`, "'", "\U0001F600", "%", "\t", strings.Repeat("z", 255)}
	for i := range 24 {
		keys = append(keys, fmt.Sprint("k", i))
	}
	return keys
}()

// randomEvents returns events of one aggregate.
func randomEvents(r *rand.Rand) (id string, evs []es.NewEvent) {
	pick := func() string { return keysOfFiles[r.IntN(len(keysOfFiles))] }
	for range 1 + r.IntN(20) {
		var p es.Payload
		switch r.IntN(12) {
		case 0, 1:
			p = storetest.Opened{Owner: []string{"ann", "bob", "Bob", "bob "}[r.IntN(4)]}
		case 2, 3:
			p = storetest.Deposited{Cents: int64(r.IntN(200) - 100)}
		case 4:
			p = Noted{strings.Repeat("é\"", r.IntN(40))}
		case 5, 6:
			p = Worked{r.IntN(5), r.IntN(100)}
		case 7:
			p = Transferred{pick(), []string{pick(), "", pick(), pick()}, int64(r.IntN(100) - 50)}
		case 8:
			p = Shared{[]string{pick(), pick()}}
		case 9:
			p = Closed{}
		case 10:
			p = Renewed{"ann"}
		default:
			p = Other{}
		}
		evs = append(evs, event(p))
	}
	return pick(), evs
}

// write appends random events for a while, in three goroutines.
func write(t *testing.T, s *es.Store, seed uint64, long time.Duration) {
	t.Helper()
	end := time.Now().Add(long)
	for _, err := range storetest.Race(3, func(i int) error {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		for n := 0; n < 100 && time.Now().Before(end); n++ {
			id, evs := randomEvents(r)
			if _, err := s.Append(t.Context(), "accounts", id, es.AnyVersion, evs...); err != nil {
				return err
			}
			if err := storetest.Pause(t.Context(), rand.N(20*time.Millisecond)); err != nil {
				return err
			}
		}
		return nil
	}) {
		if err != nil {
			t.Error(err)
		}
	}
}

// TestRandom compares documents with a map, while four runners keep them that are stopped, lose their leases, and
// begin anew with other batch sizes.
func TestRandom(t *testing.T) {
	storetest.ForEach(t, storetest.SomeLanes, storetest.Usual, func(t *testing.T, l storetest.Lane) {
		seed := rand.Uint64()
		t.Log("seed", seed)
		s, other := l.OpenTwice(t)
		storetest.CreateStream(t, s, "accounts")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var runners sync.WaitGroup
		for i := range 4 {
			runners.Go(func() {
				for ctx.Err() == nil {
					once, stop := context.WithTimeout(ctx, rand.N(300*time.Millisecond))
					size := 1 + rand.N(1000)>>rand.N(10)
					if err := files(size).Run(once, []*es.Store{s, other}[i%2]); err != nil && once.Err() == nil {
						t.Errorf("run: %v", err)
					}
					stop()
				}
			})
		}
		runners.Go(func() {
			for storetest.Pause(ctx, rand.N(200*time.Millisecond)) == nil {
				control := []func(context.Context, string) error{s.AcceptProjection, s.StopProjection, s.AcceptProjection, s.ResetProjection}[rand.N(4)]
				if err := control(ctx, "files"); err != nil && ctx.Err() == nil && !errors.Is(err, es.ErrProjectionNotFound) {
					t.Errorf("control: %v", err)
				}
			}
		})
		write(t, s, seed, 2*time.Second)
		cancel()
		runners.Wait()
		if _, err := files(100).CatchUp(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		compare(t, s, files(0))
		storetest.WantIdle(t, l, "in the end")
	})
}
