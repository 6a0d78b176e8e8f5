// Values of a Table's writes: which may wait, and which rows their keys can be told apart by.

package eventstore

import (
	"bytes"
	"database/sql"
	"database/sql/driver"
	"encoding"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// keepValues replaces values by ones that no one else can change, and reports whether it could. A value that it does not
// know, such as a pointer or a driver.Valuer of the application, may be another one later.
func keepValues(values []any) bool {
	for i, v := range values {
		switch v := v.(type) {
		case nil, bool, string, int, int64, int32, uint64, uint32, float64, time.Time, uuid.UUID,
			sql.NullString, sql.NullInt64, sql.NullInt32, sql.NullInt16, sql.NullByte, sql.NullFloat64, sql.NullBool, sql.NullTime:
		case []byte:
			values[i] = bytes.Clone(v)
		case json.RawMessage:
			values[i] = bytes.Clone(v)
		case driver.Valuer, fmt.Stringer, encoding.TextMarshaler:
			return false // drivers may use it
		default:
			// Of a named type it is the value itself, unless it points to one, which prints otherwise.
			sent, err := driver.DefaultParameterConverter.ConvertValue(v)
			if _, isBytes := sent.([]byte); err != nil || isBytes || fmt.Sprint(sent) != fmt.Sprint(v) {
				return false
			}
		}
	}
	return true
}

// sentValue returns a value that was kept as drivers send it.
func sentValue(v any) any {
	switch v := v.(type) {
	case json.RawMessage:
		return []byte(v)
	case uint64:
		return v
	}
	sent, err := driver.DefaultParameterConverter.ConvertValue(v)
	if err != nil {
		return v
	}
	return sent
}

// typeOf is a letter for how a value that was kept reaches the database.
func typeOf(v any) string {
	switch sentValue(v).(type) {
	case nil:
		return "0"
	case []byte:
		return "x"
	case time.Time:
		return "t"
	case string:
		return "s"
	case bool:
		return "b"
	case float64:
		return "f"
	default:
		return "i"
	}
}

// keyClass says how a database compares the values of a column.
type keyClass string

const (
	keyInteger keyClass = "integer"
	keyText    keyClass = "text"  // byte by byte, but perhaps for spaces at the end
	keyBytes   keyClass = "bytes" // of which a text may be another form
	keyFolded  keyClass = "fold"  // letters of both cases alike, and more
	keyUUID    keyClass = "uuid"
)

// identify returns what tells the row of a value from those of others in a column of the class, if anything does:
// values that it returns different texts for are different there. Those of one text may be equal.
func (class keyClass) identify(v any) (string, bool) {
	switch v := sentValue(v).(type) {
	case int64:
		return strconv.FormatInt(v, 10), class == keyInteger || class == keyText
	case uint64:
		return strconv.FormatUint(v, 10), class == keyInteger || class == keyText
	case string:
		return class.identifyText(v)
	case []byte:
		if class == keyBytes {
			return string(v), true
		}
		return class.identifyText(string(v))
	}
	return "", false
}

func (class keyClass) identifyText(s string) (string, bool) {
	switch class {
	case keyText:
		// What is too long may be cut at spaces.
		return s, !strings.HasSuffix(s, " ")
	case keyUUID:
		id, err := uuid.Parse(s)
		return id.String(), err == nil
	case keyFolded:
		return foldASCII(s)
	}
	return "", false
}

// foldASCII keeps only the digits and letters of a text, in lower case: a collation may ignore what else there is,
// but no two of these are alike to it. Of texts with other letters nothing is known.
func foldASCII(s string) (string, bool) {
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 0x80:
			return "", false
		case 'A' <= c && c <= 'Z':
			out = append(out, c+'a'-'A')
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			out = append(out, c)
		}
	}
	return string(out), true
}
