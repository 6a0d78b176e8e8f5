// What memory keeps of a projection's documents, by key and by label.

package eventstore

import (
	"maps"
	"slices"
	"sort"
)

// memDocuments are the documents of a projection. The zero value has none.
type memDocuments struct {
	rows   map[string]documentRow
	keys   keySet
	labels map[string]*keySet
}

// keySet is a list of keys in byte order, each once.
type keySet []string

// change adds keys that are not there, and removes others.
func (s *keySet) change(add, remove []string) {
	if len(remove) > 0 {
		gone := make(map[string]bool, len(remove))
		for _, key := range remove {
			gone[key] = true
		}
		*s = slices.DeleteFunc(*s, func(key string) bool { return gone[key] })
	}
	if len(add) == 0 {
		return
	}
	slices.Sort(add)
	old := *s
	*s = make(keySet, 0, len(old)+len(add))
	for len(old) > 0 && len(add) > 0 {
		if old[0] < add[0] {
			*s, old = append(*s, old[0]), old[1:]
		} else {
			*s, add = append(*s, add[0]), add[1:]
		}
	}
	*s = append(append(*s, old...), add...)
}

// apply carries out a batch's changes.
func (d *memDocuments) apply(c *documentChanges) {
	if d.rows == nil {
		d.rows, d.labels = map[string]documentRow{}, map[string]*keySet{}
	}
	var added, removed []string
	for _, row := range c.put {
		if _, found := d.rows[row.key]; !found {
			added = append(added, row.key)
		}
		d.rows[row.key] = row
	}
	for _, key := range c.drop {
		if _, found := d.rows[key]; found {
			removed = append(removed, key)
			delete(d.rows, key)
		}
	}
	d.keys.change(added, removed)
	for label, keys := range byLabel(c.label) {
		if d.labels[label] == nil {
			d.labels[label] = &keySet{}
		}
		d.labels[label].change(keys, nil)
	}
	for label, keys := range byLabel(c.unlabel) {
		if set := d.labels[label]; set != nil {
			if set.change(nil, keys); len(*set) == 0 {
				delete(d.labels, label)
			}
		}
	}
}

func byLabel(rows []labelRow) map[string][]string {
	keys := map[string][]string{}
	for _, row := range rows {
		keys[row.label] = append(keys[row.label], row.key)
	}
	return keys
}

// clone returns a copy that can be changed by itself.
func (d *memDocuments) clone() *memDocuments {
	out := &memDocuments{rows: maps.Clone(d.rows), keys: slices.Clone(d.keys), labels: map[string]*keySet{}}
	for label, keys := range d.labels {
		labelled := slices.Clone(*keys)
		out.labels[label] = &labelled
	}
	return out
}

// page returns the documents that a page asks for, and whether more may follow them.
func (d *memDocuments) page(q *documentPage) (out []documentRow, more bool) {
	keys := d.keys
	if q.label != "" {
		keys = nil
		if labelled := d.labels[q.label]; labelled != nil {
			keys = *labelled
		}
	}
	keys = keys[sort.SearchStrings(keys, q.from):]
	if q.to != "" {
		keys = keys[:sort.SearchStrings(keys, q.to)]
	}
	size := 0
	for i := range keys {
		key := keys[i]
		if q.backward {
			key = keys[len(keys)-1-i]
		}
		if key == q.without {
			continue
		}
		if len(out) == q.limit || size >= pageBytes {
			return out, true
		}
		row := d.rows[key]
		out, size = append(out, row), size+row.size()
	}
	return out, false
}
