package documents_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// Closed ends an account.
type Closed struct{}

// Transferred is money that went from one account to others.
type Transferred struct {
	From string
	To   []string
	Each int64
}

// Noted is a text about an account.
type Noted struct{ Text string }

func (Closed) EventName() string      { return "account.closed" }
func (Transferred) EventName() string { return "account.transferred" }
func (Noted) EventName() string       { return "account.noted" }

// balance is the state of a document.
type balance struct {
	Owner string   `json:",omitempty"`
	Cents int64    `json:",omitempty"`
	Notes []string `json:",omitempty"`
}

// balances returns documents of the accounts in stream "accounts", labelled by owner and by whether they are in debt.
func balances(name string, more ...es.Handler[balance]) *es.Documents[balance] {
	return &es.Documents[balance]{
		Name: name,
		From: es.FromStream("accounts"),
		When: append([]es.Handler[balance]{
			es.On(func(b *balance, e storetest.Opened) { b.Owner = e.Owner }),
			es.On(func(b *balance, e storetest.Deposited) { b.Cents += e.Cents }),
			es.OnEvent(func(b *balance, e Noted, ev es.Event) { b.Notes = append(b.Notes, fmt.Sprint(ev.Version, e.Text)) }),
			es.OnKey(func(e Transferred) []string { return append([]string{e.From}, e.To...) },
				func(b *balance, e Transferred) { b.Cents += e.Each }),
			es.Drop[Closed, balance](),
		}, more...),
		Labels: func(_ string, b *balance) []string {
			labels := []string{b.Owner}
			if b.Cents < 0 {
				labels = append(labels, "debt")
			}
			return labels
		},
	}
}

func catchUp(t testing.TB, ds *es.Documents[balance], s *es.Store) es.Position {
	t.Helper()
	p, err := ds.CatchUp(t.Context(), s)
	if err != nil {
		t.Fatalf("catch up: %v", err)
	}
	return p
}

// all returns documents as "key=cents@position", in the order in which they come.
func all(t testing.TB, ds *es.Documents[balance], s *es.Store, opts es.DocumentOptions) (out []string) {
	t.Helper()
	for d, err := range ds.All(t.Context(), s, opts) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s=%d", d.Key, d.State.Cents))
	}
	return out
}

func want(t testing.TB, what string, got []string, wanted ...string) {
	t.Helper()
	if !slices.Equal(got, wanted) {
		t.Errorf("%s: got %q, want %q", what, got, wanted)
	}
}

func event(p es.Payload) es.NewEvent { return es.NewEvent{Payload: p} }

func TestDocuments(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		ds := balances("balances")
		if _, err := ds.Get(t.Context(), s, "a"); !errors.Is(err, es.ErrDocumentNotFound) {
			t.Errorf("get before the first run: %v", err)
		}
		want(t, "all before the first run", all(t, ds, s, es.DocumentOptions{}))
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, event(storetest.Opened{Owner: "ann"}), event(storetest.Deposited{Cents: 5}))
		storetest.MustAppend(t, s, "accounts", "b", es.AnyVersion, event(storetest.Opened{Owner: "bob"}))
		last := storetest.MustAppend(t, s, "accounts", "b", es.AnyVersion, event(Transferred{"a", []string{"c", "c", "", "a"}, -10}))
		if p := catchUp(t, ds, s); p < last[0].Position {
			t.Errorf("caught up to %d, want %d", p, last[0].Position)
		}
		want(t, "all", all(t, ds, s, es.DocumentOptions{}), "a=-5", "b=0", "c=-10")
		want(t, "in debt", all(t, ds, s, es.DocumentOptions{Label: "debt"}), "a=-5", "c=-10")
		want(t, "in debt, backward", all(t, ds, s, es.DocumentOptions{Label: "debt", Backward: true}), "c=-10", "a=-5")
		want(t, "of bob", all(t, ds, s, es.DocumentOptions{Label: "bob"}), "b=0")
		d, err := ds.Get(t.Context(), s, "a")
		if err != nil || d.Key != "a" || d.State.Owner != "ann" || d.State.Cents != -5 || d.Position != last[0].Position {
			t.Errorf("got %+v, %v", d, err)
		}
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, event(storetest.Deposited{Cents: 100}))
		storetest.MustAppend(t, s, "accounts", "b", es.AnyVersion, event(Closed{}))
		storetest.MustAppend(t, s, "accounts", "c", es.AnyVersion, event(Closed{}), event(storetest.Deposited{Cents: 1}))
		catchUp(t, ds, s)
		want(t, "later", all(t, ds, s, es.DocumentOptions{}), "a=95", "c=1")
		want(t, "in debt later", all(t, ds, s, es.DocumentOptions{Label: "debt"}))
		want(t, "of bob later", all(t, ds, s, es.DocumentOptions{Label: "bob"}))
		want(t, "of ann later", all(t, ds, s, es.DocumentOptions{Label: "ann"}), "a=95")
		if err := ds.Reset(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		want(t, "after a reset", all(t, ds, s, es.DocumentOptions{}))
		catchUp(t, ds, s)
		want(t, "again", all(t, ds, s, es.DocumentOptions{}), "a=95", "c=1")
		if err := ds.Delete(t.Context(), s, true); err != nil {
			t.Fatal(err)
		}
		want(t, "deleted", all(t, ds, s, es.DocumentOptions{}))
		if p := storetest.Info(t, s, "balances"); p.Name != "" {
			t.Errorf("deleted, it is listed: %+v", p)
		}
		p := &es.Projection[balance]{Name: "balances", From: ds.From, When: []es.Handler[balance]{es.Drop[Closed, balance]()}}
		if _, err := p.CatchUp(t.Context(), s); !errors.Is(err, es.ErrInvalid) {
			t.Errorf("Drop in a projection: %v", err)
		}
	})
}

