package testserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Direction is the way a chunk of bytes goes.
type Direction int

// The directions of a connection.
const (
	ToServer Direction = iota + 1
	ToClient
)

// String returns "to server" or "to client".
func (d Direction) String() string {
	if d == ToServer {
		return "to server"
	}
	return "to client"
}

// Action is what the proxy does with a chunk.
type Action int

const (
	// Forward passes the chunk on.
	Forward Action = iota

	// CutBefore drops the chunk and cuts the connection.
	CutBefore

	// CutAfter passes the chunk on and cuts the connection without passing
	// on any answer to it. With a chunk to the server, the cut waits until
	// the server has sent the first bytes of its answer, at most 5 seconds:
	// when the client sees the cut, the server has done what it was told. A
	// chunk to the client is followed by an ordinary end of the stream, so
	// that the client can read it.
	CutAfter
)

// Hook decides on a chunk before it is forwarded. A chunk is what one read
// from the network gave, at most 32 KiB: several messages, or part of one. It
// may be looked at only during the call. The chunks of one direction of a
// connection come in order; all else may be concurrent. A hook may call any
// method of the proxy and the connection except Close.
type Hook func(c *Conn, dir Direction, chunk []byte) Action

const (
	chunkSize = 32 << 10

	// lostAnswerTimeout bounds the wait of CutAfter for the server.
	lostAnswerTimeout = 5 * time.Second
)

// Proxy is a TCP proxy between clients and a server, which cuts connections
// where a test asks for it and counts the round trips. Its methods may be
// called concurrently.
type Proxy struct {
	target   string
	listener net.Listener
	hook     atomic.Pointer[Hook]
	trips    atomic.Int64

	// Ends the attempts to reach the server when the proxy is closed.
	ctx    context.Context
	cancel context.CancelFunc

	mu     sync.Mutex
	conns  map[*Conn]struct{}
	closed bool

	wait sync.WaitGroup
}

// NewProxy listens on a free port of 127.0.0.1 and connects each client to
// target, a host and port. The target need not listen yet; a client that comes
// while it does not is cut off.
func NewProxy(target string) (*Proxy, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		return nil, fmt.Errorf("testserver: proxy: %w", err)
	}
	p := &Proxy{target: target, listener: listener, conns: make(map[*Conn]struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wait.Go(p.accept)
	return p, nil
}

// Addr returns the host and port for clients, "127.0.0.1:PORT".
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// SetHook sets the hook for all chunks from now on, of present connections
// too. With nil everything is forwarded.
func (p *Proxy) SetHook(hook Hook) { p.hook.Store(&hook) }

// Conns returns the present connections in no particular order.
func (p *Proxy) Conns() []*Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.conns))
}

// CutAll resets all present connections, for the client and for the server.
func (p *Proxy) CutAll() {
	for _, c := range p.Conns() {
		c.Cut()
	}
}

// Trips returns the number of round trips on all connections, also those that
// have ended, since the proxy was made or ResetTrips was called. A trip begins
// with the first bytes from a client, on a new connection or after bytes from
// the server; the log-in of a client counts as well.
func (p *Proxy) Trips() int { return int(p.trips.Load()) }

// ResetTrips sets the count of the proxy and of the present connections to 0.
// With traffic at the same time it is not defined which trips it takes away.
func (p *Proxy) ResetTrips() {
	for _, c := range p.Conns() {
		c.trips.Store(0)
	}
	p.trips.Store(0)
}

// Close stops listening, resets all connections and returns when none of the
// proxy's goroutines is left. It waits for hooks that are running. Calls after
// the first do nothing but wait.
func (p *Proxy) Close() error {
	p.mu.Lock()
	first := !p.closed
	p.closed = true
	p.mu.Unlock()

	var err error
	if first {
		p.cancel()
		err = p.listener.Close()
		p.CutAll()
	}
	p.wait.Wait()
	if err != nil {
		return fmt.Errorf("testserver: proxy: %w", err)
	}
	return nil
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// A client that has given up, or no file descriptors left.
			time.Sleep(time.Millisecond)
			continue
		}
		c := &Conn{proxy: p, client: client.(*net.TCPConn), cut: make(chan struct{}), answered: make(chan struct{}, 1)}
		if !p.add(c) {
			c.Cut()
			return
		}
		p.wait.Go(c.serve)
	}
}

