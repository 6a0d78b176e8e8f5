package eventstoretest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"example.com/eventstore"
	"example.com/eventstore/eventstoretest"
)

type (
	Opened    struct{ Owner string }
	Deposited struct{ Cents int64 }
	Withdrawn struct{ Cents int64 }
	Withdraw  struct{ Cents int64 }

	depositedV1 struct{ Euros int64 }
)

func (Opened) EventName() string    { return "account.opened" }
func (Deposited) EventName() string { return "account.deposited" }
func (Withdrawn) EventName() string { return "account.withdrawn" }

func (depositedV1) EventName() string { return "account.deposited-euros" }

type Account struct {
	Owner string
	Cents int64
}

var errPoor = errors.New("not enough money")

func withdraw(r *eventstore.Root[Account], cents int64) error {
	if r.State().Cents < cents {
		return errPoor
	}
	r.Record(Withdrawn{cents})
	return nil
}

var accounts = eventstore.Aggregate[Account]{
	Stream: "accounts",
	When: []eventstore.Fold[Account]{
		eventstore.On(func(a *Account, e Opened) { a.Owner = e.Owner }),
		eventstore.On(func(a *Account, e Deposited) { a.Cents += e.Cents }),
		eventstore.On(func(a *Account, e Withdrawn) { a.Cents -= e.Cents }),
	},
	Commands: []eventstore.Command[Account]{
		eventstore.OnCommand(func(_ context.Context, r *eventstore.Root[Account], c Withdraw) error { return withdraw(r, c.Cents) }),
	},
}

// console stands for the *testing.T of a test, whose output an example can't show.
type console struct{ testing.TB }

