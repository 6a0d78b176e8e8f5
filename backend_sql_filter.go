// Filters as SQL: conditions that keep every row a Match lets pass, and few others.

package eventstore

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// where is a SELECT whose conditions are being collected.
type where struct {
	text string
	args []any
	hide string // readStatements.hidden; "": conditions stand as they are
}

// and adds a condition for which no index is meant.
func (w *where) and(condition string, args ...any) {
	if w.hide != "" {
		condition = strings.Replace(w.hide, "{condition}", condition, 1)
	}
	w.andPlain(condition, args...)
}

// andPlain adds a condition by which rows may be looked up.
func (w *where) andPlain(condition string, args ...any) {
	w.text += "\nAND " + condition
	w.args = append(w.args, args...)
}

// order ends a SELECT whose other parameters make no difference to which plan is good: the limits of
// most pages stand in the text.
func (w *where) order(by string, limit int) {
	if limit == firstPage || limit == maxPage {
		w.text += limited(by+" LIMIT {limit}", limit)
		return
	}
	w.text += by + " LIMIT ?"
	w.args = append(w.args, limit)
}

// limited puts one of the store's own limits into a text. As a parameter, which makes a plan that
// knows it seem much better than one that does not, Postgres would plan the statement anew for each
// execution: for short ones that is most of what they take, and more of it the longer the log is.
func limited(text string, limit int) string {
	return strings.Replace(text, "{limit}", strconv.Itoa(limit), 1)
}

// maxList is the longest list of values that is sent to the database.
const maxList = 200

// narrowNames adds the condition that an event is stored under one of the names, if there are any and
// not too many.
func (b *sqlBackend) narrowNames(w *where, names []string) {
	if len(names) > 0 && len(names) <= maxList {
		w.and("e.name IN ("+placeholders(len(names))+")", anys(names)...)
	}
}

// maxAlternatives is how many groups of sources a statement tells apart. Beyond that and maxList it
// tells none apart, and the caller drops what no source picks.
const maxAlternatives = 20

// narrowToAny adds the condition that one of the sources can pick an event.
func (b *sqlBackend) narrowToAny(w *where, sources Selection) {
	groups := b.group(sources)
	if len(groups) > maxAlternatives {
		return
	}
	var texts []string
	var args []any
	for i := range groups {
		g := &groups[i]
		if len(g.streams)+len(g.categories) > maxList {
			return
		}
		of := []string{"1 = 1"}
		if !g.all {
			of = of[:0]
			for _, name := range g.streams {
				of = append(of, "s.name = ?")
				args = append(args, name)
			}
			for _, category := range g.categories {
				of = append(of, "s.name >= ? AND s.name < ?")
				args = append(args, category+"-", category+".")
			}
		}
		texts = append(texts, "(("+strings.Join(of, " OR ")+")"+g.where.text+")")
		args = append(args, g.where.args...)
	}
	w.and("("+strings.Join(texts, " OR ")+")", args...)
}

// group is the sources of a selection that have the same conditions.
type group struct {
	streams, categories []string
	all                 bool  // one has all streams
	where               where // up to no text: the conditions, each after AND
}

// group groups the sources of a selection by their conditions, in the order in which these come.
func (b *sqlBackend) group(sources Selection) []group {
	var groups []group
	known := map[string]int{}
	for i := range sources {
		src := &sources[i]
		var w where
		for j := range src.Match {
			b.narrow(&w, &src.Match[j])
		}
		key := fmt.Sprintf("%s %q", w.text, w.args)
		n, ok := known[key]
		if !ok {
			n = len(groups)
			known[key] = n
			groups = append(groups, group{where: w})
		}
		switch g := &groups[n]; {
		case src.Stream != "":
			g.streams = append(g.streams, src.Stream)
		case src.Category != "":
			g.categories = append(g.categories, src.Category)
		default:
			g.all = true
		}
	}
	return groups
}

