// Streams: StreamInfo, and what a Selection of sources picks.

package eventstore

import (
	"strings"
	"time"
)

// StreamInfo describes a stream.
type StreamInfo struct {
	Name      string
	Metadata  Metadata  // never nil
	CreatedAt time.Time // UTC, microseconds
}

// Selection picks the events that any of its sources picks, each once. One without sources picks
// nothing.
type Selection []Source

// Source picks one stream's events, or a category's (those of the streams whose names begin with
// the category and a hyphen: "order" has "order-eu" and "order-us"), or, with neither, all; of
// those, the events that pass every Match. Setting both Stream and Category is [ErrInvalid].
type Source struct {
	Stream   string
	Category string
	Match    []Match
}

// FromAll picks every stream's events.
func FromAll(match ...Match) Selection { return Selection{{Match: match}} }

// FromStream picks one stream's events.
func FromStream(name string, match ...Match) Selection {
	return Selection{{Stream: name, Match: match}}
}

// FromStreams picks the events of several streams, in the store's order.
func FromStreams(names ...string) Selection {
	sel := make(Selection, len(names))
	for i, name := range names {
		sel[i].Stream = name
	}
	return sel
}

// FromCategory picks the events of all streams named prefix, a hyphen, and anything more.
func FromCategory(prefix string, match ...Match) Selection {
	return Selection{{Category: prefix, Match: match}}
}

// check finds what is wrong with a selection, before any I/O.
func (sel Selection) check() error {
	for _, src := range sel {
		if src.Stream != "" && src.Category != "" {
			return invalid("source has a stream, %q, and a category, %q", src.Stream, src.Category)
		}
		for what, name := range map[string]string{"stream name": src.Stream, "category": src.Category} {
			if name == "" {
				continue
			}
			if err := checkName(what, name); err != nil {
				return err
			}
		}
		for _, m := range src.Match {
			if err := m.check(); err != nil {
				return err
			}
		}
	}
	return nil
}

// picks reports whether any source picks the event.
func (sel Selection) picks(r *record) (bool, error) {
	for i := range sel {
		if ok, err := sel[i].picks(r); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// picks is the definition of a Source. A database narrows what it sends down to a superset of
// what picks lets pass.
func (src *Source) picks(r *record) (bool, error) {
	if src.Stream != "" && src.Stream != r.stream {
		return false, nil
	}
	if src.Category != "" && !inCategory(r.stream, src.Category) {
		return false, nil
	}
	for i := range src.Match {
		if ok, err := src.Match[i].holds(r); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// all reports that the selection picks every event.
func (sel Selection) all() bool {
	for _, src := range sel {
		if src.Stream == "" && src.Category == "" && len(src.Match) == 0 {
			return true
		}
	}
	return false
}

func inCategory(stream, category string) bool {
	return len(stream) > len(category) && stream[len(category)] == '-' && strings.HasPrefix(stream, category)
}

// checkFrom checks a definition's selection, which has to pick something.
func checkFrom(field string, from Selection) error {
	if len(from) == 0 {
		return invalid("%s is empty", field)
	}
	if err := from.check(); err != nil {
		return within(field, err)
	}
	return nil
}
