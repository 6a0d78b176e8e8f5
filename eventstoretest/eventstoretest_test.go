package eventstoretest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"example.com/eventstore"
	"example.com/eventstore/eventstoretest"
)

func take(cents int64) func(*eventstore.Root[Account]) error {
	return func(r *eventstore.Root[Account]) error { return withdraw(r, cents) }
}

func TestScenario(t *testing.T) {
	eventstoretest.Given(t, &accounts, Opened{"ann"}, Deposited{500}).
		ThenState(Account{"ann", 500}).
		When(take(300)).Then(Withdrawn{300}).ThenState(Account{"ann", 200}).
		When(take(300)).ThenError(errPoor).
		WhenCommand(Withdraw{200}).Then(Withdrawn{200}).ThenState(Account{"ann", 0}).
		WhenCommand("nothing that it knows").ThenError(eventstore.ErrUnknownCommand)
	eventstoretest.Given(t, &accounts).ThenState(Account{}).When(take(0)).Then(Withdrawn{0})
	eventstoretest.Given(t, &accounts).When(func(*eventstore.Root[Account]) error { return nil }).Then()
}

// fakeT is a test that only takes notes.
type fakeT struct {
	testing.TB
	said     strings.Builder
	cleanups []func()
}

func (f *fakeT) Helper()                        {}
func (f *fakeT) Context() context.Context       { return context.Background() }
func (f *fakeT) Cleanup(fn func())              { f.cleanups = append(f.cleanups, fn) }
func (f *fakeT) Errorf(format string, a ...any) { fmt.Fprintf(&f.said, format+"\n", a...) }
func (f *fakeT) Fatalf(format string, a ...any) { f.Errorf(format, a...); runtime.Goexit() }
func (f *fakeT) Fatal(a ...any)                 { fmt.Fprintln(&f.said, a...); runtime.Goexit() }

// said runs a scenario in a test of its own and returns what that was told.
func said(scenario func(t testing.TB)) string {
	f := &fakeT{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		scenario(f)
	}()
	<-done
	for _, fn := range f.cleanups {
		fn()
	}
	return f.said.String()
}

func TestScenarioFailures(t *testing.T) {
	for name, c := range map[string]struct {
		scenario func(t testing.TB)
		want     []string
	}{
		"other events": {
			func(t testing.TB) {
				eventstoretest.Given(t, &accounts, Deposited{500}).
					When(func(r *eventstore.Root[Account]) error { r.Record(Deposited{1}); r.Record(Withdrawn{2}); return nil }).
					Then(Deposited{1}, Withdrawn{3}, Opened{"ann"})
			},
			[]string{"  account.deposited {\"Cents\":1}", "- account.withdrawn {\"Cents\":3}", "+ account.withdrawn {\"Cents\":2}", "- account.opened {\"Owner\":\"ann\"}"},
		},
		"no events": {
			func(t testing.TB) { eventstoretest.Given(t, &accounts, Deposited{5}).When(take(1)).Then() },
			[]string{"+ account.withdrawn {\"Cents\":1}"},
		},
		"another state": {
			func(t testing.TB) { eventstoretest.Given(t, &accounts, Opened{"ann"}).ThenState(Account{"bob", 0}) },
			[]string{`-   "Owner": "bob",`, `+   "Owner": "ann",`, `    "Cents": 0`},
		},
		"an error where none is wanted": {
			func(t testing.TB) { eventstoretest.Given(t, &accounts).When(take(1)).Then(Withdrawn{1}) },
			[]string{"When has failed: not enough money"},
		},
		"an error that nobody asks about": {
			func(t testing.TB) { eventstoretest.Given(t, &accounts).When(take(1)) },
			[]string{"nothing asked about it: not enough money"},
		},
		"another error": {
			func(t testing.TB) { eventstoretest.Given(t, &accounts).When(take(1)).ThenError(eventstore.ErrConflict) },
			[]string{"not enough money", "version conflict"},
		},
		"no error": {
			func(t testing.TB) { eventstoretest.Given(t, &accounts).When(take(0)).ThenError(errPoor) },
			[]string{"When has succeeded, want the error: not enough money", "has recorded 1 events"},
		},
		"nothing done":  {func(t testing.TB) { eventstoretest.Given(t, &accounts).Then() }, []string{"Then without a When"}},
		"no such event": {func(t testing.TB) { eventstoretest.Given(t, &accounts, nil) }, []string{"payload is nil"}},
	} {
		got := said(c.scenario)
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: the test says\n%s\nwhich lacks\n%s", name, got, want)
			}
		}
		if len(c.want) == 0 && got != "" {
			t.Errorf("%s: the test says %s", name, got)
		}
	}
}

