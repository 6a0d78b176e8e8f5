package main

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

func parseURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// repo is a scratch repository.
type repo struct {
	t      *testing.T
	dir    string
	clock  int64  // of the next commit
	zone   string // of its author
	author string // "Name <address>"
}

func newRepo(t *testing.T) *repo {
	t.Helper()
	r := &repo{t: t, dir: t.TempDir(), clock: 1709290800, zone: "+0100", author: "Ann <ann@example.org>"}
	r.git("init", "-q", "-b", "main", ".")
	return r
}

// git runs git there and returns its output.
func (r *repo) git(args ...string) string {
	r.t.Helper()
	return r.pipe("", args...)
}

// pipe runs git there with a standard input.
func (r *repo) pipe(stdin string, args ...string) string {
	r.t.Helper()
	return runGitIn(r.t, r.dir, r.env(), stdin, args...)
}

func (r *repo) env() []string {
	name, email, _ := strings.Cut(strings.TrimSuffix(r.author, ">"), " <")
	date := fmt.Sprintf("%d %s", r.clock, r.zone)
	return []string{
		"GIT_AUTHOR_NAME=" + name, "GIT_AUTHOR_EMAIL=" + email, "GIT_AUTHOR_DATE=" + date,
		"GIT_COMMITTER_NAME=Committer", "GIT_COMMITTER_EMAIL=committer@example.org", "GIT_COMMITTER_DATE=" + date,
	}
}

