// Documents: a read model of one record for each key, on every store.

package eventstore

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"time"
	"unicode/utf8"
)

// Documents keeps one S for each key up to date with the log: a read model without SQL, on every store, memory
// included. It takes in events as a [Projection] does, each exactly once and in position order, and its runs, failures,
// parked events, changes of definition and controls are those of a projection of the same name. It is a literal,
// checked when first used, and safe for concurrent use.
//
//	var balances = eventstore.Documents[Balance]{
//		Name: "balances",
//		From: eventstore.FromStream("accounts"),
//		When: []eventstore.Handler[Balance]{
//			eventstore.On(func(b *Balance, e Deposited) { b.Cents += e.Cents }),
//			eventstore.Drop[Closed, Balance](),
//		},
//	}
//
// A batch reads the documents of its keys with one statement, whatever the number of its events, and writes those that
// have changed with one more, or one for new documents and one for others. Documents, labels and position commit
// together. A run holds the documents of one batch in memory, however many there are. Where these come to more than
// 4 MiB, a batch commits before its end. Documents are encoded by the store's codec. One may be as large as a statement
// of the database. If it becomes larger, the event that made it so has failed.
type Documents[S any] struct {
	Name     string    // as of a [Projection], with which it shares the names
	Version  int       // as of a Projection
	From     Selection // as of a Projection
	After    Position  // as of a Projection
	OnChange Change    // as of a Projection

	Init func() S // a document before its first event; default: the zero S

	// Key names the document that an event changes: 1 to 255 bytes of UTF-8 without NUL. Another key is a failure of
	// the event. "": the event is passed over, but for entries made by OnKey. Default: the aggregate's ID. If keys
	// come to be made otherwise, raise Version: documents under the old ones stay as they are.
	Key func(ev Event) string

	// When are the handlers: those of a Projection, and [OnKey], [OnKeyEvent] and [Drop]. The State of a [Step] is the
	// document's. If several want an event, all of them run, in list order.
	When []Handler[S]

	// Labels returns what a document can be found by, see [DocumentOptions]: up to 32 labels of 255 bytes of UTF-8
	// without NUL, each counted once; an empty one is ignored. More or other labels are a failure of the event. It is
	// called when a document is stored, not after each of its events. It must only depend on its arguments, and must
	// not change s. Where it comes to return other labels, each document gets them with its next event. Default: none.
	Labels func(key string, s *S) []string

	OnError     func(ctx context.Context, ev Event, err error, attempt int) ErrorAction // as of a Projection
	BatchSize   int                                                                     // as of a Projection
	Poll, Lease time.Duration                                                           // as of a Projection
}

// Document is one S.
type Document[S any] struct {
	Key      string
	State    S
	Position Position // of the latest event, in the order of the log, whose handlers have run on it
}

// DocumentOptions say which documents [Documents.All] returns. The zero value means all of them.
type DocumentOptions struct {
	Label    string // only documents that have this label
	Prefix   string // only keys that begin with it
	After    string // only keys behind it in the order of the read, be it a key of a document or not
	Limit    int    // the most documents; zero: all
	Backward bool   // from the last key to the first
}

// OnKey is [On] for an event that changes other documents than the one that [Documents].Key names: those of all keys
// that it returns, each once, in order. An empty key is passed over.
func OnKey[E Payload, S any](keys func(e E) []string, apply func(state *S, e E)) Handler[S] {
	f := On(apply)
	f.err = checkEntry[E]("OnKey", f.name, keys == nil || apply == nil)
	return newKeyed(f, func(d *delivery) ([]string, error) {
		e, err := payloadAs[E](d.codec, d.payload)
		if err != nil {
			return nil, err
		}
		return keys(e), nil
	})
}

// OnKeyEvent is [OnKey] with what is stored around the event.
func OnKeyEvent[E Payload, S any](keys func(e E, ev Event) []string, apply func(state *S, e E, ev Event)) Handler[S] {
	f := OnEvent(apply)
	f.err = checkEntry[E]("OnKeyEvent", f.name, keys == nil || apply == nil)
	return newKeyed(f, func(d *delivery) ([]string, error) {
		e, err := payloadAs[E](d.codec, d.payload)
		if err != nil {
			return nil, err
		}
		ev, err := d.event()
		if err != nil {
			return nil, err
		}
		return keys(e, ev), nil
	})
}

