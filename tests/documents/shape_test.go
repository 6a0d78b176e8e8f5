package documents_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// forUsualStores runs a test on one lane for each store: what it shows does not depend on connections.
func forUsualStores(t *testing.T, test func(t *testing.T, s *es.Store)) {
	t.Helper()
	storetest.ForEach(t, storetest.SomeLanes, storetest.Usual, func(t *testing.T, l storetest.Lane) { test(t, l.Open(t, nil)) })
}

// account appends an account with some cents.
func account(t testing.TB, s *es.Store, id string, cents int64) es.Position {
	t.Helper()
	return storetest.MustAppend(t, s, "accounts", id, es.AnyVersion, event(storetest.Opened{Owner: id}), event(storetest.Deposited{Cents: cents}))[1].Position
}

// TestLabelsChange deploys other labels. A document has them from its next event on; a raised Version gives them to all.
func TestLabelsChange(t *testing.T) {
	forUsualStores(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "accounts")
		account(t, s, "a", 1)
		account(t, s, "b", 1)
		catchUp(t, balances("balances"), s)

		later := balances("balances")
		later.Labels = func(_ string, b *balance) []string { return []string{"of " + b.Owner} }
		account(t, s, "a", 1)
		catchUp(t, later, s)
		want(t, "by its new label", all(t, later, s, es.DocumentOptions{Label: "of a"}), "a=2")
		want(t, "by its old label", all(t, later, s, es.DocumentOptions{Label: "a"}))
		want(t, "without an event since, by its new label", all(t, later, s, es.DocumentOptions{Label: "of b"}))
		want(t, "without an event since, by its old label", all(t, later, s, es.DocumentOptions{Label: "b"}), "b=1")

		later.Version = 2
		catchUp(t, later, s)
		want(t, "of version 2", all(t, later, s, es.DocumentOptions{Label: "of b"}), "b=1")
		want(t, "of version 1", all(t, balances("balances"), s, es.DocumentOptions{Label: "b"}), "b=1")
	})
}

// TestKeyChanges deploys another key. The documents under the old keys stay as they are, and the new ones begin with
// the next event; a raised Version begins with the first.
func TestKeyChanges(t *testing.T) {
	forUsualStores(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "accounts")
		account(t, s, "a-1", 1)
		account(t, s, "a-2", 2)
		catchUp(t, balances("balances"), s)

		later := balances("balances")
		later.Key = func(ev es.Event) string { key, _, _ := strings.Cut(ev.AggregateID, "-"); return key }
		account(t, s, "a-2", 4)
		catchUp(t, later, s)
		want(t, "another key", all(t, later, s, es.DocumentOptions{}), "a=4", "a-1=1", "a-2=2")

		later.Version = 2
		catchUp(t, later, s)
		want(t, "another version", all(t, later, s, es.DocumentOptions{}), "a=7")
	})
}

// TestStateChanges deploys another type of state. A field that is added is empty in the documents that are stored; one
// that changes its type makes them unreadable, for questions and for events. A raised Version is built from the log.
func TestStateChanges(t *testing.T) {
	type wider struct {
		Cents    int64
		Deposits int
	}
	type other struct{ Cents string }
	forUsualStores(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "accounts")
		account(t, s, "a", 5)
		catchUp(t, balances("balances"), s)

		added := &es.Documents[wider]{
			Name: "balances", From: es.FromStream("accounts"), OnChange: es.ContinueOnChange,
			When: []es.Handler[wider]{es.On(func(b *wider, e storetest.Deposited) { b.Cents += e.Cents; b.Deposits++ })},
		}
		account(t, s, "a", 5)
		if _, err := added.CatchUp(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if d, err := added.Get(t.Context(), s, "a"); err != nil || d.State != (wider{10, 1}) {
			t.Errorf("with another field: %+v, %v", d, err)
		}
		added.Version = 2
		if _, err := added.CatchUp(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if d, err := added.Get(t.Context(), s, "a"); err != nil || d.State != (wider{10, 2}) {
			t.Errorf("with another field, built anew: %+v, %v", d, err)
		}

		retyped := &es.Documents[other]{
			Name: "balances", From: added.From, OnChange: es.ContinueOnChange,
			When: []es.Handler[other]{es.On(func(b *other, e storetest.Deposited) { b.Cents += "x" })},
		}
		if d, err := retyped.Get(t.Context(), s, "a"); err == nil || !strings.Contains(err.Error(), `document "a" of "balances"`) {
			t.Errorf("with a field of another type: %+v, %v", d, err)
		}
		at := account(t, s, "a", 5)
		if _, err := retyped.CatchUp(t.Context(), s); err == nil || !strings.Contains(err.Error(), `document "a" of "balances"`) {
			t.Errorf("an event of a document of another type: %v", err)
		}
		if p := storetest.Info(t, s, "balances"); p.Status != es.StatusFailed || p.Position >= at {
			t.Errorf("after it: %+v", p)
		}
		retyped.Version = 3
		if _, err := retyped.CatchUp(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if d, err := retyped.Get(t.Context(), s, "a"); err != nil || d.State.Cents != "xxx" {
			t.Errorf("with a field of another type, built anew: %+v, %v", d, err)
		}
	})
}

// TestHandlerIsAdded deploys documents that take in more. An event that was passed over has them refused, or built anew.
func TestHandlerIsAdded(t *testing.T) {
	forUsualStores(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "accounts")
		account(t, s, "a", 5)
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, event(Closed{}))
		older := balances("balances")
		older.When = older.When[:2]
		catchUp(t, older, s)
		newer := balances("balances")
		if _, err := newer.CatchUp(t.Context(), s); !errors.Is(err, es.ErrProjectionChanged) {
			t.Errorf("an event was passed over: %v", err)
		}
		want(t, "refused", all(t, newer, s, es.DocumentOptions{}), "a=5")
		newer.OnChange = es.RebuildOnChange
		catchUp(t, newer, s)
		want(t, "built anew", all(t, newer, s, es.DocumentOptions{}))
	})
}

