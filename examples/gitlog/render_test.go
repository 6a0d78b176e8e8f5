package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// checkWidth checks that no line is wider than 80 columns.
func checkWidth(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if n := displayWidth(line); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
		if strings.TrimRight(line, " ") != line {
			t.Errorf("white space at the end: %q", line)
		}
	}
}

// The report stays within its columns, whatever the names and numbers.
func TestReportWidth(t *testing.T) {
	r := &Report{Authors: make(Authors), Files: make(Files)}
	at := time.Date(2024, 2, 29, 23, 59, 0, 0, time.UTC)
	for i, name := range append(oddNames, strings.Repeat("長い名前", 30), strings.Repeat("e\u0301", 100), "x\u200d\u0085") {
		who := Change{Author: name, Email: fmt.Sprint(i, "@example.org"), Time: at, Added: 1_234_567_890_123, Removed: 9_876_543}
		for range i*100 + 1 {
			f := r.Files[fileID(name)]
			f.by(who)
			f.count(who)
			r.Files[fileID(name)] = f
			r.Totals.applyChange(who, &r.Totals.Changed)
			commit := CommitMade{Author: who.Author, Email: who.Email, Time: at.Add(time.Duration(i*i) * time.Hour)}
			r.Totals.applyCommit(commit)
			r.Activity.applyCommit(commit)
			r.Authors.applyCommit(commit)
		}
	}
	var out bytes.Buffer
	render(&out, r, 100, 1_234_567)
	checkWidth(t, out.String())
	for line := range strings.Lines(out.String()) {
		if before, _, ok := strings.Cut(line, " █"); ok && !strings.Contains(line, "·") && displayWidth(before) != 2+nameWidth+1+countWidth {
			t.Errorf("the bar begins at column %d: %s", displayWidth(before), line)
		}
	}
	for _, bad := range []string{"\u202e", "\x1b", "\u0085", "\u200d"} {
		if strings.Contains(out.String(), bad) {
			t.Errorf("the report holds %q", bad)
		}
	}
}

func TestTop(t *testing.T) {
	log := readFile(t, "testdata/history.log")
	out := gitlog(t, log, "-repo", "-", "-top", "2").succeeds(t)
	if n := strings.Count(out, " more\n"); n != 2 {
		t.Errorf("%d lists are cut:\n%s", n, out)
	}
	out = gitlog(t, log, "-repo", "-", "-top", "1000").succeeds(t)
	if strings.Contains(out, " more\n") {
		t.Errorf("a list is cut:\n%s", out)
	}
}

func TestShorten(t *testing.T) {
	for _, test := range []struct {
		in    string
		width int
		want  string
	}{
		{"short", 5, "short"},
		{"shorter", 6, "s…rter"},
		{"src/very/long/path/file.go", 13, "src/…/file.go"},
		{"日本語日本語日本語", 9, "日…日本語"},
		{strings.Repeat("e\u0301", 10), 4, "e\u0301…e\u0301e\u0301"},
	} {
		got := shorten(test.in, test.width)
		if got != test.want {
			t.Errorf("%q: %q, want %q", test.in, got, test.want)
		}
		if displayWidth(got) > test.width || !utf8.ValidString(got) {
			t.Errorf("%q is too wide", got)
		}
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestCell(t *testing.T) {
	for _, test := range []struct {
		n, most int
		want    string
	}{{0, 0, "· "}, {0, 9, "· "}, {1, 1, "██"}, {1, 100, "░░"}, {25, 100, "░░"}, {26, 100, "▒▒"}, {75, 100, "▓▓"}, {76, 100, "██"}, {100, 100, "██"}} {
		if got := cell(test.n, test.most); got != test.want {
			t.Errorf("%d of %d: %s, want %s", test.n, test.most, got, test.want)
		}
	}
}

// An author's name is that of the latest commit, whatever the order of reading.
func TestAuthors(t *testing.T) {
	at := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	commits := []CommitMade{
		{Author: "ann", Email: "Ann@example.org", Time: at},
		{Author: "Ann Smith", Email: "ann@example.org", Time: at.Add(2 * time.Hour)},
		{Author: "Ann S", Email: "ann@EXAMPLE.org", Time: at.Add(time.Hour)},
		{Author: "Ann R", Email: "ann@EXAMPLE.org", Time: at.Add(2 * time.Hour)},
	}
	for shift := range commits {
		a := make(Authors)
		for i := range commits {
			a.applyCommit(commits[(i+shift)%len(commits)])
		}
		if len(a) != 1 || a["ann@example.org"].Name != "Ann Smith" {
			t.Errorf("%v", a)
		}
	}
}
