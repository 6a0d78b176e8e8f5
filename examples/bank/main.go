// Command bank is a small HTTP service on an event store. See README.md.
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
)

// shutdownTimeout is how long requests may take that are under way at the end.
const shutdownTimeout = 10 * time.Second

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to listen")
	target := flag.String("store", "memory", "memory, postgres://user:password@host:port/database or mysql://…")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := run(ctx, *addr, *target); err != nil {
		fmt.Fprintln(os.Stderr, "bank:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr, target string) error {
	b, err := openBank(ctx, target, "bank_")
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return errors.Join(err, b.close())
	}
	slog.Info("listening", "addr", listener.Addr().String())
	return errors.Join(serve(ctx, b, listener), b.close())
}

// serve answers requests until ctx ends. Then those under way are finished, while the read model,
// for which they may wait, still follows; it ends last.
func serve(ctx context.Context, b *bank, listener net.Listener) error {
	following, stopFollowing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopFollowing()
	followed := make(chan error, 1)
	go func() { followed <- balances.Run(following, b.store) }()

	server := &http.Server{Handler: newAPI(b), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()

	var err error
	running := true
	select {
	case <-ctx.Done():
	case err = <-served:
	case err = <-followed: // a handler has failed for good, or somebody has stopped the read model
		running = false
		err = errors.Join(errors.New("the read model has ended"), err)
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err = errors.Join(err, server.Shutdown(ending))
	stopFollowing()
	if running {
		if e := <-followed; !errors.Is(e, context.Canceled) {
			err = errors.Join(err, e)
		}
	}
	return err
}