// TestProjectionBecomesDocuments raises the Version of a projection that was a state. Both are there until the older one
// is deleted by name.
func TestProjectionBecomesDocuments(t *testing.T) {
	forUsualStores(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "accounts")
		account(t, s, "a", 5)
		state := storetest.TotalsOf("balances")
		storetest.CatchUp(t, state, s)
		ds := balances("balances")
		if _, err := ds.CatchUp(t.Context(), s); !errors.Is(err, es.ErrInvalid) {
			t.Errorf("the name belongs to a projection: %v", err)
		}
		ds.Version = 2
		catchUp(t, ds, s)
		want(t, "beside the projection", all(t, ds, s, es.DocumentOptions{}), "a=5")
		account(t, s, "a", 5)
		if n := storetest.CatchUp(t, state, s).State.Accounts["a"]; n != 10 {
			t.Errorf("the projection goes on: %d, want 10", n)
		}
		if err := s.DeleteProjection(t.Context(), "balances", true); err != nil {
			t.Fatal(err)
		}
		catchUp(t, ds, s)
		want(t, "without the projection", all(t, ds, s, es.DocumentOptions{}), "a=10")
	})
}

// TestDocumentsReadYourWrites asks for one's own writes while the documents run.
func TestDocumentsReadYourWrites(t *testing.T) {
	forUsualStores(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "accounts")
		ds := balances("balances")
		ended := make(chan error, 1)
		ctx := t.Context() // ends before the cleanup
		go func() { ended <- ds.Run(ctx, s) }()
		t.Cleanup(func() {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("the run has ended with: %v", err)
			}
		})
		var wanted []string
		for _, key := range []string{"a", "b", "c"} {
			at := account(t, s, key, -1)
			if err := ds.Wait(t.Context(), s, at); err != nil {
				t.Fatal(err)
			}
			wanted = append(wanted, key+"=-1")
			want(t, "all", all(t, ds, s, es.DocumentOptions{}), wanted...)
			want(t, "by label", all(t, ds, s, es.DocumentOptions{Label: "debt"}), wanted...)
			if d, err := ds.Get(t.Context(), s, key); err != nil || d.Position < at {
				t.Errorf("%q: %+v, %v", key, d, err)
			}
		}
	})
}

// TestPagesOfChangingDocuments has documents come and go between the pages of a read. Those that stay are read once.
func TestPagesOfChangingDocuments(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		storetest.CreateStream(t, s, "accounts")
		for _, key := range []string{"a", "b", "c", "d", "e", "f"} {
			account(t, s, key, 1)
		}
		ds := balances("balances")
		catchUp(t, ds, s)
		for d, err := range ds.All(t.Context(), s, es.DocumentOptions{}) {
			// On a lane whose pool has one connection this needs it.
			if again, err2 := ds.Get(t.Context(), s, d.Key); err != nil || err2 != nil || again.State.Cents != 1 {
				t.Errorf("%+v, %v; %+v, %v", d, err, again, err2)
			}
		}
		want(t, "page 1", all(t, ds, s, es.DocumentOptions{Limit: 2}), "a=1", "b=1")
		for _, key := range []string{"b", "d"} { // the last of the page, and one to come
			storetest.MustAppend(t, s, "accounts", key, es.AnyVersion, event(Closed{}))
		}
		account(t, s, "ab", 1)
		account(t, s, "bb", 1)
		catchUp(t, ds, s)
		want(t, "page 2", all(t, ds, s, es.DocumentOptions{Limit: 2, After: "b"}), "bb=1", "c=1")
		want(t, "page 3", all(t, ds, s, es.DocumentOptions{Limit: 2, After: "c"}), "e=1", "f=1")
		want(t, "page 4", all(t, ds, s, es.DocumentOptions{Limit: 2, After: "f"}))
	})
}
