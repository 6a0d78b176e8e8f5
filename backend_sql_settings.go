// Settings of connections with which data would be lost or garbled.

package eventstore

import (
	"context"
	"database/sql"
	"strings"
	"sync/atomic"
	"time"
)

// settingsCheck remembers when the settings of a connection were last found to be right.
type settingsCheck struct {
	passed atomic.Int64 // as nanoseconds; zero: never
}

// maxSettingsAge bounds how long the check is not repeated: the server's defaults may be changed while a
// store is in use, and then new connections have them.
const maxSettingsAge = time.Minute

// check returns an ErrInvalid if a connection has settings with which data is lost or garbled. They
// come from the DSN or from the server, and are the same for all connections of a pool: so one is
// asked, before the first statement and now and then.
func (s *settingsCheck) check(ctx context.Context, on executor, text *installStatements) error {
	now := time.Now().UnixNano()
	if last := s.passed.Load(); last > 0 && now >= last && now-last < int64(maxSettingsAge) {
		return nil
	}
	wrong, perhaps, err := ask(ctx, on, text.settings)
	if err != nil {
		return err
	}
	if len(perhaps) > 0 && !readsTimes(ctx, on, text.clock) {
		wrong = append(wrong, perhaps...)
	}
	if len(wrong) > 0 {
		return invalid("with its settings the connection would lose or garble data: %s", strings.Join(wrong, "; "))
	}
	s.passed.Store(now)
	return nil
}

// ask returns the settings that are wrong, and those that are so if times can't be read.
func ask(ctx context.Context, on executor, text string) (wrong, perhaps []string, err error) {
	rows, err := on.QueryContext(ctx, text)
	if err != nil {
		return nil, nil, err
	}
	err = scanAll(rows, func(rows *sql.Rows) error {
		var name, value, want string
		var ifUnread bool
		if err := rows.Scan(&name, &value, &want, &ifUnread); err != nil {
			return err
		}
		list := &wrong
		if ifUnread {
			list = &perhaps
		}
		*list = append(*list, name+" is "+value+" and has to be "+want)
		return nil
	})
	return wrong, perhaps, err
}

// readsTimes reports whether the driver reads a time as the server sends it.
func readsTimes(ctx context.Context, on executor, text string) bool {
	rows, err := on.QueryContext(ctx, text)
	if err != nil {
		return false
	}
	return scanAll(rows, func(rows *sql.Rows) error { return rows.Scan(new(dbTime)) }) == nil
}
