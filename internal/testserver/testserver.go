// Package testserver starts throw-away database servers for tests and
// benchmarks, and puts a fault-injecting [Proxy] in front of them.
//
// [Start] gives a [Server]: a real PostgreSQL or MariaDB of its own, on a free
// port of 127.0.0.1, with its data in a fresh temporary folder. A server that
// is already running on the machine, its data and the machine's configuration
// files are never touched. The binaries that are installed are used; on Debian
// and Ubuntu, root installs them with apt-get when they are missing.
//
// A server ends with [Server.Stop], which removes its folder. When the test
// process ends without Stop (a panic, the timeout of go test, SIGKILL), the
// kernel ends the server on Linux, and the next Start of any process removes
// the folder, ending the server first where it still runs.
//
// The data of a fresh server is kept as a template in the folder for temporary
// files, so that the next Start copies it instead of initialising its own. A
// template depends on the installed version and the user; one that is not used
// for a week is removed.
//
// The package works on Unix systems.
package testserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Engine names a kind of database server.
type Engine int

// The engines that Start knows.
const (
	Postgres Engine = iota + 1
	MariaDB
)

// String returns the name of the engine as its makers write it.
func (e Engine) String() string {
	switch e {
	case Postgres:
		return "PostgreSQL"
	case MariaDB:
		return "MariaDB"
	default:
		return "Engine(" + strconv.Itoa(int(e)) + ")"
	}
}

// Options are the settings of a server. The zero value is for tests.
type Options struct {
	// Durable asks for settings as in production: each commit reaches the
	// disk before it is answered. Without it the server saves the waiting for
	// the disk; what it has committed then survives Kill, but not a power cut.
	Durable bool

	// Small promises that the server will hold less than a few gigabytes. Its
	// data is then in memory (/dev/shm) if that has much more room, unless it
	// is to be durable. What the server has committed survives Kill all the same.
	Small bool
}

const (
	// readyTimeout bounds the wait for a started server, crash recovery included.
	readyTimeout = 60 * time.Second

	// endTimeout bounds the wait for a server that was told to end.
	endTimeout = 30 * time.Second

	// answerTimeout bounds one attempt to connect.
	answerTimeout = 5 * time.Second

	// pollInterval is the pause between two attempts to connect.
	pollInterval = 20 * time.Millisecond

	// portAttempts is how many ports are tried before Start gives up.
	portAttempts = 5
)

// errEnded reports that a server ended before it accepted connections, as it
// does when another process has taken its port.
var errEnded = errors.New("the server ended before it accepted connections")

// engine is what differs between the kinds of servers.
type engine interface {
	// find looks for the binaries of an installed server and reports
	// whether it has found all of them.
	find() bool

	// packages are the Debian packages which hold the binaries.
	packages() []string

	// variable is the environment variable with which a person names a
	// server to use instead. It stands in the advice of an error.
	variable() string

	// initialise is the command that fills the data folder.
	initialise(f *folder) []string

	// serve is the command that runs the server in the foreground.
	serve(f *folder, port int, opts Options) []string

	// release is the command that frees what a killed server still holds
	// outside its folder, nil if there is nothing of that kind.
	release(f *folder) []string

	// dsn is the data source name of a database.
	dsn(addr, database string) string

	// dataDir connects and asks the server where its data is.
	dataDir(ctx context.Context, addr string) (string, error)

	// pidFile is where the server writes its process id, in the first line.
	pidFile(f *folder) string

	// stopSignal makes the server end in an orderly way without waiting for
	// its clients. deathSignal makes it end at once, leaving no process.
	stopSignal() syscall.Signal
	deathSignal() syscall.Signal
}

func newEngine(e Engine) (engine, error) {
	switch e {
	case Postgres:
		return &postgres{}, nil
	case MariaDB:
		return &mariadb{}, nil
	default:
		return nil, fmt.Errorf("testserver: unknown engine %v", e)
	}
}

// Server is a database server that Start has started. Its methods may be
// called concurrently; those which change its state wait for each other.
type Server struct {
	name   Engine
	engine engine
	opts   Options
	folder *folder
	port   int

	mu      sync.Mutex
	process *process // nil when the server is not running
	crashed bool     // the last process has not ended in an orderly way
	stopped bool
}

// Start starts a server and returns when it accepts connections. The context
// bounds the start only: the server runs until Stop. Start may be called
// concurrently, also from several processes.
//
// An error says what is missing and how to get it, or holds the end of the
// server's log. Nothing is left running or on disk then.
func Start(ctx context.Context, name Engine, opts Options) (*Server, error) {
	e, err := newEngine(name)
	if err != nil {
		return nil, err
	}
	if err := ensureInstalled(name, e); err != nil {
		return nil, fmt.Errorf("testserver: %w", err)
	}
	user, err := serverUser()
	if err != nil {
		return nil, fmt.Errorf("testserver: %w", err)
	}
	sweep(user)
	f, err := newFolder(user, opts.Small && !opts.Durable)
	if err != nil {
		return nil, fmt.Errorf("testserver: %w", err)
	}
	s := &Server{name: name, engine: e, opts: opts, folder: f}
	if err := s.create(ctx); err != nil {
		return nil, fmt.Errorf("testserver: start %v: %w", name, errors.Join(err, s.Stop()))
	}
	return s, nil
}

