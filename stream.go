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
// nothing; one with more than 20,000 is [ErrInvalid].
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

// maxSources is the most sources that a selection has. With more of them what a read takes grows
// beyond what is of use.
const maxSources = 20_000

// check finds what is wrong with a selection, before any I/O.
func (sel Selection) check() error {
	if len(sel) > maxSources {
		return invalid("a selection of %d sources: want at most %d", len(sel), maxSources)
	}
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

// picker evaluates a selection. Streams without a Match, of which there can be thousands, it looks up.
type picker struct {
	streams map[string]bool
	others  Selection
}

func (sel Selection) picker() *picker {
	p := &picker{others: sel}
	if len(sel) > 8 {
		p.streams, p.others = make(map[string]bool, len(sel)), nil
		for _, src := range sel {
			if src.Stream != "" && len(src.Match) == 0 {
				p.streams[src.Stream] = true
			} else {
				p.others = append(p.others, src)
			}
		}
	}
	return p
}

// picks reports whether any source picks the event.
func (p *picker) picks(r *record) (bool, error) {
	if p.streams[r.stream] {
		return true, nil
	}
	for i := range p.others {
		if ok, err := p.others[i].picks(r); ok || err != nil {
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

// anyStream reports that the source is not one of a stream or a category.
func (src Source) anyStream() bool { return src.Stream == "" && src.Category == "" }

// all reports that the selection picks every event.
func (sel Selection) all() bool {
	for _, src := range sel {
		if src.anyStream() && len(src.Match) == 0 {
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