// dicing is a codec that writes each payload in another way.
type dicing struct{ n int }

func (c *dicing) Marshal(v any) ([]byte, error) {
	c.n++
	data, err := json.Marshal(v)
	return append(bytes.Repeat([]byte(" "), c.n), data...), err
}

func (c *dicing) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

func TestGivenOnFailures(t *testing.T) {
	for name, c := range map[string]struct {
		scenario func(t testing.TB)
		want     string
	}{
		"no store": {
			func(t testing.TB) { eventstoretest.GivenOn(t, nil, &accounts) },
			"GivenOn: the store is nil",
		},
		"other events": {
			func(t testing.TB) {
				eventstoretest.GivenOn(t, eventstore.NewMemStore(nil), &accounts, Deposited{5}).When(take(5)).Then(Withdrawn{6})
			},
			"- account.withdrawn {\"Cents\":6}\n+ account.withdrawn {\"Cents\":5}",
		},
		"a payload that is none": {
			func(t testing.TB) {
				eventstoretest.GivenOn(t, eventstore.NewMemStore(nil), &accounts).When(take(0)).Then(nil)
			},
			"payload 0, a <nil>, can't be encoded",
		},
		"a codec that writes in several ways": {
			func(t testing.TB) {
				eventstoretest.GivenOn(t, eventstore.NewMemStore(&eventstore.Options{Codec: &dicing{}}), &accounts).When(take(0)).Then(Withdrawn{0})
			},
			"use ThenState",
		},
	} {
		if got := said(c.scenario); !strings.Contains(got, c.want) {
			t.Errorf("%s: the test says\n%s\nwhich lacks\n%s", name, got, c.want)
		}
	}
}

var owners = eventstore.Query[[]string]{
	From: eventstore.FromStream("accounts"),
	When: []eventstore.Fold[[]string]{eventstore.On(func(names *[]string, e Opened) { *names = append(*names, e.Owner) })},
}

// audited fails on withdrawals of 13 cents, and panics on those of 14.
func audited(onError func(context.Context, eventstore.Event, error, int) eventstore.ErrorAction) *eventstore.Projection[int] {
	return &eventstore.Projection[int]{
		Name: "audited",
		From: eventstore.FromStream("accounts"),
		When: []eventstore.Handler[int]{
			eventstore.Do(func(_ context.Context, step *eventstore.Step[int], e Withdrawn) error {
				switch e.Cents {
				case 13:
					return errPoor
				case 14:
					panic("fourteen")
				}
				*step.State++
				return nil
			}),
		},
		OnError: onError,
	}
}

func TestReading(t *testing.T) {
	ann := eventstoretest.On("accounts", "A-1", Opened{"ann"}, Withdrawn{1}, Withdrawn{13}, Withdrawn{2})
	eventstoretest.GivenQuery(t, nil, &owners, ann).ThenState([]string{"ann"}).
		When(eventstoretest.On("accounts", "A-2", Opened{"bob"})).ThenState([]string{"ann", "bob"})
	eventstoretest.GivenQuery(t, nil, &owners).ThenState(nil)
	eventstoretest.GivenProjection(t, nil, audited(nil)).ThenState(0)
	eventstoretest.GivenProjection(t, nil, audited(nil), ann).ThenError(errPoor).ThenError(nil)

	var attempts []int
	patient := func(_ context.Context, ev eventstore.Event, err error, attempt int) eventstore.ErrorAction {
		attempts = append(attempts, attempt)
		if attempt < 4 {
			return eventstore.Retry
		}
		return eventstore.Skip
	}
	eventstoretest.GivenProjection(t, nil, audited(patient), ann).ThenError(errPoor).ThenState(2).
		When(eventstoretest.On("accounts", "A-2", Withdrawn{3})).ThenState(3)
	if want := []int{1, 2, 3, 4}; !slices.Equal(attempts, want) {
		t.Errorf("OnError was asked about attempts %v, want %v", attempts, want)
	}
	s := eventstoretest.Store(t, nil, ann)
	stubborn := audited(func(context.Context, eventstore.Event, error, int) eventstore.ErrorAction { return eventstore.Retry })
	eventstoretest.GivenProjection(t, s, stubborn).ThenError(errPoor)
	if stubborn.OnError == nil || stubborn.OnError(t.Context(), eventstore.Event{}, nil, 1) != eventstore.Retry {
		t.Error("the definition was changed")
	}
}

