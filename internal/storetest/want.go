package storetest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	es "example.com/eventstore"
)

// WantErr checks that err is want, and that its text begins with the package's name, once.
func WantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error is %v, want %v", what, err, want)
		return
	}
	if text := err.Error(); !strings.HasPrefix(text, "eventstore: ") || strings.Count(text, "eventstore: ") != 1 {
		t.Errorf("%s: error reads %q, want it to begin with \"eventstore: \", once", what, text)
	}
}

// WantInvalid checks that err is ErrInvalid and names the argument.
func WantInvalid(t testing.TB, what string, err error, names string) {
	t.Helper()
	WantErr(t, what, err, es.ErrInvalid)
	if err != nil && !strings.Contains(err.Error(), names) {
		t.Errorf("%s: error reads %q, want it to name %q", what, err, names)
	}
}

// WantConflict checks that err is a *ConflictError with these fields.
func WantConflict(t testing.TB, what string, err error, want es.ConflictError) {
	t.Helper()
	WantErr(t, what, err, es.ErrConflict)
	var c *es.ConflictError
	if !errors.As(err, &c) {
		t.Errorf("%s: error is %v, want a *ConflictError", what, err)
	} else if *c != want {
		t.Errorf("%s: conflict is %+v, want %+v", what, *c, want)
	}
}

// WantIdle checks that no connection of the lane is in use.
func WantIdle(t testing.TB, l Lane, what string) {
	t.Helper()
	if l.DB == nil {
		return
	}
	if n := l.DB.Stats().InUse; n != 0 {
		t.Errorf("%s: %d connections in use, want 0", what, n)
	}
}

// WantHas checks what HasStream returns.
func WantHas(t testing.TB, s *es.Store, name string, want bool) {
	t.Helper()
	if has, err := s.HasStream(t.Context(), name); has != want || err != nil {
		t.Errorf("HasStream(%q) = %v, %v, want %v", name, has, err, want)
	}
}

// SameEvents checks that two lists have the same events, in all that is stored.
func SameEvents(t testing.TB, what string, got, want []es.Event) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d events, want %d", what, len(got), len(want))
	}
	for i := range got {
		if identical(got[i], want[i]) {
			continue // to describe them would take most of the time of a test of many events
		}
		if g, w := Describe(got[i]), Describe(want[i]); g != w {
			t.Fatalf("%s: event %d is\n%s\nwant\n%s", what, i, g, w)
		}
	}
}

// identical reports whether two events have the same text, as far as that is told without it.
func identical(a, b es.Event) bool {
	return a.Position == b.Position && a.ID == b.ID && a.Stream == b.Stream && a.AggregateID == b.AggregateID && a.Version == b.Version &&
		a.Name == b.Name && bytes.Equal(a.Data, b.Data) && len(a.Metadata)+len(b.Metadata) == 0 && a.RecordedAt == b.RecordedAt
}

// WantVersions checks that an aggregate's events are versions 1 to n, at rising positions.
func WantVersions(t testing.TB, evs []es.Event, n int) {
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

// WantPlain checks that the error of a lost connection is none of the package's sentinels.
func WantPlain(t testing.TB, what string, err error) {
	t.Helper()
	for _, other := range []error{es.ErrConflict, es.ErrInvalid, es.ErrNotInstalled, es.ErrRetryTx, es.ErrStreamNotFound, context.Canceled} {
		if errors.Is(err, other) {
			t.Errorf("%s: a lost connection is reported as %v", what, err)
		}
	}
}
