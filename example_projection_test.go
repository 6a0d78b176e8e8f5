package eventstore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"example.com/eventstore"
)

type Received struct{ Pieces int }
type Shipped struct{ Pieces int }
type RunLow struct{ Left int }

func (Received) EventName() string { return "stock.received" }
func (Shipped) EventName() string  { return "stock.shipped" }
func (RunLow) EventName() string   { return "stock.run-low" }

// warehouse returns a store in which ten chairs have been received, and eight shipped.
func warehouse(ctx context.Context) (*eventstore.Store, error) {
	store := eventstore.NewMemStore(nil)
	err := store.CreateStream(ctx, "stock", nil)
	_, err2 := store.Append(ctx, "stock", "chair", eventstore.MustNotExist,
		eventstore.NewEvent{Payload: Received{Pieces: 10}}, eventstore.NewEvent{Payload: Shipped{Pieces: 8}})
	return store, errors.Join(err, err2)
}

// Do is for what is more than a change of the state, and can fail. A database's transaction also
// stores the position, so that each event counts once; a mail, as here, can be sent twice, when a
// batch that was not committed is handled again.
func ExampleDo() {
	ctx := context.Background()
	store, err := warehouse(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	mailing := eventstore.Projection[struct{}]{
		Name: "mails",
		From: eventstore.FromStream("stock"),
		When: []eventstore.Handler[struct{}]{
			eventstore.Do(func(_ context.Context, step *eventstore.Step[struct{}], e Shipped) error {
				fmt.Println("mail:", e.Pieces, step.Event.AggregateID+"s are on their way")
				return nil
			}),
		},
	}
	done, err := mailing.CatchUp(ctx, store)
	fmt.Println("up to", done.Position, err)
	// Output:
	// mail: 8 chairs are on their way
	// up to 2 <nil>
}

// A projection can make new events of those that it sees. They are stored with its position, once.
func ExampleStep_Emit() {
	ctx := context.Background()
	store, err := warehouse(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	type levels map[string]int
	watch := eventstore.Projection[levels]{
		Name: "stock-watch", // also the stream that it emits to
		From: eventstore.FromStream("stock"),
		Init: func() levels { return levels{} },
		When: []eventstore.Handler[levels]{
			eventstore.OnEvent(func(l *levels, e Received, ev eventstore.Event) { (*l)[ev.AggregateID] += e.Pieces }),
			eventstore.Do(func(ctx context.Context, step *eventstore.Step[levels], e Shipped) error {
				left := (*step.State)[step.Event.AggregateID] - e.Pieces
				(*step.State)[step.Event.AggregateID] = left
				if left < 5 {
					return step.Emit(ctx, eventstore.NewEvent{Payload: RunLow{Left: left}})
				}
				return nil
			}),
		},
	}
	if _, err := watch.CatchUp(ctx, store); err != nil {
		fmt.Println(err)
		return
	}
	for ev, err := range store.Read(ctx, eventstore.FromStream("stock-watch"), eventstore.ReadOptions{}) {
		fmt.Println(ev.AggregateID, ev.Name, string(ev.Data), err)
	}
	// Output: chair stock.run-low {"Left":2} <nil>
}

// LinkTo sorts events into further streams, where they can be read by themselves.
func ExampleStep_LinkTo() {
	ctx := context.Background()
	store, err := warehouse(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	sorting := eventstore.Projection[struct{}]{
		Name: "sorting",
		From: eventstore.FromStream("stock"),
		When: []eventstore.Handler[struct{}]{
			eventstore.DoAny(func(ctx context.Context, step *eventstore.Step[struct{}]) error {
				return step.LinkTo(ctx, "stock-of-"+step.Event.AggregateID)
			}),
		},
	}
	if _, err := sorting.CatchUp(ctx, store); err != nil {
		fmt.Println(err)
		return
	}
	for ev, err := range store.Read(ctx, eventstore.FromStream("stock-of-chair"), eventstore.ReadOptions{}) {
		fmt.Println(ev.Name, "linked from", ev.Metadata["$link.stream"], ev.Metadata["$link.position"], err)
	}
	// Output:
	// stock.received linked from stock 1 <nil>
	// stock.shipped linked from stock 2 <nil>
}

// Run follows the log until its context ends, in as many processes as there are: one of them does
// the work. CatchUp comes back when everything so far is in, as jobs and tests want it.
func ExampleProjection_Run() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	store, err := warehouse(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	shipped := eventstore.Projection[int]{
		Name: "shipped",
		From: eventstore.FromStream("stock"),
		When: []eventstore.Handler[int]{
			eventstore.On(func(n *int, e Shipped) { *n += e.Pieces }),
			eventstore.DoAny(func(_ context.Context, step *eventstore.Step[int]) error {
				fmt.Println(*step.State, "shipped when", step.Event.Name, "comes")
				return nil
			}),
		},
	}
	done := make(chan error)
	go func() { done <- shipped.Run(ctx, store) }()

	stored, err := store.Append(ctx, "stock", "table", eventstore.MustNotExist, eventstore.NewEvent{Payload: Shipped{Pieces: 1}})
	if err != nil {
		fmt.Println(err)
		return
	}
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	fmt.Println(shipped.Wait(wait, store, stored[0].Position)) // the append is in
	stop()
	fmt.Println(<-done)
	// Output:
	// 0 shipped when stock.received comes
	// <nil>
	// context canceled
}

// An event that a projection can't handle is parked, and what follows of its aggregate behind it,
// so that the others go on. When the reason is gone, it is tried again.
func ExampleStore_RetryParked() {
	ctx := context.Background()
	store, err := warehouse(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	printer := errors.New("the label printer is off")
	labels := eventstore.Projection[struct{}]{
		Name: "labels",
		From: eventstore.FromStream("stock"),
		When: []eventstore.Handler[struct{}]{
			eventstore.Do(func(context.Context, *eventstore.Step[struct{}], Shipped) error { return printer }),
		},
		OnError: func(context.Context, eventstore.Event, error, int) eventstore.ErrorAction { return eventstore.Park },
	}
	_, err = labels.CatchUp(ctx, store)
	parked, err2 := store.ParkedEvents(ctx, "labels")
	fmt.Println(len(parked), "parked:", parked[0].Event.Name, "because", parked[0].Error, err, err2)

	printer = nil // it is on again
	err = store.RetryParked(ctx, "labels")
	_, err2 = labels.CatchUp(ctx, store)
	parked, err3 := store.ParkedEvents(ctx, "labels")
	fmt.Println(len(parked), "parked", err, err2, err3)
	// Output:
	// 1 parked: stock.shipped because the label printer is off <nil> <nil>
	// 0 parked <nil> <nil> <nil>
}

// A table of the service's own, filled by a projection: rows and position commit together.
func ExampleTable() {
	levels := &eventstore.Table{
		Dialect: eventstore.Postgres,
		Name:    "stock_levels",
		Create:  "CREATE TABLE IF NOT EXISTS stock_levels (product text PRIMARY KEY, pieces bigint NOT NULL)",
		Key:     []string{"product"},
	}
	projection := eventstore.Projection[map[string]int]{
		Name:      "stock-levels",
		From:      eventstore.FromStream("stock"),
		Init:      func() map[string]int { return map[string]int{} },
		ReadModel: levels, // created before the first event, emptied by Reset, dropped by Delete
		When: []eventstore.Handler[map[string]int]{
			eventstore.OnEvent(func(l *map[string]int, e Received, ev eventstore.Event) { (*l)[ev.AggregateID] += e.Pieces }),
			eventstore.OnEvent(func(l *map[string]int, e Shipped, ev eventstore.Event) { (*l)[ev.AggregateID] -= e.Pieces }),
			eventstore.Do(func(ctx context.Context, step *eventstore.Step[map[string]int], _ Received) error {
				product := step.Event.AggregateID
				return levels.Upsert(ctx, step, eventstore.Row{"product": product, "pieces": (*step.State)[product]})
			}),
			eventstore.Do(func(ctx context.Context, step *eventstore.Step[map[string]int], e Shipped) error {
				tx, err := step.Tx() // for statements of one's own
				if err != nil {
					return err
				}
				_, err = tx.ExecContext(ctx, "UPDATE stock_levels SET pieces = pieces - $1 WHERE product = $2", e.Pieces, step.Event.AggregateID)
				return err
			}),
		},
	}
	follow := func(ctx context.Context, db *sql.DB) error {
		store, err := eventstore.Open(db, eventstore.Postgres, nil)
		if err != nil {
			return err
		}
		return projection.Run(ctx, store)
	}
	_ = follow
}
