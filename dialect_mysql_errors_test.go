package eventstore

import (
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
