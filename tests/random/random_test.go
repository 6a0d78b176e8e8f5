package random_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "seed of the randomised tests; 0: a new one")
	stepsFlag = flag.Int("steps", 0, "operations of each randomised test; 0: the default")
)

func newRand(t *testing.T) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("repeat with -seed %d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 1))
}

// TestRandom does the same random operations on a database and on a memory store, and compares the
// answers. Positions may differ in number, so events are known by their IDs, and bounds by events.
func TestRandom(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		steps := *stepsFlag
		if steps == 0 {
			steps = 500
			if !l.Odd {
				steps = 1500
			}
		}
		clock := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		opts := &es.Options{Now: func() time.Time { return clock }}
		m := &mirror{t: t, r: newRand(t), sql: l.Open(t, opts), mem: es.NewMemStore(opts)}
		for i := range steps {
			m.step = i
			clock = clock.Add(time.Duration(m.r.IntN(3)) * 500 * time.Microsecond)
			m.now = clock
			m.operate()
			if t.Failed() {
				return
			}
		}
		m.compare("everything", m.read(m.sql, es.FromAll(), es.ReadOptions{}), m.read(m.mem, es.FromAll(), es.ReadOptions{}))
		storetest.WantIdle(t, l, "at the end")
		t.Logf("%d operations, %d appends stored, %d conflicts, %d events read", steps, m.stored, m.conflicts, m.seen)
	})
}

// mirror does everything twice.
type mirror struct {
	t        *testing.T
	r        *rand.Rand
	sql, mem *es.Store
	step     int
	now      time.Time
	log      []pair // events that were stored, some of them deleted by now
	batches  [][]es.NewEvent

	stored, conflicts, seen int
}

// pair is an event in both stores.
type pair struct{ sql, mem es.Event }

var (
	randomStreams = []string{"order-eu", "order-us", "order", "cards", "Order-eu"}
	randomIDs     = []string{"a", "A", "b", "a ", "ü"}
	randomNames   = []string{"opened", "closed", "Opened"}
	randomValues  = []any{"x", "X", `q"uo\te`, "", true, false, 0, 1, -7, 1 << 53, 1<<53 + 1, 0.0, 1.0, 1.5, -1e300, 9007199254740993.0, "1", "true"}
	randomKeys    = []string{"k", "K", `k"`, "ü"}
)

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func (m *mirror) compare(what, got, want string) {
	m.t.Helper()
	if got != want {
		m.t.Errorf("step %d, %s: the database answers\n%s\nmemory\n%s", m.step, what, got, want)
	}
}

// both calls a function with each store and compares the errors.
func (m *mirror) both(what string, fn func(*es.Store) error) {
	m.compare(what, outcome(fn(m.sql)), outcome(fn(m.mem)))
}

// outcome is what callers can tell about an error.
func outcome(err error) string {
	var c *es.ConflictError
	if errors.As(err, &c) {
		return fmt.Sprintf("conflict %+v", *c)
	}
	for _, known := range []error{es.ErrStreamExists, es.ErrStreamNotFound, es.ErrInvalid, es.ErrAggregateNotFound} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return fmt.Sprint(err)
}

func (m *mirror) operate() {
	ctx, r := context.Background(), m.r
	switch n := r.IntN(100); {
	case n < 4:
		name, md := pick(r, randomStreams), m.metadata()
		m.both("create "+name, func(s *es.Store) error { return s.CreateStream(ctx, name, md) })
	case n < 5:
		name := pick(r, randomStreams)
		m.both("delete "+name, func(s *es.Store) error { return s.DeleteStream(ctx, name) })
	case n < 7:
		name, md := pick(r, randomStreams), m.metadata()
		m.both("set metadata of "+name, func(s *es.Store) error { return s.SetStreamMetadata(ctx, name, md) })
	case n < 9:
		prefix := pick(r, []string{"", "o", "order-", "O", "%"})
		m.compare("streams "+prefix, m.streams(m.sql, prefix), m.streams(m.mem, prefix))
	case n < 60:
		m.append()
	case n < 70:
		stream, id, after := pick(r, randomStreams), pick(r, randomIDs), r.Int64N(8)
		m.compare(fmt.Sprintf("ReadAggregate %s/%s after %d", stream, id, after),
			m.describe(m.sql.ReadAggregate(ctx, stream, id, after)), m.describe(m.mem.ReadAggregate(ctx, stream, id, after)))
	default:
		m.compareReads()
	}
}

func (m *mirror) streams(s *es.Store, prefix string) string {
	infos, err := s.Streams(context.Background(), prefix)
	return fmt.Sprint(infos, err)
}

func (m *mirror) metadata() es.Metadata {
	md := es.Metadata{}
	for range m.r.IntN(3) {
		md[pick(m.r, randomKeys)] = pick(m.r, randomValues)
	}
	return md
}

