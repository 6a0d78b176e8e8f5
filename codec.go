// Codec: payloads and states as JSON text. The default is encoding/json.

package eventstore

import (
	"encoding/json"
	"unicode/utf8"
)

// Codec turns payloads and states into JSON text and back. It must be safe for concurrent use.
// Marshal must return valid JSON in UTF-8, which is stored as it is: the store keeps every byte. It
// must leave the result alone from then on: an append whose context has ended may still be on its way.
// Unmarshal must copy what it keeps of data, as encoding/json does: the value belongs to a handler,
// which may change it.
type Codec interface {
	Marshal(v any) ([]byte, error)
	Unmarshal(data []byte, v any) error
}

// jsonCodec is the default.
type jsonCodec struct{}

func (jsonCodec) Marshal(v any) ([]byte, error) { return json.Marshal(v) }

func (jsonCodec) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

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
