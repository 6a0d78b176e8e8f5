// The consumer of documents: it reads those of a batch's keys, runs handlers on them, and writes what has changed.

package eventstore

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// keeper is the consumer of Documents. A batch goes through it in parts. Of each part the events pass middleware and
// upcasters first, which tells their keys; the documents of these that are not held are read; then the handlers run.
//
// What it holds after a commit is what is stored, for as long as the lease is the same: nobody else can commit
// documents of this name. So documents that come again in the next batch are not read again. Whatever goes wrong ends
// in restore, which forgets them all.
type keeper[S any] struct {
	failurePolicy
	keyFinder[S]
	init   func() S // nil: the zero S
	labels func(key string, s *S) []string

	held   map[string]*heldDocument[S]
	made   *keyFilter // has the keys of all documents that are stored, and others; nil: not known
	size   int        // bytes of what is held, as stored
	each   int        // bytes of a document, as last read or stored; zero: not known
	begun  int        // documents that have changed since they were stored
	growth int        // an estimate by how many bytes these have grown
}

// heldDocument is a document in memory.
type heldDocument[S any] struct {
	row     documentRow // as stored
	found   bool        // it is stored
	used    bool        // by the batch
	decoded bool        // state is that of row, or what handlers have made of it
	there   bool        // it is to be stored
	changed bool        // handlers have run since it was stored
	state   S
	at      Position // of the last event, in the order of the log, whose handlers have run
	turn    Position // of the event whose handlers have run last
}

const (
	// heldBytes is from how many bytes of documents on a batch is committed before its end.
	heldBytes = 4 << 20
	// keptBytes is how many are held from one batch to the next at most.
	keptBytes = 2 << 20
)

func (f *keeper[S]) restore([]byte) error {
	f.held, f.made, f.size, f.begun, f.growth = map[string]*heldDocument[S]{}, nil, 0, 0, 0
	return nil
}

func (f *keeper[S]) handle(ctx context.Context, tx *batchTx, rows []record) (done int, err error) {
	tx.flushDocuments = func() error { return f.flush(tx) }
	if f.made == nil && tx.after == 0 {
		f.made = newKeyFilter() // before the first checkpoint there are no documents
	}
	for done < len(rows) && !tx.stopped {
		turns, err := f.prepare(ctx, tx, rows[done:])
		if err != nil {
			tx.noteFault(err)
			return done, err
		}
		n, err := tx.each(ctx, rows[done:done+len(turns)], func(i int) error {
			err := f.take(ctx, tx, &turns[i])
			if f.full() {
				tx.due = time.Time{} // the batch ends here
			}
			return err
		})
		if done += n; err != nil || n < len(turns) || f.full() {
			return done, err
		}
	}
	return done, nil
}

// full reports whether the documents of the batch are enough for a commit.
func (f *keeper[S]) full() bool { return f.size+f.growth > heldBytes }

// prepare returns the turns of as many events as their documents may be held for, of one at least, and reads these
// documents.
func (f *keeper[S]) prepare(ctx context.Context, tx *batchTx, rows []record) ([]turn, error) {
	most := len(rows)
	if f.each > 0 {
		most = max(1, (heldBytes-f.size)/f.each)
	}
	turns := make([]turn, 0, len(rows))
	missing := map[string]bool{}
	dispatcher := f.store.dispatcher(func(d *delivery) error { return f.plan(&turns[len(turns)-1], d) })
	for i := range rows {
		if i > 0 && len(missing) >= most {
			break
		}
		turns = append(turns, turn{})
		// A failure is the event's, when it is its turn.
		if turns[i].failure = survive(func() error { return dispatcher.dispatch(ctx, &rows[i]) }); turns[i].failure != nil {
			turns[i].deliveries = nil
			break
		}
		f.missing(&turns[i], missing)
	}
	for {
		all, err := f.read(tx, missing, len(turns) == 1)
		if err != nil || all {
			return turns, err
		}
		turns = turns[:max(1, len(turns)/4)]
		clear(missing)
		for i := range turns {
			f.missing(&turns[i], missing)
		}
	}
}

