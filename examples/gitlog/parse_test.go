package main

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

const (
	hashA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	hashB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	hashC = "cccccccccccccccccccccccccccccccccccccccc"
	who   = "Author: Ann <ann@example.org>\nDate:   1709290800 +0100\n"
	raw   = ":100644 100644 1000001 1000002 "
)

func TestParse(t *testing.T) {
	commits := parse(t, "commit "+hashA+" (HEAD -> main, tag: v1)\nAuthor: Ann <ann@example.org>\r\nDate:   1709290800 -0330\n\n    commit x\n\n"+
		raw+"M\tplain\n"+raw+"R100\t\"o\\tld\"\tnew\n"+raw+"C75\tfrom\tto\n"+raw+"T\tlink\n:000000 100644 0000000 1000001 A\tbin\n:100644 000000 1000001 0000000 D\t\"\\377\"\n"+
		"1\t2\tplain\n3\t4\t\"o\\tld\" => new\n5\t0\tfrom => to\n1\t1\tlink\n-\t-\tbin\n0\t7\t\"\\377\"\n"+
		"\ncommit "+hashB+" "+hashA+" "+hashC+"\nMerge: aaaaaaa ccccccc\nAuthor:  <>\nDate:   1709290800 +51800") // no newline at the end
	if len(commits) != 2 {
		t.Fatalf("%d commits", len(commits))
	}
	a, b := commits[0], commits[1]
	if a.hash != hashA || len(a.parents) != 0 || a.author != "Ann" || a.email != "ann@example.org" {
		t.Errorf("%+v", a)
	}
	if got := a.time.Format(time.RFC3339); got != "2024-03-01T07:30:00-03:30" {
		t.Errorf("time %s", got)
	}
	want := []fileChange{
		{status: 'M', path: "plain", added: 1, removed: 2},
		{status: 'R', path: "new", from: "o\tld", added: 3, removed: 4},
		{status: 'C', path: "to", from: "from", added: 5},
		{status: 'T', path: "link", added: 1, removed: 1},
		{status: 'A', path: "bin", binary: true},
		{status: 'D', path: "\xff", removed: 7},
	}
	if !slices.Equal(a.changes, want) {
		t.Errorf("%+v\nwant %+v", a.changes, want)
	}
	if b.author != "(nobody)" || !slices.Equal(b.parents, []string{hashA, hashC}) || b.time.Format(time.RFC3339) != "2024-03-01T11:00:00Z" {
		t.Errorf("%+v", b)
	}
}