// Drop deletes the document that [Documents].Key names, if there is one. Entries that come after it in the list begin
// a new one, from Init.
func Drop[E Payload, S any]() Handler[S] {
	name := nameOf[E]()
	return keyed[S]{entry[S]{name: name, err: checkEntry[E]("Drop", name, false), drop: true}}
}

// keyed is a handler that only Documents take.
type keyed[S any] struct{ entry entry[S] }

func (k keyed[S]) handler() *entry[S] { return &k.entry }

// newKeyed makes a handler of a fold that changes the documents of keys.
func newKeyed[S any](f Fold[S], keys func(*delivery) ([]string, error)) Handler[S] {
	return keyed[S]{entry[S]{name: f.name, err: f.err, fold: f.apply, keys: keys}}
}

// Get returns the document of a key. If there is none, or the documents have never been run:
// [ErrDocumentNotFound]. On a store from [Step.Store] it sees what the batch has done before.
func (ds *Documents[S]) Get(ctx context.Context, s *Store, key string) (Document[S], error) {
	name, err := ds.row()
	if err == nil {
		err = checkName("document key", key)
	}
	if err == nil {
		err = s.readsDocuments()
	}
	if err != nil {
		return Document[S]{}, err
	}
	row, found, kind, err := s.backend.document(ctx, name, key)
	if err != nil {
		return Document[S]{}, err
	}
	if err := kindDocuments.owns(name, &projectionRow{kind: kind}); err != nil {
		return Document[S]{}, err
	}
	if !found {
		return Document[S]{}, fmt.Errorf("%w: %q of %q", ErrDocumentNotFound, key, name)
	}
	return ds.decode(s, name, &row)
}

// All returns documents in byte order of their keys. It reads them a page at a time, and holds no connection between
// pages. Each page is of one moment, the whole need not be: behind [Documents.Wait] it holds everything up to that
// position. An error ends it. If the documents have never been run, there are none.
func (ds *Documents[S]) All(ctx context.Context, s *Store, opts DocumentOptions) iter.Seq2[Document[S], error] {
	return func(yield func(Document[S], error) bool) {
		name, err := ds.row()
		var q *documentPage
		if err == nil {
			q, err = opts.page(name)
		}
		if err == nil {
			err = s.ownsDocuments(ctx, name)
		}
		if err != nil {
			yield(Document[S]{}, err)
			return
		}
		left, size := opts.Limit, firstPage
		for more := true; more && q != nil; {
			q.limit = size
			if opts.Limit > 0 {
				q.limit = min(size, left)
			}
			var rows []documentRow
			if rows, more, err = s.nextDocuments(ctx, q); err != nil {
				yield(Document[S]{}, err)
				return
			}
			bytes := 0
			for i := range rows {
				bytes += rows[i].size()
				doc, err := ds.decode(s, name, &rows[i])
				if !yield(doc, err) || err != nil {
					return
				}
			}
			left -= len(rows)
			if len(rows) == 0 || opts.Limit > 0 && left == 0 {
				return
			}
			size = min(maxPage, max(minPage, pageBytes/(bytes/len(rows)+1)))
			q.moveOn(rows[len(rows)-1].key)
		}
	}
}

// page returns the first page of a read, or nil if no key can be in it.
func (o *DocumentOptions) page(name string) (*documentPage, error) {
	if o.Limit < 0 {
		return nil, invalid("DocumentOptions.Limit %d", o.Limit)
	}
	err := cmp.Or(checkText("DocumentOptions.Label", o.Label), checkText("DocumentOptions.Prefix", o.Prefix), checkText("DocumentOptions.After", o.After))
	if err != nil {
		return nil, err
	}
	q := &documentPage{name: name, label: o.Label, from: o.Prefix, to: behindPrefix(o.Prefix), backward: o.Backward}
	switch {
	case o.After == "":
	case o.Backward:
		if q.to == "" || o.After < q.to {
			q.to = o.After
		}
	default:
		q.from = max(q.from, o.After)
		q.without = o.After
	}
	if q.to != "" && q.from >= q.to {
		return nil, nil
	}
	return q, nil
}

