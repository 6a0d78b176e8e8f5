package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"example.com/eventstore"
)

// A customer's events as they are today, and as they once were.
type (
	Registered    struct{ First, Last string }
	AddressGiven  struct{ Street, City string }
	ContactsGiven struct{ Email, Phone string } // until it was found to be two events
	EmailGiven    struct{ Email string }
	PhoneGiven    struct{ Phone string }

	registeredV1 struct{ Name string }
)

func (Registered) EventName() string    { return "customer.registered.2" }
func (registeredV1) EventName() string  { return "customer.registered" }
func (AddressGiven) EventName() string  { return "customer.address-given" }
func (ContactsGiven) EventName() string { return "customer.contacts-given" }
func (EmailGiven) EventName() string    { return "customer.email-given" }
func (PhoneGiven) EventName() string    { return "customer.phone-given" }

// Upcasters go to [eventstore.Options]. What is stored stays as it is.
var Upcasters = []eventstore.Upcaster{
	eventstore.Upcast(func(old registeredV1) Registered {
		first, last, _ := strings.Cut(old.Name, " ")
		return Registered{First: first, Last: last}
	}),
	eventstore.Split(func(old ContactsGiven) []eventstore.Payload {
		return []eventstore.Payload{EmailGiven{old.Email}, PhoneGiven{old.Phone}}
	}),
	eventstore.Rename("customer.moved", "customer.address-given"),
}

// customers returns a store in which these have happened to customer C-1.
func customers(ctx context.Context, happened ...eventstore.Payload) (*eventstore.Store, error) {
	store := eventstore.NewMemStore(&eventstore.Options{Upcasters: Upcasters})
	err := store.CreateStream(ctx, "customers", nil)
	for _, p := range happened {
		_, err2 := store.Append(ctx, "customers", "C-1", eventstore.AnyVersion, eventstore.NewEvent{Payload: p})
		err = errors.Join(err, err2)
	}
	return store, err
}

// An event of an earlier shape is seen in today's.
func ExampleUpcast() {
	ctx := context.Background()
	store, err := customers(ctx, registeredV1{Name: "Ann Smith"})
	if err != nil {
		fmt.Println(err)
		return
	}
	names := eventstore.Query[[]string]{
		From: eventstore.FromStream("customers"),
		When: []eventstore.Fold[[]string]{
			eventstore.On(func(names *[]string, e Registered) { *names = append(*names, e.Last+", "+e.First) }),
		},
	}
	fmt.Println(names.Run(ctx, store))
	// Output: [Smith, Ann] <nil>
}

// Invoiced once had no date: it was the day on which it was stored, wherever that was.
type (
	Invoiced struct {
		Cents int64
		Day   string
	}
	invoicedV1 struct{ Cents int64 }
)

func (Invoiced) EventName() string   { return "invoiced.2" }
func (invoicedV1) EventName() string { return "invoiced" }

// What an event lacks may be around it: when it was stored, and its metadata.
func ExampleUpcastEvent() {
	ctx := context.Background()
	store := eventstore.NewMemStore(&eventstore.Options{
		Now: func() time.Time { return time.Date(2026, time.March, 29, 0, 30, 0, 0, time.UTC) },
		Upcasters: []eventstore.Upcaster{
			eventstore.UpcastEvent(func(old invoicedV1, ev eventstore.Event) Invoiced {
				return Invoiced{Cents: old.Cents, Day: ev.RecordedAt.Format(time.DateOnly)}
			}),
		},
	})
	err := store.CreateStream(ctx, "invoices", nil)
	if err == nil {
		_, err = store.Append(ctx, "invoices", "I-1", eventstore.MustNotExist, eventstore.NewEvent{Payload: invoicedV1{Cents: 500}})
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	days := eventstore.Query[string]{
		From: eventstore.FromStream("invoices"),
		When: []eventstore.Fold[string]{
			eventstore.On(func(day *string, e Invoiced) { *day = e.Day }),
		},
	}
	fmt.Println(days.Run(ctx, store))
	// Output: 2026-03-29 <nil>
}

// One stored event becomes two.
func ExampleSplit() {
	ctx := context.Background()
	store, err := customers(ctx, ContactsGiven{Email: "ann@example.com", Phone: "555-0100"})
	if err != nil {
		fmt.Println(err)
		return
	}
	emails := eventstore.Query[int]{
		From: eventstore.FromStream("customers"),
		When: []eventstore.Fold[int]{
			eventstore.On(func(n *int, e EmailGiven) { *n++ }),
		},
	}
	fmt.Println(emails.Run(ctx, store))
	// Output: 1 <nil>
}

// moved is the event before it was given another name.
type customerMoved AddressGiven

func (customerMoved) EventName() string { return "customer.moved" }

// Events stored under an earlier name are seen under today's.
func ExampleRename() {
	ctx := context.Background()
	store, err := customers(ctx, customerMoved{Street: "1 Elm St", City: "Springfield"})
	if err != nil {
		fmt.Println(err)
		return
	}
	cities := eventstore.Query[string]{
		From: eventstore.FromStream("customers"),
		When: []eventstore.Fold[string]{
			eventstore.On(func(city *string, e AddressGiven) { *city = e.City }),
		},
	}
	fmt.Println(cities.Run(ctx, store))
	// Output: Springfield <nil>
}

// Decode gives an event that was read its type, through the upcasters.
func ExampleDecode() {
	ctx := context.Background()
	store, err := customers(ctx, registeredV1{Name: "Ann Smith"}, PhoneGiven{Phone: "555-0100"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for ev, err := range store.ReadAggregate(ctx, "customers", "C-1", 0) {
		if err != nil {
			fmt.Println(err)
			return
		}
		registered, err := eventstore.Decode[Registered](ev)
		switch {
		case errors.Is(err, eventstore.ErrUnknownEvent):
			fmt.Println("something else:", ev.Name)
		case err != nil:
			fmt.Println(err)
		default:
			fmt.Println(registered.First, "is stored as", string(ev.Data))
		}
	}
	// Output:
	// Ann is stored as {"Name":"Ann Smith"}
	// something else: customer.phone-given
}
