package eventstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"example.com/eventstore"
)

type (
	TicketOpened   struct{ Title, Agent string }
	TicketAssigned struct{ Agent string }
	TicketSolved   struct{}
	Commented      struct {
		Text     string
		Mentions []string
	}
)

func (TicketOpened) EventName() string   { return "ticket.opened" }
func (TicketAssigned) EventName() string { return "ticket.assigned" }
func (TicketSolved) EventName() string   { return "ticket.solved" }
func (Commented) EventName() string      { return "ticket.commented" }

// Ticket is a ticket as the help desk's list shows it.
type Ticket struct{ Title, Agent string }

// Tickets has a document for each ticket that is open. Its key is the aggregate's ID, its label the agent.
var Tickets = eventstore.Documents[Ticket]{
	Name: "tickets",
	From: eventstore.FromStream("tickets"),
	When: []eventstore.Handler[Ticket]{
		eventstore.On(func(t *Ticket, e TicketOpened) { t.Title, t.Agent = e.Title, e.Agent }),
		eventstore.On(func(t *Ticket, e TicketAssigned) { t.Agent = e.Agent }),
		eventstore.Drop[TicketSolved, Ticket](),
	},
	Labels: func(_ string, t *Ticket) []string { return []string{"agent=" + t.Agent} },
}

// helpDesk returns a store with four tickets.
func helpDesk(ctx context.Context) (*eventstore.Store, error) {
	store := eventstore.NewMemStore(nil)
	if err := store.CreateStream(ctx, "tickets", nil); err != nil {
		return nil, err
	}
	for _, t := range []struct{ id, title, agent string }{
		{"T-1", "No sound", "ann"}, {"T-2", "No light", "bob"}, {"T-3", "Smoke", "ann"}, {"T-4", "Noise", "ann"},
	} {
		_, err := store.Append(ctx, "tickets", t.id, eventstore.MustNotExist, eventstore.NewEvent{Payload: TicketOpened{t.title, t.agent}})
		if err != nil {
			return nil, err
		}
	}
	return store, nil
}

