package testserver

import (
	"bufio"
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// echoServer answers each line with "re: " and the line. It counts the lines
// it has answered.
type echoServer struct {
	listener net.Listener
	lines    atomic.Int64
	wait     sync.WaitGroup
}

func newEchoServer(t *testing.T) *echoServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echoServer{listener: l}
	e.wait.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			e.wait.Go(func() { e.serve(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		e.wait.Wait()
	})
	return e
}

func (e *echoServer) serve(conn net.Conn) {
	defer conn.Close()
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		e.lines.Add(1)
		if _, err := fmt.Fprintf(conn, "re: %s\n", lines.Text()); err != nil {
			return
		}
	}
}

func newProxy(t *testing.T, target string) *Proxy {
	t.Helper()
	p, err := NewProxy(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// client sends lines and reads the answers.
type client struct {
	net.Conn
	in *bufio.Reader
}

func dial(t *testing.T, p *Proxy) *client {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{Conn: conn, in: bufio.NewReader(conn)}
}

func (c *client) ask(line string) (string, error) {
	if _, err := fmt.Fprintln(c, line); err != nil {
		return "", err
	}
	answer, err := c.in.ReadString('\n')
	return strings.TrimSuffix(answer, "\n"), err
}

func (c *client) mustAsk(t *testing.T, line string) {
	t.Helper()
	if got, err := c.ask(line); err != nil || got != "re: "+line {
		t.Fatalf("ask(%q) = %q, %v", line, got, err)
	}
}

func TestProxyForwardsAndCountsTrips(t *testing.T) {
	t.Parallel()
	p := newProxy(t, newEchoServer(t).listener.Addr().String())
	a, b := dial(t, p), dial(t, p)
	for i := range 3 {
		a.mustAsk(t, fmt.Sprint("a", i))
	}
	b.mustAsk(t, "b")
	if got := p.Trips(); got != 4 {
		t.Errorf("trips = %d, want 4", got)
	}
	var each []int
	for _, c := range p.Conns() {
		each = append(each, c.Trips())
	}
	if fmt.Sprint(each) != "[3 1]" && fmt.Sprint(each) != "[1 3]" {
		t.Errorf("trips of the connections = %v, want 3 and 1", each)
	}

	p.ResetTrips()
	a.mustAsk(t, "again")
	if got := p.Trips(); got != 1 {
		t.Errorf("trips after reset = %d, want 1", got)
	}
	// An answer of many chunks is one trip.
	a.mustAsk(t, strings.Repeat("x", 10*1024))
	if got := p.Trips(); got != 2 {
		t.Errorf("trips after a long line = %d, want 2", got)
	}
}

func TestProxyHalfClose(t *testing.T) {
	t.Parallel()
	p := newProxy(t, newEchoServer(t).listener.Addr().String())
	c := dial(t, p)
	if _, err := io.WriteString(c, "one\ntwo\n"); err != nil {
		t.Fatal(err)
	}
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c.in)
	if err != nil || string(got) != "re: one\nre: two\n" {
		t.Errorf("answers = %q, %v", got, err)
	}
}

func TestProxyCuts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		dir    Direction
		action Action
		served int64 // lines which the server has answered
		answer bool  // whether the client gets the answer
	}{
		{"before the server", ToServer, CutBefore, 0, false},
		{"after the server", ToServer, CutAfter, 1, false},
		{"before the client", ToClient, CutBefore, 1, false},
		{"after the client", ToClient, CutAfter, 1, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			// Often, as what must not happen is a matter of timing.
			for range 100 {
				server := newEchoServer(t)
				p := newProxy(t, server.listener.Addr().String())
				c := dial(t, p)
				p.SetHook(func(_ *Conn, dir Direction, chunk []byte) Action {
					if dir == test.dir && bytes.Contains(chunk, []byte("COMMIT")) {
						return test.action
					}
					return Forward
				})
				c.mustAsk(t, "BEGIN")
				got, err := c.ask("COMMIT")
				if test.answer {
					if err != nil || got != "re: COMMIT" {
						t.Fatalf("answer = %q, %v, want it to arrive", got, err)
					}
				} else if err == nil || got != "" {
					t.Fatalf("answer = %q, %v, want none", got, err)
				} else if !errors.Is(err, syscall.ECONNRESET) {
					t.Fatalf("error = %v, want a reset", err)
				}
				// The client has seen the cut, so the server is done.
				if got := server.lines.Load() - 1; got != test.served {
					t.Fatalf("server has answered %d lines, want %d", got, test.served)
				}
				if _, err := c.ask("more"); err == nil {
					t.Fatal("the connection is still open")
				}
				p.SetHook(nil)
				dial(t, p).mustAsk(t, "COMMIT")
			}
		})
	}
}

