package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/eventstore"
	"example.com/eventstore/eventstoretest"
	"example.com/eventstore/internal/storetest"
)

// client talks to a service of its own over HTTP.
type client struct {
	t      *testing.T
	lane   storetest.Lane
	prefix string
	bank   *bank
	url    string
	http   *http.Client
	stop   func() error // shuts the service down, and returns how that went
	cancel context.CancelFunc
	waits  <-chan struct{} // a request waits for the read model
}

func startBank(t *testing.T, l storetest.Lane, prefix string) *client {
	t.Helper()
	b, err := openBank(t.Context(), l.URL(t), prefix)
	if err != nil {
		t.Fatal(err)
	}
	waits := make(chan struct{}, 100)
	wait := b.wait
	b.wait = func(ctx context.Context, s *eventstore.Store, at eventstore.Position) error {
		waits <- struct{}{}
		return wait(ctx, s, at)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, b, listener) }()
	c := &client{t: t, lane: l, prefix: prefix, bank: b, url: "http://" + listener.Addr().String(), http: &http.Client{Transport: &http.Transport{}}, cancel: cancel, waits: waits}
	c.stop = sync.OnceValue(func() error {
		cancel()
		c.http.CloseIdleConnections() // for one that has not been used yet the server waits five seconds
		err := <-served
		if b.db != nil && b.db.Stats().InUse != 0 {
			t.Errorf("%d connections are in use after the shutdown", b.db.Stats().InUse)
		}
		if e := b.close(); e != nil {
			t.Error(e)
		}
		return err
	})
	t.Cleanup(func() {
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// do sends a request and returns its status and what it answers.
func (c *client) do(method, path, key, body string) (int, map[string]any) {
	c.t.Helper()
	req, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	res, err := c.http.Do(req)
	if err != nil {
		c.t.Error(err)
		return 0, nil
	}
	defer res.Body.Close()
	var answer any
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		c.t.Errorf("%s %s: %v", method, path, err)
	}
	if list, ok := answer.([]any); ok {
		return res.StatusCode, map[string]any{"list": list}
	}
	fields, _ := answer.(map[string]any)
	return res.StatusCode, fields
}

// want sends a request that is to be answered with a status.
func (c *client) want(status int, method, path, key, body string) map[string]any {
	c.t.Helper()
	got, answer := c.do(method, path, key, body)
	if got != status {
		c.t.Fatalf("%s %s %s: %d %v, want %d", method, path, body, got, answer, status)
	}
	return answer
}

func (c *client) open(account string) {
	c.t.Helper()
	c.want(201, "POST", "/accounts/"+account, "", fmt.Sprintf(`{"owner": "Ann", "email": "%s@example.com"}`, account))
}

// wantBalance asks the read model, once it knows what a receipt is about.
func (c *client) wantBalance(receipt map[string]any, cents float64) {
	c.t.Helper()
	answer := c.want(200, "GET", fmt.Sprintf("/accounts/%v?at=%v", receipt["account"], receipt["position"]), "", "")
	if answer["cents"] != cents || receipt["cents"] != cents {
		c.t.Errorf("the account holds %v, by the receipt %v, want %v", answer["cents"], receipt["cents"], cents)
	}
}

func TestAccounts(t *testing.T) {
	forEachBank(t, func(t *testing.T, c *client) {
		c.wantBalance(c.want(201, "POST", "/accounts/A-1", "", `{"owner": "Ann", "email": "Ann@example.com"}`), 0)
		c.wantBalance(c.want(200, "POST", "/accounts/A-1/deposits", "", `{"cents": 1000}`), 1000)
		c.wantBalance(c.want(200, "POST", "/accounts/A-1/withdrawals", "", `{"cents": 300}`), 700)
		c.want(422, "POST", "/accounts/A-1/withdrawals", "", `{"cents": 701}`)
		c.want(409, "POST", "/accounts/A-1", "", `{"owner": "Ann", "email": "other@example.com"}`)
		c.want(404, "POST", "/accounts/B-2/deposits", "", `{"cents": 1}`)
		c.want(404, "POST", "/accounts/B-2/withdrawals", "", `{"cents": 1}`)
		c.want(404, "GET", "/accounts/B-2", "", "")

		// The address is taken: of the account, opened in the same transaction, nothing is left.
		c.want(409, "POST", "/accounts/B-2", "", `{"owner": "Bob", "email": "ann@example.com"}`)
		receipt := c.want(201, "POST", "/accounts/B-2", "", `{"owner": "Bob", "email": "bob@example.com"}`)
		if receipt["version"] != 1.0 {
			t.Errorf("the account is new, but at version %v", receipt["version"])
		}
		// The account was not opened: of its address nothing is left.
		c.want(201, "POST", "/accounts/C-3", "", `{"owner": "Cid", "email": "other@example.com"}`)

		receipt = c.want(200, "POST", "/accounts/B-2/deposits", "", `{"cents": 5000}`)
		answer := c.want(200, "GET", fmt.Sprintf("/accounts?at=%v", receipt["position"]), "", "")
		if got, want := fmt.Sprint(answer["list"]), "[map[account:B-2 cents:5000 owner:Bob] map[account:A-1 cents:700 owner:Ann] map[account:C-3 cents:0 owner:Cid]]"; got != want {
			t.Errorf("the accounts are %s, want %s", got, want)
		}
	})
}

func TestBadRequests(t *testing.T) {
	forEachBank(t, func(t *testing.T, c *client) {
		c.open("A-1")
		for _, r := range [][2]string{
			{"/accounts/A-1/deposits", ``}, {"/accounts/A-1/deposits", `{`}, {"/accounts/A-1/deposits", `{"cents": 0}`},
			{"/accounts/A-1/deposits", `{"cents": -1}`}, {"/accounts/A-1/deposits", `{"cents": 1.5}`},
			{"/accounts/A-1/withdrawals", `{"cents": 9000000000000000000}`}, {"/accounts/A-1/deposits", `{"dollars": 1}`},
			{"/accounts/A%201/deposits", `{"cents": 1}`}, {"/accounts/B-2", `{"owner": "Bob"}`},
			{"/accounts/B-2", `{"owner": "\u0000", "email": "bob@example.com"}`},
		} {
			c.want(400, "POST", r[0], "", r[1])
		}
		c.want(400, "POST", "/accounts/A-1/deposits", strings.Repeat("k", 256), `{"cents": 1}`)
		c.want(400, "GET", "/accounts?at=now", "", "")
	})
}

// TestIdempotency sends requests again: one after the other, all at once, when they would be
// refused by now, and to another process.
func TestIdempotency(t *testing.T) {
	forEachBank(t, func(t *testing.T, c *client) {
		for range 2 {
			c.want(201, "POST", "/accounts/A-1", "open", `{"owner": "Ann", "email": "ann@example.com"}`)
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if status, answer := c.do("POST", "/accounts/A-1/deposits", "pay-in", `{"cents": 1000}`); status != 200 {
					t.Errorf("%d %v", status, answer)
				}
				if status, answer := c.do("POST", "/accounts/B-2", "open-2", `{"owner": "Bob", "email": "bob@example.com"}`); status != 201 {
					t.Errorf("%d %v", status, answer)
				}
			})
		}
		wg.Wait()
		for range 2 {
			receipt := c.want(200, "POST", "/accounts/A-1/withdrawals", "pay-out", `{"cents": 800}`)
			c.wantBalance(receipt, 200)
			if receipt["version"] != 3.0 {
				t.Errorf("three requests have left %v events", receipt["version"])
			}
		}
		c.want(422, "POST", "/accounts/A-1/withdrawals", "other", `{"cents": 800}`)
		c.want(422, "POST", "/accounts/A-1/withdrawals", "pay-out", `{"cents": 1}`)
		c.want(409, "POST", "/accounts/B-2/deposits", "pay-in", `{"cents": 1000}`)
		if c.bank.db != nil {
			other := startBank(t, c.lane, c.prefix)
			other.wantBalance(other.want(200, "POST", "/accounts/A-1/withdrawals", "pay-out", `{"cents": 800}`), 200)
		}
	})
}

