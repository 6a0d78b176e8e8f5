// Filters: Field, its operators, and Match. The evaluation in Go defines what a filter means;
// backend_sql_filter.go only narrows rows.

package eventstore

import (
	"cmp"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Field is what a [Match] looks at: a property of the event, or a metadata key (see [Meta]).
type Field struct {
	kind fieldKind
	key  string // of metadata
}

type fieldKind int

const (
	fieldNone fieldKind = iota
	fieldAggregateID
	fieldEventID
	fieldEventName
	fieldVersion
	fieldRecordedAt
	fieldPosition
	fieldMeta
)

// The properties of an event. An aggregate ID and an event name compare as bytes with strings, an
// event ID as bytes with a [uuid.UUID] (or its text), a version and a position with numbers, and
// the time of recording with a [time.Time]; a value of another kind is [ErrInvalid].
var (
	ByAggregateID = Field{kind: fieldAggregateID}
	ByEventID     = Field{kind: fieldEventID}
	ByEventName   = Field{kind: fieldEventName}
	ByVersion     = Field{kind: fieldVersion}
	ByRecordedAt  = Field{kind: fieldRecordedAt}
	ByPosition    = Field{kind: fieldPosition}
)

// Meta is a metadata key. Strings compare as bytes, false is less than true, and all numbers,
// integers and floats, are one kind and compare by their exact values. If an event lacks the key,
// or its value is of another kind than the match's, the match is false, whatever the operator:
// also with NotEquals and NotIn.
func Meta(key string) Field { return Field{kind: fieldMeta, key: key} }

func (f Field) String() string {
	switch f.kind {
	case fieldAggregateID:
		return "aggregate ID"
	case fieldEventID:
		return "event ID"
	case fieldEventName:
		return "event name"
	case fieldVersion:
		return "version"
	case fieldRecordedAt:
		return "time of recording"
	case fieldPosition:
		return "position"
	case fieldMeta:
		return "metadata " + strconv.Quote(f.key)
	}
	return "zero field"
}

// Match is a condition on one field of an event. What is wrong with one (a value that can't be
// compared with the field, a pattern that does not compile) is reported as [ErrInvalid] by the
// call that is given it.
type Match struct {
	field  Field
	op     operator
	values []any // of scalar types, as comparable makes them
	regex  *regexp.Regexp
	err    error
}

type operator int

const (
	opEquals operator = iota + 1
	opNotEquals
	opGreaterThan
	opAtLeast
	opLessThan
	opAtMost
	opIn
	opNotIn
	opMatches
)

// Equals matches events whose field is v.
func (f Field) Equals(v any) Match { return f.compare(opEquals, v) }

// NotEquals matches events whose field is not v, but of its kind.
func (f Field) NotEquals(v any) Match { return f.compare(opNotEquals, v) }

// GreaterThan matches events whose field is above v.
func (f Field) GreaterThan(v any) Match { return f.compare(opGreaterThan, v) }

// AtLeast matches events whose field is v or above.
func (f Field) AtLeast(v any) Match { return f.compare(opAtLeast, v) }

// LessThan matches events whose field is below v.
func (f Field) LessThan(v any) Match { return f.compare(opLessThan, v) }

// AtMost matches events whose field is v or below.
func (f Field) AtMost(v any) Match { return f.compare(opAtMost, v) }

// In matches events whose field is one of vs. Of no values, none is.
func (f Field) In(vs ...any) Match { return f.compare(opIn, vs...) }

// NotIn matches events whose field is none of vs, but of the kind of at least one of them. Of no
// values, each field that is there is none.
func (f Field) NotIn(vs ...any) Match { return f.compare(opNotIn, vs...) }

// Matches matches events whose field's text holds a match of an RE2 pattern as package regexp
// knows it. The text of an event ID is its 36 characters, of a number its decimal digits, of a
// time RFC 3339 in UTC with as many digits of a second as it has; of metadata only strings match.
func (f Field) Matches(regex string) Match {
	m := Match{field: f, op: opMatches}
	if m.regex, m.err = regexp.Compile(regex); m.err != nil {
		m.err = invalid("match on %v: %v", f, m.err)
	}
	return m
}

func (f Field) compare(op operator, values ...any) Match {
	m := Match{field: f, op: op, values: make([]any, len(values))}
	for i, v := range values {
		var ok bool
		if m.values[i], ok = f.comparable(v); !ok && m.err == nil {
			m.err = invalid("match on %v: it can't be compared with the %T %v", f, v, v)
		}
	}
	return m
}

// comparable returns v in the type that the field's own values have, if it can be compared.
func (f Field) comparable(v any) (any, bool) {
	if n, ok := normalValue(v); ok {
		v = n
	} else if f, ok := n.(float64); ok && math.IsNaN(f) {
		return v, false // has no place in the order of numbers
	}
	switch f.kind {
	case fieldAggregateID, fieldEventName:
		s, ok := v.(string)
		return s, ok
	case fieldEventID:
		if s, ok := v.(string); ok {
			id, err := uuid.Parse(s)
			return id, err == nil
		}
		id, ok := v.(uuid.UUID)
		return id, ok
	case fieldVersion, fieldPosition:
		k := kindOf(v)
		return v, k == kindNumber
	case fieldRecordedAt:
		t, ok := v.(time.Time)
		return t.UTC().Round(0), ok
	}
	return v, kindOf(v) != kindNone
}

func (m *Match) check() error {
	if m.err == nil && (m.op == 0 || m.field.kind == fieldNone) {
		return invalid("match is the zero Match, or on the zero Field")
	}
	return m.err
}

// holds is the definition of a Match.
func (m *Match) holds(r *record) (bool, error) {
	var v any
	switch m.field.kind {
	case fieldAggregateID:
		v = r.aggregateID
	case fieldEventID:
		v = r.id
	case fieldEventName:
		v = r.name
	case fieldVersion:
		v = r.version
	case fieldPosition:
		v = int64(r.position)
	case fieldRecordedAt:
		v = r.recordedAt
	case fieldMeta:
		md, err := r.meta()
		if err != nil {
			return false, err
		}
		var ok bool
		if v, ok = md[m.field.key]; !ok {
			return false, nil
		}
	}
	return m.holdsFor(v), nil
}

func (m *Match) holdsFor(v any) bool {
	switch m.op {
	case opMatches:
		s, ok := v.(string)
		if !ok && m.field.kind == fieldMeta {
			return false
		}
		if !ok {
			s = text(v)
		}
		return m.regex.MatchString(s)
	case opIn:
		return slices.ContainsFunc(m.values, func(w any) bool { return equal(v, w) })
	case opNotIn:
		alike := func(w any) bool { return kindOf(v) == kindOf(w) }
		same := func(w any) bool { return equal(v, w) }
		return len(m.values) == 0 || slices.ContainsFunc(m.values, alike) && !slices.ContainsFunc(m.values, same)
	}
	w := m.values[0]
	if kindOf(v) != kindOf(w) {
		return false
	}
	c := compareScalars(v, w)
	switch m.op {
	case opEquals:
		return c == 0
	case opNotEquals:
		return c != 0
	case opGreaterThan:
		return c > 0
	case opAtLeast:
		return c >= 0
	case opLessThan:
		return c < 0
	case opAtMost:
		return c <= 0
	}
	return false
}

// kind is what must agree for two values to be comparable at all.
type kind int

const (
	kindNone kind = iota
	kindString
	kindBool
	kindNumber
	kindTime
	kindUUID
)

func kindOf(v any) kind {
	switch v.(type) {
	case string:
		return kindString
	case bool:
		return kindBool
	case int64, float64:
		return kindNumber
	case time.Time:
		return kindTime
	case uuid.UUID:
		return kindUUID
	}
	return kindNone
}

func equal(v, w any) bool { return kindOf(v) == kindOf(w) && compareScalars(v, w) == 0 }

// compareScalars orders two values of one kind.
func compareScalars(v, w any) int {
	switch v := v.(type) {
	case string:
		return strings.Compare(v, w.(string))
	case bool:
		switch w := w.(bool); {
		case v == w:
			return 0
		case w:
			return -1
		}
		return 1
	case time.Time:
		return v.Compare(w.(time.Time))
	case uuid.UUID:
		w := w.(uuid.UUID)
		return slices.Compare(v[:], w[:])
	case int64:
		switch w := w.(type) {
		case int64:
			return cmp.Compare(v, w)
		case float64:
			return compareIntFloat(v, w)
		}
	case float64:
		switch w := w.(type) {
		case int64:
			return -compareIntFloat(w, v)
		case float64:
			return cmp.Compare(v, w)
		}
	}
	return 0
}

// compareIntFloat compares exactly, where converting either to the other's type would round.
func compareIntFloat(i int64, f float64) int {
	switch {
	case f >= math.MaxInt64:
		return -1
	case f < math.MinInt64:
		return 1
	}
	return new(big.Float).SetInt64(i).Cmp(big.NewFloat(f))
}

// text is what Matches looks at.
func text(v any) string {
	switch v := v.(type) {
	case int64:
		return strconv.FormatInt(v, 10)
	case time.Time:
		return v.Format(time.RFC3339Nano)
	case uuid.UUID:
		return v.String()
	}
	return ""
}
