// How much a server takes in one statement: what is known of it, and the error of what is larger.

package eventstore

import (
	"cmp"
	"errors"
	"fmt"
	"sync/atomic"
)

const (
	// smallStatement is a size that servers take without being asked, in bytes.
	smallStatement = 64 << 10
	// keptStatement is the largest statement that is kept prepared; see conn.start.
	keptStatement = 1 << 20
	// packetSlack is room for what a packet and a row hold beside payload and metadata.
	packetSlack = 2 << 10
	// parameterSize is room for the type, the length or the number of a parameter.
	parameterSize = 16
)

// packetLimit remembers how many bytes the server takes in one statement. A store asks once, when a
// statement is not small, and again when the answer turns out wrong.
type packetLimit struct {
	fixed   int          // the limit where no setting tells it; zero: one does
	server  atomic.Int64 // zero: not known
	lowered atomic.Int64 // statements of several rows are cut by this, if it is not zero
}

// cut returns the size by which statements of several rows are cut, where most would do.
func (l *packetLimit) cut(most int) int {
	if n := cmp.Or(l.fixed, int(l.server.Load())); n > 0 {
		most = min(most, room(n))
	}
	if n := int(l.lowered.Load()); n > 0 {
		most = min(most, n)
	}
	return most
}

// room returns how much of a packet is for parameters, with parameterSize for each of them.
func room(packet int) int { return max(1, packet-packetSlack) }

// refused notes that a statement was refused although it was within the limit: the server has another
// one by now, or the driver has a smaller one.
func (l *packetLimit) refused(size int) {
	l.server.Store(0)
	l.lowered.Store(int64(max(packetSlack, l.cut(size)/2)))
}

// packetError says that a statement is larger than the server or the driver takes. It becomes an
// ErrInvalid where it is known what was in the statement.
type packetError struct {
	size, limit int // limit is zero if it is not known
	setting     string
	err         error // what refused it; nil: the store itself did
}

func (e *packetError) Error() string {
	text := fmt.Sprintf("%d bytes are more than the server takes in one statement", e.size)
	switch {
	case e.limit > 0 && e.setting != "":
		text += fmt.Sprintf(": its %s is %d", e.setting, e.limit)
	case e.limit > 0:
		text += fmt.Sprintf(": its limit is %d", e.limit)
	case e.setting != "":
		text += ": see " + e.setting
	}
	if e.err != nil {
		text += ": " + e.err.Error()
	}
	return text
}

func (e *packetError) Unwrap() error { return e.err }

// isTooLarge reports whether err is a packetError, and whether it was not the store that found it out.
func isTooLarge(err error) (tooLarge, refused bool) {
	var e *packetError
	tooLarge = errors.As(err, &e)
	return tooLarge, tooLarge && e.err != nil
}

// statementSize returns how many bytes a statement with these parameters has, or a few more.
func statementSize(args []any) int {
	n := 0
	for _, arg := range args {
		n += parameterSize
		switch arg := arg.(type) {
		case string:
			n += len(arg)
		case []byte:
			n += len(arg)
		}
	}
	return n
}