// A service has Documents.Run follow the log, as it has projections. CatchUp is for jobs and tests.
func ExampleDocuments() {
	ctx := context.Background()
	store, err := helpDesk(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := store.Append(ctx, "tickets", "T-2", eventstore.MustExist, eventstore.NewEvent{Payload: TicketAssigned{Agent: "ann"}}); err != nil {
		fmt.Println(err)
		return
	}
	if _, err := Tickets.CatchUp(ctx, store); err != nil {
		fmt.Println(err)
		return
	}
	doc, err := Tickets.Get(ctx, store, "T-2")
	fmt.Printf("%s: %+v, by event %d, %v\n", doc.Key, doc.State, doc.Position, err)

	_, err = Tickets.Get(ctx, store, "T-9")
	fmt.Println(errors.Is(err, eventstore.ErrDocumentNotFound))
	// Output:
	// T-2: {Title:No light Agent:ann}, by event 5, <nil>
	// true
}

// All finds documents by label, in the order of their keys. Limit and After make pages.
func ExampleDocuments_All() {
	ctx := context.Background()
	store, err := helpDesk(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := Tickets.CatchUp(ctx, store); err != nil {
		fmt.Println(err)
		return
	}
	page := eventstore.DocumentOptions{Label: "agent=ann", Limit: 2}
	for n := 1; n <= 2; n++ {
		for doc, err := range Tickets.All(ctx, store, page) {
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Println("page", n, doc.Key, doc.State.Title)
			page.After = doc.Key
		}
	}
	// Output:
	// page 1 T-1 No sound
	// page 1 T-3 Smoke
	// page 2 T-4 Noise
}

// A page of an HTTP API ends with the key after which the next one begins. It asks for one document more than it
// shows, which tells whether there is a next page.
func ExampleDocuments_All_http() {
	ctx := context.Background()
	store, err := helpDesk(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := Tickets.CatchUp(ctx, store); err != nil {
		fmt.Println(err)
		return
	}
	const size = 3
	list := func(w http.ResponseWriter, r *http.Request) {
		var page struct {
			Tickets []Ticket
			Next    string `json:",omitempty"`
		}
		last := ""
		opts := eventstore.DocumentOptions{After: r.URL.Query().Get("after"), Limit: size + 1}
		for doc, err := range Tickets.All(r.Context(), store, opts) {
			if errors.Is(err, eventstore.ErrInvalid) { // a key that none can be
				http.Error(w, "after: want a key", http.StatusBadRequest)
				return
			}
			if err != nil {
				http.Error(w, "internal error", http.StatusInternalServerError)
				return
			}
			if len(page.Tickets) == size {
				page.Next = last
				break
			}
			page.Tickets, last = append(page.Tickets, doc.State), doc.Key
		}
		_ = json.NewEncoder(w).Encode(page)
	}
	for _, url := range []string{"/tickets", "/tickets?after=T-3"} {
		w := httptest.NewRecorder()
		list(w, httptest.NewRequest("GET", url, nil))
		fmt.Print(url, " ", w.Body)
	}
	// Output:
	// /tickets {"Tickets":[{"Title":"No sound","Agent":"ann"},{"Title":"No light","Agent":"bob"},{"Title":"Smoke","Agent":"ann"}],"Next":"T-3"}
	// /tickets?after=T-3 {"Tickets":[{"Title":"Noise","Agent":"ann"}]}
}

// A comment belongs to one ticket and changes the documents of all people that it mentions.
func ExampleOnKey() {
	ctx := context.Background()
	store, err := helpDesk(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, e := range []Commented{{"Can you look?", []string{"ann", "bob"}}, {"It is the fan", []string{"cid", "ann"}}, {"Thanks", nil}} {
		if _, err := store.Append(ctx, "tickets", "T-4", eventstore.MustExist, eventstore.NewEvent{Payload: e}); err != nil {
			fmt.Println(err)
			return
		}
	}
	type mentions struct{ Texts []string }
	people := eventstore.Documents[mentions]{
		Name: "mentions",
		From: eventstore.FromStream("tickets"),
		When: []eventstore.Handler[mentions]{
			eventstore.OnKey(
				func(e Commented) []string { return e.Mentions },
				func(m *mentions, e Commented) { m.Texts = append(m.Texts, e.Text) },
			),
		},
	}
	if _, err := people.CatchUp(ctx, store); err != nil {
		fmt.Println(err)
		return
	}
	for doc, err := range people.All(ctx, store, eventstore.DocumentOptions{}) {
		fmt.Printf("%s %q %v\n", doc.Key, doc.State.Texts, err)
	}
	// Output:
	// ann ["Can you look?" "It is the fan"] <nil>
	// bob ["Can you look?"] <nil>
	// cid ["It is the fan"] <nil>
}

// A ticket that is solved leaves the list. Its events stay.
func ExampleDrop() {
	ctx := context.Background()
	store, err := helpDesk(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := Tickets.CatchUp(ctx, store); err != nil {
		fmt.Println(err)
		return
	}
	stored, err := store.Append(ctx, "tickets", "T-3", eventstore.MustExist, eventstore.NewEvent{Payload: TicketSolved{}})
	if err != nil {
		fmt.Println(err)
		return
	}
	position, err := Tickets.CatchUp(ctx, store)
	fmt.Println("solved by event", stored[0].Position, "and taken in:", position >= stored[0].Position, err)
	for doc, err := range Tickets.All(ctx, store, eventstore.DocumentOptions{Label: "agent=ann"}) {
		fmt.Println(doc.Key, doc.State.Title, err)
	}
	// Output:
	// solved by event 5 and taken in: true <nil>
	// T-1 No sound <nil>
	// T-4 Noise <nil>
}
