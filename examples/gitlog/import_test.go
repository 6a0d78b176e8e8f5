package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/eventstore"
	"github.com/google/uuid"
)

func memStore() *eventstore.Store { return eventstore.NewMemStore(nil) }

func silent(int, int) {}

func readRepo(t *testing.T, dir string) []*commit {
	t.Helper()
	h, err := readGit(t.Context(), dir, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	return h.commits
}

func importRepo(t *testing.T, s *eventstore.Store, dir string) imported {
	t.Helper()
	return importAll(t, s, readRepo(t, dir))
}

func importAll(t *testing.T, s *eventstore.Store, commits []*commit) imported {
	t.Helper()
	sum, err := importHistory(t.Context(), s, commits, silent)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func readBack(t *testing.T, s *eventstore.Store) *Report {
	t.Helper()
	r, err := readReport(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func parse(t *testing.T, log string) []*commit {
	t.Helper()
	commits, err := parseLog(strings.NewReader(log), func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	return commits
}

// events returns what the store holds in a stream, in its order.
func events(t *testing.T, s *eventstore.Store, stream string) []eventstore.Event {
	t.Helper()
	var all []eventstore.Event
	for ev, err := range s.Read(t.Context(), eventstore.FromStream(stream), eventstore.ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ev)
	}
	return all
}

// history returns the versions of a file as "name commit", the commit by its first four digits.
func fileHistory(t *testing.T, s *eventstore.Store, path string) []string {
	t.Helper()
	var all []string
	for ev, err := range s.ReadAggregate(t.Context(), filesStream, fileID(path), 0) {
		if err != nil {
			t.Fatal(err)
		}
		ch, err := eventstore.Decode[FileChanged](eventstore.Event{Name: fileChanged, Data: ev.Data})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ev.Name+" "+ch.Commit[:4])
	}
	return all
}

func equalLists(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s:\n%s\nwant:\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestTotalsAgreeWithGit(t *testing.T) {
	t.Parallel()
	repo := exampleRepo(t)
	want := countWithGit(t, repo.dir)
	if want.merges < 3 || want.renamed < 5 || want.binary < 3 || want.deleted < 2 {
		t.Fatalf("the example lacks what it is for: %+v", want)
	}
	compareWithGit(t, repo.dir)

	// A folder in it, its bare clone, and a detached HEAD are the same history or a part of it.
	compareWithGit(t, filepath.Join(repo.dir, "src"))
	bare := filepath.Join(t.TempDir(), "bare.git")
	repo.git("clone", "-q", "--bare", repo.dir, bare)
	compareWithGit(t, bare)
	all := readBack(t, storeOf(t, repo.dir)).Totals.Commits
	repo.git("checkout", "-q", "--detach", "HEAD~4")
	if r := compareWithGit(t, repo.dir); r.Totals.Commits >= all {
		t.Errorf("%d commits with HEAD at an earlier commit, %d in all", r.Totals.Commits, all)
	}
}

func storeOf(t *testing.T, dir string) *eventstore.Store {
	s := memStore()
	importRepo(t, s, dir)
	return s
}

// The repository of the program itself, if it is built in one.
func TestTotalsOfThisRepository(t *testing.T) {
	if err := exec.Command("git", "rev-parse", "--verify", "--quiet", "HEAD").Run(); err != nil {
		t.Skip("not in a git repository with commits")
	}
	compareWithGit(t, "")
}

// What a person sets in git's configuration does not change what is read.
func TestHostileConfiguration(t *testing.T) {
	repo := exampleRepo(t)
	want := gitlog(t, "", "-repo", repo.dir).succeeds(t)
	config := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(config, []byte(`
[color]
	ui = always
[log]
	abbrevCommit = true
	date = relative
	decorate = full
	showRoot = false
	showSignature = true
	follow = true
	diffMerges = on
[format]
	pretty = oneline
[core]
	quotePath = false
	abbrev = 5
	pager = false
[diff]
	relative = true
	renames = false
	mnemonicPrefix = true
[i18n]
	logOutputEncoding = ISO-8859-1
`), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_CONFIG_GLOBAL", config)
	for _, dir := range []string{repo.dir, filepath.Join(repo.dir, "src")} {
		if got := gitlog(t, "", "-repo", dir).succeeds(t); got != want {
			t.Errorf("%s\nwant:\n%s", got, want)
		}
	}
	// A repository asked for by name is the one that is read, also in a hook of another.
	t.Setenv("GIT_DIR", filepath.Join(newRepo(t).dir, ".git"))
	if got := gitlog(t, "", "-repo", repo.dir).succeeds(t); got != want {
		t.Errorf("with GIT_DIR:\n%s\nwant:\n%s", got, want)
	}
}

func TestSecondRunStoresNothing(t *testing.T) {
	forEachStore(t, func(t *testing.T, open opener) {
		repo := exampleRepo(t)
		commits := readRepo(t, repo.dir)
		s := open()
		first := importAll(t, s, commits)
		stored := len(events(t, s, filesStream)) + len(events(t, s, commitsStream))
		if first.newCommits != len(commits) || first.newEvents != stored || first.earlier != 0 {
			t.Errorf("first: %+v, want %d commits and %d events", first, len(commits), stored)
		}
		report := readBack(t, s)
		second := importAll(t, s, commits)
		if second != (imported{earlier: stored}) {
			t.Errorf("second: %+v, want %d events stored earlier", second, stored)
		}
		if again := readBack(t, s); again.Totals != report.Totals || again.Activity != report.Activity {
			t.Errorf("%+v, want %+v", again.Totals, report.Totals)
		}
	})
}

// Every event has an ID of its own, derived from commit and path alone.
func TestEventIDs(t *testing.T) {
	repo := exampleRepo(t)
	seen := make(map[uuid.UUID]string)
	note := func(id uuid.UUID, what string) {
		if other, ok := seen[id]; ok {
			t.Errorf("%s and %s have the ID %s", other, what, id)
		}
		if id.Version() != 5 {
			t.Errorf("%s: version %d", what, id.Version())
		}
		seen[id] = what
	}
	commits := append(readRepo(t, repo.dir), parse(t, swapLog)...)
	for _, c := range commits {
		note(commitEvent(c).ID, c.hash)
		for i, e := range fileEvents(c) {
			note(e.event.ID, fmt.Sprintf("%s[%d] %s", c.hash, i, e.fileID))
		}
	}
	// They are in stores out there, so they must stay as they are.
	const hash = "1111111111111111111111111111111111111111"
	for id, want := range map[uuid.UUID]string{
		commitEventID(hash):            "974c8e84-ed19-5997-b52a-e25eb897ab09",
		fileEventID(hash, "a/b.go", 1): "cda55dc7-51a5-560d-a592-eb4c4c0e1bfb",
		fileEventID(hash, "a/b.go", 2): "3c9296bd-d225-5ea9-98be-f7321f1e1542",
	} {
		if id.String() != want {
			t.Errorf("%s, want %s", id, want)
		}
	}
}

func TestGrownRepository(t *testing.T) {
	t.Parallel()
	forEachStore(t, func(t *testing.T, open opener) {
		repo := exampleRepo(t)
		s := open()
		before := importRepo(t, s, repo.dir)
		repo.git("checkout", "-q", "-b", "late", "main~3")
		repo.write("late.txt", "late\n")
		repo.commit("late, from an older commit")
		repo.git("checkout", "-q", "main")
		repo.write("topic.txt", "grown\n")
		repo.commit("grown")
		repo.merge("late")
		sum := importRepo(t, s, repo.dir)
		if want := (imported{newCommits: 3, newEvents: 5, earlier: before.newEvents}); sum != want {
			t.Errorf("%+v, want %+v", sum, want)
		}
		checkTotals(t, readBack(t, s), countWithGit(t, repo.dir))
		checkVersions(t, s, readRepo(t, repo.dir))
	})
}

// checkVersions checks that in no file a commit comes before one of its ancestors.
func checkVersions(t *testing.T, s *eventstore.Store, commits []*commit) {
	t.Helper()
	ancestors := make(map[string]map[string]bool)
	for _, c := range commits {
		all := make(map[string]bool)
		for _, p := range c.parents {
			all[p] = true
			for a := range ancestors[p] {
				all[a] = true
			}
		}
		ancestors[c.hash] = all
	}
	byFile := make(map[string][]string)
	for _, ev := range events(t, s, filesStream) {
		ch, err := eventstore.Decode[FileChanged](eventstore.Event{Name: fileChanged, Data: ev.Data})
		if err != nil {
			t.Fatal(err)
		}
		if want := int64(len(byFile[ev.AggregateID])) + 1; ev.Version != want {
			t.Errorf("%s: version %d, want %d", ev.AggregateID, ev.Version, want)
		}
		for _, earlier := range byFile[ev.AggregateID] {
			if ancestors[earlier][ch.Commit] {
				t.Errorf("%s: commit %s is stored after its descendant %s", ev.AggregateID, ch.Commit, earlier)
			}
		}
		byFile[ev.AggregateID] = append(byFile[ev.AggregateID], ch.Commit)
	}
}

var errInterrupted = errors.New("interrupted")

// An import that ends anywhere is completed by the next one, also if the repository has grown in
// between, and no commit is ever stored without its files.
func TestResume(t *testing.T) {
	t.Parallel()
	repo := exampleRepo(t)
	commits := readRepo(t, repo.dir)
	complete := importAll(t, memStore(), commits).newEvents
	want := countWithGit(t, repo.dir)
	forEachStore(t, func(t *testing.T, open opener) {
		for stop := 0; ; stop = stop*3/2 + 1 {
			ctx, cancel := context.WithCancel(t.Context())
			var mu sync.Mutex
			left, on := stop, true
			s := open(eventstore.Middleware{
				Append: func(ctx context.Context, b eventstore.Batch, next func(context.Context, eventstore.Batch) ([]eventstore.Event, error)) ([]eventstore.Event, error) {
					mu.Lock()
					left--
					end := on && left < 0
					mu.Unlock()
					if end {
						cancel()
						return nil, errInterrupted
					}
					return next(ctx, b)
				},
			})
			first := commits
			if stop%2 == 0 {
				first = commits[:len(commits)-2]
			}
			sum, err := importHistory(ctx, s, first, silent)
			cancel()
			interrupted := err != nil
			if interrupted && !errors.Is(err, context.Canceled) && !errors.Is(err, errInterrupted) {
				t.Fatal(err)
			}
			if interrupted && len(events(t, s, commitsStream)) != 0 {
				t.Errorf("stopped after %d appends: there are commits before all files are", stop)
			}
			on = false
			rest := importAll(t, s, commits)
			// More may be stored than was counted: a server can commit what nobody waits for any more.
			if sum.newEvents > rest.earlier || rest.newEvents+rest.earlier != complete {
				t.Errorf("stopped after %d appends: %+v, then %+v; want %d in all", stop, sum, rest, complete)
			}
			checkTotals(t, readBack(t, s), want)
			checkVersions(t, s, commits)
			if !interrupted {
				break
			}
		}
	})
}

// Imports at the same time, of histories of different lengths, store each event once.
func TestConcurrentImports(t *testing.T) {
	t.Parallel()
	forEachStore(t, func(t *testing.T, open opener) {
		repo := exampleRepo(t)
		commits := readRepo(t, repo.dir)
		s := open()
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				if _, err := importHistory(t.Context(), s, commits[:len(commits)-i], silent); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		checkTotals(t, readBack(t, s), countWithGit(t, repo.dir))
		checkVersions(t, s, commits)
	})
}

// A commit of very many files, and a file with more events than one append takes.
func TestLargeHistory(t *testing.T) {
	t.Parallel()
	const wide, long = 500, maxBatch + 100
	var commits []*commit
	add := func(changes ...fileChange) {
		c := &commit{hash: fmt.Sprintf("%040x", len(commits)+1), author: "Ann", email: "ann@example.org", time: time.Unix(1709290800, 0).UTC(), changes: changes}
		if n := len(commits); n > 0 {
			c.parents = []string{commits[n-1].hash}
		}
		commits = append(commits, c)
	}
	var all []fileChange
	for i := range wide {
		all = append(all, fileChange{status: 'A', path: fmt.Sprintf("dir/%d", i), added: 2})
	}
	add(all...)
	for range long {
		add(fileChange{status: 'M', path: "dir/0", added: 2, removed: 1})
	}
	forEachStore(t, func(t *testing.T, open opener) {
		s := open()
		const events = wide + long + long + 1
		if sum := importAll(t, s, commits); sum != (imported{newCommits: long + 1, newEvents: events}) {
			t.Errorf("first: %+v", sum)
		}
		if sum := importAll(t, s, commits); sum != (imported{earlier: events}) {
			t.Errorf("second: %+v", sum)
		}
		r := readBack(t, s)
		if r.Totals.LinesAdded != 2*(wide+long) || r.Totals.LinesRemoved != long || r.Files["dir/0"].Changes != long+1 {
			t.Errorf("%+v", r.Totals)
		}
	})
}

// swapLog is what git log -B makes of two files that swap their names: each path is touched twice.
const swapLog = `commit 7777777777777777777777777777777777777777
Author: Ann <ann@example.org>
Date:   1709535600 +0000

:000000 100644 0000000 1000001 A	a
:000000 100644 0000000 1000002 A	b
10	0	a
20	0	b

commit 8888888888888888888888888888888888888888 7777777777777777777777777777777777777777
Author: Ann <ann@example.org>
Date:   1709535600 +0000

:100644 100644 1000002 1000002 R100	b	a
:100644 100644 1000001 1000001 R090	a	b
0	0	b => a
1	2	a => b
`

func TestRename(t *testing.T) {
	forEachStore(t, func(t *testing.T, open opener) {
		s := open()
		importAll(t, s, parse(t, readFile(t, "testdata/history.log")))
		equalLists(t, "the old path", fileHistory(t, s, "server.go"), "file.added 1111", "file.deleted 2222")
		equalLists(t, "the new path", fileHistory(t, s, "src/server.go"), "file.renamed 2222", "file.changed 3333", "file.changed 6666")
		for _, ev := range events(t, s, filesStream) {
			switch {
			case ev.Name == fileRenamed:
				e, err := eventstore.Decode[FileRenamed](ev)
				if err != nil || e.From != "server.go" || e.Added != 4 || e.Removed != 3 {
					t.Errorf("%+v, %v", e, err)
				}
			case ev.Name == fileDeleted && ev.AggregateID == "server.go":
				e, err := eventstore.Decode[FileDeleted](ev)
				if err != nil || e.MovedTo != "src/server.go" || e.Added != 0 || e.Removed != 0 {
					t.Errorf("%+v, %v", e, err)
				}
			}
		}
		root, err := files.Load(t.Context(), s, "server.go")
		if err != nil {
			t.Fatal(err)
		}
		if f := root.State(); f.Exists || f.MovedTo != "src/server.go" {
			t.Errorf("the old path: %+v", f)
		}
	})
}

func TestSwap(t *testing.T) {
	forEachStore(t, func(t *testing.T, open opener) {
		s := open()
		importAll(t, s, parse(t, swapLog))
		for _, path := range []string{"a", "b"} {
			equalLists(t, path, fileHistory(t, s, path), "file.added 7777", "file.deleted 8888", "file.renamed 8888")
			root, err := files.Load(t.Context(), s, path)
			if err != nil {
				t.Fatal(err)
			}
			if f := root.State(); !f.Exists || f.From == path || f.MovedTo != "" {
				t.Errorf("%s: %+v", path, f)
			}
		}
		r := readBack(t, s)
		if r.Totals.Renamed != 2 || r.Totals.Deleted != 0 || r.Totals.LinesAdded != 31 || r.Totals.LinesRemoved != 2 {
			t.Errorf("%+v", r.Totals)
		}
		if again := importAll(t, s, parse(t, swapLog)); again.newEvents != 0 {
			t.Errorf("%+v", again)
		}
	})
}

// What git took for a rename once and for a deletion and an addition later, as with another limit
// of renames, is stored once.
func TestOtherRenameDetection(t *testing.T) {
	forEachStore(t, func(t *testing.T, open opener) {
		repo := newRepo(t)
		repo.write("a", lines(10, "a"))
		repo.commit("add")
		repo.git("mv", "a", "b")
		repo.commit("rename")
		s := open()
		importRepo(t, s, repo.dir)
		args := strings.Fields(strings.Replace(logCommand, "-M", "--no-renames", 1))
		if sum := importAll(t, s, parse(t, repo.git(args[1:]...))); sum.newEvents != 0 {
			t.Errorf("%+v", sum)
		}
	})
}

// A commit that is rewritten stays stored beside its successor, and the report says so.
func TestRewrittenHistory(t *testing.T) {
	t.Parallel()
	forEachStore(t, func(t *testing.T, open opener) {
		repo := exampleRepo(t)
		s := open()
		before := importRepo(t, s, repo.dir)
		repo.git("reset", "-q", "--hard", "HEAD~1")
		repo.write("rewritten", "x\n")
		repo.commit("instead of the merge")
		sum := importRepo(t, s, repo.dir)
		// The merge and the root that it joined are left behind.
		if sum.newCommits != 1 || sum.newEvents != 2 || sum.strangers != 2 || sum.earlier != before.newEvents-3 {
			t.Errorf("%+v after %+v", sum, before)
		}
		r := readBack(t, s)
		if git := countWithGit(t, repo.dir); r.Totals.Commits != git.commits+2 {
			t.Errorf("%d commits, want git's %d and 2", r.Totals.Commits, git.commits)
		}
		var out bytes.Buffer
		render(&out, r, 10, sum.strangers)
		if !strings.Contains(out.String(), "elsewhere") || !strings.Contains(out.String(), "not in the history just read") {
			t.Errorf("the report does not say so:\n%s", out.String())
		}
	})
}

// Hashes are longer in a repository of the other format.
func TestSHA256(t *testing.T) {
	repo := &repo{t: t, dir: t.TempDir(), clock: 1709290800, zone: "+0100", author: "Ann <ann@example.org>"}
	repo.git("init", "-q", "-b", "main", "--object-format=sha256", ".")
	repo.write("a", lines(10, "a"))
	repo.commit("add")
	repo.git("mv", "a", "b")
	repo.commit("rename")
	if c := readRepo(t, repo.dir); len(c) != 2 || len(c[0].hash) != 64 {
		t.Errorf("%+v", c)
	}
	compareWithGit(t, repo.dir)
}

func TestNoCommits(t *testing.T) {
	repo := newRepo(t)
	if out := gitlog(t, "", "-repo", repo.dir).succeeds(t); out != "There are no commits yet, so there is nothing to report.\n" {
		t.Errorf("%q", out)
	}
	// An empty branch in a repository that has others.
	repo.commit("one")
	repo.git("checkout", "-q", "--orphan", "none")
	if out := gitlog(t, "", "-repo", repo.dir).succeeds(t); out != "There are no commits yet, so there is nothing to report.\n" {
		t.Errorf("%q", out)
	}
	// Commits that touch nothing.
	repo.git("checkout", "-q", "main")
	out := gitlog(t, "", "-repo", repo.dir).succeeds(t)
	if !strings.Contains(out, "Touched by one author only: 0 of 0 files\n") {
		t.Errorf("%s", out)
	}
}

func TestNoRepository(t *testing.T) {
	dir := t.TempDir()
	gitlog(t, "", "-repo", dir).fails(t, exitError, "not a git repository")
	gitlog(t, "", "-repo", filepath.Join(dir, "nosuch")).fails(t, exitError, "nosuch: no such file or directory")
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	gitlog(t, "", "-repo", file).fails(t, exitError, "file: not a folder")
	t.Chdir(dir)
	gitlog(t, "").fails(t, exitError, "not a git repository")
}

func TestBrokenRepository(t *testing.T) {
	repo := exampleRepo(t)
	repo.write("topic.txt", "lost\n")
	repo.commit("its tree gets lost")
	tree := strings.TrimSpace(repo.git("rev-parse", "HEAD^{tree}"))
	if err := os.Remove(filepath.Join(repo.dir, ".git", "objects", tree[:2], tree[2:])); err != nil {
		t.Fatal(err)
	}
	gitlog(t, "", "-repo", repo.dir).fails(t, exitError, "git: ")
}

func TestShallowClone(t *testing.T) {
	t.Parallel()
	repo := exampleRepo(t)
	dir := filepath.Join(t.TempDir(), "shallow")
	repo.git("clone", "-q", "--depth", "3", "file://"+repo.dir, dir)
	compareWithGit(t, dir) // as git shows it
	r := gitlog(t, "", "-repo", dir)
	r.succeeds(t)
	if !strings.Contains(r.stderr, "shallow clone") {
		t.Errorf("standard error: %q", r.stderr)
	}
	forEachServer(t, func(t *testing.T, url, prefix string) {
		gitlog(t, "", "-repo", dir, "-store", url, "-prefix", prefix).fails(t, exitError, "git fetch --unshallow")
	})
}

// A file whose path does not fit into an aggregate ID, or is no text, keeps its history.
func TestOddPaths(t *testing.T) {
	t.Parallel()
	forEachStore(t, func(t *testing.T, open opener) {
		repo := exampleRepo(t)
		s := open()
		importRepo(t, s, repo.dir)
		for _, name := range oddNames {
			var out bytes.Buffer
			if err := showFile(t.Context(), s, &out, name); err != nil {
				t.Error(err)
				continue
			}
			first, _, _ := strings.Cut(out.String(), "\n")
			if want := printable(quotePath(name)); first != want {
				t.Errorf("%q, want %q", first, want)
			}
			if id := fileID(name); id[0] == '"' || id[0] == '/' {
				if err := showFile(t.Context(), s, &out, id); err != nil {
					t.Errorf("by its ID: %v", err)
				}
			}
		}
		gitlog(t, "", "-repo", repo.dir, "-file", "nosuch").fails(t, exitError, "no file nosuch")
	})
}

func TestServers(t *testing.T) {
	t.Parallel()
	forEachServer(t, func(t *testing.T, url, prefix string) {
		repo := exampleRepo(t)
		args := []string{"-repo", repo.dir, "-store", url, "-prefix", prefix}
		memory := gitlog(t, "", "-repo", repo.dir).succeeds(t)

		commits := readRepo(t, repo.dir)
		total := importAll(t, memStore(), commits).newEvents
		r := gitlog(t, "", args...)
		if out := r.succeeds(t); out != memory {
			t.Errorf("%s\nthe memory store has:\n%s", out, memory)
		}
		if want := fmt.Sprintf("gitlog: %d new commits, %d new events; 0 were there already\n", len(commits), total); r.stderr != want {
			t.Errorf("%q, want %q", r.stderr, want)
		}

		r = gitlog(t, "", args...)
		if out := r.succeeds(t); out != memory {
			t.Errorf("the second run:\n%s\nwant:\n%s", out, memory)
		}
		if want := fmt.Sprintf("gitlog: 0 new commits, 0 new events; %d were there already\n", total); r.stderr != want {
			t.Errorf("%q, want %q", r.stderr, want)
		}

		repo.write("topic.txt", "grown\n")
		repo.commit("grown")
		r = gitlog(t, "", args...)
		if out := r.succeeds(t); out != gitlog(t, "", "-repo", repo.dir).succeeds(t) {
			t.Errorf("the grown repository:\n%s", out)
		}
		if want := fmt.Sprintf("gitlog: 1 new commit, 2 new events; %d were there already\n", total); r.stderr != want {
			t.Errorf("%q, want %q", r.stderr, want)
		}
	})
}

// A malformed log leaves nothing in the store, however much of it was well-formed.
func TestServersMalformed(t *testing.T) {
	forEachServer(t, func(t *testing.T, url, prefix string) {
		log := readFile(t, "testdata/history.log") + "oops\n"
		args := []string{"-repo", "-", "-store", url, "-prefix", prefix}
		gitlog(t, log, args...).fails(t, exitError, "standard input: line 66: not a line of git log")
		r := gitlog(t, strings.TrimSuffix(log, "oops\n"), args...)
		r.succeeds(t)
		if !strings.Contains(r.stderr, "; 0 were there already") {
			t.Errorf("standard error: %q", r.stderr)
		}
	})
}

// A part of a history is stored for good only behind what it follows.
func TestServersPartOfHistory(t *testing.T) {
	t.Parallel()
	repo := exampleRepo(t)
	args := strings.Fields(logCommand)[1:]
	part := repo.git(append(args, "main~6..main")...)
	if out := gitlog(t, part, "-repo", "-").succeeds(t); !strings.Contains(out, "History from") {
		t.Errorf("on memory:\n%s", out)
	}
	forEachServer(t, func(t *testing.T, url, prefix string) {
		store := []string{"-store", url, "-prefix", prefix}
		gitlog(t, part, append(store, "-repo", "-")...).fails(t, exitError, "neither in this history nor in the store")
		gitlog(t, repo.git(append(args, "main~6")...), append(store, "-repo", "-")...).succeeds(t)
		// The other root that main merges has no parents, so it is in the part.
		got := gitlog(t, part, append(store, "-repo", "-")...)
		got.succeeds(t)
		r := gitlog(t, "", append(store, "-repo", repo.dir)...)
		if out := r.succeeds(t); out != gitlog(t, "", "-repo", repo.dir).succeeds(t) || !strings.Contains(r.stderr, " 0 new events") {
			t.Errorf("%s%s", out, r.stderr)
		}
	})
}

// An import that is cut off on a server goes on with the next run.
func TestServersResume(t *testing.T) {
	forEachServer(t, func(t *testing.T, url, prefix string) {
		repo := exampleRepo(t)
		commits := readRepo(t, repo.dir)
		st, err := openStore(t.Context(), url, prefix)
		if err != nil {
			t.Fatal(err)
		}
		defer st.close()
		s := st.Store
		if err := s.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if _, err = importHistory(ctx, s, commits, func(done, total int) {
			if done > total/3 {
				cancel()
			}
		}); !errors.Is(err, context.Canceled) {
			t.Fatalf("%v, want an interruption", err)
		}
		importAll(t, s, commits)
		r, err := readReport(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		checkTotals(t, r, countWithGit(t, repo.dir))
		checkVersions(t, s, commits)
	})
}
