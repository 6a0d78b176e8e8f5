package matches_test

import (
	"cmp"
	"fmt"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// matchValues are metadata values that databases like to confuse.
var matchValues = []any{
	"", "a", "A", "a ", "ä", "1", "1.0", "true", "null", `"`, `\`, `\\"`, `","k":1`, `"k":"a"`, "a%", "_", "日本", "😀", "\n", "\x00", "\u007f", "é", "e\u0301",
	true, false,
	int64(0), int64(1), int64(-1), int64(10), int64(12), int64(1<<53 - 1), int64(1 << 53), int64(1<<53 + 1), int64(math.MaxInt64), int64(math.MaxInt64 - 1), int64(math.MinInt64),
	0.0, math.Copysign(0, -1), 1.0, 1.5, -1.0, 10.0, 0.1, float64(1 << 53), float64(1<<53 + 2), float64(math.MaxInt64), float64(math.MinInt64), 1e21, 1e300, -1e300, 5e-324, 1e-7, math.MaxFloat64,
}

var matchKeys = []string{"k", "K", "k ", `k"`, `k\`, `k":"a"`, "ü", "u\u0308", "", "a.b", "$.k", "k'", "😀", "\x00"}

// want is an evaluation of a match that shares nothing with the store's: an exact comparison of
// kinds and values.
func wantMatch(v any, op string, args []any) bool {
	kind := func(v any) string {
		switch v.(type) {
		case int64, float64:
			return "number"
		}
		return fmt.Sprintf("%T", v)
	}
	number := func(v any) *big.Rat {
		if f, ok := v.(float64); ok {
			return new(big.Rat).SetFloat64(f)
		}
		return new(big.Rat).SetInt64(v.(int64))
	}
	order := func(a, b any) int {
		switch a := a.(type) {
		case string:
			return cmp.Compare(a, b.(string))
		case bool:
			return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) // "false" < "true"
		case time.Time:
			return a.Compare(b.(time.Time))
		case uuid.UUID:
			return cmp.Compare(a.String(), b.(uuid.UUID).String())
		}
		return number(a).Cmp(number(b))
	}
	alike, same := len(args) == 0, false
	for _, w := range args {
		if kind(v) == kind(w) {
			alike = true
			same = same || order(v, w) == 0
		}
	}
	switch op {
	case "In":
		return same
	case "NotIn":
		return alike && !same
	}
	if !alike {
		return false
	}
	c := order(v, args[0])
	return map[string]bool{"Equals": c == 0, "NotEquals": c != 0, "GreaterThan": c > 0, "AtLeast": c >= 0, "LessThan": c < 0, "AtMost": c <= 0}[op]
}

var operators = map[string]func(f es.Field, args ...any) es.Match{
	"Equals":      func(f es.Field, args ...any) es.Match { return f.Equals(args[0]) },
	"NotEquals":   func(f es.Field, args ...any) es.Match { return f.NotEquals(args[0]) },
	"GreaterThan": func(f es.Field, args ...any) es.Match { return f.GreaterThan(args[0]) },
	"AtLeast":     func(f es.Field, args ...any) es.Match { return f.AtLeast(args[0]) },
	"LessThan":    func(f es.Field, args ...any) es.Match { return f.LessThan(args[0]) },
	"AtMost":      func(f es.Field, args ...any) es.Match { return f.AtMost(args[0]) },
	"In":          func(f es.Field, args ...any) es.Match { return f.In(args...) },
	"NotIn":       func(f es.Field, args ...any) es.Match { return f.NotIn(args...) },
}

// wantPicked compares what a match picks with what it should.
func wantPicked(t *testing.T, s *es.Store, all []es.Event, what string, m es.Match, holds func(es.Event) bool) {
	t.Helper()
	var want []es.Event
	for _, ev := range all {
		if holds(ev) {
			want = append(want, ev)
		}
	}
	got := storetest.Collect(t, s.Read(t.Context(), es.FromAll(m), es.ReadOptions{}))
	if len(got) != len(want) {
		t.Errorf("%s picks\n%s\nwant\n%s", what, storetest.Ranks(got), storetest.Ranks(want))
		return
	}
	storetest.SameEvents(t, what, got, want)
}

func TestMatchMetadata(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "accounts")
		var evs []es.NewEvent
		for i, v := range matchValues {
			evs = append(evs, es.NewEvent{Payload: storetest.Deposited{}, Metadata: es.Metadata{"k": v, "other": matchValues[len(matchValues)-1-i]}})
		}
		for i, key := range matchKeys {
			evs = append(evs, es.NewEvent{Payload: storetest.Deposited{}, Metadata: es.Metadata{key: "key", matchKeys[(i+1)%len(matchKeys)]: int64(i)}})
		}
		storetest.MustAppend(t, s, "accounts", "a", 0, append(evs, es.NewEvent{Payload: storetest.Deposited{}})...)
		all := storetest.Everything(t, s)
		check := func(key, op string, args ...any) {
			t.Helper()
			wantPicked(t, s, all, fmt.Sprintf("Meta(%q).%s(%#v)", key, op, args), operators[op](es.Meta(key), args...), func(ev es.Event) bool {
				v, ok := ev.Metadata[key]
				return ok && wantMatch(v, op, args)
			})
		}
		for i, v := range matchValues {
			for op := range operators {
				if l.Odd && i%4 != 0 && op != "Equals" {
					continue // enough elsewhere
				}
				check("k", op, v)
			}
			check("k", "In", v, matchValues[(i+7)%len(matchValues)])
			check("k", "NotIn", v, matchValues[(i+7)%len(matchValues)])
		}
		for i, key := range matchKeys {
			check(key, "Equals", "key")
			check(key, "NotEquals", "x")
			check(key, "AtLeast", int64(i-1))
		}
		for op := range operators { // text that no database takes, but that can be compared with
			check("k", op, "\xff")
			check("k", op, "a\xff")
			check("\xff", op, "a")
		}
		check("k", "In")
		check("k", "NotIn")
		check("k", "In", slices.Concat(matchValues, matchValues, matchValues, matchValues, matchValues, matchValues)...)
		check("no such key", "NotEquals", "x")
		check("no such key", "NotIn")
		for _, pattern := range []string{"", "^$", "(?i)^a$", `\\`, `"`, "^[^a-z]", ".", "(?s).", "😀|日", "true|1", "\\x00"} {
			wantPicked(t, s, all, "Matches "+pattern, es.Meta("k").Matches(pattern), func(ev es.Event) bool {
				text, ok := ev.Metadata["k"].(string)
				return ok && regexp.MustCompile(pattern).MatchString(text)
			})
		}
		// Values come in other types too.
		for _, v := range []any{1, int8(1), uint64(1), float32(1), es.Position(1)} {
			wantPicked(t, s, all, fmt.Sprintf("Equals(%T)", v), es.Meta("k").Equals(v), func(ev es.Event) bool {
				return ev.Metadata["k"] == int64(1) || ev.Metadata["k"] == 1.0
			})
		}
	})
}

