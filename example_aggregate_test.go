package eventstore_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"example.com/eventstore"
)

type OrderPlaced struct {
	Customer string
	Cents    int64
}
type OrderPaid struct{ Cents int64 }

func (OrderPlaced) EventName() string { return "order.placed" }
func (OrderPaid) EventName() string   { return "order.paid" }

type Order struct {
	Customer   string
	Cents, Due int64
}

// Pay is a command: what somebody wants, not what has happened.
type Pay struct{ Cents int64 }

var ErrOverpaid = errors.New("that is more than what is due")

var Orders = eventstore.Aggregate[Order]{
	Stream: "orders",
	When: []eventstore.Fold[Order]{
		eventstore.On(func(o *Order, e OrderPlaced) { o.Customer, o.Cents, o.Due = e.Customer, e.Cents, e.Cents }),
		eventstore.On(func(o *Order, e OrderPaid) { o.Due -= e.Cents }),
	},
	Commands: []eventstore.Command[Order]{
		eventstore.OnCommand(func(_ context.Context, r *eventstore.Root[Order], c Pay) error {
			if c.Cents > r.State().Due {
				return ErrOverpaid
			}
			r.Record(OrderPaid(c))
			return nil
		}),
	},
	Snapshot: eventstore.Snapshot{Every: 100, Schema: 1},
}

// shop returns a store with an order.
func shop(ctx context.Context, opts *eventstore.Options) (*eventstore.Store, error) {
	store := eventstore.NewMemStore(opts)
	err := store.CreateStream(ctx, "orders", nil)
	_, err2 := store.Append(ctx, "orders", "O-1", eventstore.MustNotExist,
		eventstore.NewEvent{Payload: OrderPlaced{Customer: "Ann", Cents: 500}})
	return store, errors.Join(err, err2)
}

// An aggregate is made, records events, is saved, and is loaded from its events.
func ExampleAggregate() {
	ctx := context.Background()
	store, err := shop(ctx, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	order := Orders.New("O-2")
	order.Record(OrderPlaced{Customer: "Bob", Cents: 900})
	stored, err := Orders.Save(ctx, store, order)
	fmt.Println(len(stored), "event stored:", err)

	order, err = Orders.Load(ctx, store, "O-2")
	fmt.Printf("%+v at version %d, %v\n", order.State(), order.Version(), err)

	_, err = Orders.Load(ctx, store, "O-3")
	fmt.Println(errors.Is(err, eventstore.ErrAggregateNotFound))
	// Output:
	// 1 event stored: <nil>
	// {Customer:Bob Cents:900 Due:900} at version 1, <nil>
	// true
}

// Execute is the usual way to change an aggregate: if another process was faster, decide is asked
// again with the new state.
func ExampleAggregate_Execute() {
	ctx := context.Background()
	store, err := shop(ctx, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	pay := func(cents int64) func(*eventstore.Root[Order]) error {
		return func(r *eventstore.Root[Order]) error {
			if cents > r.State().Due {
				return ErrOverpaid
			}
			r.Record(OrderPaid{Cents: cents})
			return nil
		}
	}
	order, err := Orders.Execute(ctx, store, "O-1", pay(400))
	fmt.Println(order.State().Due, "due,", err)
	_, err = Orders.Execute(ctx, store, "O-1", pay(400)) // nothing is stored
	fmt.Println(err)
	// Output:
	// 100 due, <nil>
	// that is more than what is due
}

// Handle carries out commands by their type.
func ExampleAggregate_Handle() {
	ctx := context.Background()
	store, err := shop(ctx, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	order, err := Orders.Handle(ctx, store, "O-1", Pay{Cents: 500})
	fmt.Println(order.State().Due, "due,", err)
	_, err = Orders.Handle(ctx, store, "O-1", "pay!")
	fmt.Println(errors.Is(err, eventstore.ErrUnknownCommand))
	// Output:
	// 0 due, <nil>
	// true
}

// Orders has a snapshot every hundred events. When what the folds make of them changes, Schema is
// raised: snapshots of other numbers are not used. SaveSnapshot makes one at once.
func ExampleSnapshot() {
	ctx := context.Background()
	store, err := shop(ctx, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 250 {
		if _, err := Orders.Handle(ctx, store, "O-1", Pay{Cents: 1}); err != nil {
			fmt.Println(err)
			return
		}
	}
	order, err := Orders.Load(ctx, store, "O-1") // reads a snapshot, and the events behind it
	fmt.Println(order.State().Due, "due at version", order.Version(), err)
	fmt.Println(Orders.SaveSnapshot(ctx, store, "O-1"))
	// Output:
	// 250 due at version 251 <nil>
	// <nil>
}

// Middleware sees every append, and every event that is read. This one takes the time.
func ExampleMiddleware() {
	ctx := context.Background()
	timed := eventstore.Middleware{
		Append: func(ctx context.Context, b eventstore.Batch, next func(context.Context, eventstore.Batch) ([]eventstore.Event, error)) ([]eventstore.Event, error) {
			began := time.Now()
			stored, err := next(ctx, b)
			fmt.Println(len(b.Events), "event for", b.AggregateID, "in less than a minute:", time.Since(began) < time.Minute, err)
			return stored, err
		},
	}
	if _, err := shop(ctx, &eventstore.Options{Middleware: []eventstore.Middleware{timed}}); err != nil {
		fmt.Println(err)
	}
	// Output: 1 event for O-1 in less than a minute: true <nil>
}

type userKey struct{}

// Metadata adds what every event should carry, here the user that the request's context names.
func ExampleOptions() {
	ctx := context.WithValue(context.Background(), userKey{}, "ann")
	store, err := shop(ctx, &eventstore.Options{
		Metadata: func(ctx context.Context) eventstore.Metadata {
			user, _ := ctx.Value(userKey{}).(string)
			return eventstore.Metadata{"user": user}
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for ev, err := range store.Read(ctx, eventstore.FromAll(eventstore.Meta("user").Equals("ann")), eventstore.ReadOptions{}) {
		fmt.Println(ev.Name, ev.Metadata, err)
	}
	// Output: order.placed map[user:ann] <nil>
}

// veiled is a codec that keeps payloads from being read at a glance. Encryption looks the same: what
// Marshal returns is JSON.
type veiled struct{}

func (veiled) Marshal(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return json.Marshal(base64.StdEncoding.EncodeToString(text))
}

func (veiled) Unmarshal(data []byte, v any) error {
	var veil string
	if err := json.Unmarshal(data, &veil); err != nil {
		return err
	}
	text, err := base64.StdEncoding.DecodeString(veil)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}

func ExampleCodec() {
	ctx := context.Background()
	store, err := shop(ctx, &eventstore.Options{Codec: veiled{}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for ev, err := range store.ReadAggregate(ctx, "orders", "O-1", 0) {
		fmt.Println(string(ev.Data), err)
	}
	order, err := Orders.Load(ctx, store, "O-1")
	fmt.Println(order.State().Customer, err)
	// Output:
	// "eyJDdXN0b21lciI6IkFubiIsIkNlbnRzIjo1MDB9" <nil>
	// Ann <nil>
}
