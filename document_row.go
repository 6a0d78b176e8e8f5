// The rows of documents as they pass the seam.

package eventstore

import (
	"context"
	"hash/maphash"
)

// documentBackend is the part of a backend that keeps documents. The name is that of their projection's row.
type documentBackend interface {
	// document returns one document, and what its name belongs to; "": to nothing. A document that a reset or a
	// delete is about to remove is not there any more.
	document(ctx context.Context, name, key string) (row documentRow, found bool, kind runnerKind, err error)
	// documents returns the next documents that a page asks for, in its order, and whether more may follow
	// them. There are up to limit of them, fewer if they are large.
	documents(ctx context.Context, q *documentPage) (rows []documentRow, more bool, err error)
}

// documentRow is a document as it is stored. Its bytes are never changed once it has been handed out.
type documentRow struct {
	key      string
	state    []byte
	position Position // of the last event that has changed it
	labels   []string // in byte order, each once
	fresh    bool     // of one to be written: it is not stored
}

// size returns how many bytes the document has.
func (d *documentRow) size() int {
	n := len(d.key) + len(d.state)
	for _, label := range d.labels {
		n += len(label)
	}
	return n
}

// documentPage is one step of a read of documents, by key.
type documentPage struct {
	name     string
	label    string // "": with any labels
	from, to string // the first key, and the one before which it ends; "": at the last
	without  string // a key that is passed over; "": none
	limit    int
	backward bool
}

// labelRow is a document's label.
type labelRow struct{ label, key string }

// documentChanges is what a batch does to documents, each key and each label in one list at most.
type documentChanges struct {
	name    string
	put     []documentRow
	drop    []string
	label   []labelRow
	unlabel []labelRow
}

// keyFilter is a Bloom filter of document keys: some keys seem to be in it that are not. It does not grow. In the first
// run of a new name it tells which documents need no look at the database, for most of a million keys.
type keyFilter struct {
	seed maphash.Seed
	bits [keyFilterBits / 64]uint64
}

// keyFilterBits takes 1 MiB, and is a power of two.
const keyFilterBits = 8 << 20

func newKeyFilter() *keyFilter { return &keyFilter{seed: maphash.MakeSeed()} }

// places returns which bits a key has.
func (k *keyFilter) places(key string) [4]uint32 {
	h := maphash.String(k.seed, key)
	first, step := uint32(h), uint32(h>>32)|1
	return [4]uint32{first % keyFilterBits, (first + step) % keyFilterBits, (first + 2*step) % keyFilterBits, (first + 3*step) % keyFilterBits}
}

// add adds a key, unless k is nil.
func (k *keyFilter) add(key string) {
	if k == nil {
		return
	}
	for _, at := range k.places(key) {
		k.bits[at/64] |= 1 << (at % 64)
	}
}

// lacks reports whether a key is not in the set for certain. A set that is nil lacks none.
func (k *keyFilter) lacks(key string) bool {
	if k == nil {
		return false
	}
	for _, at := range k.places(key) {
		if k.bits[at/64]&(1<<(at%64)) == 0 {
			return true
		}
	}
	return false
}
