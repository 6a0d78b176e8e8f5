package eventstore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/google/uuid"

	"example.com/eventstore"
)

type Opened struct{ Owner string }
type Withdrawn struct{ Cents int64 }
type Deposited struct{ Cents int64 }

func (Opened) EventName() string    { return "account.opened" }
func (Deposited) EventName() string { return "account.deposited" }
func (Withdrawn) EventName() string { return "account.withdrawn" }

type Account struct {
	Owner string
	Cents int64
}

var Accounts = eventstore.Aggregate[Account]{
	Stream: "accounts",
	When: []eventstore.Fold[Account]{
		eventstore.On(func(a *Account, e Opened) { a.Owner = e.Owner }),
		eventstore.On(func(a *Account, e Deposited) { a.Cents += e.Cents }),
		eventstore.On(func(a *Account, e Withdrawn) { a.Cents -= e.Cents }),
	},
}

// Money counts what all accounts hold.
type Money struct{ Cents int64 }

var Deposits = eventstore.Projection[Money]{
	Name: "deposits",
	From: eventstore.FromStream("accounts"),
	When: []eventstore.Handler[Money]{
		eventstore.On(func(m *Money, e Deposited) { m.Cents += e.Cents }),
		eventstore.On(func(m *Money, e Withdrawn) { m.Cents -= e.Cents }),
	},
}

// bank returns a store with two accounts.
func bank(ctx context.Context) (*eventstore.Store, error) {
	store := eventstore.NewMemStore(nil)
	err := store.CreateStream(ctx, "accounts", nil)
	_, err2 := store.Append(ctx, "accounts", "A-1", eventstore.MustNotExist,
		eventstore.NewEvent{Payload: Opened{Owner: "Ann"}}, eventstore.NewEvent{Payload: Deposited{Cents: 700}})
	_, err3 := store.Append(ctx, "accounts", "A-2", eventstore.MustNotExist,
		eventstore.NewEvent{Payload: Opened{Owner: "Ann"}}, eventstore.NewEvent{Payload: Deposited{Cents: 50}})
	return store, errors.Join(err, err2, err3)
}

// A store shares the service's pool. What it needs there is made at every start, and is there from the
// second on.
func ExampleOpen() {
	start := func(ctx context.Context, dsn string) (*sql.DB, *eventstore.Store, error) {
		db, err := sql.Open("pgx", dsn) // with import _ "github.com/jackc/pgx/v5/stdlib"
		if err != nil {
			return nil, nil, err
		}
		store, err := eventstore.Open(db, eventstore.Postgres, nil) // or eventstore.MySQL, which serves MariaDB too
		if err == nil {
			err = store.Install(ctx)
		}
		if err == nil {
			err = store.CreateStream(ctx, "accounts", nil)
		}
		if errors.Is(err, eventstore.ErrStreamExists) {
			err = nil // this is not the first start
		}
		return db, store, err
	}
	_ = start
}