// TestRaces has clients withdraw more than there is, and claim one address, all at once.
func TestRaces(t *testing.T) {
	forEachBank(t, func(t *testing.T, c *client) {
		c.open("A-1")
		c.want(200, "POST", "/accounts/A-1/deposits", "", `{"cents": 500}`)
		var mu sync.Mutex
		withdrawn, opened := 0, 0
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				status, _ := c.do("POST", "/accounts/A-1/withdrawals", "", `{"cents": 100}`)
				status2, answer2 := c.do("POST", fmt.Sprintf("/accounts/B-%d", i), "", `{"owner": "Bob", "email": "bob@example.com"}`)
				mu.Lock()
				defer mu.Unlock()
				switch status {
				case 200:
					withdrawn++
				case 409, 422:
				default:
					t.Errorf("a withdrawal: %d", status)
				}
				switch status2 {
				case 201:
					opened++
				case 409:
				default:
					t.Errorf("an opening: %d %v", status2, answer2)
				}
			})
		}
		wg.Wait()
		if withdrawn > 5 || opened != 1 {
			t.Errorf("%d withdrawals, want at most 5; %d accounts opened, want 1", withdrawn, opened)
		}
		c.wantBalance(c.want(200, "POST", "/accounts/A-1/deposits", "", `{"cents": 1}`), float64(501-100*withdrawn))
		// Nothing is left of those that were not opened.
		n := 0
		for i := range 8 {
			if status, _ := c.do("POST", fmt.Sprintf("/accounts/B-%d/deposits", i), "", `{"cents": 1}`); status == 200 {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d accounts exist, want 1", n)
		}
	})
}