func TestMatchFields(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		at := time.Date(2026, 3, 29, 1, 59, 59, 999998000, time.UTC)
		s := l.Open(t, &es.Options{Now: func() time.Time { return at }})
		storetest.CreateStream(t, s, "accounts", "cards")
		ids := []string{"a", "A", "a ", "ä", "a%", `a'"\`, "b", "10", "9"}
		for i, id := range ids {
			for k := range 3 {
				at = at.Add(time.Microsecond)
				name := storetest.OddNames[(3*i+k)%len(storetest.OddNames)]
				storetest.MustAppend(t, s, []string{"accounts", "cards"}[i%2], id, es.ExpectedVersion(k), es.NewEvent{ID: uuid.New(), Payload: storetest.Raw{Name: name, Text: "{}"}})
			}
		}
		all := storetest.Everything(t, s)
		positions, versions, times, uuids, names, aggregates := []any{0, 1e9, all[3].Position, float64(all[5].Position) + 0.5, 1e300, -1, math.MinInt64, math.MaxInt64},
			[]any{0, 1, 2, 2.0, 1.5, 3, uint8(3), -1, 1e300, 1 << 60}, []any{}, []any{uuid.Nil, uuid.Max}, []any{"", "\x00", "a\xff", "zzz"}, []any{"", "\x00", "a\xff", "c"}
		for i, ev := range all {
			if i%5 == 0 {
				times = append(times, ev.RecordedAt, ev.RecordedAt.In(time.FixedZone("", 5*3600)), ev.RecordedAt.Add(time.Nanosecond), ev.RecordedAt.Add(-time.Nanosecond))
				uuids = append(uuids, ev.ID, strings.ToUpper(ev.ID.String()))
				names, aggregates = append(names, ev.Name), append(aggregates, ev.AggregateID)
			}
		}
		times = append(times, time.Time{}, time.Date(999, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(-5, 1, 1, 0, 0, 0, 0, time.UTC))
		for _, f := range []struct {
			field  es.Field
			of     func(es.Event) any
			text   func(es.Event) string
			values []any
		}{
			{es.ByAggregateID, func(ev es.Event) any { return ev.AggregateID }, func(ev es.Event) string { return ev.AggregateID }, aggregates},
			{es.ByEventName, func(ev es.Event) any { return ev.Name }, func(ev es.Event) string { return ev.Name }, names},
			{es.ByEventID, func(ev es.Event) any { return ev.ID }, func(ev es.Event) string { return ev.ID.String() }, uuids},
			{es.ByVersion, func(ev es.Event) any { return ev.Version }, func(ev es.Event) string { return fmt.Sprint(ev.Version) }, versions},
			{es.ByPosition, func(ev es.Event) any { return int64(ev.Position) }, func(ev es.Event) string { return fmt.Sprint(int64(ev.Position)) }, positions},
			{es.ByRecordedAt, func(ev es.Event) any { return ev.RecordedAt }, func(ev es.Event) string { return ev.RecordedAt.Format(time.RFC3339Nano) }, times},
		} {
			check := func(op string, args ...any) {
				normal := make([]any, len(args))
				for i, v := range args {
					normal[i] = v
					switch v := v.(type) {
					case int:
						normal[i] = int64(v)
					case uint8:
						normal[i] = int64(v)
					case es.Position:
						normal[i] = int64(v)
					case string:
						if f.field == es.ByEventID {
							normal[i] = uuid.MustParse(v)
						}
					}
				}
				wantPicked(t, s, all, fmt.Sprintf("%v %s %v", f.field, op, args), operators[op](f.field, args...), func(ev es.Event) bool {
					return wantMatch(f.of(ev), op, normal)
				})
			}
			for i, v := range f.values {
				for op := range operators {
					if !l.Odd || i%3 == 0 {
						check(op, v)
					}
				}
			}
			check("In", f.values...)
			check("NotIn", f.values...)
			check("In")
			check("NotIn")
			for _, pattern := range []string{"", "^a", "[13579]$", "(?i)A", `\.`} {
				wantPicked(t, s, all, fmt.Sprintf("%v matches %s", f.field, pattern), f.field.Matches(pattern), func(ev es.Event) bool {
					return regexp.MustCompile(pattern).MatchString(f.text(ev))
				})
			}
		}
	})
}

// TestMatchTimesOutOfRange compares with times that are in a year which databases know, or not, depending on the
// zone.
func TestMatchTimesOutOfRange(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "accounts")
		stored := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(2, 1)...)
		for _, late := range []time.Time{
			time.Date(9999, 12, 31, 23, 0, 0, 0, time.UTC),
			time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -2*3600)),
			time.Date(10000, 1, 1, 0, 0, 0, 0, time.FixedZone("", 2*3600)),
			time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC),
		} {
			storetest.SameEvents(t, late.String(), storetest.Collect(t, s.Read(t.Context(), es.FromAll(es.ByRecordedAt.LessThan(late)), es.ReadOptions{})), stored)
		}
		for _, early := range []time.Time{
			{},
			time.Date(1000, 1, 1, 0, 0, 0, 0, time.FixedZone("", 2*3600)),
			time.Date(999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -2*3600)),
		} {
			storetest.SameEvents(t, early.String(), storetest.Collect(t, s.Read(t.Context(), es.FromAll(es.ByRecordedAt.GreaterThan(early)), es.ReadOptions{})), stored)
		}
	})
}