// add registers a connection, unless the proxy is closed.
func (p *Proxy) add(c *Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) remove(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// Conn is a client's connection through a proxy.
type Conn struct {
	proxy  *Proxy
	client *net.TCPConn
	trips  atomic.Int64

	mu     sync.Mutex
	server *net.TCPConn // nil until the server is reached
	last   Direction    // of the latest chunk, 0 before the first
	isCut  bool
	cut    chan struct{} // closed when isCut is set

	// losing is the direction whose chunks are dropped since CutAfter, 0 for
	// none. The first of them is announced in answered.
	losing   atomic.Int64
	answered chan struct{}
}

// Trips returns the number of round trips on the connection since it was made
// or ResetTrips was called.
func (c *Conn) Trips() int { return int(c.trips.Load()) }

// Cut resets the connection, for the client and for the server.
func (c *Conn) Cut() { c.close(reset, reset) }

// ending is how a socket is closed.
type ending bool

const (
	finish ending = false // what was sent still arrives
	reset  ending = true  // what was sent may be lost, the other end sees an error
)

// close ends both sides, unless they have ended already.
func (c *Conn) close(client, server ending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isCut {
		return
	}
	c.isCut = true
	close(c.cut)
	closeSide(c.client, client)
	if c.server != nil {
		closeSide(c.server, server)
	}
}

// closeSide closes a socket. Its errors mean that the other end was faster.
func closeSide(conn *net.TCPConn, how ending) {
	if how == reset {
		_ = conn.SetLinger(0)
	}
	_ = conn.Close()
}

// serve connects to the server and forwards until the connection has ended.
func (c *Conn) serve() {
	defer c.proxy.remove(c)
	defer c.Cut()
	var dialer net.Dialer
	server, err := dialer.DialContext(c.proxy.ctx, "tcp", c.proxy.target)
	if err != nil || !c.reach(server.(*net.TCPConn)) {
		return
	}
	var pumps sync.WaitGroup
	pumps.Go(func() { c.pump(ToServer, c.client, c.server) })
	pumps.Go(func() { c.pump(ToClient, c.server, c.client) })
	pumps.Wait()
	// Both streams have ended in an ordinary way, or the connection is cut.
	c.close(finish, finish)
}

// reach sets the server's side, unless the connection was cut meanwhile.
func (c *Conn) reach(server *net.TCPConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isCut {
		closeSide(server, reset)
		return false
	}
	c.server = server
	return true
}

// pump forwards one direction until its stream ends.
func (c *Conn) pump(dir Direction, from, to *net.TCPConn) {
	chunk := make([]byte, chunkSize)
	for {
		n, err := from.Read(chunk)
		if n > 0 && !c.forward(dir, chunk[:n], to) {
			return
		}
		if errors.Is(err, io.EOF) {
			// The other direction may go on.
			if !c.lose(dir) {
				_ = to.CloseWrite()
			}
			return
		}
		if err != nil {
			c.Cut()
			return
		}
	}
}

// forward does with a chunk what the hook says. It reports whether to go on.
func (c *Conn) forward(dir Direction, chunk []byte, to *net.TCPConn) bool {
	if c.lose(dir) {
		return true
	}
	c.count(dir)
	action := Forward
	if hook := c.proxy.hook.Load(); hook != nil && *hook != nil {
		action = (*hook)(c, dir, chunk)
	}
	if action == CutBefore {
		c.Cut()
		return false
	}
	if action == CutAfter {
		// From here on the other direction loses what it reads. It cannot
		// read an answer earlier, as the chunk is not forwarded yet.
		c.losing.Store(int64(opposite(dir)))
	}
	if _, err := to.Write(chunk); err != nil {
		c.Cut()
		return false
	}
	if action == CutAfter {
		c.cutAfter(dir)
		return false
	}
	return true
}

// lose reports whether chunks of a direction are dropped, and announces that
// one has come, or the end of them.
func (c *Conn) lose(dir Direction) bool {
	if Direction(c.losing.Load()) != dir {
		return false
	}
	select {
	case c.answered <- struct{}{}:
	default:
	}
	return true
}

// cutAfter cuts the connection after a chunk that was forwarded.
func (c *Conn) cutAfter(dir Direction) {
	if dir == ToClient {
		c.close(finish, reset)
		return
	}
	timeout := time.NewTimer(lostAnswerTimeout)
	defer timeout.Stop()
	select {
	case <-c.answered:
	case <-timeout.C:
	case <-c.cut:
	}
	c.Cut()
}

// count notes the direction of a chunk and counts the trips. It comes before
// the chunk is forwarded, so that what the chunk leads to is counted later.
func (c *Conn) count(dir Direction) {
	c.mu.Lock()
	turn := dir == ToServer && c.last != ToServer
	c.last = dir
	c.mu.Unlock()
	if turn {
		c.trips.Add(1)
		c.proxy.trips.Add(1)
	}
}

func opposite(dir Direction) Direction {
	if dir == ToServer {
		return ToClient
	}
	return ToServer
}
