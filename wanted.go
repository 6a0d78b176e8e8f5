// Wanted sets: which events a definition of a projection or relay takes in, in the form in which the
// definition's row keeps it.

package eventstore

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// wantedSet is the set of events that a definition takes in: streams times stored names. Matches do
// not count. Its JSON is canonical: definitions that want the same have the same.
type wantedSet struct {
	All        bool     `json:"all,omitempty"`        // streams; the next two are empty then
	Streams    []string `json:"streams,omitempty"`    // in byte order, without those of Categories
	Categories []string `json:"categories,omitempty"` // in byte order, without those within others
	AnyName    bool     `json:"anyName,omitempty"`
	Names      []string `json:"names,omitempty"` // in byte order

	streams, categories, names map[string]bool // the same, to look things up
}

// newWantedSet returns what a selection and a list of stored names want; nil: any name.
func newWantedSet(from Selection, names map[string]bool) *wantedSet {
	w := &wantedSet{AnyName: names == nil, Names: slices.Sorted(maps.Keys(names)), streams: map[string]bool{}, categories: map[string]bool{}}
	for _, src := range from {
		switch {
		case src.Stream != "":
			w.streams[src.Stream] = true
		case src.Category != "":
			w.categories[src.Category] = true
		default:
			w.All = true
		}
	}
	if !w.All {
		for _, category := range slices.Sorted(maps.Keys(w.categories)) {
			if !w.within(category) {
				w.Categories = append(w.Categories, category)
			}
		}
		for _, stream := range slices.Sorted(maps.Keys(w.streams)) {
			if !w.within(stream) {
				w.Streams = append(w.Streams, stream)
			}
		}
	}
	w.index()
	return w
}

// index makes the maps anew.
func (w *wantedSet) index() {
	set := func(list []string) map[string]bool {
		m := make(map[string]bool, len(list))
		for _, s := range list {
			m[s] = true
		}
		return m
	}
	w.streams, w.categories, w.names = set(w.Streams), set(w.Categories), set(w.Names)
}

// within reports whether a stream or a category is within one of the set's categories.
func (w *wantedSet) within(name string) bool {
	for i := range len(name) {
		if name[i] == '-' && w.categories[name[:i]] {
			return true
		}
	}
	return false
}

func (w *wantedSet) holdsStream(stream string) bool {
	return w.All || w.streams[stream] || w.within(stream)
}

func (w *wantedSet) holdsCategory(category string) bool {
	return w.All || w.categories[category] || w.within(category)
}

func (w *wantedSet) holdsName(name string) bool { return w.AnyName || w.names[name] }

// holds reports whether an event is in the set.
func (w *wantedSet) holds(stream, name string) bool {
	return w.holdsName(name) && w.holdsStream(stream)
}

// empty reports whether no event is in the set.
func (w *wantedSet) empty() bool { return !w.AnyName && len(w.Names) == 0 }

// holdsStreams reports whether all streams of another set are in this one.
func (w *wantedSet) holdsStreams(other *wantedSet) bool {
	return w.All || !other.All && all(other.Streams, w.holdsStream) && all(other.Categories, w.holdsCategory)
}

// holdsNames reports whether all names of another set are in this one.
func (w *wantedSet) holdsNames(other *wantedSet) bool {
	return w.AnyName || !other.AnyName && all(other.Names, w.holdsName)
}

// holdsAll reports whether all events of another set are in this one.
func (w *wantedSet) holdsAll(other *wantedSet) bool {
	return other.empty() || w.holdsStreams(other) && w.holdsNames(other)
}

func all(list []string, in func(string) bool) bool {
	return !slices.ContainsFunc(list, func(s string) bool { return !in(s) })
}

// selection picks the set's streams.
func (w *wantedSet) selection() Selection {
	if w.All {
		return FromAll()
	}
	sel := FromStreams(w.Streams...)
	for _, category := range w.Categories {
		sel = append(sel, Source{Category: category})
	}
	return sel
}

// storedNames returns the set's names, or nil if it has all.
func (w *wantedSet) storedNames() []string {
	if w.AnyName {
		return nil
	}
	return w.Names
}

// hash identifies the set.
func (w *wantedSet) hash() string { return hashOf(w) }

