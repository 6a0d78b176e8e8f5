package eventstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
)

// unconnected is a database to which every connection fails.
type unconnected struct{ err error }

func (u unconnected) Connect(context.Context) (driver.Conn, error) { return nil, u.err }
func (u unconnected) Driver() driver.Driver                        { return nil }

// TestInsertGroupWithoutConnection fails a group's statement before it is sent, and in a way that
// leaves open whether it was: only then nobody can know what is stored.
func TestInsertGroupWithoutConnection(t *testing.T) {
	for _, dialect := range []*Dialect{Postgres, MySQL} {
		for err, lost := range map[error]bool{driver.ErrBadConn: false, io.ErrUnexpectedEOF: true} {
			b := newSQLBackend(sql.OpenDB(unconnected{err}), dialect, "", slog.New(slog.DiscardHandler))
			b.hints.learnState("accounts", appendHint{stream: 1, now: time.Now(), can: capabilities{returning: true, noWait: true}})
			var calls []*appendRequest
			for _, id := range []string{"a", "b"} {
				calls = append(calls, &appendRequest{stream: "accounts", aggregateID: id, rows: []record{{id: uuid.New(), name: "n", data: []byte("{}"), metadata: noMetadata}}})
			}
			stored, got := b.insertGroup(t.Context(), calls)
			if lost && !errors.Is(got, errLost) || !lost && (got != nil || !slices.Equal(stored, []bool{false, false})) {
				t.Errorf("%s, %v: stored %v, error %v", dialect.name, err, stored, got)
			}
		}
	}
}