// narrow adds to a SELECT a condition that every event for which the match holds fulfils. Where
// SQL could see a value otherwise than Go, the condition is weaker than the match, or missing.
func (b *sqlBackend) narrow(w *where, m *Match) {
	if len(m.values) > maxList {
		return
	}
	switch m.field.kind {
	case fieldAggregateID:
		b.narrowBy(w, m, "e.aggregate_id", "?", textArg)
	case fieldEventName:
		b.narrowBy(w, m, "e.name", "?", textArg)
	case fieldEventID:
		b.narrowBy(w, m, "e.event_id", b.text.read.idValue, func(v any) (any, bool) { return b.dialect.eventID(v.(uuid.UUID)), true })
	case fieldVersion:
		b.narrowBy(w, m, "e.version", "?", wholeArg)
	case fieldPosition:
		b.narrowBy(w, m, "e.position", "?", wholeArg)
	case fieldRecordedAt:
		b.narrowBy(w, m, "e.recorded_at", b.text.read.timeValue, b.instantArg)
	case fieldMeta:
		b.narrowMeta(w, m)
	}
}

// narrowBy adds a comparison of a column, if arg can turn every value into a parameter that SQL
// compares just as Go does.
func (b *sqlBackend) narrowBy(w *where, m *Match, column, param string, arg func(any) (any, bool)) {
	args := make([]any, len(m.values))
	for i, v := range m.values {
		var ok bool
		if args[i], ok = arg(v); !ok {
			return
		}
	}
	list := strings.TrimSuffix(strings.Repeat(param+", ", len(args)), ", ")
	switch m.op {
	case opEquals:
		w.and(column+" = "+param, args...)
	case opNotEquals:
		w.and(column+" <> "+param, args...)
	case opGreaterThan:
		w.and(column+" > "+param, args...)
	case opAtLeast:
		w.and(column+" >= "+param, args...)
	case opLessThan:
		w.and(column+" < "+param, args...)
	case opAtMost:
		w.and(column+" <= "+param, args...)
	case opIn:
		if len(args) == 0 {
			w.and("1 = 0")
		} else {
			w.and(column+" IN ("+list+")", args...)
		}
	case opNotIn:
		if len(args) > 0 {
			w.and(column+" NOT IN ("+list+")", args...)
		}
	}
}

// textArg leaves out what Postgres does not take in text, and no stored name or ID holds: NUL, and
// what is not UTF-8.
func textArg(v any) (any, bool) {
	s := v.(string)
	return s, strings.IndexByte(s, 0) < 0 && utf8.ValidString(s)
}

func wholeArg(v any) (any, bool) {
	if f, ok := v.(float64); ok {
		if f != math.Trunc(f) || math.Abs(f) > 1<<53 {
			return nil, false
		}
		return int64(f), true
	}
	return v, true
}

// instantArg leaves out times between microseconds, and years that not every database knows.
func (b *sqlBackend) instantArg(v any) (any, bool) {
	t := v.(time.Time).UTC()
	return b.timeArg(t), t.Equal(t.Truncate(time.Microsecond)) && t.Year() >= 1000 && t.Year() <= 9999
}

// narrowMeta looks for the match's key, and where it can for its values too, in the text of the
// metadata. That is sound because Metadata.encode writes them in one form only, and because text
// within a value can't look like a key: its quotes are escaped.
func (b *sqlBackend) narrowMeta(w *where, m *Match) {
	if !utf8.ValidString(m.field.key) {
		w.and("1 = 0") // no metadata have such a key, and Postgres does not take it
		return
	}
	key := string(appendJSONString(nil, m.field.key)) + ":"
	var texts []any
	if m.op == opEquals || m.op == opIn {
		for _, v := range m.values {
			texts = append(texts, key+metaText(v))
		}
	}
	switch {
	case len(texts) > 0:
		w.and("("+strings.TrimSuffix(strings.Repeat(b.text.read.metadataHas+" OR ", len(texts)), " OR ")+")", texts...)
	case m.op == opIn:
		w.and("1 = 0")
	default:
		w.and(b.text.read.metadataHas, key)
	}
}

// metaText returns what the text of every value that equals v begins with.
func metaText(v any) string {
	switch v := v.(type) {
	case int64:
		if v != 0 { // which -0.0 equals too
			return string(appendJSONScalar(nil, v))
		}
	case float64:
		if s := string(appendJSONScalar(nil, v)); v != 0 {
			return strings.TrimSuffix(s, ".0") // the integer of the same value has no point
		}
	case string:
		if utf8.ValidString(v) { // or Postgres does not take it, and nothing equals it
			return string(appendJSONString(nil, v))
		}
	case bool:
		return strconv.FormatBool(v)
	}
	return ""
}

func anys[T any](values []T) []any {
	out := make([]any, len(values))
	for i, v := range values {
		out[i] = v
	}
	return out
}