// hashOf returns a text for a value that others of its type have only if they are equal.
func hashOf(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		text = fmt.Append(nil, v)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// lacks describes what this set lacks of another: the first few sources and names.
func (w *wantedSet) lacks(other *wantedSet) string {
	const most = 3
	var out []string
	add := func(what string, list []string, in func(string) bool) {
		for _, s := range list {
			if !in(s) {
				out = append(out, fmt.Sprintf("%s %q", what, s))
			}
		}
	}
	if other.AnyName && !w.AnyName {
		out = append(out, "events of any name")
	}
	if other.All && !w.All {
		out = append(out, "all streams")
	}
	add("event", other.Names, w.holdsName)
	add("stream", other.Streams, w.holdsStream)
	add("category", other.Categories, w.holdsCategory)
	more := ""
	if len(out) > most {
		more = fmt.Sprintf(" and %d more", len(out)-most)
		out = out[:most]
	}
	return strings.Join(out, ", ") + more
}

// relation is what a definition's wanted set is to the one that its row keeps.
type relation int

const (
	relationSame relation = iota
	relationNew           // the row keeps none
	relationWider
	relationNarrower
	relationNeither
)

// relationTo compares a definition's set with the one that its row keeps.
func (w *wantedSet) relationTo(stored *wantedSet) relation {
	switch more, less := w.holdsAll(stored), stored.holdsAll(w); {
	case more && less:
		return relationSame
	case more:
		return relationWider
	case less:
		return relationNarrower
	}
	return relationNeither
}

// takenSet is a set of events that has been taken in up to a position.
type takenSet struct {
	Wanted wantedSet `json:"wanted"`
	UpTo   Position  `json:"upTo"`
}

// definition is what a projection's row keeps of the definitions that have run.
type definition struct {
	wanted  *wantedSet // taken in up to the row's position; nil: not known
	earlier []takenSet // by earlier definitions, as far as wanted does not hold them
	looks   []changeCheck
}

// changeCheck is how far a definition has looked for events that were passed over. If it was refused, the next
// position has the event.
type changeCheck struct {
	Look string   `json:"look"` // identifies what is looked for
	UpTo Position `json:"upTo"`
}

// maxLooks is how many definitions a row keeps looks of, the latest first.
const maxLooks = 8

// looked notes that a definition has looked up to a position.
func (d *definition) looked(key string, to Position) {
	looks := []changeCheck{{key, to}}
	for _, l := range d.looks {
		if l.Look != key && len(looks) < maxLooks {
			looks = append(looks, l)
		}
	}
	d.looks = looks
}

// lookedUpTo returns how far a definition has looked.
func (d *definition) lookedUpTo(key string) Position {
	for _, l := range d.looks {
		if l.Look == key {
			return l.UpTo
		}
	}
	return 0
}

// followedBy returns what is kept once a definition goes on from a position.
func (d *definition) followedBy(w *wantedSet, at Position) *definition {
	next := &definition{wanted: w}
	earlier := d.earlier
	if d.wanted != nil {
		earlier = append([]takenSet{{*d.wanted, at}}, earlier...)
	}
	for _, e := range earlier {
		held := w.holdsAll(&e.Wanted) || slices.ContainsFunc(next.earlier, func(k takenSet) bool {
			return k.UpTo >= e.UpTo && k.Wanted.holdsAll(&e.Wanted)
		})
		if !held {
			next.earlier = append(next.earlier, e)
		}
	}
	return next
}

// takenIn reports whether an event at or below the row's position has been taken in.
func (d *definition) takenIn(at Position, stream, name string) bool {
	if d.wanted == nil || d.wanted.holds(stream, name) {
		return true
	}
	return slices.ContainsFunc(d.earlier, func(e takenSet) bool { return at <= e.UpTo && e.Wanted.holds(stream, name) })
}

// takenInUpTo returns up to where all events of a set have been taken in.
func (d *definition) takenInUpTo(w *wantedSet) (p Position) {
	for i := range d.earlier {
		if d.earlier[i].Wanted.holdsAll(w) {
			p = max(p, d.earlier[i].UpTo)
		}
	}
	return p
}

// encode returns the set, and in one list the earlier ones and the looks, as the row keeps them.
func (d *definition) encode() (wanted, taken []byte, err error) {
	if wanted, err = json.Marshal(d.wanted); err != nil {
		return nil, nil, err
	}
	var list []any
	for i := range d.earlier {
		list = append(list, &d.earlier[i])
	}
	for _, l := range d.looks {
		list = append(list, l)
	}
	if list != nil {
		taken, err = json.Marshal(list)
	}
	return wanted, taken, err
}

// decodeDefinition is the reverse of encode.
func decodeDefinition(wanted, taken []byte) (*definition, error) {
	d := &definition{}
	if wanted != nil {
		d.wanted = &wantedSet{}
		if err := json.Unmarshal(wanted, d.wanted); err != nil {
			return nil, err
		}
		d.wanted.index()
	}
	var list []struct {
		takenSet
		Look string `json:"look"`
	}
	if taken != nil {
		if err := json.Unmarshal(taken, &list); err != nil {
			return nil, err
		}
	}
	for _, e := range list {
		if e.Look != "" {
			d.looks = append(d.looks, changeCheck{e.Look, e.UpTo})
			continue
		}
		e.Wanted.index()
		d.earlier = append(d.earlier, e.takenSet)
	}
	return d, nil
}
