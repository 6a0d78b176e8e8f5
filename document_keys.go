// Which documents an event changes.

package eventstore

// turn is an event's turn, which has passed middleware and upcasters.
type turn struct {
	deliveries []keyedDelivery
	failure    error // of finding that out
}

// keyedDelivery is a delivery with the keys of its documents.
type keyedDelivery struct {
	delivery
	key  string     // for all entries that have no keys of their own; "": they pass it over
	keys [][]string // for each entry; nil: no entry has any
}

// keyFinder finds the keys of events.
type keyFinder[S any] struct {
	key      func(ev Event) string // nil: the aggregate's ID
	handlers byName[*entry[S]]
}

// plan adds a delivery to an event's turn, if an entry wants it, and finds its keys.
func (f *keyFinder[S]) plan(t *turn, d *delivery) error {
	entries := f.handlers.entries(d.payload.name)
	if len(entries) == 0 {
		return nil
	}
	if len(entries) > 1 || entries[0].keys != nil {
		if err := d.encode(); err != nil {
			return err
		}
	}
	k := keyedDelivery{delivery: *d}
	asked := false
	for i, e := range entries {
		if e.keys == nil {
			if asked {
				continue
			}
			asked = true
			var err error
			if k.key, err = f.keyOf(d); err != nil {
				return err
			}
			continue
		}
		keys, err := distinct("document key", d, e.keys)
		if err != nil {
			return err
		}
		if k.keys == nil {
			k.keys = make([][]string, len(entries))
		}
		k.keys[i] = keys
	}
	t.deliveries = append(t.deliveries, k)
	return nil
}

// keyOf returns the key of the document that Documents.Key names.
func (f *keyFinder[S]) keyOf(d *delivery) (string, error) {
	if f.key == nil && d.loaded == nil {
		return d.record.aggregateID, nil
	}
	ev, err := d.event()
	if err != nil {
		return "", err
	}
	key := ev.AggregateID
	if f.key != nil {
		key = f.key(ev)
	}
	if key == "" {
		return "", nil
	}
	return key, checkName("document key", key)
}

// distinct returns the texts that a function makes of a delivery, each once and without empty ones, in their order.
func distinct(what string, d *delivery, of func(*delivery) ([]string, error)) ([]string, error) {
	texts, err := of(d)
	if err != nil {
		return nil, err
	}
	var out []string
	seen := make(map[string]bool, len(texts))
	for _, text := range texts {
		if text == "" || seen[text] {
			continue
		}
		if err := checkName(what, text); err != nil {
			return nil, err
		}
		seen[text] = true
		out = append(out, text)
	}
	return out, nil
}
