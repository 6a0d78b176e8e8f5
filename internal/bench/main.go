// Command bench measures the store beside its limit: the same work done by hand with the same
// driver, in tables of the same columns and indexes. BENCHMARKS.md says how to run and read it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"example.com/eventstore/internal/testserver"
)

var (
	postgresDSNs, mysqlDSNs dsns

	only     = flag.String("only", "postgres,mysql,memory", "what to measure: postgres, mysql, memory")
	pattern  = flag.String("case", ".", "measure the cases whose names match this expression")
	rounds   = flag.Int("rounds", 7, "rounds, each of which measures both sides of a case")
	span     = flag.Duration("time", 400*time.Millisecond, "how long one side of a case runs in a round")
	logSize  = flag.Int("events", 100_000, "events in the log that is read, a multiple of 20,000")
	durable  = flag.Bool("durable", false, "have the servers that are started wait for the disk")
	markdown = flag.Bool("markdown", false, "print ratios only, as tables in Markdown")
)

// dsns is a flag that can be given more than once.
type dsns []string

func (d *dsns) String() string     { return strings.Join(*d, " ") }
func (d *dsns) Set(v string) error { *d = append(*d, v); return nil }

func main() {
	flag.Var(&postgresDSNs, "postgres", "DSN of a PostgreSQL; again for another. Default: $EVENTSTORE_TEST_POSTGRES, or one of its own")
	flag.Var(&mysqlDSNs, "mysql", "DSN of a MariaDB or MySQL; again for another. Default: $EVENTSTORE_TEST_MYSQL, or a MariaDB of its own, and $EVENTSTORE_TEST_MYSQL9")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	wanted, err := regexp.Compile(*pattern)
	if err != nil {
		return err
	}
	kinds, err := regexp.Compile("^(" + regexp.MustCompile(" *, *").ReplaceAllString(*only, "|") + ")$")
	if err != nil {
		return err
	}
	if *logSize <= 0 || *logSize%(2*bigAggregate) != 0 {
		return fmt.Errorf("-events %d: want a multiple of %d", *logSize, 2*bigAggregate)
	}
	if kinds.MatchString("postgres") {
		if len(postgresDSNs) == 0 {
			postgresDSNs = dsns{os.Getenv("EVENTSTORE_TEST_POSTGRES")}
		}
		for _, dsn := range postgresDSNs {
			if err := runDatabase(ctx, testserver.Postgres, dsn, wanted); err != nil {
				return err
			}
		}
	}
	if kinds.MatchString("mysql") {
		if len(mysqlDSNs) == 0 {
			mysqlDSNs = dsns{os.Getenv("EVENTSTORE_TEST_MYSQL")}
			if dsn := os.Getenv("EVENTSTORE_TEST_MYSQL9"); dsn != "" {
				mysqlDSNs = append(mysqlDSNs, dsn)
			}
		}
		for _, dsn := range mysqlDSNs {
			if err := runDatabase(ctx, testserver.MariaDB, dsn, wanted); err != nil {
				return err
			}
		}
	}
	if kinds.MatchString("memory") {
		return runMemory(ctx, wanted)
	}
	return nil
}

// runDatabase measures a database, one that it starts if dsn is empty.
func runDatabase(ctx context.Context, engine testserver.Engine, dsn string, wanted *regexp.Regexp) (err error) {
	if dsn == "" {
		s, err := testserver.Start(ctx, engine, testserver.Options{Durable: *durable})
		if err != nil {
			return err
		}
		defer func() { _ = s.Stop() }()
		dsn = s.DSN(map[testserver.Engine]string{testserver.Postgres: "postgres"}[engine])
	}
	db, err := openDB(engine, dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	title, err := serverName(ctx, db)
	if err != nil {
		return err
	}
	b, err := newDatabaseBench(ctx, db, engine, wanted)
	if b != nil {
		defer b.drop()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", title, err)
	}
	return report(ctx, title, b.cases(), wanted)
}