// missing adds the keys of a turn's documents that are not held.
func (f *keeper[S]) missing(t *turn, missing map[string]bool) {
	add := func(key string) {
		if doc := f.held[key]; doc != nil {
			doc.used = true
		} else if key != "" && f.made.lacks(key) {
			f.hold(key)
		} else if key != "" {
			missing[key] = true
		}
	}
	for i := range t.deliveries {
		add(t.deliveries[i].key)
		for _, keys := range t.deliveries[i].keys {
			for _, key := range keys {
				add(key)
			}
		}
	}
}

// read reads documents. It is false if they are too large to be held together, unless they have to.
func (f *keeper[S]) read(tx *batchTx, missing map[string]bool, must bool) (bool, error) {
	if len(missing) == 0 {
		return true, nil
	}
	most := max(heldBytes-f.size, heldBytes/2)
	if must {
		most = noBound
	}
	rows, all, err := tx.inner.documents(f.name, slices.Sorted(maps.Keys(missing)), most)
	if err != nil || !all {
		return false, err
	}
	size := 0
	for i := range rows {
		f.held[rows[i].key] = &heldDocument[S]{row: rows[i], found: true, used: true, there: true}
		size += rows[i].size()
		delete(missing, rows[i].key)
	}
	if len(rows) > 0 {
		f.each = size/len(rows) + 1
	}
	for key := range missing {
		f.hold(key)
	}
	f.size += size
	return true, nil
}

// hold holds a document that is not stored.
func (f *keeper[S]) hold(key string) {
	f.held[key] = &heldDocument[S]{row: documentRow{key: key}, used: true, decoded: true}
	f.size += len(key)
	f.made.add(key)
}

// take runs the handlers of an event.
func (f *keeper[S]) take(ctx context.Context, tx *batchTx, t *turn) error {
	if t.failure != nil {
		return t.failure
	}
	for i := range t.deliveries {
		if err := f.deliver(ctx, tx, &t.deliveries[i]); err != nil {
			return err
		}
	}
	return nil
}

