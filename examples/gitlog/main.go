// Command gitlog stores the history of a git repository as events and reports on it from the
// store. See README.md, or gitlog -h.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.com/eventstore"
)

const usage = `gitlog stores the history of a git repository as events, and reports on it from
the store: one aggregate for each file path, one event for each change.

Usage: gitlog [flags]

  -repo DIR      the repository, or any folder in it (default: where you are);
                 "-" reads a log from standard input instead
  -store URL     memory (the default: kept for this run only),
                 postgres://user:password@host:port/database or
                 mysql://user:password@host:port/database
  -prefix NAME   begins the names of the store's tables (default gitlog_); one
                 prefix holds one repository
  -top N         the length of the lists (default 10)
  -file PATH     show the history of one file instead of the report

The log for standard input is made with

  ` + logCommand + `

A store keeps what it has: another run adds only what is new. Standard input is
read with -repo - only. The exit status is 0, or 1 after an error, 2 after a
mistake in the flags, 130 after an interruption; an interrupted import goes on
with the next run.
`

// Exit statuses.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// config is what the flags say.
type config struct {
	repo, store, prefix, file string
	top                       int
}

// run is the whole program, and returns its exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	cfg, err := parseFlags(args)
	if errors.Is(err, flag.ErrHelp) {
		if _, err := io.WriteString(stdout, usage); err != nil {
			return exitError
		}
		return exitOK
	}
	if err != nil {
		fmt.Fprintf(stderr, "gitlog: %s (gitlog -h lists the flags)\n", oneLine(err))
		return exitUsage
	}
	m := newMeter(stderr)
	err = report(ctx, cfg, stdin, stdout, stderr, m)
	m.clear()
	switch {
	case err == nil:
		return exitOK
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "gitlog: interrupted; the next run goes on from what is stored")
		return exitInterrupted
	}
	fmt.Fprintf(stderr, "gitlog: %s\n", oneLine(err))
	return exitError
}

func parseFlags(args []string) (config, error) {
	var cfg config
	flags := flag.NewFlagSet("gitlog", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&cfg.repo, "repo", "", "")
	flags.StringVar(&cfg.store, "store", "memory", "")
	flags.StringVar(&cfg.prefix, "prefix", "gitlog_", "")
	flags.StringVar(&cfg.file, "file", "", "")
	flags.IntVar(&cfg.top, "top", 10, "")
	if err := flags.Parse(args); err != nil {
		return cfg, err
	}
	if flags.NArg() > 0 {
		// It is not shown: it might be a URL with a password.
		return cfg, fmt.Errorf("%s that no flag asks for", plural(flags.NArg(), "argument"))
	}
	if cfg.top < 1 {
		return cfg, fmt.Errorf("-top %d: want at least 1", cfg.top)
	}
	return cfg, nil
}

// report reads the history, stores what is new, and writes the report. The history is read to its
// end before anything is stored.
func report(ctx context.Context, cfg config, stdin io.Reader, stdout, stderr io.Writer, m *meter) error {
	s, err := openStore(ctx, cfg.store, cfg.prefix)
	if err != nil {
		return err
	}
	defer s.close()
	reading := func(commits int) { m.show("reading: %s", plural(commits, "commit")) }
	h, err := readHistory(ctx, cfg.repo, stdin, reading)
	if err != nil {
		return err
	}
	if h.shallow {
		// The first commits of a shallow clone seem to add every file; stored, they would be
		// wrong for good.
		if s.db != nil {
			return errors.New("a shallow clone can't be stored for good: run git fetch --unshallow first, or leave out -store")
		}
		m.clear()
		fmt.Fprintln(stderr, "gitlog: this is a shallow clone: its first commits seem to add every file")
	}
	if s.db != nil {
		if err := s.Install(ctx); err != nil {
			return err
		}
		// So would commits be whose ancestors came behind them with a later run.
		if err := checkConnected(ctx, s.Store, h.commits); err != nil {
			return err
		}
	}
	sum, err := importHistory(ctx, s.Store, h.commits, func(done, total int) {
		m.show("storing: %s of %s", count(done), plural(total, "event"))
	})
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := write(ctx, &out, s.Store, cfg, sum); err != nil {
		return err
	}
	m.clear()
	if _, err := stdout.Write(out.Bytes()); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if s.db != nil {
		fmt.Fprintf(stderr, "gitlog: %s, %s; %s were there already\n",
			plural(sum.newCommits, "new commit"), plural(sum.newEvents, "new event"), count(sum.earlier))
	}
	return nil
}

// write writes what was asked for, from what is in the store.
func write(ctx context.Context, w io.Writer, s *eventstore.Store, cfg config, sum imported) error {
	if cfg.file != "" {
		return showFile(ctx, s, w, cfg.file)
	}
	r, err := readReport(ctx, s)
	if err != nil {
		return err
	}
	render(w, r, cfg.top, sum.strangers)
	return nil
}

// readHistory reads the history from git or, for "-", from standard input.
func readHistory(ctx context.Context, repo string, stdin io.Reader, progress func(int)) (*history, error) {
	if repo != "-" {
		if err := checkFolder(repo); err != nil {
			return nil, err
		}
		h, err := readGit(ctx, repo, progress)
		if err != nil && repo != "" && ctx.Err() == nil {
			err = fmt.Errorf("%s: %w", printable(repo), err)
		}
		return h, err
	}
	type result struct {
		commits []*commit
		err     error
	}
	// Reading a terminal or a pipe can't be interrupted, so it is left behind.
	done := make(chan result, 1)
	go func() {
		commits, err := parseLog(stdin, progress)
		done <- result{commits, err}
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-done:
		if r.err == nil && len(r.commits) == 0 {
			r.err = errors.New("there is nothing")
		}
		if r.err != nil {
			return nil, fmt.Errorf("standard input: %w (gitlog -h has the command that makes such a log)", r.err)
		}
		return &history{commits: r.commits}, nil
	}
}

// checkFolder says what is wrong with -repo in fewer words than an attempt to run git there. "" is
// the current folder.
func checkFolder(repo string) error {
	if repo == "" {
		return nil
	}
	info, err := os.Stat(repo)
	var reason *fs.PathError
	switch {
	case errors.As(err, &reason):
		return fmt.Errorf("%s: %w", printable(repo), reason.Err)
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s: not a folder", printable(repo))
	}
	return nil
}

// oneLine returns the text of an error as one sentence.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// meter shows progress on one line of a terminal. On anything else it shows nothing. It is safe
// for concurrent use.
type meter struct {
	mu   sync.Mutex
	w    io.Writer // nil: not a terminal
	next time.Time
	used bool
}

func newMeter(w io.Writer) *meter {
	m := &meter{}
	if f, ok := w.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			m.w = w
		}
	}
	return m
}

// show replaces the line, but not too often.
func (m *meter) show(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if m.w == nil || now.Before(m.next) {
		return
	}
	m.next, m.used = now.Add(100*time.Millisecond), true
	fmt.Fprintf(m.w, "\r\x1b[K"+format, args...)
}

// clear removes the line.
func (m *meter) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.used {
		fmt.Fprint(m.w, "\r\x1b[K")
		m.used = false
	}
}
