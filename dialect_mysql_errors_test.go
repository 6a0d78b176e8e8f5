package eventstore

import (
	"fmt"
	"testing"

	"github.com/go-sql-driver/mysql"
)

// TestClassifyNull tells a NULL that a guard makes, which is a conflict, from one of somebody's
// trigger, whose error is the caller's to see.
func TestClassifyNull(t *testing.T) {
	for message, want := range map[string]fault{
		"Column 'stream_id' cannot be null": faultTaken,
		"Column 'note' cannot be null":      faultOther,
	} {
		if got := classifyMySQL(&mysql.MySQLError{Number: 1048, Message: message}); got != want {
			t.Errorf("%s: %v, want %v", message, got, want)
		}
	}
}

// TestMySQLKey finds the key in messages of MySQL and MariaDB, in several languages, whatever the value
// looks like.
func TestMySQLKey(t *testing.T) {
	for message, want := range map[string]uniqueKey{
		"Duplicate entry '1-a-2' for key 'es_events.stream_id'":             keyVersion,
		"Duplicate entry '1-a-2' for key 'stream_id'":                       keyVersion,
		"Duplicate entry '1-event_id'-2' for key 'stream_id'":               keyVersion,
		"Doppelter Eintrag '\\x01\\x9A' für Schlüssel 'es_events.event_id'": keyEventID,
		"'1-a-2' は索引 'es_events.event_id' で重複しています。":                        keyEventID,
		"Duplicate entry '7' for key 'es_events.PRIMARY'":                   keyUnknown,
		"Duplicate entry '7' for key 'audit.event_id'":                      keyUnknown,
		"no quotes": keyUnknown,
	} {
		if _, got := violatedMySQL("es_events", fmt.Errorf("wrapped: %w", &mysql.MySQLError{Number: 1062, Message: message})); got != want {
			t.Errorf("%s: key %d, want %d", message, got, want)
		}
	}
	if _, got := violatedMySQL("es_events", &mysql.MySQLError{Number: 1048, Message: "Column 'stream_id' cannot be null"}); got != keyUnknown {
		t.Errorf("another error: key %d", got)
	}
}