// An append says at which version it expects the aggregate, and can be repeated.
func ExampleStore_Append() {
	ctx := context.Background()
	store, err := bank(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	withdrawal := eventstore.NewEvent{
		ID:       uuid.Must(uuid.NewV7()), // for repeating
		Payload:  Withdrawn{Cents: 20},
		Metadata: eventstore.Metadata{"user": "ann"},
	}
	stored, err := store.Append(ctx, "accounts", "A-2", 2, withdrawal) // version 2 is what was read
	fmt.Println("version", stored[0].Version, err)

	// The answer was lost? The same again changes nothing.
	again, err := store.Append(ctx, "accounts", "A-2", 2, withdrawal)
	fmt.Println("still at position", again[0].Position == stored[0].Position, err)

	// Who decided on version 2 as well comes too late.
	_, err = store.Append(ctx, "accounts", "A-2", 2, eventstore.NewEvent{Payload: Withdrawn{Cents: 50}})
	var conflict *eventstore.ConflictError
	if errors.As(err, &conflict) {
		fmt.Println("conflict at version", conflict.Actual)
	}
	// Output:
	// version 3 <nil>
	// still at position true <nil>
	// conflict at version 3
}

// Reads pick events by stream, category and matches, in both directions.
func ExampleStore_Read() {
	ctx := context.Background()
	store, err := bank(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	large := eventstore.FromStream("accounts", eventstore.ByAggregateID.In("A-1", "A-7"), eventstore.ByEventName.NotEquals("account.opened"))
	for ev, err := range store.Read(ctx, large, eventstore.ReadOptions{}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(ev.AggregateID, ev.Version, ev.Name, string(ev.Data))
	}
	latest := eventstore.ReadOptions{Backward: true, Limit: 1}
	for ev, err := range store.Read(ctx, eventstore.FromAll(), latest) {
		fmt.Println("last:", ev.Position, ev.Name, err)
	}
	// Output:
	// A-1 2 account.deposited {"Cents":700}
	// last: 4 account.deposited <nil>
}

// A transfer changes both accounts, or neither. If another writer gets in first it is decided anew.
func ExampleStore_Transact() {
	ctx := context.Background()
	store, err := bank(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	withdraw := func(s *eventstore.Store, account string, cents int64) error {
		_, err := Accounts.Execute(ctx, s, account, func(r *eventstore.Root[Account]) error {
			if r.State().Cents < cents {
				return errors.New("not enough money")
			}
			r.Record(Withdrawn{Cents: cents})
			return nil
		})
		return err
	}
	deposit := func(s *eventstore.Store, account string, cents int64) error {
		_, err := Accounts.Execute(ctx, s, account, func(r *eventstore.Root[Account]) error {
			r.Record(Deposited{Cents: cents})
			return nil
		})
		return err
	}
	transfer := func(from, to string, cents int64) error {
		return store.Transact(ctx, func(tx *eventstore.Store) error {
			if err := withdraw(tx, from, cents); err != nil {
				return err
			}
			return deposit(tx, to, cents)
		})
	}
	fmt.Println(transfer("A-1", "A-2", 300))
	fmt.Println(transfer("A-1", "A-2", 1_000_000))
	for _, account := range []string{"A-1", "A-2"} {
		r, err := Accounts.Load(ctx, store, account)
		fmt.Println(account, r.State().Cents, err)
	}
	// Output:
	// <nil>
	// not enough money
	// A-1 400 <nil>
	// A-2 350 <nil>
}

// Events and the service's own rows commit together. A conflict or ErrRetryTx means: roll back, and
// run the whole transaction again.
func ExampleStore_WithTx() {
	pay := func(ctx context.Context, db *sql.DB, store *eventstore.Store, invoice, account string, cents int64) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // does nothing after Commit
		if _, err := tx.ExecContext(ctx, "UPDATE invoices SET paid = true WHERE id = $1", invoice); err != nil {
			return err
		}
		_, err = Accounts.Execute(ctx, store.WithTx(tx), account, func(r *eventstore.Root[Account]) error {
			if r.State().Cents < cents {
				return errors.New("not enough money")
			}
			r.Record(Withdrawn{Cents: cents})
			return nil
		})
		if err != nil {
			return err
		}
		return tx.Commit()
	}
	retried := func(ctx context.Context, db *sql.DB, store *eventstore.Store) (err error) {
		for range 5 {
			err = pay(ctx, db, store, "I-1", "A-1", 300)
			if !errors.Is(err, eventstore.ErrRetryTx) && !errors.Is(err, eventstore.ErrConflict) {
				break
			}
		}
		return err
	}
	_ = retried
}

func ExampleProjection() {
	ctx := context.Background()
	store, err := bank(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	before, err := Deposits.CatchUp(ctx, store)
	fmt.Println(before.State.Cents, err)

	// A service has it follow instead: go Deposits.Run(ctx, store)
	running, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error)
	go func() { done <- Deposits.Run(running, store) }()
	account, err := Accounts.Execute(ctx, store, "A-2", func(r *eventstore.Root[Account]) error {
		r.Record(Withdrawn{Cents: 20})
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := Deposits.Wait(ctx, store, account.Position()); err != nil { // read your writes
		fmt.Println(err)
		return
	}
	after, err := Deposits.Load(ctx, store)
	fmt.Println(after.State.Cents, err)
	stop()
	fmt.Println(<-done)
	// Output:
	// 750 <nil>
	// 730 <nil>
	// context canceled
}

// A service runs what follows the log beside its other work, and lets it end before it closes the pool.
func Example_service() {
	serve := func(ctx context.Context, db *sql.DB, store *eventstore.Store, relay *eventstore.Relay) error {
		ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
		ended := make(chan error)
		go func() { ended <- Deposits.Run(ctx, store) }()
		go func() { ended <- relay.Run(ctx, store) }()
		err := <-ended // context.Canceled at the signal; earlier if a handler has failed for good
		stop()
		return errors.Join(err, <-ended, db.Close())
	}
	_ = serve
}

// Do writes the service's own tables in the transaction that also stores the projection's position.
func ExampleStep_Tx() {
	balances := eventstore.Projection[struct{}]{
		Name: "balances",
		From: eventstore.FromStream("accounts"),
		When: []eventstore.Handler[struct{}]{
			eventstore.Do(func(ctx context.Context, step *eventstore.Step[struct{}], e Deposited) error {
				tx, err := step.Tx()
				if err != nil {
					return err
				}
				_, err = tx.ExecContext(ctx, "UPDATE balances SET cents = cents + $1 WHERE account = $2", e.Cents, step.Event.AggregateID)
				return err
			}),
		},
	}
	follow := func(ctx context.Context, db *sql.DB) error {
		store, err := eventstore.Open(db, eventstore.Postgres, nil)
		if err != nil {
			return err
		}
		return balances.Run(ctx, store)
	}
	_ = follow
}

func ExampleQuery() {
	ctx := context.Background()
	store, err := bank(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	owners := eventstore.Query[map[string]int]{
		From: eventstore.FromStream("accounts"),
		Init: func() map[string]int { return map[string]int{} },
		When: []eventstore.Fold[map[string]int]{
			eventstore.On(func(n *map[string]int, e Opened) { (*n)[e.Owner]++ }),
		},
	}
	fmt.Println(owners.Run(ctx, store))
	// Output: map[Ann:2] <nil>
}

func ExampleRelay() {
	ctx := context.Background()
	store, err := bank(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	relay := eventstore.Relay{
		Name: "to-the-broker",
		From: eventstore.FromStream("accounts", eventstore.ByEventName.Equals("account.opened")),
		Publish: func(ctx context.Context, events []eventstore.Event) error {
			for _, ev := range events {
				fmt.Println("publish", ev.Name, string(ev.Data))
			}
			stop() // a service goes on until it shuts down
			return nil
		},
	}
	fmt.Println(relay.Run(running, store))
	// Output:
	// publish account.opened {"Owner":"Ann"}
	// publish account.opened {"Owner":"Ann"}
	// context canceled
}

func ExampleStore_Subscribe() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	store, err := bank(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	for ev, err := range store.Subscribe(ctx, eventstore.FromAll(eventstore.ByEventName.Equals("account.opened")), 0) {
		if err != nil {
			fmt.Println(err)
			break
		}
		fmt.Println(ev.Name)
		if ev.Position > 2 {
			stop()
		}
	}
	// Output:
	// account.opened
	// account.opened
	// context canceled
}

func ExampleStore_Stats() {
	gauge := func(name string, value float64, projection string) { // of whatever collects metrics
		if projection != "" {
			name += fmt.Sprintf("{projection=%q}", projection)
		}
		fmt.Printf("%s %.0f\n", name, value)
	}
	export := func(ctx context.Context, store *eventstore.Store) error {
		stats, err := store.Stats(ctx)
		if err != nil {
			return err
		}
		gauge("eventstore_sealed_position", float64(stats.Sealed), "")
		gauge("eventstore_sealed_lag", float64(stats.Lag), "")
		gauge("eventstore_sealing_waited_seconds", stats.Waited.Seconds(), "")
		for _, p := range stats.Projections {
			gauge("eventstore_projection_lag", float64(p.Lag), p.Name)
			gauge("eventstore_projection_behind_seconds", p.Behind.Seconds(), p.Name)
			gauge("eventstore_projection_parked", float64(p.Parked), p.Name)
		}
		return nil
	}

	ctx := context.Background()
	store, err := bank(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = Deposits.CatchUp(ctx, store)
	_, err2 := store.Append(ctx, "accounts", "A-2", 2, eventstore.NewEvent{Payload: Withdrawn{Cents: 20}})
	fmt.Println(errors.Join(err, err2, export(ctx, store)))
	// Output:
	// eventstore_sealed_position 5
	// eventstore_sealed_lag 0
	// eventstore_sealing_waited_seconds 0
	// eventstore_projection_lag{projection="deposits"} 1
	// eventstore_projection_behind_seconds{projection="deposits"} 0
	// eventstore_projection_parked{projection="deposits"} 0
	// <nil>
}

func Example() {
	ctx := context.Background()
	store := eventstore.NewMemStore(nil)
	if err := store.CreateStream(ctx, "accounts", nil); err != nil {
		fmt.Println(err)
		return
	}
	_, err := Accounts.Execute(ctx, store, "A-1", func(r *eventstore.Root[Account]) error {
		r.Record(Opened{Owner: "Ann"})
		r.Record(Deposited{Cents: 1000})
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	account, err := Accounts.Execute(ctx, store, "A-1", func(r *eventstore.Root[Account]) error {
		if r.State().Cents < 300 {
			return errors.New("not enough money")
		}
		r.Record(Withdrawn{Cents: 300})
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(account.State().Owner, account.State().Cents, "at version", account.Version())

	for ev, err := range store.Read(ctx, eventstore.FromStream("accounts"), eventstore.ReadOptions{}) {
		fmt.Println(ev.Position, ev.Name, string(ev.Data), err)
	}
	// Output:
	// Ann 700 at version 3
	// 1 account.opened {"Owner":"Ann"} <nil>
	// 2 account.deposited {"Cents":1000} <nil>
	// 3 account.withdrawn {"Cents":300} <nil>
}
