package main

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// Whatever a history is like, what is stored agrees with git, also where it was stored in parts.
func TestRandomHistories(t *testing.T) {
	t.Parallel()
	for range 4 {
		seed := uint64(time.Now().UnixNano())
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			repo := newRepo(t)
			h := randomHistory{r: rand.New(rand.NewPCG(seed, 0))}
			repo.pipe(h.stream(150), "fast-import", "--quiet")
			s := memStore()
			for _, commit := range []string{"part", "main"} {
				repo.git("symbolic-ref", "HEAD", "refs/heads/"+commit)
				importRepo(t, s, repo.dir)
			}
			want := countWithGit(t, repo.dir)
			if want.commits < 150 || want.renamed == 0 || want.deleted == 0 {
				t.Errorf("there is too little in the history: %+v", want)
			}
			checkTotals(t, readBack(t, s), want)
			checkVersions(t, s, readRepo(t, repo.dir))
			args := strings.Fields(logCommand)
			if sum := importAll(t, s, parse(t, repo.git(args[1:]...))); sum.newEvents != 0 || sum.strangers != 0 {
				t.Errorf("the same history from standard input: %+v", sum)
			}
		})
	}
}

// randomHistory writes commits for git fast-import.
type randomHistory struct {
	r   *rand.Rand
	out bytes.Buffer
}

// tree is the files of a commit, each as its mode and its content.
type tree map[string]entry

type entry struct{ mode, content string }

func (h *randomHistory) stream(commits int) string {
	trees := []tree{{}} // by mark
	used := make([]bool, commits)
	for mark := 1; mark <= commits; mark++ {
		parent := max(0, mark-1-h.below(3)*h.below(4))
		if h.below(40) == 0 {
			parent = 0 // another root
		}
		if parent == 0 {
			fmt.Fprint(&h.out, "reset refs/heads/main\n\n")
		}
		fmt.Fprintf(&h.out, "commit refs/heads/main\nmark :%d\n", mark)
		for _, who := range []string{"author", "committer"} {
			fmt.Fprintf(&h.out, "%s Author %c <%[2]c@example.org> %d %+03d%02d\n", who,
				'a'+h.below(4), 1_700_000_000+h.below(1e8), h.below(25)-12, h.below(2)*30)
		}
		message := fmt.Sprintf("line\n%c\n:100644 100644 a b M\tx\n1\t1\tx\ncommit x\n", "\n\r\t"[h.below(3)])
		fmt.Fprintf(&h.out, "data %d\n%s\n", len(message), message)
		if parent > 0 {
			fmt.Fprintf(&h.out, "from :%d\n", parent)
			used[parent] = true
		}
		if mark > 1 && h.below(4) == 0 {
			if other := 1 + h.below(mark-1); other != parent && parent > 0 {
				fmt.Fprintf(&h.out, "merge :%d\n", other)
				used[other] = true
			}
		}
		next := maps.Clone(trees[parent])
		for range h.below(6) {
			h.change(next)
		}
		fmt.Fprintln(&h.out, "deleteall")
		for _, path := range slices.Sorted(maps.Keys(next)) {
			h.file(path, next[path])
		}
		trees = append(trees, next)
		if mark == commits/2 {
			fmt.Fprintf(&h.out, "reset refs/heads/part\nfrom :%d\n\n", mark)
		}
	}
	// In the end everything is in main's history.
	for mark := 1; mark < commits; mark++ {
		if !used[mark] {
			fmt.Fprintf(&h.out, "commit refs/heads/main\ncommitter <c@example.org> 1800000000 +0000\ndata 3\nend\nmerge :%d\n", mark)
		}
	}
	return h.out.String()
}

func (h *randomHistory) below(n int) int { return h.r.IntN(n) }

func (h *randomHistory) file(path string, e entry) {
	fmt.Fprintf(&h.out, "M %s ", e.mode)
	if e.mode == "160000" {
		fmt.Fprintf(&h.out, "%s %s\n", e.content, quotePath(path))
		return
	}
	fmt.Fprintf(&h.out, "inline %s\ndata %d\n%s\n", quotePath(path), len(e.content), e.content)
}

// change changes a tree: it writes, edits, moves, copies, swaps or removes a file.
func (h *randomHistory) change(files tree) {
	paths := slices.Sorted(maps.Keys(files))
	if len(paths) == 0 || h.below(4) == 0 {
		files.put(h.path(), h.entry())
		return
	}
	path := paths[h.below(len(paths))]
	other := paths[h.below(len(paths))]
	e := files[path]
	switch h.below(7) {
	case 0:
		delete(files, path)
	case 1:
		delete(files, path)
		files.put(h.path(), h.edit(e))
	case 2:
		files.put(h.path(), e)
	case 3:
		files[path], files[other] = files[other], h.edit(e)
	case 4:
		delete(files, other)
		files[path] = h.edit(e)
	case 5:
		e.mode = map[string]string{"100644": "100755", "100755": "120000", "120000": "100644", "160000": "160000"}[e.mode]
		files[path] = e
	default:
		files[path] = h.edit(e)
	}
}

// put replaces what is in the way: a folder of the name, or a file where a folder must be.
func (files tree) put(path string, e entry) {
	maps.DeleteFunc(files, func(p string, _ entry) bool {
		return strings.HasPrefix(p, path+"/") || strings.HasPrefix(path, p+"/")
	})
	files[path] = e
}

func (h *randomHistory) path() string {
	names := append([]string{"a", "b", "c.go", "\xfe", "d\ne", "0\t0\tx"}, oddNames...)
	path := names[h.below(len(names))]
	for range h.below(3) {
		path = names[h.below(6)] + "/" + path
	}
	return path
}

func (h *randomHistory) entry() entry {
	switch h.below(12) {
	case 0:
		return entry{"160000", fmt.Sprintf("%040x", 1+h.below(1000))}
	case 1:
		return entry{"120000", h.path()}
	case 2:
		return entry{"100644", ""}
	case 3:
		return entry{"100755", strings.Repeat("\x00\x01\xff binary", 1+h.below(50))}
	}
	return entry{"100644", lines(1+h.below(40), string(rune('A'+h.below(4)))) + strings.Repeat("no end", h.below(2))}
}

// edit changes a little of a file.
func (h *randomHistory) edit(e entry) entry {
	if e.mode == "160000" || h.below(3) == 0 {
		return e
	}
	at := h.below(len(e.content) + 1)
	e.content = e.content[:at] + fmt.Sprintf("edit %d\n", h.below(1e6)) + e.content[at:]
	return e
}
