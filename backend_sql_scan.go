// Scanning rows into records with few allocations.

package eventstore

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// scanAll calls scan for each row. The rows are closed when it returns, and what ended them early is
// its error.
func scanAll(rows *sql.Rows, scan func(*sql.Rows) error) error {
	for rows.Next() {
		if err := scan(rows); err != nil {
			return errors.Join(err, rows.Close())
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

// rowScanner scans rows of events. Its fields take what the driver hands out without a copy in
// between, and texts that come again from one row to the next are the same string in memory.
type rowScanner struct {
	position, version scanInt
	stream, name      scanName
	aggregateID       scanText
	id                uuid.UUID
	data              scanBytes
	metadata          scanSame
	recordedAt        scanTime
	dest              []any
}

func newRowScanner() *rowScanner {
	s := &rowScanner{}
	s.dest = []any{&s.position, &s.stream, &s.aggregateID, &s.version, &s.id, &s.name, &s.data, &s.metadata, &s.recordedAt}
	return s
}

func (s *rowScanner) scan(rows *sql.Rows, r *record) error {
	if err := rows.Scan(s.dest...); err != nil {
		return err
	}
	*r = record{
		position: Position(s.position), id: s.id, stream: s.stream.s, aggregateID: s.aggregateID.s,
		version: int64(s.version), name: s.name.s, data: s.data, metadata: s.metadata.b, recordedAt: s.recordedAt.t,
	}
	return nil
}

type scanInt int64

func (v *scanInt) Scan(src any) error {
	switch src := src.(type) {
	case int64:
		*v = scanInt(src)
		return nil
	case []byte:
		n, err := strconv.ParseInt(string(src), 10, 64)
		*v = scanInt(n)
		return err
	}
	return fmt.Errorf("a number came as %T", src)
}

// scanText is the same string as that of the row before, if the text is.
type scanText struct{ s string }

func (v *scanText) Scan(src any) error {
	switch src := src.(type) {
	case string:
		if v.s != src {
			v.s = src
		}
	case []byte:
		if v.s != string(src) {
			v.s = string(src)
		}
	default:
		return fmt.Errorf("a text came as %T", src)
	}
	return nil
}

// scanName is a scanText for texts of which there are few: it keeps all that it has seen, up to a
// number that nobody's design reaches.
type scanName struct {
	s    string
	seen map[string]string
}

const mostNames = 1000

func (v *scanName) Scan(src any) error {
	switch src := src.(type) {
	case string:
		if v.s == src {
			return nil
		}
		if s, ok := v.seen[src]; ok {
			v.s = s
			return nil
		}
		v.s = src
	case []byte:
		if v.s == string(src) {
			return nil
		}
		if s, ok := v.seen[string(src)]; ok {
			v.s = s
			return nil
		}
		v.s = string(src)
	default:
		return fmt.Errorf("a text came as %T", src)
	}
	if v.seen == nil {
		v.seen = map[string]string{}
	}
	if len(v.seen) < mostNames {
		v.seen[v.s] = v.s
	}
	return nil
}

type scanBytes []byte

func (v *scanBytes) Scan(src any) error {
	switch src := src.(type) {
	case string:
		*v = []byte(src)
	case []byte:
		*v = bytes.Clone(src)
	case nil: // it is large, and left out
		*v = nil
	default:
		return fmt.Errorf("a text came as %T", src)
	}
	return nil
}

// scanSame is a scanBytes that is the same bytes as those of the row before, if the text is. Bytes of
// records never change, so they can be shared.
type scanSame struct{ b scanBytes }

func (v *scanSame) Scan(src any) error {
	switch src := src.(type) {
	case string:
		if v.b != nil && string(v.b) == src {
			return nil
		}
	case []byte:
		if v.b != nil && bytes.Equal(v.b, src) {
			return nil
		}
	}
	return v.b.Scan(src)
}

// scanTime is a dbTime. Events of one append, which follow each other, are of one time.
type scanTime struct {
	t    time.Time
	text string // "": t did not come as text
}

func (v *scanTime) Scan(src any) error {
	if text, ok := src.([]byte); ok {
		if string(text) == v.text && v.text != "" {
			return nil
		}
		v.text = string(text)
		return (*dbTime)(&v.t).Scan(v.text)
	}
	v.text = ""
	return (*dbTime)(&v.t).Scan(src)
}

// dbTime scans a time: time.Time of a column that knows its zone, or text in UTC. DATETIME columns
// of MySQL are selected as text, because the driver's parseTime and loc would make of them what
// the caller likes.
type dbTime time.Time

func (t *dbTime) Scan(src any) error {
	switch src := src.(type) {
	case time.Time:
		*t = dbTime(src.UTC())
		return nil
	case []byte:
		return t.Scan(string(src))
	case string:
		parsed, err := time.Parse("2006-01-02 15:04:05.999999", src)
		*t = dbTime(parsed)
		return err
	}
	return fmt.Errorf("a time came as %T", src)
}
