package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/eventstore"
	"example.com/eventstore/internal/storetest"
	"github.com/go-sql-driver/mysql"
)

func TestMain(m *testing.M) {
	if os.Getenv("GITLOG_TEST_MAIN") != "" {
		main()
		return
	}
	os.Exit(runAll(m))
}

// scratch is a folder for what several tests share.
var scratch string

func runAll(m *testing.M) (code int) {
	var err error
	if scratch, err = os.MkdirTemp("", "gitlog-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(scratch)
	isolateGit()
	return storetest.Run(m)
}

// isolateGit sees to it that neither this machine's settings of git, nor a hook that runs the
// tests, nor the owner of a folder makes a difference.
func isolateGit() {
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "GIT_") {
			os.Unsetenv(name)
		}
	}
	for name, value := range map[string]string{
		"GIT_CONFIG_NOSYSTEM": "1",
		"GIT_CONFIG_GLOBAL":   os.DevNull,
		"GIT_ATTR_NOSYSTEM":   "1",
		"XDG_CONFIG_HOME":     scratch, // git/attributes and git/ignore
		"GIT_TEMPLATE_DIR":    "",      // hooks for new repositories
		"GIT_TERMINAL_PROMPT": "0",
		// A folder for temporary files within a repository is not a part of that.
		"GIT_CEILING_DIRECTORIES": os.TempDir(),
		"GIT_CONFIG_COUNT":        "3",
		"GIT_CONFIG_KEY_0":        "safe.directory",
		"GIT_CONFIG_VALUE_0":      "*",
		"GIT_CONFIG_KEY_1":        "gc.auto",
		"GIT_CONFIG_VALUE_1":      "0",
		"GIT_CONFIG_KEY_2":        "protocol.file.allow",
		"GIT_CONFIG_VALUE_2":      "always",
	} {
		os.Setenv(name, value)
	}
}

// forEachServer runs a test on each database server, with a table prefix of its own.
func forEachServer(t *testing.T, test func(t *testing.T, url, prefix string)) {
	t.Helper()
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) { test(t, l.URL(t), l.NewPrefix(t)) })
}

// opener makes an empty store.
type opener func(...eventstore.Middleware) *eventstore.Store

// forEachStore runs a test on memory and on each server.
func forEachStore(t *testing.T, test func(t *testing.T, open opener)) {
	t.Helper()
	storetest.ForEach(t, storetest.SomeLanes, storetest.Usual, func(t *testing.T, l storetest.Lane) {
		test(t, func(mw ...eventstore.Middleware) *eventstore.Store {
			t.Helper()
			return l.Open(t, &eventstore.Options{Middleware: mw})
		})
	})
}

// result is what a run of the program left.
type result struct {
	code           int
	stdout, stderr string
}

func gitlog(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), args, strings.NewReader(stdin), &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

// fails checks that a run ended with a status, nothing on standard output, and one line on
// standard error that holds a text.
func (r result) fails(t *testing.T, code int, text string) {
	t.Helper()
	if r.code != code || r.stdout != "" {
		t.Errorf("status %d and output %q, want status %d and none", r.code, r.stdout, code)
	}
	if !strings.HasPrefix(r.stderr, "gitlog: ") || strings.Count(r.stderr, "\n") != 1 || !strings.HasSuffix(r.stderr, "\n") {
		t.Errorf("standard error is not one sentence: %q", r.stderr)
	}
	if !strings.Contains(r.stderr, text) {
		t.Errorf("standard error %q does not say %q", r.stderr, text)
	}
}

// succeeds checks that a run ended well and returns its output.
func (r result) succeeds(t *testing.T) string {
	t.Helper()
	if r.code != exitOK {
		t.Fatalf("status %d: %s", r.code, r.stderr)
	}
	return r.stdout
}

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got:\n%s\nwant:\n%s", name, got, want)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestGoldenReport(t *testing.T) {
	log := readFile(t, "testdata/history.log")
	golden(t, "report.txt", gitlog(t, log, "-repo", "-", "-top", "5").succeeds(t))
	golden(t, "file.txt", gitlog(t, log, "-repo", "-", "-file", "src/server.go").succeeds(t))
}