// TestPages reads documents under all options, beside the same of a sorted list.
func TestPages(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		ds := balances("balances")
		storetest.CreateStream(t, s, "accounts")
		keys := []string{"\x01", " ", "A", "a", "aa", "ab", "a\u07ff", "b", "é", "\ud7ff", "\ue000", "\U0010ffff", "\U0010ffff\U0010ffff", strings.Repeat("z", 255), "Ab", "%", "_", "'", "\"", "\\"}
		for i := range 40 {
			keys = append(keys, fmt.Sprintf("k%03d", i))
		}
		for i, key := range keys {
			owner := "odd"
			if i%2 == 0 {
				owner = "even"
			}
			storetest.MustAppend(t, s, "accounts", key, es.AnyVersion, event(storetest.Opened{Owner: owner}), event(storetest.Deposited{Cents: int64(i)}))
		}
		catchUp(t, ds, s)
		var labelled [3][]string // all, even, odd
		for i, key := range keys {
			text := fmt.Sprintf("%s=%d", key, i)
			labelled[0], labelled[1+i%2] = append(labelled[0], text), append(labelled[1+i%2], text)
		}
		for i, label := range []string{"", "even", "odd"} {
			for _, prefix := range []string{"", "a", "k", "k01", "\ud7ff", "\U0010ffff", "nothing", "z", "Z"} {
				for _, after := range []string{"", "a", "aa", "k005", "zzz", "\U0010ffff", "0"} {
					for _, backward := range []bool{false, true} {
						for _, limit := range []int{0, 1, 3} {
							opts := es.DocumentOptions{Label: label, Prefix: prefix, After: after, Limit: limit, Backward: backward}
							var wanted []string
							for _, text := range slices.Sorted(slices.Values(labelled[i])) {
								key, _, _ := strings.Cut(text, "=")
								if strings.HasPrefix(key, prefix) && (after == "" || key > after != backward && key != after) {
									wanted = append(wanted, text)
								}
							}
							slices.SortFunc(wanted, func(x, y string) int {
								kx, _, _ := strings.Cut(x, "=")
								ky, _, _ := strings.Cut(y, "=")
								return strings.Compare(kx, ky)
							})
							if backward {
								slices.Reverse(wanted)
							}
							if limit > 0 {
								wanted = wanted[:min(limit, len(wanted))]
							}
							want(t, fmt.Sprintf("%+q", opts.Prefix)+fmt.Sprintf("%+v", opts), all(t, ds, s, opts), wanted...)
						}
					}
				}
			}
		}
		for _, opts := range []es.DocumentOptions{{Limit: -1}, {Prefix: "\xff"}, {After: "a\x00"}, {Label: "\xff"}} {
			for _, err := range ds.All(context.Background(), s, opts) {
				if !errors.Is(err, es.ErrInvalid) {
					t.Errorf("%+v: %v", opts, err)
				}
			}
		}
	})
}

