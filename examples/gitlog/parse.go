package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// commit is one commit as git log shows it.
type commit struct {
	hash          string
	parents       []string
	author, email string
	time          time.Time
	changes       []fileChange
}

// fileChange is what a commit did to one file.
type fileChange struct {
	status         byte   // A, C, D, M, R or T
	path           string // as git has its bytes
	from           string // of a rename or a copy: the old path
	added, removed int64
	binary         bool // no lines are counted
}

// parseLog reads the output of
//
//	git log --reverse --topo-order --parents --date=raw --raw --numstat -M
//
// to its end. Parents must come before their children, and no commit twice. An error names the
// line, and what is there.
func parseLog(r io.Reader, progress func(commits int)) ([]*commit, error) {
	p := parser{seen: make(map[string]bool), awaited: make(map[string]string), progress: progress}
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			p.line++
			if err := p.parse(strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")); err != nil {
				return nil, err
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("after line %d: %w", p.line, err)
		}
	}
	if err := p.finish(); err != nil {
		return nil, fmt.Errorf("after line %d, at the end: %w", p.line, err)
	}
	if len(p.commits) > 1 && !p.parents {
		return nil, errors.New("no commit names its parents, so their order can't be checked: use git log --parents")
	}
	return p.commits, nil
}

// parser is what has been read so far.
type parser struct {
	line    int
	commits []*commit // the last one may be incomplete
	dated   bool      // the last one has had its Date line
	counted int       // how many of its changes have had their counts

	seen    map[string]bool
	awaited map[string]string // parents that have not been seen, and a child of each
	parents bool              // some commit names its parents

	progress func(commits int)
}

func (p *parser) parse(line string) error {
	err := p.take(line)
	if err != nil {
		return fmt.Errorf("line %d: %w: %.120q", p.line, err, line)
	}
	return nil
}

func (p *parser) take(line string) error {
	if rest, ok := strings.CutPrefix(line, "commit "); ok {
		if err := p.finish(); err != nil {
			return err
		}
		return p.begin(rest)
	}
	if strings.TrimLeft(line, " ") == "" {
		return nil
	}
	if len(p.commits) == 0 {
		return errors.New(`want a line that begins with "commit"`)
	}
	c := p.commits[len(p.commits)-1]
	switch {
	case strings.HasPrefix(line, "    "): // the message
		return nil
	case strings.HasPrefix(line, "Merge: "):
		return nil
	case strings.HasPrefix(line, "Author: "):
		return c.setAuthor(strings.TrimPrefix(line, "Author: "))
	case strings.HasPrefix(line, "Date: "):
		p.dated = true
		return c.setTime(strings.TrimPrefix(line, "Date: "))
	case line[0] == ':':
		return c.addChange(line[1:])
	case line[0] == '-' || line[0] >= '0' && line[0] <= '9':
		if p.counted == len(c.changes) {
			return errors.New("line counts without a line from --raw before them")
		}
		p.counted++
		return c.changes[p.counted-1].count(line)
	}
	return errors.New("not a line of git log as it is wanted here (see -h)")
}

// begin starts a commit: its hash, its parents, and perhaps decorations in parentheses.
func (p *parser) begin(rest string) error {
	rest, _, _ = strings.Cut(rest, " (")
	hashes := strings.Fields(rest)
	if len(hashes) == 0 {
		return errors.New("a commit without its hash")
	}
	for _, h := range hashes {
		if !isHash(h) {
			return errors.New("want hashes in full, 40 or 64 hexadecimal digits")
		}
	}
	c := &commit{hash: hashes[0], parents: hashes[1:]}
	if child, ok := p.awaited[c.hash]; ok {
		return fmt.Errorf("this commit comes after its child %.12s: use git log --reverse --topo-order", child)
	}
	if p.seen[c.hash] {
		return errors.New("this commit is there twice")
	}
	p.seen[c.hash] = true
	for _, parent := range c.parents {
		p.parents = true
		if !p.seen[parent] {
			p.awaited[parent] = c.hash
		}
	}
	p.commits = append(p.commits, c)
	p.dated, p.counted = false, 0
	p.progress(len(p.commits))
	return nil
}

