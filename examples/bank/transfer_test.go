package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
)

// TestTransfers moves money between two accounts: both change, once, or neither.
func TestTransfers(t *testing.T) {
	forEachBank(t, func(t *testing.T, c *client) {
		c.open("A-1")
		c.open("B-2")
		c.want(200, "POST", "/accounts/A-1/deposits", "", `{"cents": 1000}`)
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				if status, answer := c.do("POST", "/accounts/A-1/transfers", "move", `{"to": "B-2", "cents": 300}`); status != 200 {
					t.Errorf("%d %v", status, answer)
				}
			})
		}
		wg.Wait()
		for range 2 {
			receipt := c.want(200, "POST", "/accounts/A-1/transfers", "move", `{"to": "B-2", "cents": 300}`)
			c.wantBalance(receipt, 700)
			if b := c.want(200, "GET", fmt.Sprintf("/accounts/B-2?at=%v", receipt["position"]), "", ""); b["cents"] != 300.0 {
				t.Errorf("the receiver has %v, want 300", b["cents"])
			}
		}
		c.want(422, "POST", "/accounts/A-1/transfers", "", `{"to": "B-2", "cents": 701}`)
		c.want(422, "POST", "/accounts/A-1/transfers", "move", `{"to": "B-2", "cents": 1}`)
		c.want(404, "POST", "/accounts/A-1/transfers", "", `{"to": "C-3", "cents": 1}`)
		c.want(404, "POST", "/accounts/C-3/transfers", "", `{"to": "A-1", "cents": 1}`)
		c.want(400, "POST", "/accounts/A-1/transfers", "", `{"to": "A-1", "cents": 1}`)
		c.want(400, "POST", "/accounts/A-1/transfers", "", `{"to": "", "cents": 1}`)
		c.want(400, "POST", "/accounts/A-1/transfers", "", `{"to": "B-2", "cents": 0}`)
		for account, want := range map[string]float64{"A-1": 701, "B-2": 301} {
			c.wantBalance(c.want(200, "POST", "/accounts/"+account+"/deposits", "", `{"cents": 1}`), want)
		}
	})
}

// TestTransfersRace moves money around between few accounts at once, while others pay in and out:
// no cent is lost or made, and no account overdrawn.
func TestTransfersRace(t *testing.T) {
	forEachBank(t, func(t *testing.T, c *client) {
		clients := []*client{c, c}
		if c.bank.db != nil {
			clients[1] = startBank(t, c.lane, c.prefix)
		}
		accounts := []string{"A", "B", "C", "D"}
		for _, account := range accounts {
			c.open(account)
			c.want(200, "POST", "/accounts/"+account+"/deposits", "", `{"cents": 300}`)
		}
		var total, moved atomic.Int64
		total.Store(1200)
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				for range 10 {
					from := rand.IntN(len(accounts))
					to := (from + 1 + rand.IntN(len(accounts)-1)) % len(accounts)
					body := fmt.Sprintf(`{"to": %q, "cents": %d}`, accounts[to], 1+rand.IntN(200))
					switch status, answer := clients[i%2].do("POST", "/accounts/"+accounts[from]+"/transfers", "", body); status {
					case http.StatusOK:
						moved.Add(1)
					case http.StatusUnprocessableEntity, http.StatusConflict:
					default:
						t.Errorf("a transfer: %d %v", status, answer)
					}
					if status, _ := clients[i%2].do("POST", "/accounts/"+accounts[to]+"/deposits", "", `{"cents": 1}`); status == http.StatusOK {
						total.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if moved.Load() == 0 {
			t.Error("no transfer has succeeded")
		}
		sum := 0.0
		for _, account := range accounts {
			receipt := c.want(200, "POST", "/accounts/"+account+"/deposits", "", `{"cents": 1}`)
			cents := receipt["cents"].(float64)
			c.wantBalance(receipt, cents)
			if cents < 0 {
				t.Errorf("%s has %v", account, cents)
			}
			sum += cents
		}
		if want := float64(total.Load()) + 4; sum != want {
			t.Errorf("there are %v cents in all, want %v", sum, want)
		}
	})
}