// audits are documents of the accounts. They fail on withdrawals of 13 cents, and panic on those of 14.
func audits(onError func(context.Context, eventstore.Event, error, int) eventstore.ErrorAction) *eventstore.Documents[int] {
	return &eventstore.Documents[int]{
		Name:    "audits",
		From:    eventstore.FromStream("accounts"),
		When:    append([]eventstore.Handler[int]{eventstore.Drop[Opened, int]()}, audited(nil).When...),
		Labels:  func(_ string, n *int) []string { return []string{fmt.Sprint(*n, " withdrawals")} },
		OnError: onError,
	}
}

func TestDocumentReading(t *testing.T) {
	ann := eventstoretest.On("accounts", "A-1", Withdrawn{1}, Withdrawn{2})
	eventstoretest.GivenDocuments(t, nil, audits(nil)).ThenDocuments(nil).ThenDocuments(map[string]int{}).ThenNoDocument("A-1").ThenLabel("1 withdrawals")
	eventstoretest.GivenDocuments(t, nil, audits(nil), ann).
		ThenDocument("A-1", 2).ThenDocuments(map[string]int{"A-1": 2}).ThenNoDocument("A-2").
		When(eventstoretest.On("accounts", "A-3", Withdrawn{1}), eventstoretest.On("accounts", "A-2", Withdrawn{1})).
		ThenLabel("1 withdrawals", "A-3", "A-2").ThenLabel("2 withdrawals", "A-1").ThenLabel("no such label").
		When(eventstoretest.On("accounts", "A-1", Opened{"ann"})).
		ThenNoDocument("A-1").ThenDocuments(map[string]int{"A-2": 1, "A-3": 1}).
		When(eventstoretest.On("accounts", "A-2", Withdrawn{13})).ThenError(errPoor).ThenError(nil)

	skip := func(context.Context, eventstore.Event, error, int) eventstore.ErrorAction { return eventstore.Skip }
	eventstoretest.GivenDocuments(t, nil, audits(skip), eventstoretest.On("accounts", "A-1", Withdrawn{13}, Withdrawn{1})).
		ThenError(errPoor).ThenDocument("A-1", 1)
	long := audits(nil)
	long.Key = func(eventstore.Event) string { return strings.Repeat("k", 256) }
	eventstoretest.GivenDocuments(t, nil, long, ann).ThenError(eventstore.ErrInvalid)
}

