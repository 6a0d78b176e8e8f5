// Codec: payloads and states as JSON text. The default is encoding/json.

package eventstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Codec turns payloads and states into JSON text and back. It must be safe for concurrent use.
// Marshal must return valid JSON in UTF-8, which is stored as it is: the store keeps every byte. It
// must leave the result alone from then on: an append whose context has ended may still be on its way.
// Unmarshal must copy what it keeps of data, as encoding/json does: the value belongs to a handler,
// which may change it.
//
// Texts of its errors may be logged, and kept with a projection: they should tell nothing of a payload.
type Codec interface {
	Marshal(v any) ([]byte, error)
	Unmarshal(data []byte, v any) error
}

// jsonCodec is the default.
type jsonCodec struct{}

func (jsonCodec) Marshal(v any) ([]byte, error) { return json.Marshal(v) }

func (jsonCodec) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

// codecError is an error of a codec. The store logs its text and keeps it with projections, so that
// none of what was encoded may be in it. Unwrap returns what the codec has said.
type codecError struct {
	text string
	err  error
}

func (e *codecError) Error() string { return e.text }

func (e *codecError) Unwrap() error { return e.err }

// newCodecError returns the codecError for what a codec has said, or nil for nil. What an
// application's codec says is its own affair, but for errors of encoding/json.
func newCodecError(codec Codec, err error) error {
	if err == nil {
		return nil
	}
	_, standard := codec.(jsonCodec)
	var wrongType *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	var marshaler *json.MarshalerError
	var value *json.UnsupportedValueError
	var kind *json.UnsupportedTypeError
	text := err.Error()
	switch {
	case errors.As(err, &marshaler):
		text = fmt.Sprintf("json: a %T of the marshaler of %v", marshaler.Err, marshaler.Type)
	case errors.As(err, &wrongType):
		what, _, _ := strings.Cut(wrongType.Value, " ") // of a number it has the digits too
		text = fmt.Sprintf("json: cannot unmarshal %s into a Go value of type %v", what, wrongType.Type)
		if wrongType.Field != "" {
			text = fmt.Sprintf("json: cannot unmarshal %s into Go struct field %s.%s of type %v", what, wrongType.Struct, wrongType.Field, wrongType.Type)
		}
	case errors.As(err, &syntax):
		text = fmt.Sprintf("json: a syntax error at byte %d", syntax.Offset)
	case errors.As(err, &value):
		text = "json: unsupported value of type " + value.Value.Type().String()
	case errors.As(err, &kind), !standard:
	default:
		text = fmt.Sprintf("json: a %T, of which the text may hold a value", err)
	}
	return &codecError{text, err}
}

// checkData refuses what one of the stores could not keep byte for byte. What encoding/json
// returns is always valid JSON, but may hold bytes of a json.RawMessage that are not UTF-8.
func checkData(codec Codec, what string, data []byte) error {
	if _, standard := codec.(jsonCodec); !standard && !json.Valid(data) {
		return invalid("payload %q: the codec's result is not valid JSON", what)
	}
	if !utf8.Valid(data) {
		return invalid("payload %q: its JSON is not UTF-8", what)
	}
	return nil
}
