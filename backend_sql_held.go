// Connections that are held while a handler runs, and how it is noticed that all of them wait for another.

package eventstore

import (
	"context"
	"database/sql"
	"sync"
	"sync/atomic"
)

// heldConn is the connection that a batch's transaction holds while its handlers run. Their contexts carry it.
// A handler that calls the store outside the transaction needs another connection meanwhile: if each connection
// of the pool is held by such a handler, none of them can ever go on.
type heldConn struct {
	db    *sql.DB
	taken atomic.Bool // the transaction has begun, and not ended
	outer *heldConn   // of the handler within which this batch runs
}

type heldKey struct{}

func newHeldConn(ctx context.Context, db *sql.DB) *heldConn {
	outer, _ := ctx.Value(heldKey{}).(*heldConn)
	return &heldConn{db: db, outer: outer}
}

func (h *heldConn) context(ctx context.Context) context.Context {
	return context.WithValue(ctx, heldKey{}, h)
}

// waitingHandlers are the held connections whose handlers are in a call that needs another one.
type waitingHandlers struct {
	mu    sync.Mutex
	calls map[*heldConn]int
}

// enter counts a handler's call that needs a connection of the pool until leave is called, or returns an error
// if it would wait for ever. It does nothing for other calls.
func (w *waitingHandlers) enter(ctx context.Context, db *sql.DB) (leave func(), err error) {
	h, _ := ctx.Value(heldKey{}).(*heldConn)
	if h == nil {
		return func() {}, nil
	}
	var chain []*heldConn
	for ; h != nil; h = h.outer {
		if h.db == db && h.taken.Load() {
			chain = append(chain, h)
		}
	}
	most := db.Stats().MaxOpenConnections
	if len(chain) == 0 || most == 0 {
		return func() {}, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.calls == nil {
		w.calls = map[*heldConn]int{}
	}
	for _, h := range chain {
		w.calls[h]++
	}
	leave = func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.forget(chain)
	}
	if len(w.calls) >= most {
		w.forget(chain)
		return nil, invalid("a handler calls the store outside its transaction, which holds the last of the %d connections that the pool may open, so that the call would wait for ever: use Store.WithTx with Step.Tx, or raise the limit of sql.DB.SetMaxOpenConns", most)
	}
	return leave, nil
}

func (w *waitingHandlers) forget(chain []*heldConn) {
	for _, h := range chain {
		if w.calls[h]--; w.calls[h] == 0 {
			delete(w.calls, h)
		}
	}
}