func (f *keeper[S]) deliver(ctx context.Context, tx *batchTx, k *keyedDelivery) error {
	var step *Step[S] // of all the event's effects
	for i, e := range f.handlers.entries(k.payload.name) {
		if e.keys != nil {
			for _, key := range k.keys[i] {
				if err := f.change(key, &k.delivery, e.fold); err != nil {
					return err
				}
			}
			continue
		}
		if k.key == "" {
			continue
		}
		var err error
		switch {
		case e.drop:
			f.drop(k.key)
		case e.fold != nil:
			err = f.change(k.key, &k.delivery, e.fold)
		default:
			err = f.change(k.key, &k.delivery, func(state *S, d *delivery) error {
				if step == nil {
					step = &Step[S]{State: state, Replay: d.record.position <= tx.replayTo, tx: tx, record: d.record}
				}
				return e.effect(ctx, step, d)
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// change has a handler change a document, which begins with it if there is none.
func (f *keeper[S]) change(key string, d *delivery, apply func(*S, *delivery) error) error {
	doc := f.held[key]
	switch {
	case doc.there && !doc.decoded:
		if err := f.store.decodeState(doc.row.state, &doc.state); err != nil {
			return ofDocument(f.name, key, err)
		}
	case !doc.there && f.init != nil:
		doc.state = f.init()
	}
	begins := !doc.changed
	doc.decoded, doc.there, doc.changed = true, true, true
	doc.turn = d.record.position
	doc.at = max(doc.at, doc.row.position, doc.turn)
	err := apply(&doc.state, d)
	if begins && err == nil {
		f.sample(doc)
	}
	return err
}

// sampled is of how many documents that begin to change one is encoded to see by how much.
const sampled = 8

// sample estimates by how much documents grow, of which only their events are known before they are encoded.
func (f *keeper[S]) sample(doc *heldDocument[S]) {
	if f.begun++; f.begun%sampled != 0 {
		return
	}
	if state, err := f.store.encodeState(doc.state); err == nil { // what can't be encoded fails when it is stored
		f.growth += sampled * max(0, len(state)-len(doc.row.state))
	}
}

// drop deletes a document.
func (f *keeper[S]) drop(key string) {
	doc := f.held[key]
	var none S
	doc.state, doc.decoded, doc.there, doc.changed, doc.at = none, true, false, true, 0
}

func (f *keeper[S]) finish(tx *batchTx) ([]byte, error) {
	if err := f.write(tx); err != nil {
		return nil, err
	}
	for key, doc := range f.held {
		if !doc.used || f.size > keptBytes {
			f.size -= doc.row.size()
			delete(f.held, key)
			continue
		}
		// The next batch begins with what is stored, as after a restart.
		var none S
		doc.state, doc.decoded, doc.used, doc.there, doc.at = none, !doc.found, false, doc.found, 0
	}
	return nil, nil
}

// write writes the documents that have changed, and their labels.
func (f *keeper[S]) write(tx *batchTx) error {
	var keys []string
	for key, doc := range f.held {
		if doc.changed {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	c := &documentChanges{name: f.name, put: make([]documentRow, 0, len(keys))}
	for _, key := range keys {
		doc := f.held[key]
		row := documentRow{key: key}
		if doc.there {
			var err error
			if row, err = f.encode(key, doc); err != nil {
				return ofDocument(f.name, key, err)
			}
			row.fresh = !doc.found
			c.put = append(c.put, row)
		} else if doc.found {
			c.drop = append(c.drop, key)
		}
		for _, label := range doc.row.labels {
			if _, kept := slices.BinarySearch(row.labels, label); !kept {
				c.unlabel = append(c.unlabel, labelRow{label, key})
			}
		}
		for _, label := range row.labels {
			if _, had := slices.BinarySearch(doc.row.labels, label); !had {
				c.label = append(c.label, labelRow{label, key})
			}
		}
	}
	if len(c.put)+len(c.drop) > 0 {
		if err := tx.inner.changeDocuments(c); err != nil {
			return err
		}
	}
	put, bytes := c.put, 0
	for _, key := range keys {
		doc, row := f.held[key], documentRow{key: key}
		if doc.there {
			row, put = put[0], put[1:]
			bytes += row.size()
		}
		f.size += row.size() - doc.row.size()
		doc.row, doc.found, doc.changed = row, doc.there, false
	}
	if f.begun, f.growth = 0, 0; len(c.put) > 0 {
		f.each = bytes/len(c.put) + 1
	}
	return nil
}

// flush writes what handlers have done so far, before one of them reads documents. It may go on to change those of
// its own event.
func (f *keeper[S]) flush(tx *batchTx) error {
	err := f.write(tx)
	tx.noteFault(err)
	tx.unclear = tx.unclear || err != nil // an earlier event may have made what can't be stored
	for _, doc := range f.held {
		doc.changed = doc.changed || doc.turn == tx.current.position
	}
	return err
}

// maxLabels is how many labels a document may have.
const maxLabels = 32

// encode returns a document as it is to be stored.
func (f *keeper[S]) encode(key string, doc *heldDocument[S]) (row documentRow, err error) {
	row.key, row.position = key, doc.at
	if f.labels != nil {
		labels, err := distinct("label", nil, func(*delivery) (labels []string, err error) {
			defer recoverTo(&err)
			return f.labels(key, &doc.state), nil
		})
		if err != nil {
			return row, err
		}
		if len(labels) > maxLabels {
			return row, invalid("%d labels, more than %d", len(labels), maxLabels)
		}
		slices.Sort(labels)
		row.labels = labels
	}
	row.state, err = f.store.encodeState(doc.state)
	return row, err
}

// ofDocument is an error of a document's state, labels or key.
func ofDocument(name, key string, err error) error {
	return within(fmt.Sprintf("document %q of %q", key, name), err)
}