func TestMalformed(t *testing.T) {
	commit := "commit " + hashA + "\n" + who
	for _, test := range []struct{ name, log, want string }{
		{"not a log", "hello\n", `line 1: want a line that begins with "commit": "hello"`},
		{"changes first", raw + "M\tx\n", `line 1: want a line that begins with "commit"`},
		{"message first", "    x\n", `line 1: want a line`},
		{"no hash", "commit \n", `line 1: a commit without its hash`},
		{"short hash", "commit abc123\n", `line 1: want hashes in full, 40 or 64 hexadecimal digits: "commit abc123"`},
		{"colours", "\x1b[33mcommit " + hashA + "\x1b[m\n", `line 1: want a line`},
		{"author", "commit " + hashA + "\nAuthor: Ann\n", `line 2: want an author as "Name <address>": "Author: Ann"`},
		{"date", "commit " + hashA + "\nAuthor: A <a>\nDate:   Fri Mar 1 12:00:00 2024 +0100\n", `line 3: want a date`},
		{"zone", "commit " + hashA + "\nAuthor: A <a>\nDate:   1709290800\n", `line 3: want a date`},
		{"year", "commit " + hashA + "\nAuthor: A <a>\nDate:   999999999999 +0000\n", `line 3: the date is beyond`},
		{"no date", "commit " + hashA + "\nAuthor: A <a>\n", `at the end: commit aaaaaaaaaaaa has no Date line`},
		{"no author", "commit " + hashA + "\nDate:   1709290800 +0100\n", `at the end: commit aaaaaaaaaaaa has no Author line`},
		{"noise", commit + "Notes:\n", `line 4: not a line of git log as it is wanted here (see -h): "Notes:"`},
		{"patch", commit + "diff --git a/x b/x\n", `line 4: not a line`},
		{"combined", commit + "::100644 100644 100644 1000001 1000002 1000003 MM\tx\n", `line 4: want two modes`},
		{"status", commit + raw + "X\tx\n", `line 4: unknown status "X"`},
		{"no path", commit + raw + "M\n", `line 4: want 1 paths with status M, not 0`},
		{"empty path", commit + raw + "M\t\n", `line 4: the path is empty`},
		{"one path", commit + raw + "R100\tx\n", `line 4: want 2 paths with status R, not 1`},
		{"open quote", commit + raw + "M\t\"x\n", `line 4: the quotes of the path are not closed`},
		{"quote", commit + raw + "M\t\"x\"y\"\n", `line 4: the path has a quote in its middle`},
		{"escape", commit + raw + "M\t\"\\x\"\n", `line 4: the path has an unknown escape`},
		{"cut escape", commit + raw + "M\t\"xy\\\"\n", `line 4: the path ends within an escape`},
		{"NUL", commit + raw + "M\t\"\\000\"\n", `line 4: the path has an unknown escape`},
		{"uncalled count", commit + "1\t1\tx\n", `line 4: line counts without a line from --raw`},
		{"other count", commit + raw + "M\tx\n1\t1\ty\n", `line 5: want the line counts of "x": "1\t1\ty"`},
		{"cut count", commit + raw + "M\tx/y\n1\t1\tx/", `line 5: want the line counts of "x/y"`},
		{"half count", commit + raw + "M\tx\n1\t1\n", `line 5: want two line counts and a path`},
		{"half binary", commit + raw + "M\tx\n-\t1\tx\n", `line 5: want two line counts`},
		{"negative", commit + raw + "M\tx\n-1\t1\tx\n", `line 5: want two line counts`},
		{"huge", commit + raw + "M\tx\n9999999999999999999\t1\tx\n", `line 5: want two line counts`},
		{"rename count", commit + raw + "R100\tx\ty\n1\t1\ty\n", `line 5: want the line counts of the rename to "y"`},
		{"no counts", commit + raw + "M\tx\n", `after line 4, at the end: commit aaaaaaaaaaaa has 1 changed files, but line counts for 0`},
		{"no counts, more", commit + raw + "M\tx\ncommit " + hashB + "\n", `line 5: commit aaaaaaaaaaaa has 1 changed files`},
		{"twice", commit + commit, `line 4: this commit is there twice`},
		{"backwards", "commit " + hashB + " " + hashA + "\n" + who + commit, `line 4: this commit comes after its child bbbbbbbbbbbb: use git log --reverse --topo-order`},
		{"no parents", commit + "commit " + hashB + "\n" + who, `use git log --parents`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parseLog(strings.NewReader(test.log), func(int) {})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %s", err, test.want)
			}
			gitlog(t, test.log, "-repo", "-").fails(t, exitError, "gitlog: standard input: ")
		})
	}
}

func TestParseReadError(t *testing.T) {
	broken := errors.New("broken pipe")
	in := io.MultiReader(strings.NewReader("commit "+hashA+"\n"), iotest.ErrReader(broken))
	if _, err := parseLog(in, func(int) {}); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("commit " + hashA + "\n" + who + raw + "M\tx\n1\t2\tx\n")
	f.Add(swapLog)
	f.Fuzz(func(t *testing.T, log string) {
		commits, err := parseLog(strings.NewReader(log), func(int) {})
		if err != nil {
			return
		}
		importAll(t, memStore(), commits)
	})
}
