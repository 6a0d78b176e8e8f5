// Command lending is a lending library as an HTTP service, with a process manager. See README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"example.com/eventstore"
)

// shutdownTimeout is how long requests may take that are in flight at the end.
const shutdownTimeout = 10 * time.Second

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to listen")
	target := flag.String("store", "memory", "memory, postgres://user:password@host:port/database or mysql://user:password@host:port/database")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := run(ctx, *addr, *target); err != nil {
		fmt.Fprintln(os.Stderr, "lending:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr, target string) error {
	opts := &eventstore.Options{TablePrefix: "lending_", Logger: slog.Default()}
	store := eventstore.NewMemStore(opts)
	if target != "memory" {
		db, dialect, err := openDB(target)
		if err != nil {
			return err
		}
		defer db.Close()
		if store, err = eventstore.Open(db, dialect, opts); err != nil {
			return err
		}
	}
	l := newLibrary(store)
	if err := l.open(ctx); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	slog.Info("listening", "addr", listener.Addr().String())
	return serve(ctx, l, listener)
}

// serve answers requests and runs the projections until ctx ends. The projections end last: a request in
// flight may wait for them.
func serve(ctx context.Context, l *library, listener net.Listener) error {
	following, stopFollowing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopFollowing()
	followed := make(chan error, 1)
	go func() { followed <- l.follow(following) }()

	server := &http.Server{Handler: newAPI(l), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()

	var err error
	select {
	case <-ctx.Done():
	case err = <-served:
	case err = <-followed: // a handler has failed for good, or an operator has stopped a projection
		err = errors.Join(errors.New("a projection has ended"), err)
		followed <- context.Canceled
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err = errors.Join(err, server.Shutdown(ending))
	stopFollowing()
	if e := <-followed; !errors.Is(e, context.Canceled) {
		err = errors.Join(err, e)
	}
	return err
}
