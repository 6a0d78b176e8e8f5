package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"text/tabwriter"
)

// report measures cases and prints a table.
func report(ctx context.Context, title string, cases []benchCase, wanted *regexp.Regexp) error {
	head := []string{"case", "library/s", "raw/s", "ratio", "quartiles", "goal"}
	if *markdown {
		head = []string{"case", "library ÷ raw", "quartiles", "goal"}
	}
	var rows [][]string
	for _, c := range cases {
		if !wanted.MatchString(c.name) {
			continue
		}
		r, err := measure(ctx, c)
		if err != nil {
			return fmt.Errorf("%s, %s: %w", title, c.name, err)
		}
		row := []string{c.name, fmt.Sprintf("%.2f", r.ratio), fmt.Sprintf("%.2f–%.2f", r.low, r.high), fmt.Sprintf("%.2f", c.goal)}
		if !*markdown {
			row = append([]string{fmt.Sprintf("%s (%s)", c.name, c.unit), fmt.Sprintf("%.0f", r.libRate), fmt.Sprintf("%.0f", r.rawRate)}, row[1:]...)
		}
		rows = append(rows, row)
		fmt.Fprintf(os.Stderr, "  %s: %.2f\n", c.name, r.ratio)
	}
	return printTable(os.Stdout, fmt.Sprintf("%s, %d rounds of %v", title, *rounds, *span), head, rows)
}

// printTable prints a table, if it has rows: for a terminal or in Markdown.
func printTable(w io.Writer, title string, head []string, rows [][]string) error {
	if len(rows) == 0 {
		return nil
	}
	if !*markdown {
		fmt.Fprintln(w, title)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		for _, row := range append([][]string{head}, rows...) {
			fmt.Fprintln(t, strings.Join(row, "\t")+"\t")
		}
		fmt.Fprintln(t)
		return t.Flush()
	}
	fmt.Fprintf(w, "%s:\n\n", title)
	rule := append([]string{"---"}, strings.Split(strings.Repeat("---: ", len(head)-1), " ")[:len(head)-1]...)
	for _, row := range append([][]string{head, rule}, rows...) {
		if _, err := fmt.Fprintln(w, "| "+strings.Join(row, " | ")+" |"); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(w)
	return err
}