func (m *mirror) append() {
	r := m.r
	stream, id := pick(r, randomStreams), pick(r, randomIDs)
	expected := es.ExpectedVersion(r.Int64N(9) - 2)
	if r.IntN(2) == 0 { // mostly right
		expected = es.ExpectedVersion(len(storetest.Collect(m.t, m.mem.ReadAggregate(context.Background(), stream, id, 0))))
	}
	var evs []es.NewEvent
	switch n := r.IntN(20); {
	case n == 0 && len(m.batches) > 0: // repeated
		evs = slices.Clone(pick(r, m.batches))
	case n == 1 && len(m.log) > 0: // IDs in use
		for range 1 + r.IntN(3) {
			evs = append(evs, es.NewEvent{ID: pick(r, m.log).mem.ID, Payload: storetest.Raw{Name: "opened", Text: "1"}})
		}
	}
	if n := []int{1, 1, 2, 3, 20}[r.IntN(5)]; len(evs) == 0 || r.IntN(3) == 0 {
		for range n {
			evs = append(evs, es.NewEvent{ID: uuid.New(), Payload: storetest.Raw{Name: pick(r, randomNames), Text: fmt.Sprintf(`{"n":%d}`, r.Int64())}, Metadata: m.metadata()})
		}
	}
	m.batches = append(m.batches, evs)
	what := fmt.Sprintf("append %d to %s/%s, expected %d", len(evs), stream, id, int64(expected))
	a, errA := m.sql.Append(context.Background(), stream, id, expected, evs...)
	b, errB := m.mem.Append(context.Background(), stream, id, expected, evs...)
	m.compare(what, outcome(errA), outcome(errB))
	m.compare(what, describeAll(a), describeAll(b))
	if errB == nil && len(a) == len(b) {
		m.stored++
		for i := range b {
			m.log = append(m.log, pair{a[i], b[i]})
		}
	} else if errors.Is(errB, es.ErrConflict) {
		m.conflicts++
	}
}

// compareReads reads with the same random selection and options. Positions in them are those of
// one event in either store.
func (m *mirror) compareReads() {
	r := m.r
	optsA := es.ReadOptions{Backward: r.IntN(2) == 0, Sealed: r.IntN(4) == 0}
	if r.IntN(2) == 0 {
		optsA.Limit = 1 + r.IntN(40)
	}
	optsB := optsA
	if len(m.log) > 0 && r.IntN(3) == 0 {
		p := pick(r, m.log)
		optsA.After, optsB.After = p.sql.Position, p.mem.Position
	}
	if len(m.log) > 0 && r.IntN(3) == 0 {
		p := pick(r, m.log)
		optsA.Before, optsB.Before = p.sql.Position, p.mem.Position
	}
	var selA, selB es.Selection
	for range 1 + r.IntN(3) {
		var a, b es.Source
		switch r.IntN(3) {
		case 0:
			a.Stream = pick(r, randomStreams)
		case 1:
			a.Category = pick(r, []string{"order", "Order", "card", "o"})
		}
		b = a
		for range r.IntN(3) {
			ma, mb := m.match()
			a.Match, b.Match = append(a.Match, ma), append(b.Match, mb)
		}
		selA, selB = append(selA, a), append(selB, b)
	}
	what := fmt.Sprintf("read of %+v with %+v", selA, optsA)
	if len(what) > 1000 {
		what = what[:1000]
	}
	m.compare(what, m.read(m.sql, selA, optsA), m.read(m.mem, selB, optsB))
}

func (m *mirror) match() (a, b es.Match) {
	r := m.r
	if len(m.log) > 0 && r.IntN(8) == 0 {
		p, op := pick(r, m.log), r.IntN(6)
		return apply(es.ByPosition, op, p.sql.Position), apply(es.ByPosition, op, p.mem.Position)
	}
	field, value := es.Meta(pick(r, randomKeys)), func() any { return pick(r, randomValues) }
	switch r.IntN(10) {
	case 0:
		field, value = es.ByAggregateID, func() any { return pick(r, randomIDs) }
	case 1:
		field, value = es.ByEventName, func() any { return pick(r, randomNames) }
	case 2:
		field, value = es.ByVersion, func() any { return r.IntN(12) }
	case 3:
		field, value = es.ByRecordedAt, func() any { return m.now.Add(-time.Duration(r.IntN(1000)) * 500 * time.Microsecond) }
	case 4:
		field, value = es.ByEventID, func() any {
			if len(m.log) == 0 {
				return uuid.New()
			}
			return pick(r, m.log).mem.ID
		}
	}
	switch op := r.IntN(9); op {
	case 6, 7:
		var values []any
		for range r.IntN(4) {
			values = append(values, value())
		}
		if op == 6 {
			return field.In(values...), field.In(values...)
		}
		return field.NotIn(values...), field.NotIn(values...)
	case 8:
		pattern := pick(r, []string{"^[a-c]", "", "o", "x|1", `\\`, "(?i)OPEN", "^$"})
		return field.Matches(pattern), field.Matches(pattern)
	default:
		v := value()
		return apply(field, op, v), apply(field, op, v)
	}
}

func apply(f es.Field, op int, v any) es.Match {
	return []func(any) es.Match{f.Equals, f.NotEquals, f.GreaterThan, f.AtLeast, f.LessThan, f.AtMost}[op](v)
}

func (m *mirror) read(s *es.Store, from es.Selection, opts es.ReadOptions) string {
	return m.describe(s.Read(context.Background(), from, opts))
}

func (m *mirror) describe(seq func(yield func(es.Event, error) bool)) string {
	var evs []es.Event
	for ev, err := range seq {
		if err != nil {
			return describeAll(evs) + outcome(err)
		}
		m.seen++
		evs = append(evs, ev)
	}
	return describeAll(evs)
}

// describeAll is all of events but their positions, which have to rise or to fall.
func describeAll(evs []es.Event) string {
	var b strings.Builder
	for i, ev := range evs {
		if i > 1 && (ev.Position > evs[i-1].Position) != (evs[1].Position > evs[0].Position) {
			fmt.Fprintf(&b, "position %d out of order; ", ev.Position)
		}
		ev.Position = 0
		b.WriteString(storetest.Describe(ev) + "\n")
	}
	return b.String()
}