func TestReadingFailures(t *testing.T) {
	for name, c := range map[string]struct {
		scenario func(t testing.TB)
		want     []string
	}{
		"another state": {
			func(t testing.TB) {
				eventstoretest.GivenQuery(t, nil, &owners, eventstoretest.On("accounts", "A-1", Opened{"ann"})).ThenState([]string{"bob"})
			},
			[]string{`-   "bob"`, `+   "ann"`},
		},
		"an error where a state is wanted": {
			func(t testing.TB) {
				eventstoretest.GivenProjection(t, nil, audited(nil), eventstoretest.On("accounts", "A-1", Withdrawn{13})).ThenState(0)
			},
			[]string{"ThenState: eventstore: projection \"audited\": event 1", "not enough money"},
		},
		"a panic": {
			func(t testing.TB) {
				eventstoretest.GivenProjection(t, nil, audited(nil), eventstoretest.On("accounts", "A-1", Withdrawn{14})).ThenState(0)
			},
			[]string{"fourteen", "eventstoretest_test.audited"},
		},
		"no error": {
			func(t testing.TB) { eventstoretest.GivenProjection(t, nil, audited(nil)).ThenError(errPoor) },
			[]string{"all has succeeded, want the error: not enough money"},
		},
		"another document": {
			func(t testing.TB) {
				eventstoretest.GivenDocuments(t, nil, audits(nil), eventstoretest.On("accounts", "A-1", Withdrawn{1})).ThenDocument("A-1", 2)
			},
			[]string{`document "A-1" is not the one wanted`, "- 2", "+ 1"},
		},
		"no document": {
			func(t testing.TB) {
				eventstoretest.GivenDocuments(t, nil, audits(nil), eventstoretest.On("accounts", "A-1", Withdrawn{1})).ThenDocument("A-2", 2)
			},
			[]string{`there is no document "A-2", but of: ["A-1"]`},
		},
		"a document too many": {
			func(t testing.TB) {
				eventstoretest.GivenDocuments(t, nil, audits(nil), eventstoretest.On("accounts", "A-1", Withdrawn{1})).ThenNoDocument("A-1").ThenDocuments(nil)
			},
			[]string{`there is a document "A-1", want none: 1`, `+   "A-1": 1`},
		},
		"other labels": {
			func(t testing.TB) {
				eventstoretest.GivenDocuments(t, nil, audits(nil), eventstoretest.On("accounts", "A-1", Withdrawn{1})).ThenLabel("1 withdrawals", "A-2")
			},
			[]string{`the documents with label "1 withdrawals"`, "- A-2", "+ A-1"},
		},
		"no label": {
			func(t testing.TB) { eventstoretest.GivenDocuments(t, nil, audits(nil)).ThenLabel("") },
			[]string{"the label is empty"},
		},
		"an error where documents are wanted": {
			func(t testing.TB) {
				eventstoretest.GivenDocuments(t, nil, audits(nil), eventstoretest.On("accounts", "A-1", Withdrawn{13})).ThenDocuments(nil)
			},
			[]string{"ThenDocuments: eventstore:", "not enough money"},
		},
		"a panic where a label is wanted": {
			func(t testing.TB) {
				eventstoretest.GivenDocuments(t, nil, audits(nil), eventstoretest.On("accounts", "A-1", Withdrawn{14})).ThenLabel("a")
			},
			[]string{"ThenLabel:", "fourteen", "eventstoretest_test.audited"},
		},
		"another error": {
			func(t testing.TB) {
				eventstoretest.GivenQuery(t, nil, &eventstore.Query[int]{}).ThenError(errPoor)
			},
			[]string{"the error is: eventstore: invalid", "want: not enough money"},
		},
	} {
		got := said(c.scenario)
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: the test says\n%s\nwhich lacks\n%s", name, got, want)
			}
		}
	}
}

func TestStoreAndRecorder(t *testing.T) {
	var recorder eventstoretest.Recorder
	failure := errors.New("no such luck")
	s := eventstoretest.Store(t, &eventstore.Options{Middleware: []eventstore.Middleware{recorder.Middleware()}},
		eventstoretest.On("accounts", "a", Opened{"ann"}, Deposited{5}), eventstoretest.On("accounts", "b", Opened{"bob"}))
	count := eventstore.Query[int]{From: eventstore.FromAll(), When: []eventstore.Fold[int]{eventstore.On(func(n *int, _ Opened) { *n++ })}}
	if n, err := count.Run(t.Context(), s); n != 2 || err != nil {
		t.Errorf("%d owners (%v), want 2", n, err)
	}
	if _, err := s.Append(t.Context(), "accounts", "a", 7, eventstore.NewEvent{Payload: Deposited{1}}); err == nil {
		t.Error("an append at a wrong version has succeeded")
	}
	if len(recorder.Appended()) != 3 || len(recorder.Read()) != 2 && len(recorder.Read()) != 3 || len(recorder.Refused()) != 1 || !errors.Is(recorder.Refused()[0], eventstore.ErrConflict) {
		t.Errorf("recorded %d, %d, %v", len(recorder.Appended()), len(recorder.Read()), recorder.Refused())
	}
	recorder.Reset()
	if len(recorder.Appended())+len(recorder.Read())+len(recorder.Refused()) != 0 {
		t.Error("not all is forgotten")
	}

	s = eventstore.NewMemStore(&eventstore.Options{Middleware: []eventstore.Middleware{eventstoretest.FailAppends(2, failure), eventstoretest.LoseAnswers(1, failure)}})
	if err := s.CreateStream(t.Context(), "accounts", nil); err != nil {
		t.Fatal(err)
	}
	r := accounts.New("a")
	r.Record(Opened{"ann"})
	for i := range 3 {
		if _, err := accounts.Save(t.Context(), s, r); !errors.Is(err, failure) {
			t.Errorf("save %d: %v, want the failure", i, err)
		}
	}
	if _, err := accounts.Save(t.Context(), s, r); err != nil {
		t.Errorf("the save behind the failures: %v", err)
	}
	if r, err := accounts.Load(t.Context(), s, "a"); err != nil || r.Version() != 1 {
		t.Errorf("stored at version %d (%v), want 1", r.Version(), err)
	}
}