// The answer to a commit is lost, on real servers: what was committed is there
// as soon as the client sees the error.
func TestProxyLosesAnswerOfCommit(t *testing.T) {
	forEachEngine(t, func(t *testing.T, name Engine) {
		s := start(t, name, Options{Small: true})
		direct := openDB(t, s, "")
		mustExec(t, direct, "CREATE DATABASE bank")
		direct = openDB(t, s, "bank")
		mustExec(t, direct, "CREATE TABLE entry (id BIGINT PRIMARY KEY)")

		p := newProxy(t, s.Addr())
		db, err := sql.Open(driver[name], s.engine.dsn(p.Addr(), "bank"))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		p.SetHook(func(_ *Conn, dir Direction, chunk []byte) Action {
			if dir == ToServer && bytes.Contains(bytes.ToLower(chunk), []byte("commit")) {
				return CutAfter
			}
			return Forward
		})
		for id := range 20 {
			tx, err := db.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			p.ResetTrips()
			if _, err := tx.Exec(fmt.Sprintf("INSERT INTO entry VALUES (%d)", id)); err != nil {
				t.Fatal(err)
			}
			if p.Trips() == 0 {
				t.Error("no trip for a statement")
			}
			if err := tx.Commit(); err == nil {
				t.Fatal("Commit succeeds without an answer")
			}
			if n := query[int](t, direct, "SELECT count(*) FROM entry"); n != id+1 {
				t.Fatalf("%d entries after commit %d", n, id+1)
			}
		}
	})
}

func TestProxyCutAll(t *testing.T) {
	t.Parallel()
	p := newProxy(t, newEchoServer(t).listener.Addr().String())
	var clients []*client
	for range 5 {
		c := dial(t, p)
		c.mustAsk(t, "hello")
		clients = append(clients, c)
	}
	p.CutAll()
	for _, c := range clients {
		if _, err := c.in.ReadByte(); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read after CutAll: %v, want a reset", err)
		}
	}
	dial(t, p).mustAsk(t, "hello again")
}

func TestProxyWithoutServer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	p := newProxy(t, l.Addr().String())
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		return // cut before Dial has returned
	}
	defer conn.Close()
	c := &client{Conn: conn, in: bufio.NewReader(conn)}
	if answer, err := c.ask("hello"); err == nil {
		t.Errorf("answer = %q without a server", answer)
	}
}

// Many clients, hooks, cuts and counts at once, for the race detector; and
// nothing may be left of the proxy afterwards.
func TestProxyConcurrentUse(t *testing.T) {
	server := newEchoServer(t)
	p := newProxy(t, server.listener.Addr().String())
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			for j := range 50 {
				conn, err := net.Dial("tcp", p.Addr())
				if errors.Is(err, syscall.ECONNRESET) {
					continue // cut by another before Dial has returned
				}
				if err != nil {
					t.Error(err)
					return
				}
				c := &client{Conn: conn, in: bufio.NewReader(conn)}
				for range 3 {
					// Errors are the cuts of the others.
					_, _ = c.ask("line")
				}
				switch (i + j) % 10 {
				case 0:
					p.CutAll()
				case 1:
					p.ResetTrips()
				case 2:
					p.SetHook(func(c *Conn, dir Direction, chunk []byte) Action {
						if c.Trips() > 2 {
							return CutAfter
						}
						return Forward
					})
				case 3:
					p.SetHook(nil)
				case 4:
					_ = p.Trips()
				}
				conn.Close()
			}
		})
	}
	wait.Wait()
	left := dial(t, p)
	p.SetHook(nil)
	left.mustAsk(t, "still open")

	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := left.in.ReadByte(); err == nil {
		t.Error("a connection has outlived Close")
	}
	if n := len(p.Conns()); n != 0 {
		t.Errorf("%d connections after Close", n)
	}
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	// The test is not parallel, so that no other proxy is in use meanwhile.
	for _, receiver := range []string{"testserver.(*Proxy)", "testserver.(*Conn)"} {
		if bytes.Contains(stacks, []byte(receiver)) {
			t.Errorf("goroutines left after Close:\n%s", stacks)
		}
	}
}