// moveOn makes q the page behind a key.
func (q *documentPage) moveOn(key string) {
	if q.backward {
		q.to = key
	} else {
		q.from, q.without = key, key
	}
}

// behindPrefix returns the first text above all those that begin with prefix, in byte order, which is that of code
// points; "": there is none.
func behindPrefix(prefix string) string {
	for prefix != "" {
		last, size := utf8.DecodeLastRuneInString(prefix)
		prefix = prefix[:len(prefix)-size]
		switch last {
		case utf8.MaxRune:
			continue
		case 0xD7FF:
			return prefix + "\uE000" // between them there are no characters
		}
		return prefix + string(last+1)
	}
	return ""
}

// readsDocuments makes what a batch has done visible in the store of its step.
func (s *Store) readsDocuments() error {
	if s.flush == nil {
		return nil
	}
	return s.flush()
}

func (s *Store) nextDocuments(ctx context.Context, q *documentPage) ([]documentRow, bool, error) {
	if err := s.readsDocuments(); err != nil {
		return nil, false, err
	}
	return s.backend.documents(ctx, q)
}

// ownsDocuments returns an error if a name belongs to something else than documents.
func (s *Store) ownsDocuments(ctx context.Context, name string) error {
	row, _, err := s.backend.projection(ctx, name)
	if err != nil {
		return err
	}
	return kindDocuments.owns(name, &row)
}

// decode returns a document of its row.
func (ds *Documents[S]) decode(s *Store, name string, row *documentRow) (doc Document[S], err error) {
	doc.Key, doc.Position = row.key, row.position
	if err := s.decodeState(row.state, &doc.State); err != nil {
		return Document[S]{}, ofDocument(name, row.key, err)
	}
	return doc, nil
}

// row returns the name of the row, which is that of the documents in every store.
func (ds *Documents[S]) row() (string, error) { return checkDefined("Documents", ds.Name, ds.Version) }

// Run keeps the documents up to date until ctx ends; it is [Projection.Run].
func (ds *Documents[S]) Run(ctx context.Context, s *Store) error {
	r, err := ds.runner(s)
	if err != nil {
		return err
	}
	return r.run(ctx)
}

// CatchUp runs until every event that was committed before the call is in, and returns how far it is; it is
// [Projection.CatchUp].
func (ds *Documents[S]) CatchUp(ctx context.Context, s *Store) (Position, error) {
	r, err := ds.runner(s)
	if err == nil {
		err = r.catchUp(ctx)
	}
	if err != nil {
		return 0, err
	}
	return r.batches.position, nil
}

// Wait returns when everything up to a position is in the documents, whoever runs them; it is [Projection.Wait].
// Behind it Get and All see one's own writes.
func (ds *Documents[S]) Wait(ctx context.Context, s *Store, at Position) error {
	name, err := ds.row()
	if err != nil {
		return err
	}
	return s.waitFor(ctx, name, kindDocuments, ds.Poll, at)
}

// Reset deletes all documents and begins at the first event again; it is [Projection.Reset].
func (ds *Documents[S]) Reset(ctx context.Context, s *Store) error {
	r, err := ds.runner(s)
	if err != nil {
		return err
	}
	return s.resetProjection(ctx, r)
}

// Delete deletes all documents and the row of their name; it is [Projection.Delete].
func (ds *Documents[S]) Delete(ctx context.Context, s *Store, emitted bool) error {
	r, err := ds.runner(s)
	if err != nil {
		return err
	}
	return s.deleteProjection(ctx, r, emitted)
}

// runner checks the definition and returns what runs it.
func (ds *Documents[S]) runner(s *Store) (*runner, error) {
	name, err := ds.row()
	if err != nil {
		return nil, err
	}
	r, handlers, err := newProjectionRunner(s, "Documents", runnerConfig{
		name: name, kind: kindDocuments, from: ds.From, after: ds.After, onChange: ds.OnChange,
		batchSize: ds.BatchSize, poll: ds.Poll, term: ds.Lease,
	}, ds.When)
	if err != nil {
		return nil, err
	}
	r.consumer = &keeper[S]{
		failurePolicy: failurePolicy{name, s, ds.OnError},
		keyFinder:     keyFinder[S]{ds.Key, handlers},
		init:          ds.Init, labels: ds.Labels,
	}
	return r, nil
}