func runGitIn(t *testing.T, dir string, env []string, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

func (r *repo) write(name, content string) {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// commit commits everything, and lets three hours pass.
func (r *repo) commit(message string) {
	r.t.Helper()
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty", "--allow-empty-message", "-m", message)
	r.clock += 3 * 3600
}

// submodule puts a commit of another repository into the index. The folder stays empty, as in a
// clone without its submodules.
func (r *repo) submodule(path, commit string) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Join(r.dir, path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	r.git("update-index", "--add", "--cacheinfo", "160000,"+strings.TrimSpace(commit)+","+path)
}

func (r *repo) merge(branch string) {
	r.t.Helper()
	r.git("merge", "-q", "--no-ff", "-m", "Merge "+branch, branch)
	r.clock += 3 * 3600
}

// loseAuthorName makes the last commit one whose author has an address only. git commit refuses
// that, but histories from elsewhere have it.
func (r *repo) loseAuthorName() {
	r.t.Helper()
	_, email, _ := strings.Cut(r.author, " <")
	when := strings.TrimSpace(r.git("log", "-1", "--date=raw", "--format=%ad"))
	r.pipe(fmt.Sprintf("commit refs/heads/main\nauthor <%s %s\ncommitter <committer@example.org> %s\ndata 9\nnameless\n\nfrom %sM 040000 %s \n",
		email, when, when, r.git("rev-parse", "HEAD~1"), strings.TrimSpace(r.git("rev-parse", "HEAD^{tree}"))),
		"fast-import", "--quiet", "--force")
	if got := r.git("log", "-1", "--format=%an<%ae"); got != "<"+strings.TrimSuffix(email, ">")+"\n" {
		r.t.Fatalf("the author is %q", got)
	}
}

func lines(n int, what string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%s %d\n", what, i)
	}
	return b.String()
}

// The names that exampleRepo uses to be difficult.
var oddNames = []string{
	"with space.txt",
	" leading and trailing ",
	"new\nline",
	"tab\tbed",
	`quo"ted`,
	`"all quoted"`,
	`back\slash`,
	"a => b",
	"{a => b}.txt",
	"not utf-8 \xff\xfe.txt",
	"ünïcode-日本語-\u0301.txt",
	"-",
	"commit 0123",
	"Author: x",
	"\x01\x7f",
	"\u202eright to left",
	strings.Repeat("deep/", 60) + "file.txt",
	strings.Repeat("深/", 80) + "\xff.txt",
}

// exampleRepo has everything that a history can have: merges, also such that change files
// themselves, renames with and without changes, into another's place and by swapping, copies,
// binaries, deletions and re-additions, changes of mode and type, submodules, odd names, empty
// commits, messages that look like a log, several authors, one without a name, zones, a tag, and
// two roots. It is made once, and each test has a copy of its own.
func exampleRepo(t *testing.T) *repo {
	t.Helper()
	example.once.Do(func() {
		r := makeExample(t)
		r.git("repack", "-adq") // one file to copy
		example.made = *r
		example.gitDir = filepath.Join(scratch, "example.git")
		if err := os.Rename(filepath.Join(r.dir, ".git"), example.gitDir); err != nil {
			t.Fatal(err)
		}
	})
	if example.gitDir == "" {
		t.Fatal("the example repository could not be made; an earlier test says why")
	}
	r := example.made
	r.t, r.dir = t, t.TempDir()
	if err := os.CopyFS(filepath.Join(r.dir, ".git"), os.DirFS(example.gitDir)); err != nil {
		t.Fatal(err)
	}
	r.git("reset", "-q", "--hard")
	return &r
}

var example struct {
	once   sync.Once
	made   repo
	gitDir string
}

func makeExample(t *testing.T) *repo {
	t.Helper()
	r := newRepo(t)
	r.write("README", lines(20, "readme"))
	r.write("src/main.go", lines(30, "main"))
	r.write("src/util.go", lines(25, "util"))
	r.write("logo.png", "\x89PNG\x00\x01\x02")
	r.commit("first\n\ncommit 0123456789012345678901234567890123456789\n:100644 100644 a b M\tx\n12\t3\tx\n\n\nAuthor: nobody\n")

	r.author, r.zone = "Bob O'Neil <bob@example.org>", "-0730"
	for _, name := range oddNames {
		r.write(name, lines(3, "odd"))
	}
	r.write("empty", "")
	r.commit("odd names")

	r.git("checkout", "-q", "-b", "topic")
	r.write("src/util.go", lines(25, "util")+lines(5, "more"))
	r.write("topic.txt", lines(7, "topic"))
	r.commit("on the topic")
	r.git("mv", "src/util.go", "src/helpers.go")
	r.commit("pure rename")
	r.git("checkout", "-q", "main")

	r.author, r.zone = "Ann B. <ANN@example.org>", "+0000"
	r.write("logo.png", "\x89PNG\x00\x03\x04\x05")
	r.git("mv", "README", "README.md")
	r.write("README.md", lines(20, "readme")+lines(3, "new"))
	r.commit("rename with changes, binary change")
	r.commit("") // empty, without a message
	r.merge("topic")

	r.git("checkout", "-q", "-b", "other", "HEAD~1")
	r.write("src/main.go", lines(30, "other"))
	r.commit("one side")
	r.git("checkout", "-q", "main")
	r.git("merge", "-q", "--no-commit", "--no-ff", "other")
	r.write("src/main.go", lines(31, "merged by hand"))
	r.write("only in the merge", "x\n")
	r.commit("an evil merge")

	r.author, r.zone = "Nameless <nameless@example.org>", "+0545"
	for _, name := range oddNames[:6] {
		r.write(name, lines(9, "odd"))
	}
	r.git("mv", oddNames[6], "renamed "+oddNames[6])
	r.git("mv", oddNames[9], "renamed \xff")
	r.git("mv", oddNames[16], "sh\nort")
	r.git("mv", oddNames[10], oddNames[17]+"2")
	if err := os.Remove(filepath.Join(r.dir, "topic.txt")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(r.dir, "logo.png")); err != nil {
		t.Fatal(err)
	}
	r.commit("changes, renames and deletions of odd names")
	r.loseAuthorName()

	r.author, r.zone = "Ann <ann@example.org>", "+1400"
	r.write("topic.txt", lines(4, "again"))
	r.commit("added again")
	r.git("mv", "topic.txt", "tmp")
	r.git("mv", "src/helpers.go", "topic.txt")
	r.git("mv", "tmp", "src/helpers.go")
	r.commit("swapped")
	r.git("mv", "-f", "src/main.go", "empty") // onto another file
	r.commit("replaced")
	r.write("copy of kept", lines(12, "kept"))
	r.write("kept", lines(12, "kept"))
	r.commit("twins")
	r.write("copy", lines(12, "kept"))
	r.write("kept", lines(13, "kept"))
	r.commit("a copy") // of a file that changes too: what -C would find
	r.submodule("lib", r.git("rev-parse", "HEAD"))
	r.commit("a submodule")
	r.submodule("lib", r.git("rev-parse", "HEAD~2"))
	r.commit("another commit of the submodule")
	r.commit("empty commit")

	if err := os.Chmod(filepath.Join(r.dir, "README.md"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.commit("mode")
	if err := os.Remove(filepath.Join(r.dir, "README.md")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("topic.txt", filepath.Join(r.dir, "README.md")); err != nil {
		t.Fatal(err)
	}
	r.commit("type")

	r.git("checkout", "-q", "--orphan", "elsewhere")
	r.git("rm", "-q", "-rf", ".")
	r.write("second root", "x\ny\n")
	r.commit("another root")
	r.git("checkout", "-q", "main")
	r.git("merge", "-q", "--allow-unrelated-histories", "-m", "join", "elsewhere")
	r.clock += 3600
	r.git("tag", "v1")
	return r
}

// gitCounts are what git itself says about a history, asked for in ways that have little in
// common with how the program reads it.
type gitCounts struct {
	commits, merges, authors         int
	files                            int // distinct names
	changes                          int
	added, changed, renamed, deleted int
	linesAdded, linesRemoved         int64
	binary                           int
	activity                         Activity
	single                           map[string]string // name: the only author's address
	changesOf                        map[string]int
}

func countWithGit(t *testing.T, dir string) gitCounts {
	t.Helper()
	git := func(args ...string) string { return runGitIn(t, dir, nil, "", args...) }
	number := func(s string) int {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	var c gitCounts
	c.commits = number(git("rev-list", "--count", "HEAD"))
	c.merges = number(git("rev-list", "--count", "--merges", "HEAD"))
	authors := make(map[string]bool)
	for a := range strings.FieldsSeq(git("log", "--format=%aE")) {
		authors[strings.ToLower(a)] = true
	}
	c.authors = len(authors)
	for line := range strings.Lines(git("log", "--numstat", "--format=")) {
		fields := strings.SplitN(line, "\t", 3)
		if len(fields) != 3 {
			continue
		}
		c.changes++
		if fields[0] == "-" {
			c.binary++
			continue
		}
		c.linesAdded += int64(number(fields[0]))
		c.linesRemoved += int64(number(fields[1]))
	}
	for line := range strings.Lines(git("log", "--name-status", "--format=")) {
		switch line[0] {
		case 'A':
			c.added++
		case 'M', 'T':
			c.changed++
		case 'R':
			c.renamed++
		case 'D':
			c.deleted++
		}
	}
	for s := range strings.SplitSeq(strings.TrimSpace(git("log", "--format=%ad", "--date=format:%w %H")), "\n") {
		var day, hour int
		if _, err := fmt.Sscanf(s, "%d %d", &day, &hour); err != nil {
			t.Fatal(err)
		}
		c.activity[day][hour]++
	}
	// Without rename detection a rename is a touch of both names, as it is for the report; with
	// it, only the new name counts as changed.
	touchedBy := make(map[string]map[string]bool)
	perCommit(git("log", "--no-renames", "--name-only", "-z", "--format=%x01author %aE%x00"), func(author, name string) {
		if touchedBy[name] == nil {
			touchedBy[name] = make(map[string]bool)
		}
		touchedBy[name][strings.ToLower(author)] = true
	})
	c.changesOf = make(map[string]int)
	perCommit(git("log", "-M", "--name-only", "-z", "--format=%x01author %aE%x00"), func(_, name string) { c.changesOf[name]++ })
	c.files = len(c.changesOf)
	c.single = make(map[string]string)
	for name, by := range touchedBy {
		for author := range by {
			if len(by) == 1 && c.changesOf[name] > 0 {
				c.single[name] = author
			}
		}
	}
	return c
}

// perCommit walks through "\x01author address\0\0name\0name\0..." as git log -z --name-only writes it.
func perCommit(out string, fn func(author, name string)) {
	author := ""
	for field := range strings.SplitSeq(out, "\x00") {
		field = strings.TrimPrefix(field, "\n")
		if a, ok := strings.CutPrefix(field, "\x01author "); ok {
			author = a
		} else if field != "" {
			fn(author, field)
		}
	}
}

// compareWithGit imports a repository into a memory store and compares the report with git.
func compareWithGit(t *testing.T, dir string) *Report {
	t.Helper()
	s := memStore()
	importRepo(t, s, dir)
	r := readBack(t, s)
	checkTotals(t, r, countWithGit(t, dir))
	return r
}

func checkTotals(t *testing.T, r *Report, want gitCounts) {
	t.Helper()
	touched := r.Files.Touched()
	for _, c := range []struct {
		what      string
		got, want int64
	}{
		{"commits", int64(r.Totals.Commits), int64(want.commits)},
		{"merges", int64(r.Totals.Merges), int64(want.merges)},
		{"authors", int64(len(r.Authors)), int64(want.authors)},
		{"files touched", int64(len(touched)), int64(want.files)},
		{"file changes", int64(r.Totals.Changes()), int64(want.changes)},
		{"added", int64(r.Totals.Added), int64(want.added)},
		{"changed", int64(r.Totals.Changed), int64(want.changed)},
		{"renamed", int64(r.Totals.Renamed), int64(want.renamed)},
		{"deleted", int64(r.Totals.Deleted), int64(want.deleted)},
		{"lines added", r.Totals.LinesAdded, want.linesAdded},
		{"lines removed", r.Totals.LinesRemoved, want.linesRemoved},
		{"binary", int64(r.Totals.Binary), int64(want.binary)},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, git says %d", c.what, c.got, c.want)
		}
	}
	if r.Activity != want.activity {
		t.Errorf("activity %v, git says %v", r.Activity, want.activity)
	}
	for name, n := range want.changesOf {
		if f := r.Files[fileID(name)]; f.Changes != n {
			t.Errorf("%q: %+v, git says %d changes", name, f, n)
		}
	}
	single := 0
	for _, f := range touched {
		if f.OnlyAuthor() != "" {
			single++
		}
	}
	if single != len(want.single) {
		t.Errorf("%d files by one author only, git says %d", single, len(want.single))
	}
	for name, author := range want.single {
		f := r.Files[fileID(name)]
		if got := f.OnlyAuthor(); got != author {
			t.Errorf("%q: by %q only, git says by %s", name, got, author)
		}
	}
}