// The README shows what the program prints, and its commands are ones that it takes.
func TestREADME(t *testing.T) {
	text := readFile(t, "README.md")
	log := readFile(t, "testdata/history.log")
	commits := parse(t, log)
	sum := importAll(t, memStore(), commits)
	for _, want := range []string{
		readFile(t, "testdata/report.txt"),
		readFile(t, "testdata/file.txt"),
		fmt.Sprintf("gitlog: 0 new commits, 0 new events; %d were there already\n", sum.newEvents),
	} {
		if !strings.Contains(text, "```text\n"+want+"```\n") {
			t.Errorf("README.md does not show:\n%s", want)
		}
	}
	commands := 0
	for line := range strings.Lines(text) {
		command, ok := strings.CutPrefix(line, "go run ./examples/gitlog")
		if !ok {
			continue
		}
		commands++
		command, _, _ = strings.Cut(command, "#")
		command, _, _ = strings.Cut(command, "<")
		if _, err := parseFlags(strings.Fields(command)); err != nil && !errors.Is(err, flag.ErrHelp) {
			t.Errorf("%s: %v", line, err)
		}
	}
	if commands < 6 {
		t.Errorf("%d commands", commands)
	}
	checkWidth(t, readFile(t, "testdata/report.txt"))
	checkWidth(t, readFile(t, "testdata/file.txt"))
}

func TestHelp(t *testing.T) {
	out := gitlog(t, "", "-h").succeeds(t)
	for _, want := range []string{"-repo", "-store", "-prefix", "-top", "-file", logCommand} {
		if !strings.Contains(out, want) {
			t.Errorf("-h does not mention %s", want)
		}
	}
	checkWidth(t, out)
}

// The command that -h shows makes what parseLog reads, and is what the program itself runs.
func TestLogCommand(t *testing.T) {
	repo := exampleRepo(t)
	direct := gitlog(t, "", "-repo", repo.dir).succeeds(t)
	args := strings.Fields(logCommand)
	log := repo.git(args[1:]...)
	if piped := gitlog(t, log, "-repo", "-").succeeds(t); piped != direct {
		t.Errorf("from standard input:\n%s\nfrom the repository:\n%s", piped, direct)
	}
	ours := strings.Join(logArgs, " ")
	if !strings.Contains(ours, strings.TrimPrefix(logCommand, "git ")) {
		t.Errorf("%q is not among the arguments %q", logCommand, ours)
	}
}

func TestUsageErrors(t *testing.T) {
	for _, test := range []struct {
		args []string
		text string
	}{
		{[]string{"-nosuch"}, "nosuch"},
		{[]string{"-top", "0"}, "at least 1"},
		{[]string{"-top", "many"}, "many"},
		{[]string{"-repo"}, "-repo"},
		{[]string{"extra"}, "1 argument that no flag asks for"},
		{[]string{"postgres://me:secret@host/db"}, "1 argument"},
	} {
		r := gitlog(t, "", test.args...)
		r.fails(t, exitUsage, test.text)
		if strings.Contains(r.stderr, "secret") {
			t.Errorf("%q shows a password", r.stderr)
		}
	}
}

func TestStoreErrors(t *testing.T) {
	repo := exampleRepo(t)
	const free = "127.0.0.1:1" // nothing listens there
	for _, test := range []struct{ store, text string }{
		{"postgres://me:secret@" + free + "/db?sslmode=disable", "can't be reached"},
		{"mysql://me:secret@" + free + "/db", "can't be reached"},
		{"me:secret@tcp(" + free + ")/db", "can't be reached"},
		{"mysql://me:secret@tcp(" + free + ")/db", "can't be reached"},
		{"mysql://me:secret@" + free, "names no database"},
		{"mysql://me:secret@" + free + "/db?parseTime=secret", "parameter"},
		{"me:secret@tcp(" + free, "DSN"},
		{"postgres://me:secret/secret@" + free + "/db", "not a URL"},
		{"mysql://me:sec%ret@" + free + "/db", "not a URL"},
		{"postgres://" + free + "/db?password=secret&sslmode=odd", "sslmode"},
		{"oracle://me:secret@" + free + "/db", "memory, postgres"},
		{"secret", "memory, postgres"},
		{"", "memory, postgres"},
	} {
		r := gitlog(t, "", "-repo", repo.dir, "-store", test.store)
		r.fails(t, exitError, test.text)
		if strings.Contains(r.stderr, "secret") || strings.Contains(r.stderr, "sec%ret") {
			t.Errorf("-store %s: %q shows the password", test.store, r.stderr)
		}
	}
	gitlog(t, "", "-repo", repo.dir, "-prefix", "a b").fails(t, exitError, "TablePrefix")
}