// TestShutdown ends the service while a request waits for the read model: it is answered still.
func TestShutdown(t *testing.T) {
	forEachBank(t, func(t *testing.T, c *client) {
		c.open("A-1")
		receipt := c.want(200, "POST", "/accounts/A-1/deposits", "", `{"cents": 1}`)
		next := int64(receipt["position"].(float64)) + 1
		answered := make(chan int, 1)
		go func() {
			status, _ := c.do("GET", fmt.Sprintf("/accounts/A-1?at=%d", next), "", "")
			answered <- status
		}()
		<-c.waits
		c.cancel()
		eventually(t, "the end of listening", func() bool {
			conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
			if err == nil {
				_ = conn.Close()
			}
			return err != nil
		})
		select {
		case status := <-answered:
			t.Fatalf("answered with %d before the event was there", status)
		default:
		}
		if _, err := c.bank.handle(t.Context(), "A-1", Deposit{Cents: 1}); err != nil {
			t.Fatal(err)
		}
		if status := <-answered; status != 200 {
			t.Errorf("answered with %d, want 200", status)
		}
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// TestBalances has every event of an account in one history.
func TestBalances(t *testing.T) {
	eventstoretest.GivenDocuments(t, nil, &balances,
		eventstoretest.On("accounts", "A-1", Opened{Owner: "Ann"}, Deposited{Cents: 500}, TransferSent{To: "B-2", Cents: 200}, Withdrawn{Cents: 1}),
		eventstoretest.On("accounts", "B-2", Opened{Owner: "Bob"}, TransferReceived{From: "A-1", Cents: 200}),
	).ThenDocuments(map[string]Balance{"A-1": {"A-1", "Ann", 299}, "B-2": {"B-2", "Bob", 200}})
}

// TestList lists the largest of more accounts than are listed.
func TestList(t *testing.T) {
	forEachBank(t, func(t *testing.T, c *client) {
		var last eventstore.Position
		for i := range 2*largest + 50 {
			stored, err := c.bank.store.Append(t.Context(), accounts.Stream, fmt.Sprintf("A-%03d", i), eventstore.MustNotExist,
				eventstore.NewEvent{Payload: Opened{Owner: "Ann"}}, eventstore.NewEvent{Payload: Deposited{Cents: int64(i * 7 % 125)}})
			if err != nil {
				t.Fatal(err)
			}
			last = stored[1].Position
		}
		list, _ := c.want(200, "GET", fmt.Sprintf("/accounts?at=%d", last), "", "")["list"].([]any)
		if len(list) != largest {
			t.Fatalf("%d accounts are listed, want %d", len(list), largest)
		}
		// Two accounts hold each of the amounts from 0 to 124.
		for i, row := range list {
			fields := row.(map[string]any)
			if want := float64(124 - i/2); fields["cents"] != want {
				t.Errorf("account %d holds %v, want %v", i+1, fields["cents"], want)
			}
			if i%2 == 1 && fields["account"].(string) <= list[i-1].(map[string]any)["account"].(string) {
				t.Errorf("account %d is %v, want it after that before", i+1, fields["account"])
			}
		}
	})
}
