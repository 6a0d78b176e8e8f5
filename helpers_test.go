package eventstore_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	es "example.com/eventstore"
)

// raw is a payload whose name and text a test chooses; only verbatim keeps the text as it is.
type raw struct {
	name string
	text string
}

func (r raw) EventName() string            { return r.name }
func (r raw) MarshalJSON() ([]byte, error) { return []byte(r.text), nil }

// verbatim is a codec that writes a raw payload's text unchanged, where encoding/json would
// compact it.
type verbatim struct{}

func (verbatim) Marshal(v any) ([]byte, error) {
	if r, ok := v.(raw); ok {
		return []byte(r.text), nil
	}
	return json.Marshal(v)
}

func (verbatim) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

// wantErr checks that err is want, and that its text begins with the package's name, once.
func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error is %v, want %v", what, err, want)
		return
	}
	if text := err.Error(); !strings.HasPrefix(text, "eventstore: ") || strings.Count(text, "eventstore: ") != 1 {
		t.Errorf("%s: error reads %q, want it to begin with \"eventstore: \", once", what, text)
	}
}

// wantInvalid checks that err is ErrInvalid and names the argument.
func wantInvalid(t testing.TB, what string, err error, names string) {
	t.Helper()
	wantErr(t, what, err, es.ErrInvalid)
	if err != nil && !strings.Contains(err.Error(), names) {
		t.Errorf("%s: error reads %q, want it to name %q", what, err, names)
	}
}

// wantConflict checks that err is a *ConflictError with these fields.
func wantConflict(t testing.TB, what string, err error, want es.ConflictError) {
	t.Helper()
	wantErr(t, what, err, es.ErrConflict)
	var c *es.ConflictError
	if !errors.As(err, &c) {
		t.Errorf("%s: error is %v, want a *ConflictError", what, err)
	} else if *c != want {
		t.Errorf("%s: conflict is %+v, want %+v", what, *c, want)
	}
}

// wantIdle checks that no connection of the lane is in use.
func wantIdle(t testing.TB, l lane, what string) {
	t.Helper()
	if l.db == nil {
		return
	}
	if n := l.db.Stats().InUse; n != 0 {
		t.Errorf("%s: %d connections in use, want 0", what, n)
	}
}

// mustAppend appends and fails the test on an error.
func mustAppend(t testing.TB, s *es.Store, stream, id string, expected es.ExpectedVersion, evs ...es.NewEvent) []es.Event {
	t.Helper()
	stored, err := s.Append(context.WithoutCancel(t.Context()), stream, id, expected, evs...)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

// everything reads the whole store.
func everything(t testing.TB, s *es.Store) []es.Event {
	t.Helper()
	return collect(t, s.Read(t.Context(), es.FromAll(), es.ReadOptions{}))
}

// withIDs gives events their IDs before an append does.
func withIDs(evs []es.NewEvent) []es.NewEvent {
	for i := range evs {
		evs[i].ID = uuid.Must(uuid.NewV7())
	}
	return evs
}

// race runs n functions that start together, and returns their errors.
func race(n int, fn func(i int) error) []error {
	errs := make([]error, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			errs[i] = fn(i)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

// wantVersions checks that an aggregate's events are versions 1 to n, at rising positions.
func wantVersions(t testing.TB, evs []es.Event, n int) {
	t.Helper()
	if len(evs) != n {
		t.Errorf("%d events, want %d", len(evs), n)
	}
	for i, ev := range evs {
		if ev.Version != int64(i+1) {
			t.Fatalf("event %d is version %d, want %d", i, ev.Version, i+1)
		}
		if i > 0 && ev.Position <= evs[i-1].Position {
			t.Fatalf("version %d is at position %d, want it above %d, where version %d is", ev.Version, ev.Position, evs[i-1].Position, ev.Version-1)
		}
	}
}

// inTx runs fn with a store in a transaction of its own and rolls it back or commits it.
func (l lane) inTx(t testing.TB, s *es.Store, commit bool, opts *sql.TxOptions, fn func(tx *sql.Tx, s *es.Store)) {
	t.Helper()
	tx, err := l.db.BeginTx(context.WithoutCancel(t.Context()), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }() // does nothing after the end below
	fn(tx, s.WithTx(tx))
	end := tx.Rollback
	if commit {
		end = tx.Commit
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
}

// ranks returns events as text that is the same in two stores that were given the same.
func ranks(evs []es.Event) string {
	var b strings.Builder
	for _, ev := range evs {
		fmt.Fprintf(&b, "%s/%s/%d ", ev.Stream, ev.AggregateID, ev.Version)
	}
	return b.String()
}

// rowsRead returns how many rows and entries of indexes the server reads for fn, on MySQL and with a
// pool of one connection, as it counts by session.
func (l lane) rowsRead(t testing.TB, fn func()) (total int) {
	t.Helper()
	if _, err := l.db.Exec("FLUSH STATUS"); err != nil {
		t.Fatal(err)
	}
	fn()
	rows, err := l.db.Query("SHOW SESSION STATUS LIKE 'Handler_read%'")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var n int
		if err := rows.Scan(&name, &n); err != nil {
			t.Fatal(err)
		}
		total += n
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return total
}