// DSN returns the data source name of a database on the server, for the driver
// "pgx" or "mysql". The database need not exist; with an empty name it is the
// superuser's own for PostgreSQL and none for MariaDB.
func (s *Server) DSN(database string) string { return s.engine.dsn(s.Addr(), database) }

// Addr returns the host and port of the server, "127.0.0.1:PORT". Restart
// keeps it.
func (s *Server) Addr() string { return net.JoinHostPort(loopback, strconv.Itoa(s.port)) }

// Kill ends the server with SIGKILL, as a crash would, and returns when no
// process of it is left and its port is free. Data and port are kept for
// Restart. Killing a server that is not running does nothing.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return nil
	}
	// PostgreSQL's children see that the postmaster is gone and end by
	// themselves, none of them in the middle of writing a page: without
	// full_page_writes recovery could not repair a page written by half.
	if err := s.end(syscall.SIGKILL); err != nil {
		return fmt.Errorf("testserver: kill %v: %w", s.name, err)
	}
	return nil
}

// Restart starts the server again on the same data and port and returns when
// it accepts connections, after crash recovery if it was killed. A server that
// is still running is ended in an orderly way first. Restart fails after Stop.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return fmt.Errorf("testserver: restart %v: the server was stopped and its data removed", s.name)
	}
	if s.process != nil {
		if err := s.end(s.engine.stopSignal()); err != nil {
			return fmt.Errorf("testserver: restart %v: %w", s.name, err)
		}
	}
	if err := s.launch(ctx); err != nil {
		return fmt.Errorf("testserver: restart %v: %w", s.name, err)
	}
	return nil
}

// Stop ends the server in an orderly way, without waiting for its clients, and
// removes its folder. Calls after the first do nothing.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil
	}
	s.stopped = true
	var errs []error
	if s.process != nil {
		errs = append(errs, s.end(s.engine.stopSignal()))
	}
	if s.crashed {
		errs = append(errs, s.folder.release(s.engine))
	}
	errs = append(errs, s.folder.remove())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("testserver: stop %v: %w", s.name, err)
	}
	return nil
}

// create fills the data folder and launches the server on a free port.
func (s *Server) create(ctx context.Context) error {
	if err := fill(ctx, s.folder, s.engine.initialise(s.folder)); err != nil {
		return fmt.Errorf("create the data folder: %w", err)
	}
	// Another process may take the port between freePort and the server's
	// own bind; the server then ends, and another port is tried.
	var err error
	for range portAttempts {
		if s.port, err = freePort(); err != nil {
			return err
		}
		if err = s.launch(ctx); !errors.Is(err, errEnded) {
			return err
		}
	}
	return err
}

// launch runs the server and waits until it accepts connections. After an
// error the server is not running.
func (s *Server) launch(ctx context.Context) error {
	cmd, closeLog, err := s.folder.command(s.engine.serve(s.folder, s.port, s.opts))
	if err != nil {
		return err
	}
	defer closeLog()
	p, err := startProcess(cmd, s.engine.deathSignal())
	if err != nil {
		return err
	}
	s.process = p
	if err := s.ready(ctx); err != nil {
		err = s.folder.explain(err)
		return errors.Join(err, s.end(syscall.SIGKILL))
	}
	s.crashed = false
	return nil
}

// ready waits until the server accepts connections.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		// The port alone proves nothing: when another server has won it,
		// that one answers.
		dir, err := s.dataDir(ctx)
		if err == nil && dir == s.folder.data() {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("%s is answered by a server on %s", s.Addr(), dir)
		}
		select {
		case <-s.process.exited:
			return fmt.Errorf("%w (%v)", errEnded, s.process.state())
		case <-ctx.Done():
			return fmt.Errorf("wait for connections: %w (last: %w)", context.Cause(ctx), err)
		case <-time.After(pollInterval):
		}
	}
}

// dataDir asks whatever listens on the server's port for its data folder. It
// may be a program that never answers.
func (s *Server) dataDir(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return s.engine.dataDir(ctx, s.Addr())
}

// end signals the running server and waits until all its processes are gone.
// One that ignores an orderly signal is killed.
func (s *Server) end(sig syscall.Signal) error {
	err := s.process.end(sig, endTimeout)
	if errors.Is(err, errStillRunning) && sig != syscall.SIGKILL {
		err = errors.Join(err, s.process.end(syscall.SIGKILL, endTimeout))
	}
	s.crashed = !s.process.succeeded()
	s.process = nil
	return err
}

const loopback = "127.0.0.1"

// freePort returns a port of 127.0.0.1 that was free a moment ago. It lies
// below the ports that the usual systems give to outgoing connections: one of
// those could take it while the server is down between Kill and Restart.
func freePort() (int, error) {
	const first, count = 20000, 10000
	var err error
	for range 100 {
		port := first + rand.IntN(count)
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort(loopback, strconv.Itoa(port))); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}

// executable returns the path of a program that is in PATH or in one of the
// folders where servers are installed and which PATH often lacks.
func executable(name string, folders ...string) (string, bool) {
	if path, err := exec.LookPath(name); err == nil {
		return path, true
	}
	for _, dir := range folders {
		path := dir + string(os.PathSeparator) + name
		if _, err := exec.LookPath(path); err == nil {
			return path, true
		}
	}
	return "", false
}