// TestNames has names that belong to something else, and definitions that can't be used.
func TestNames(t *testing.T) {
	storetest.ForEachStore(t, func(t *testing.T, s *es.Store) {
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts")
		at := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 5)...)[0].Position
		storetest.CatchUp(t, storetest.TotalsOf("a projection"), s)
		relay := &es.Relay{Name: "a relay", From: es.FromStream("accounts"), Publish: func(context.Context, []es.Event) error { return nil }}
		relaying, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- relay.Run(relaying, s) }()
		storetest.Eventually(t, "the relay", func() bool { return storetest.Info(t, s, "a relay").Position >= at })
		cancel()
		_ = <-done
		for _, name := range []string{"a projection", "a relay"} {
			ds := balances(name)
			_, err := ds.Get(ctx, s, "a")
			storetest.WantInvalid(t, "Get", err, name)
			for _, err := range ds.All(ctx, s, es.DocumentOptions{}) {
				storetest.WantInvalid(t, "All", err, name)
			}
			storetest.WantInvalid(t, "Run", ds.Run(ctx, s), name)
			_, err = ds.CatchUp(ctx, s)
			storetest.WantInvalid(t, "CatchUp", err, name)
			storetest.WantInvalid(t, "Wait", ds.Wait(ctx, s, at), name)
			storetest.WantInvalid(t, "Reset", ds.Reset(ctx, s), name)
			storetest.WantInvalid(t, "Delete", ds.Delete(ctx, s, true), name)
			if info := storetest.Info(t, s, name); info.Position < at || info.Status != es.StatusIdle {
				t.Errorf("%s is %+v afterwards", name, info)
			}
		}
		ds := balances("documents")
		catchUp(t, ds, s)
		p := storetest.TotalsOf("documents")
		storetest.WantInvalid(t, "Run of a projection", p.Run(ctx, s), "documents")
		_, err := p.Load(ctx, s)
		storetest.WantInvalid(t, "Load of a projection", err, "documents")
		storetest.WantInvalid(t, "Wait for a projection", p.Wait(ctx, s, at), "documents")
		storetest.WantInvalid(t, "Delete of a projection", p.Delete(ctx, s, true), "documents")
		relay.Name = "documents"
		storetest.WantInvalid(t, "Run of a relay", relay.Run(ctx, s), "documents")
		want(t, "all", all(t, ds, s, es.DocumentOptions{}), "a=5")

		for what, h := range map[string]es.Handler[storetest.Totals]{
			"OnKey":      es.OnKey(func(storetest.Opened) []string { return nil }, func(*storetest.Totals, storetest.Opened) {}),
			"OnKeyEvent": es.OnKeyEvent(func(storetest.Opened, es.Event) []string { return nil }, func(*storetest.Totals, storetest.Opened, es.Event) {}),
			"Drop":       es.Drop[Closed, storetest.Totals](),
		} {
			storetest.WantInvalid(t, what+" in a projection", storetest.TotalsOf("new", h).Run(ctx, s), "Projection.When[1]")
		}
		for what, h := range map[string]es.Handler[balance]{
			"no keys":                 es.OnKey(nil, func(*balance, Closed) {}),
			"no function":             es.OnKey[Closed, balance](func(Closed) []string { return nil }, nil),
			"no keys of events":       es.OnKeyEvent(nil, func(*balance, Closed, es.Event) {}),
			"no function of an event": es.OnKeyEvent[Closed, balance](func(Closed, es.Event) []string { return nil }, nil),
			"a Drop without a name":   es.Drop[nameless, balance](),
			"nil":                     nil,
		} {
			storetest.WantInvalid(t, what, balances("new", h).Run(ctx, s), "Documents.When[5]")
		}
	})
}

type nameless struct{}

func (nameless) EventName() string { return "" }