func TestMySQLURL(t *testing.T) {
	for target, want := range map[string]string{
		"mysql://me:p%40ss%2Fw@db.example:3307/shop?parseTime=true": "me:p@ss/w@tcp(db.example:3307)/shop?parseTime=true",
		"mysql://me@db.example/shop":                                "me@tcp(db.example:3306)/shop",
		"mysql:///shop":                                             "tcp(127.0.0.1:3306)/shop",
		"mysql://me@[::1]:3307/shop":                                "me@tcp([::1]:3307)/shop",
	} {
		u := parseURL(t, target)
		cfg, err := mysqlConfig(u)
		if err != nil {
			t.Fatal(err)
		}
		wantCfg, err := mysql.ParseDSN(want)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := cfg.FormatDSN(), wantCfg.FormatDSN(); got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
}

func TestNoGit(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	gitlog(t, "").fails(t, exitError, "git is not installed")
}

func TestUnwritableOutput(t *testing.T) {
	repo := exampleRepo(t)
	var stderr bytes.Buffer
	if code := run(t.Context(), []string{"-repo", repo.dir}, nil, failingWriter{}, &stderr); code != exitError {
		t.Errorf("status %d", code)
	}
	if want := "gitlog: write the report: the disk is full\n"; stderr.String() != want {
		t.Errorf("%q, want %q", stderr.String(), want)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, fmt.Errorf("the disk is full") }

// Standard input is read with -repo - only: without it one that is closed, or never ends, is
// nothing to wait for.
func TestStandardInputIsLeftAlone(t *testing.T) {
	repo := exampleRepo(t)
	t.Chdir(repo.dir)
	in, _ := io.Pipe() // reading it would block
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), nil, in, &stdout, &stderr); code != exitOK {
		t.Fatal(stderr.String())
	}
	gitlog(t, "", "-repo", "-").fails(t, exitError, "standard input: there is nothing")
}

// A Ctrl-C ends the program at once, also while it waits for standard input.
func TestInterrupt(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-repo", "-")
	cmd.Env = append(os.Environ(), "GITLOG_TEST_MAIN=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// More than a pipe holds: when it is written, the program is reading.
	if _, err := io.WriteString(stdin, strings.Repeat("\n", 1<<20)); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitInterrupted {
		t.Errorf("status %d", code)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	if !strings.HasPrefix(stderr.String(), "gitlog: interrupted") || strings.Count(stderr.String(), "\n") != 1 {
		t.Errorf("standard error: %q", stderr.String())
	}
}

// A context that has ended ends a run that reads git, too.
func TestInterruptedGit(t *testing.T) {
	repo := exampleRepo(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	if code := run(ctx, []string{"-repo", repo.dir}, nil, &stdout, &stderr); code != exitInterrupted || stdout.Len() > 0 {
		t.Errorf("status %d, output %q", code, stdout.String())
	}
}

// Progress is for terminals.
func TestNoProgressElsewhere(t *testing.T) {
	repo := exampleRepo(t)
	f, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if code := run(t.Context(), []string{"-repo", repo.dir}, nil, io.Discard, f); code != exitOK {
		t.Errorf("status %d", code)
	}
	if text := readFile(t, f.Name()); text != "" {
		t.Errorf("standard error: %q", text)
	}
	m := &meter{w: &bytes.Buffer{}}
	m.show("reading: %d", 1)
	m.show("reading: %d", 2) // too soon
	m.clear()
	m.clear()
	if got, want := m.w.(*bytes.Buffer).String(), "\r\x1b[Kreading: 1\r\x1b[K"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
