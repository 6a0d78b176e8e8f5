// Metadata: which values it takes, and the one JSON form that filters rely on.

package eventstore

import (
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Metadata describes an event or a stream beside its payload: who, why, on whose behalf.
//
// Values are strings, also of named types, [uuid.UUID], bools, integers and floats of any size. A named
// string and a UUID come back as string. An integer comes back as int64 and a float as float64, both
// without loss and never one as the other. Anything else (a uint64 above [math.MaxInt64], NaN,
// infinities, nil, nested values, text that is not UTF-8) is [ErrInvalid].
type Metadata map[string]any

// normal returns a copy of md in the types in which metadata comes back: string, bool, int64 and
// float64. The copy is never nil.
func (md Metadata) normal() (Metadata, error) {
	out := make(Metadata, len(md))
	for key, v := range md {
		if !utf8.ValidString(key) {
			return nil, invalid("metadata key %q is not UTF-8", key)
		}
		n, ok := normalValue(v)
		if !ok {
			return nil, invalid("metadata %q: a %T can't be stored, or not with this value: want UTF-8 text, a UUID, a bool, an integer within int64 or a finite float", key, v)
		}
		out[key] = n
	}
	return out, nil
}

// normalValue brings a scalar to the type in which it is stored and compared.
func normalValue(v any) (any, bool) {
	switch v := v.(type) {
	case string:
		return v, utf8.ValidString(v)
	case bool:
		return v, true
	case int:
		return int64(v), true
	case int8:
		return int64(v), true
	case int16:
		return int64(v), true
	case int32:
		return int64(v), true
	case int64:
		return v, true
	case uint:
		return int64(v), uint64(v) <= math.MaxInt64
	case uint8:
		return int64(v), true
	case uint16:
		return int64(v), true
	case uint32:
		return int64(v), true
	case uint64:
		return int64(v), v <= math.MaxInt64
	case uintptr:
		return int64(v), uint64(v) <= math.MaxInt64
	case Position:
		return int64(v), true
	case uuid.UUID:
		return v.String(), true
	case float32:
		return float64(v), finite(float64(v))
	case float64:
		return v, finite(v)
	}
	return namedString(v)
}

// namedString returns the text of a value whose type is made of string.
func namedString(v any) (any, bool) {
	if _, own := v.(driver.Valuer); own || strings.HasPrefix(fmt.Sprintf("%T", v), "*") {
		return nil, false // what follows would ask it, or look behind the pointer
	}
	converted, err := driver.DefaultParameterConverter.ConvertValue(v)
	text, ok := converted.(string)
	return text, ok && err == nil && utf8.ValidString(text)
}

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }

// noMetadata is what empty metadata are encoded as. It is never changed.
var noMetadata = []byte("{}")

// encode writes normal metadata as a JSON object in the one form that the store's filters rely
// on: keys in byte order, no white space, text unescaped but for quotes, backslashes and control
// characters, floats always with a point or an exponent and integers never.
func (md Metadata) encode() []byte {
	if len(md) == 0 {
		return noMetadata
	}
	b := make([]byte, 0, 32*len(md))
	for i, key := range slices.Sorted(maps.Keys(md)) {
		b = append(b, "{,"[min(i, 1)])
		b = append(appendJSONString(b, key), ':')
		b = appendJSONScalar(b, md[key])
	}
	return append(b, '}')
}

// appendJSONScalar appends a value that normalValue returned.
func appendJSONScalar(b []byte, v any) []byte {
	switch v := v.(type) {
	case string:
		return appendJSONString(b, v)
	case bool:
		return strconv.AppendBool(b, v)
	case int64:
		return strconv.AppendInt(b, v, 10)
	case float64:
		return appendJSONFloat(b, v)
	}
	return append(b, "null"...)
}

func appendJSONString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[start:i]...)
		if c < ' ' {
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		} else {
			b = append(b, '\\', c)
		}
		start = i + 1
	}
	return append(append(b, s[start:]...), '"')
}

// appendJSONFloat writes the shortest text that reads back as f, and marks it as a float. Where
// integers could be compared with it (below 2^64) the text is f's exact value, so that a database
// that compares decimals finds the order that Go finds.
func appendJSONFloat(b []byte, f float64) []byte {
	abs := math.Abs(f)
	if abs >= 1<<53 && abs <= 1<<64 {
		return append(strconv.AppendFloat(b, f, 'f', 0, 64), ".0"...)
	}
	format := byte('f')
	if abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	n := len(b)
	b = strconv.AppendFloat(b, f, format, -1, 64)
	if strings.ContainsAny(string(b[n:]), ".e") {
		return b
	}
	return append(b, ".0"...)
}

var errNotMetadata = errors.New("not a flat JSON object of strings, bools and numbers")

// decodeMetadata reads what encode wrote. White space, other key orders and other escapes are
// understood too, for rows that were not written by this package.
func decodeMetadata(data []byte) (Metadata, error) {
	md := Metadata{}
	if string(data) == "{}" {
		return md, nil
	}
	p := metadataParser{data: data}
	if !p.take('{') {
		return nil, errNotMetadata
	}
	for n := 0; !p.take('}'); n++ {
		if n > 0 && !p.take(',') {
			return nil, errNotMetadata
		}
		key, ok := p.text()
		if !ok || !p.take(':') {
			return nil, errNotMetadata
		}
		if md[key], ok = p.scalar(); !ok {
			return nil, errNotMetadata
		}
	}
	if p.space(); len(p.data) > 0 {
		return nil, errNotMetadata
	}
	return md, nil
}

// metadataParser consumes data from the front.
type metadataParser struct{ data []byte }

func (p *metadataParser) space() {
	for len(p.data) > 0 && strings.IndexByte(" \t\r\n", p.data[0]) >= 0 {
		p.data = p.data[1:]
	}
}

func (p *metadataParser) take(c byte) bool {
	p.space()
	if len(p.data) == 0 || p.data[0] != c {
		return false
	}
	p.data = p.data[1:]
	return true
}

func (p *metadataParser) text() (string, bool) {
	p.space()
	if len(p.data) == 0 || p.data[0] != '"' {
		return "", false
	}
	escaped := false
	for i := 1; i < len(p.data); i++ {
		switch p.data[i] {
		case '\\':
			escaped = true
			i++
		case '"':
			quoted := p.data[:i+1]
			p.data = p.data[i+1:]
			if !escaped {
				return string(quoted[1:i]), true
			}
			var s string
			return s, json.Unmarshal(quoted, &s) == nil
		}
	}
	return "", false
}

func (p *metadataParser) scalar() (any, bool) {
	p.space()
	if len(p.data) > 0 && p.data[0] == '"' {
		return p.text()
	}
	n := 0
	for n < len(p.data) && strings.IndexByte(",} \t\r\n", p.data[n]) < 0 {
		n++
	}
	word := string(p.data[:n])
	p.data = p.data[n:]
	switch word {
	case "true":
		return true, true
	case "false":
		return false, true
	}
	if !strings.ContainsAny(word, ".eE") {
		if i, err := strconv.ParseInt(word, 10, 64); err == nil {
			return i, true
		}
	}
	f, err := strconv.ParseFloat(word, 64)
	return f, err == nil && json.Valid([]byte(word))
}
