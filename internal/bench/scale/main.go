// Command scale measures on PostgreSQL whether what is done with a store costs the same however many
// events it holds. BENCHMARKS.md says how to run and read it.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"example.com/eventstore/internal/testserver"
)

var (
	dsn    = flag.String("postgres", os.Getenv("EVENTSTORE_TEST_POSTGRES"), "DSN of a PostgreSQL; default: one of its own")
	sizes  = flag.String("sizes", "100000,1000000,10000000", "events in each of the stores that are compared: multiples of 100,000, the smallest first")
	rounds = flag.Int("rounds", 15, "rounds, each of which does everything in all stores")
	limit  = flag.Duration("timeout", time.Hour, "when to give up")
	keep   = flag.Bool("keep", false, "leave the tables, bench_scale_*, for EXPLAIN; the next run drops them")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	var counts []int
	for text := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n <= 0 || n%chunk != 0 {
			return fmt.Errorf("-sizes %q: want multiples of %d", text, chunk)
		}
		counts = append(counts, n)
	}
	if !slices.IsSorted(counts) {
		return errors.New("-sizes: want the smallest first")
	}
	if *dsn == "" {
		s, err := testserver.Start(ctx, testserver.Postgres, testserver.Options{})
		if err != nil {
			return err
		}
		defer func() { _ = s.Stop() }()
		*dsn = s.DSN("postgres")
	}
	db, err := sql.Open("pgx", *dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	var logs []*filled
	defer func() {
		for _, l := range logs {
			if !*keep {
				err = errors.Join(err, l.drop())
			}
		}
	}()
	for _, n := range counts {
		l, err := newFilled(ctx, db, n)
		if err != nil {
			return err
		}
		logs = append(logs, l)
		if err := l.fill(ctx); err != nil {
			return fmt.Errorf("fill %d: %w", n, err)
		}
	}
	return measure(ctx, logs)
}

// measure does every operation in all stores, round by round, and prints what one takes in each
// beside the smallest.
func measure(ctx context.Context, logs []*filled) error {
	costs := map[string][][]float64{} // microseconds, by operation and store, in the order of rounds
	for round := range *rounds + 1 {
		for _, op := range operations {
			if costs[op.name] == nil {
				costs[op.name] = make([][]float64, len(logs))
			}
			for i := range logs {
				i := (i + round) % len(logs)
				took, err := op.run(logs[i], ctx, round)
				if err != nil {
					return fmt.Errorf("%s among %d: %w", op.name, logs[i].events, err)
				}
				if round > 0 { // the first one only warms up
					costs[op.name][i] = append(costs[op.name][i], float64(took.Nanoseconds())/1000)
				}
			}
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "µs\t")
	for _, l := range logs {
		fmt.Fprintf(w, "%d\t", l.events)
	}
	for _, l := range logs[1:] {
		fmt.Fprintf(w, "%d ÷ %d\tquartiles\t", l.events, logs[0].events)
	}
	fmt.Fprintln(w)
	for _, op := range operations {
		fmt.Fprintf(w, "%s\t", op.name)
		for i := range logs {
			fmt.Fprintf(w, "%.0f\t", quantile(costs[op.name][i], .5))
		}
		for i := range logs[1:] {
			ratios := make([]float64, *rounds)
			for k := range ratios {
				ratios[k] = costs[op.name][i+1][k] / costs[op.name][0][k]
			}
			fmt.Fprintf(w, "%.2f\t%.2f–%.2f\t", quantile(ratios, .5), quantile(ratios, .25), quantile(ratios, .75))
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

func quantile(values []float64, q float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[int(q*float64(len(values)-1)+.5)]
}