// finish checks that the last commit is complete.
func (p *parser) finish() error {
	if len(p.commits) == 0 {
		return nil
	}
	c := p.commits[len(p.commits)-1]
	switch {
	case !p.dated:
		return fmt.Errorf("commit %.12s has no Date line", c.hash)
	case c.author == "" && c.email == "":
		return fmt.Errorf("commit %.12s has no Author line", c.hash)
	case p.counted < len(c.changes):
		return fmt.Errorf("commit %.12s has %d changed files, but line counts for %d: use git log --raw --numstat",
			c.hash, len(c.changes), p.counted)
	}
	return nil
}

func isHash(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

// setAuthor takes "Name <address>". Either may be empty; then the other stands for it.
func (c *commit) setAuthor(s string) error {
	name, email, ok := strings.Cut(strings.ToValidUTF8(s, "\uFFFD"), "<")
	if !ok || !strings.HasSuffix(email, ">") {
		return errors.New(`want an author as "Name <address>"`)
	}
	c.author, c.email = strings.TrimSpace(name), strings.TrimSpace(strings.TrimSuffix(email, ">"))
	if c.author == "" {
		c.author = c.email
	}
	if c.author == "" {
		c.author = "(nobody)"
	}
	return nil
}

// setTime takes "1709290800 +0100", as --date=raw has it. A zone that no clock has, as some old
// tools left behind, counts as UTC.
func (c *commit) setTime(s string) error {
	seconds, zone, _ := strings.Cut(strings.TrimSpace(s), " ")
	unix, err := strconv.ParseInt(seconds, 10, 64)
	offset, zoneErr := strconv.Atoi(zone)
	if err != nil || zoneErr != nil || zone[0] != '+' && zone[0] != '-' {
		return errors.New(`want a date as "1709290800 +0100": use git log --date=raw`)
	}
	c.time = time.Unix(unix, 0).UTC()
	if h, m := offset/100, offset%100; -24 < h && h < 24 && -60 < m && m < 60 && offset != 0 {
		c.time = c.time.In(time.FixedZone("", h*3600+m*60))
	}
	if y := c.time.Year(); y < 1 || y > 9998 {
		return errors.New("the date is beyond the years 1 to 9998")
	}
	return nil
}

// addChange takes a line of --raw without its colon:
// "100644 100644 bdc955b 8835708 M<TAB>path", with two paths if one file comes from another.
func (c *commit) addChange(line string) error {
	fields := strings.Split(line, "\t")
	head := strings.Fields(fields[0])
	if len(head) != 5 {
		return errors.New("want two modes, two hashes and a status: merges must not be compared with all their parents (no -c, no --cc)")
	}
	f := fileChange{status: head[4][0]}
	paths := 1
	switch f.status {
	case 'A', 'D', 'M', 'T':
	case 'C', 'R':
		paths = 2
	default:
		return fmt.Errorf("unknown status %.1q", head[4])
	}
	if len(fields)-1 != paths {
		return fmt.Errorf("want %d paths with status %c, not %d", paths, f.status, len(fields)-1)
	}
	var err error
	if f.path, err = unquotePath(fields[paths]); err == nil && paths == 2 {
		f.from, err = unquotePath(fields[1])
	}
	c.changes = append(c.changes, f)
	return err
}

// count takes the line of --numstat for the file: "12<TAB>3<TAB>path". Both lists of a commit are
// in the same order, and the path proves it. That of a rename is shown in a shortened form, which
// does not say it all: only its arrow is looked at.
func (f *fileChange) count(line string) error {
	fields := strings.SplitN(line, "\t", 3)
	if len(fields) != 3 {
		return errors.New("want two line counts and a path")
	}
	if f.binary = fields[0] == "-" && fields[1] == "-"; !f.binary {
		added, err1 := strconv.ParseUint(fields[0], 10, 62)
		removed, err2 := strconv.ParseUint(fields[1], 10, 62)
		if err1 != nil || err2 != nil {
			return errors.New("want two line counts and a path")
		}
		f.added, f.removed = int64(added), int64(removed)
	}
	if f.from != "" {
		if !strings.Contains(fields[2], " => ") {
			return fmt.Errorf("want the line counts of the rename to %q", f.path)
		}
		return nil
	}
	if path, err := unquotePath(fields[2]); err != nil {
		return err
	} else if path != f.path {
		return fmt.Errorf("want the line counts of %q", f.path)
	}
	return nil
}