// TestControls resets and deletes documents by name, with a runner and without: from that moment on they are not there.
func TestControls(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, other := l.OpenTwice(t)
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts")
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, event(storetest.Opened{Owner: "ann"}), event(storetest.Deposited{Cents: 5}))
		ds := balances("balances")
		for _, control := range []func() error{
			func() error { return other.ResetProjection(ctx, "balances") },
			func() error { return other.DeleteProjection(ctx, "balances", true) },
			func() error { return ds.Reset(ctx, other) },
			func() error { return ds.Delete(ctx, other, true) },
		} {
			catchUp(t, ds, s)
			want(t, "before", all(t, ds, other, es.DocumentOptions{Label: "ann"}), "a=5")
			if err := control(); err != nil {
				t.Fatal(err)
			}
			if _, err := ds.Get(ctx, s, "a"); !errors.Is(err, es.ErrDocumentNotFound) {
				t.Errorf("get afterwards: %v", err)
			}
			want(t, "afterwards", all(t, ds, s, es.DocumentOptions{}))
			want(t, "afterwards, by label", all(t, ds, s, es.DocumentOptions{Label: "ann", Backward: true}))
		}
		// A definition without labels, run after a reset by name, leaves none of the older one's.
		catchUp(t, ds, s)
		if err := s.ResetProjection(ctx, "balances"); err != nil {
			t.Fatal(err)
		}
		plain := balances("balances")
		plain.Labels = nil
		catchUp(t, plain, s)
		want(t, "without labels", all(t, ds, s, es.DocumentOptions{}), "a=5")
		want(t, "by label", all(t, ds, s, es.DocumentOptions{Label: "ann"}))
		// Labels come back with the document's next event.
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 1)...)
		catchUp(t, ds, s)
		want(t, "by label again", all(t, ds, s, es.DocumentOptions{Label: "ann"}), "a=6")

		// Version 2 is built beside.
		second := balances("balances", es.On(func(b *balance, _ storetest.Deposited) { b.Cents += 100 }))
		second.Version = 2
		want(t, "version 2 before its run", all(t, second, s, es.DocumentOptions{}))
		catchUp(t, second, s)
		want(t, "version 2", all(t, second, s, es.DocumentOptions{Label: "ann"}), "a=206")
		want(t, "version 1", all(t, ds, s, es.DocumentOptions{Label: "ann"}), "a=6")
		if err := s.DeleteProjection(ctx, "balances@2", true); err != nil {
			t.Fatal(err)
		}
		want(t, "version 2 deleted", all(t, second, s, es.DocumentOptions{Label: "ann"}))
		want(t, "version 1 then", all(t, ds, s, es.DocumentOptions{Label: "ann"}), "a=6")
		if l.DB != nil {
			storetest.WantIdle(t, l, "in the end")
		}
	})
}

// TestReadInTransactions reads documents in transactions, where they can't be run.
func TestReadInTransactions(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		ctx := t.Context()
		storetest.CreateStream(t, s, "accounts")
		ds := balances("balances")
		read := func(in *es.Store) error {
			if _, err := ds.CatchUp(ctx, in); !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("run in a transaction: %v", err)
			}
			if _, err := ds.Get(ctx, in, "none"); !errors.Is(err, es.ErrDocumentNotFound) {
				t.Errorf("get of none: %v", err)
			}
			d, err := ds.Get(ctx, in, "a")
			if err == nil && d.State.Cents != 5 {
				t.Errorf("got %+v", d)
			}
			want(t, "all", all(t, ds, in, es.DocumentOptions{}), "a=5", "b=7")
			want(t, "by label", all(t, ds, in, es.DocumentOptions{Label: "ann", Backward: true}), "b=7", "a=5")
			return err
		}
		for _, id := range []string{"a", "b"} {
			storetest.MustAppend(t, s, "accounts", id, es.AnyVersion, event(storetest.Opened{Owner: "ann"}), event(storetest.Deposited{Cents: map[string]int64{"a": 5, "b": 7}[id]}))
		}
		catchUp(t, ds, s)
		if err := s.Transact(ctx, read); err != nil {
			t.Errorf("Transact: %v", err)
		}
		if l.DB != nil {
			l.InTx(t, s, false, nil, func(_ *sql.Tx, in *es.Store) {
				if err := read(in); err != nil {
					t.Errorf("WithTx: %v", err)
				}
			})
		}
		storetest.WantIdle(t, l, "in the end")
	})
}
