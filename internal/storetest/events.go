package storetest

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	es "example.com/eventstore"
)

// CreateStream creates streams without metadata.
func CreateStream(t testing.TB, s *es.Store, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := s.CreateStream(t.Context(), name, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// MustAppend appends, and fails the test on an error.
func MustAppend(t testing.TB, s *es.Store, stream, id string, expected es.ExpectedVersion, evs ...es.NewEvent) []es.Event {
	t.Helper()
	stored, err := s.Append(context.WithoutCancel(t.Context()), stream, id, expected, evs...)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

// WithIDs gives each of the events an ID and returns them. Without it an append would.
func WithIDs(evs []es.NewEvent) []es.NewEvent {
	for i := range evs {
		evs[i].ID = uuid.Must(uuid.NewV7())
	}
	return evs
}

// FillLog stores n events in three streams, in turn, by an append for each.
func FillLog(t testing.TB, s *es.Store, n int) []es.Event {
	t.Helper()
	CreateStream(t, s, "order-eu", "order-us", "cards")
	var evs []es.Event
	for len(evs) < n {
		i := len(evs)
		k := min(n-i, []int{1, 7, 90}[i%3])
		evs = append(evs, MustAppend(t, s, []string{"order-eu", "order-us", "cards"}[i%3], fmt.Sprint(i%5), es.AnyVersion, Deposits(k, int64(i))...)...)
	}
	return evs
}

// Collect reads a sequence to its end.
func Collect(t testing.TB, seq func(yield func(es.Event, error) bool)) []es.Event {
	t.Helper()
	var out []es.Event
	for ev, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, ev)
	}
	return out
}

// Everything reads the whole store.
func Everything(t testing.TB, s *es.Store) []es.Event {
	t.Helper()
	return Collect(t, s.Read(t.Context(), es.FromAll(), es.ReadOptions{}))
}

// StreamNames returns the names of the streams that begin with a prefix, in the order of Streams.
func StreamNames(t testing.TB, s *es.Store, prefix string) []string {
	t.Helper()
	infos, err := s.Streams(t.Context(), prefix)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(infos))
	for i, info := range infos {
		names[i] = info.Name
	}
	return names
}

// Describe returns all that is stored of an event as text.
func Describe(ev es.Event) string {
	return fmt.Sprintf("%d %s %q/%q v%d %s %s %v %s", ev.Position, ev.ID, ev.Stream, ev.AggregateID, ev.Version, ev.Name, ev.Data, ev.Metadata, ev.RecordedAt)
}

// Ranks returns stream, ID and version of events as text: what two stores have in common that were
// given the same appends.
func Ranks(evs []es.Event) string {
	var b strings.Builder
	for _, ev := range evs {
		fmt.Fprintf(&b, "%s/%s/%d ", ev.Stream, ev.AggregateID, ev.Version)
	}
	return b.String()
}

// Raw is a payload whose name and text a test chooses. Only Verbatim keeps the text as it is.
type Raw struct {
	Name string
	Text string
}

// EventName returns r.Name.
func (r Raw) EventName() string { return r.Name }

// MarshalJSON returns r.Text.
func (r Raw) MarshalJSON() ([]byte, error) { return []byte(r.Text), nil }

// Verbatim is a codec that writes the text of a Raw unchanged, where encoding/json would compact it.
type Verbatim struct{}

// Marshal implements eventstore.Codec.
func (Verbatim) Marshal(v any) ([]byte, error) {
	if r, ok := v.(Raw); ok {
		return []byte(r.Text), nil
	}
	return json.Marshal(v)
}

// Unmarshal implements eventstore.Codec.
func (Verbatim) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

// OddNames are valid names that some databases take for the same, or that mean something in SQL.
var OddNames = []string{
	"a", "A", "a ", "a  ", " a", "a\t", "a\n", "ä", "a\u0308", "Ä", "ss", "ß", "æ", "ae",
	"a%", "a%b", "a_b", "axb", "a\\b", "a\\%b", "a'b", `a"b`, "a`b", "a?b", "a$1b", "a{events}b", "a;--", "a-b", "a.b",
	"日本語", "😀", "e\u200d", "\u00a0", "\x01", "\ufeffa", "null", "0", "00", "1e0", strings.Repeat("é", 127) + "x", strings.Repeat("z", 255), strings.Repeat("z", 254),
}

// SealUpTo seals until a position is sealed, and returns how long that took.
func SealUpTo(t testing.TB, s *es.Store, want es.Position) time.Duration {
	t.Helper()
	began := time.Now()
	Eventually(t, fmt.Sprint("sealed up to ", want), func() bool {
		p, err := s.Sealed(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return p >= want
	})
	return time.Since(began)
}
