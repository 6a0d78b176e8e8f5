// Command bench measures the store beside its limit: the same work done by hand with the same
// driver, in tables of the same columns and indexes. BENCHMARKS.md says how to run and read it.
package main

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"

	"example.com/eventstore/internal/testserver"
)

var (
	postgresDSN = flag.String("postgres", os.Getenv("EVENTSTORE_TEST_POSTGRES"), "DSN of a PostgreSQL; default: one of its own")
	mysqlDSN    = flag.String("mysql", os.Getenv("EVENTSTORE_TEST_MYSQL"), "DSN of a MariaDB or MySQL; default: one of its own")
	only        = flag.String("only", "postgres,mysql,memory", "what to measure: postgres, mysql, memory")
	pattern     = flag.String("case", ".", "measure the cases whose names match this expression")
	rounds      = flag.Int("rounds", 7, "rounds, each of which measures both sides of a case")
	span        = flag.Duration("time", 400*time.Millisecond, "how long one side of a case runs in a round")
	logSize     = flag.Int("events", 100_000, "events in the log that is read")
	durable     = flag.Bool("durable", false, "have the servers that are started wait for the disk")
)

func main() {
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
	if kinds.MatchString("postgres") {
		if err := runDatabase(ctx, testserver.Postgres, *postgresDSN, wanted); err != nil {
			return err
		}
	}
	if kinds.MatchString("mysql") {
		if err := runDatabase(ctx, testserver.MariaDB, *mysqlDSN, wanted); err != nil {
			return err
		}
	}
	if kinds.MatchString("memory") {
		return runMemory(ctx, wanted)
	}
	return nil
}

// benchCase is some work, done by the library and by hand. Each side does it for about as long as
// it is told, and returns how many units it has done and how long they took.
type benchCase struct {
	name     string
	unit     string
	lib, raw func(ctx context.Context, d time.Duration) (int, time.Duration, error)
	goal     float64 // of library ÷ raw
}

// result is what a case came to: units a second, medians over the rounds.
type result struct {
	benchCase
	libRate, rawRate, ratio float64
	low, high               float64 // quartiles of the ratio
}

func runDatabase(ctx context.Context, engine testserver.Engine, dsn string, wanted *regexp.Regexp) (err error) {
	name := engine.String()
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
	b, err := newDatabaseBench(ctx, db, engine)
	if err != nil {
		return err
	}
	defer b.drop()
	return report(ctx, name, b.cases(), wanted)
}

// openDB opens a pool that is wide enough for every case. A MySQL DSN without a database gets one.
func openDB(engine testserver.Engine, dsn string) (*sql.DB, error) {
	driver := "pgx"
	if engine == testserver.MariaDB {
		driver = "mysql"
		cfg, err := mysql.ParseDSN(dsn)
		if err != nil {
			return nil, err
		}
		if cfg.DBName == "" {
			db, err := sql.Open(driver, dsn)
			if err != nil {
				return nil, err
			}
			defer db.Close()
			if _, err := db.Exec("CREATE DATABASE IF NOT EXISTS eventstore_bench"); err != nil {
				return nil, err
			}
			cfg.DBName = "eventstore_bench"
			dsn = cfg.FormatDSN()
		}
	}
	db, err := sql.Open(driver, dsn)
	if err == nil {
		db.SetMaxOpenConns(70)
		db.SetMaxIdleConns(70)
	}
	return db, err
}

// report measures cases and prints a table.
func report(ctx context.Context, title string, cases []benchCase, wanted *regexp.Regexp) error {
	fmt.Printf("%s, %d rounds of %v\n", title, *rounds, *span)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "case\tlibrary/s\traw/s\tratio\tquartiles\tgoal\t")
	for _, c := range cases {
		if !wanted.MatchString(c.name) {
			continue
		}
		r, err := measure(ctx, c)
		if err != nil {
			return fmt.Errorf("%s, %s: %w", title, c.name, err)
		}
		fmt.Fprintf(w, "%s (%s)\t%.0f\t%.0f\t%.2f\t%.2f-%.2f\t%.2f\t\n", c.name, c.unit, r.libRate, r.rawRate, r.ratio, r.low, r.high, c.goal)
		fmt.Fprintf(os.Stderr, "  %s: %.2f\n", c.name, r.ratio)
	}
	fmt.Fprintln(w)
	return w.Flush()
}

// measure runs both sides of a case in turn, the other one first in every other round, after a
// round that does not count.
func measure(ctx context.Context, c benchCase) (result, error) {
	var libs, raws, ratios []float64
	for i := range *rounds + 1 {
		sides := []func(context.Context, time.Duration) (int, time.Duration, error){c.lib, c.raw}
		var rates [2]float64
		for j := range sides {
			k := (i + j) % 2
			d := *span
			if i == 0 {
				d /= 4
			}
			n, took, err := sides[k](ctx, d)
			if err != nil {
				return result{}, err
			}
			rates[k] = float64(n) / took.Seconds()
		}
		if i > 0 {
			libs, raws, ratios = append(libs, rates[0]), append(raws, rates[1]), append(ratios, rates[0]/rates[1])
		}
	}
	return result{c, quantile(libs, .5), quantile(raws, .5), quantile(ratios, .5), quantile(ratios, .25), quantile(ratios, .75)}, nil
}

func quantile(values []float64, q float64) float64 {
	slices.Sort(values)
	at := q * float64(len(values)-1)
	i := int(at)
	if i+1 == len(values) {
		return values[i]
	}
	return values[i] + (at-float64(i))*(values[i+1]-values[i])
}