func (console) Helper()                           {}
func (console) Context() context.Context          { return context.Background() }
func (console) Cleanup(func())                    {}
func (console) Errorf(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// Two scenarios: the second wants what is not so, and is told the difference.
func ExampleGiven() {
	t := console{} // the test's own: func TestWithdraw(t *testing.T)

	eventstoretest.Given(t, &accounts, Opened{Owner: "Ann"}, Deposited{Cents: 500}).
		When(func(r *eventstore.Root[Account]) error { return withdraw(r, 300) }).
		Then(Withdrawn{Cents: 300}).
		ThenState(Account{Owner: "Ann", Cents: 200}).
		WhenCommand(Withdraw{Cents: 300}).
		ThenError(errPoor)

	eventstoretest.Given(t, &accounts, Opened{Owner: "Bob"}, Deposited{Cents: 500}).
		WhenCommand(Withdraw{Cents: 300}).
		Then(Withdrawn{Cents: 200})
	// Output:
	// the events recorded are not those wanted (-want +got):
	// - account.withdrawn {"Cents":200}
	// + account.withdrawn {"Cents":300}
}

// A scenario on the service's own store, which has upcasters. It wants what is not so.
func ExampleGivenOn() {
	t := console{} // the test's own: func TestWithdraw(t *testing.T)

	store := eventstore.NewMemStore(&eventstore.Options{
		Upcasters: []eventstore.Upcaster{
			eventstore.Upcast(func(old depositedV1) Deposited { return Deposited{Cents: 100 * old.Euros} }),
		},
	})
	eventstoretest.GivenOn(t, store, &accounts, depositedV1{Euros: 5}).
		WhenCommand(Withdraw{Cents: 300}).
		Then(Withdrawn{Cents: 300}).
		ThenState(Account{Cents: 100})
	// Output:
	// the state is not the one wanted (-want +got):
	//   {
	//     "Owner": "",
	// -   "Cents": 100
	// +   "Cents": 200
	//   }
}

var balances = eventstore.Projection[map[string]int64]{
	Name: "balances",
	From: eventstore.FromStream("accounts"),
	Init: func() map[string]int64 { return map[string]int64{} },
	When: []eventstore.Handler[map[string]int64]{
		eventstore.OnEvent(func(b *map[string]int64, e Deposited, ev eventstore.Event) { (*b)[ev.AggregateID] += e.Cents }),
		eventstore.OnEvent(func(b *map[string]int64, e Withdrawn, ev eventstore.Event) { (*b)[ev.AggregateID] -= e.Cents }),
	},
}

// What a history comes to in a projection. The second Then wants what is not so.
func ExampleGivenProjection() {
	t := console{} // the test's own: func TestBalances(t *testing.T)

	eventstoretest.GivenProjection(t, nil, &balances, eventstoretest.On("accounts", "A-1", Deposited{Cents: 500}, Withdrawn{Cents: 300})).
		ThenState(map[string]int64{"A-1": 200}).
		When(eventstoretest.On("accounts", "A-2", Deposited{Cents: 100})).
		ThenState(map[string]int64{"A-1": 200, "A-2": 10})
	// Output:
	// the state is not the one wanted (-want +got):
	//   {
	//     "A-1": 200,
	// -   "A-2": 10
	// +   "A-2": 100
	//   }
}

var statements = eventstore.Documents[Account]{
	Name: "statements",
	From: eventstore.FromStream("accounts"),
	When: []eventstore.Handler[Account]{
		eventstore.On(func(a *Account, e Opened) { a.Owner = e.Owner }),
		eventstore.On(func(a *Account, e Deposited) { a.Cents += e.Cents }),
		eventstore.On(func(a *Account, e Withdrawn) { a.Cents -= e.Cents }),
	},
	Labels: func(_ string, a *Account) []string { return []string{a.Owner} },
}

// The documents that come of a history. The last Then wants what is not so.
func ExampleGivenDocuments() {
	t := console{} // the test's own: func TestStatements(t *testing.T)

	eventstoretest.GivenDocuments(t, nil, &statements, eventstoretest.On("accounts", "A-1", Opened{Owner: "Ann"}, Deposited{Cents: 500})).
		ThenDocument("A-1", Account{Owner: "Ann", Cents: 500}).
		When(eventstoretest.On("accounts", "A-2", Opened{Owner: "Ann"})).
		ThenLabel("Ann", "A-1", "A-2").
		ThenDocument("A-2", Account{Owner: "Ann", Cents: 100})
	// Output:
	// document "A-2" is not the one wanted (-want +got):
	//   {
	//     "Owner": "Ann",
	// -   "Cents": 100
	// +   "Cents": 0
	//   }
}

// Other tests begin with a store in which something has happened.
func ExampleStore() {
	t := console{} // the test's own: func TestBalances(t *testing.T)

	store := eventstoretest.Store(t, nil,
		eventstoretest.On("accounts", "A-1", Opened{Owner: "Ann"}, Deposited{Cents: 500}),
		eventstoretest.On("accounts", "A-2", Opened{Owner: "Bob"}),
		eventstoretest.On("accounts", "A-1", Withdrawn{Cents: 300}),
	)
	done, err := balances.CatchUp(t.Context(), store)
	fmt.Println(done.State, err)
	// Output: map[A-1:200] <nil>
}

// A service meets an append whose answer is lost, and repeats it: it is stored once.
func ExampleLoseAnswers() {
	t := console{} // the test's own: func TestLostAnswer(t *testing.T)

	store := eventstoretest.Store(t, &eventstore.Options{
		Middleware: []eventstore.Middleware{eventstoretest.LoseAnswers(2, errors.New("connection reset"))},
	})
	if err := store.CreateStream(t.Context(), "accounts", nil); err != nil {
		fmt.Println(err)
		return
	}
	account := accounts.New("A-1")
	account.Record(Opened{Owner: "Ann"})
	for range 3 {
		_, err := accounts.Save(t.Context(), store, account)
		fmt.Println(err)
	}
	account, err := accounts.Load(t.Context(), store, "A-1")
	fmt.Println("version", account.Version(), err)
	// Output:
	// connection reset
	// connection reset
	// <nil>
	// version 1 <nil>
}

// A recorder remembers what a store has been asked to do.
func ExampleRecorder() {
	t := console{} // the test's own: func TestAudit(t *testing.T)

	var recorder eventstoretest.Recorder
	store := eventstoretest.Store(t, &eventstore.Options{Middleware: []eventstore.Middleware{recorder.Middleware()}},
		eventstoretest.On("accounts", "A-1", Opened{Owner: "Ann"}))
	recorder.Reset()

	if _, err := accounts.Handle(t.Context(), store, "A-1", Withdraw{Cents: 1}); err != nil {
		fmt.Println(err)
	}
	fmt.Println(len(recorder.Read()), "read,", len(recorder.Appended()), "appended")
	// Output:
	// not enough money
	// 1 read, 0 appended
}
