// Connections that are held while a caller's function runs, and how it is noticed that all of them wait for
// another.

package eventstore

import (
	"bytes"
	"context"
	"database/sql"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
)

// heldConn is the connection that a batch's transaction holds while its handlers run. Their contexts carry it.
// A handler that calls the store outside the transaction needs another connection meanwhile: if each connection
// of the pool is held by such a handler, none of them can ever go on.
type heldConn struct {
	db    *sql.DB
	taken atomic.Bool // the transaction has begun, and not ended
	outer *heldConn   // of the handler or transaction within which this one runs

	goroutine uint64 // in which it runs, for one of Store.Transact; zero: it is in contexts
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

	held       map[uint64]*heldConn // the innermost of Store.Transact, by goroutine
	transacted atomic.Int32         // their number
}

// hold notes that a transaction of Store.Transact holds a connection, until letGo. The transaction's function gets
// no context which could carry that: a call from within it is known by its goroutine. That decides about
// nothing but whether to report a call that could never return.
func (w *waitingHandlers) hold(ctx context.Context, db *sql.DB) *heldConn {
	id := goroutineID()
	if id == 0 || db.Stats().MaxOpenConnections == 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	h := newHeldConn(ctx, db)
	if around := w.held[id]; around != nil {
		h.outer = around
	}
	h.goroutine = id
	h.taken.Store(true)
	if w.held == nil {
		w.held = map[uint64]*heldConn{}
	}
	w.held[id] = h
	w.transacted.Add(1)
	return h
}

// letGo takes back what hold has noted.
func (w *waitingHandlers) letGo(h *heldConn) {
	if h.goroutine == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held[h.goroutine] != h {
		return
	}
	w.transacted.Add(-1)
	if h.outer != nil && h.outer.goroutine == h.goroutine {
		w.held[h.goroutine] = h.outer
	} else {
		delete(w.held, h.goroutine)
	}
}

// holder returns the connection that is held around a call; nil: there is none.
func (w *waitingHandlers) holder(ctx context.Context) *heldConn {
	if w.transacted.Load() > 0 {
		id := goroutineID()
		w.mu.Lock()
		h := w.held[id]
		w.mu.Unlock()
		if h != nil {
			return h
		}
	}
	h, _ := ctx.Value(heldKey{}).(*heldConn)
	return h
}

// goroutineID returns the number of this goroutine, as a stack trace begins with it; zero: it is not known.
func goroutineID() uint64 {
	var trace [40]byte
	rest, _ := bytes.CutPrefix(trace[:runtime.Stack(trace[:], false)], []byte("goroutine "))
	number, _, _ := bytes.Cut(rest, []byte(" "))
	id, err := strconv.ParseUint(string(number), 10, 64)
	if err != nil {
		return 0
	}
	return id
}

// enter counts a handler's call that needs a connection of the pool until leave is called, or returns an error
// if it would wait for ever. It does nothing for other calls.
func (w *waitingHandlers) enter(ctx context.Context, db *sql.DB) (leave func(), err error) {
	h := w.holder(ctx)
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
		return nil, invalid("a call outside the transaction that it is made in, which holds the last of the %d connections that the pool may open, so that the call would wait for ever: use the store of Step.Store or Store.Transact, or raise the limit of sql.DB.SetMaxOpenConns", most)
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
