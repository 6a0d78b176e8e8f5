// Command migrate copies a stream from the Postgres tables of go-event-store/eventstore into a store
// of this package: aggregate IDs, versions, event IDs, names, payloads, metadata and times. See
// README.md.
package main

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"example.com/eventstore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "migrate:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("migrate", flag.ExitOnError)
	from := fs.String("from", "", "the database with the old tables, postgres://…")
	to := fs.String("to", "", "the database to copy to, postgres://… (default: the same)")
	stream := fs.String("stream", "", "the stream to copy, by its real name")
	prefix := fs.String("prefix", "es_", "begins the names of the store's tables")
	zone := fs.String("zone", "UTC", "the time zone in which the old times were written, which have none")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *from == "" || *stream == "" {
		return fmt.Errorf("-from and -stream are needed (migrate -h lists the flags)")
	}
	if *to == "" {
		*to = *from
	}
	location, err := time.LoadLocation(*zone)
	if err != nil {
		return err
	}
	source, err := sql.Open("pgx", *from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := sql.Open("pgx", *to)
	if err != nil {
		return err
	}
	defer target.Close()
	c := &copier{source: &oldStream{db: source, name: *stream, zone: location}}
	if err := c.open(target, eventstore.Postgres, *prefix); err != nil {
		return err
	}
	n, err := c.copy(ctx)
	if err != nil {
		return fmt.Errorf("after %d events: %w", n, err)
	}
	fmt.Printf("%d events of %q are in the store, each compared with what was copied\n", n, *stream)
	return nil
}
