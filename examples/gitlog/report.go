package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"example.com/eventstore"
)

// Report is what is told about a history, made of the store's events alone. Its parts are
// independent of each other, and none depends on the order of different files' events.
type Report struct {
	Totals   Totals
	Activity Activity
	Authors  Authors
	Files    Files
}

// readReport folds all events in the store.
func readReport(ctx context.Context, s *eventstore.Store) (*Report, error) {
	r := &Report{Authors: make(Authors), Files: make(Files)}
	for ev, err := range s.Read(ctx, eventstore.FromStreams(filesStream, commitsStream), eventstore.ReadOptions{}) {
		if err == nil {
			err = r.apply(ev)
		}
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *Report) apply(ev eventstore.Event) error {
	switch ev.Name {
	case commitMade:
		return on(ev, func(e CommitMade) {
			r.Totals.applyCommit(e)
			r.Activity.applyCommit(e)
			r.Authors.applyCommit(e)
		})
	case fileAdded:
		return on(ev, func(e FileAdded) { r.change(ev, e.Change, &r.Totals.Added) })
	case fileChanged:
		return on(ev, func(e FileChanged) { r.change(ev, e.Change, &r.Totals.Changed) })
	case fileRenamed:
		return on(ev, func(e FileRenamed) { r.change(ev, e.Change, &r.Totals.Renamed) })
	case fileDeleted:
		return on(ev, func(e FileDeleted) {
			if e.MovedTo != "" { // counted at the new path
				r.Files.applyTouch(ev.AggregateID, e.Change)
				return
			}
			r.change(ev, e.Change, &r.Totals.Deleted)
		})
	}
	return fmt.Errorf("%w: %q in stream %s", eventstore.ErrUnknownEvent, ev.Name, ev.Stream)
}

func (r *Report) change(ev eventstore.Event, ch Change, kind *int) {
	*kind++
	r.Totals.applyChange(ch)
	r.Files.applyChange(ev.AggregateID, ch)
}

// on decodes an event and has apply take it.
func on[E eventstore.Payload](ev eventstore.Event, apply func(E)) error {
	e, err := eventstore.Decode[E](ev)
	if err == nil {
		apply(e)
	}
	return err
}

// Totals are the sums that git has too.
type Totals struct {
	Commits, Merges                  int
	First, Last                      time.Time // by the authors' clocks
	Added, Changed, Renamed, Deleted int       // files
	LinesAdded, LinesRemoved         int64
	Binary                           int // changes of files whose lines are not counted
}

// Changes is the number of file changes: the lines of git log --numstat.
func (t *Totals) Changes() int { return t.Added + t.Changed + t.Renamed + t.Deleted }

func (t *Totals) applyCommit(e CommitMade) {
	if t.Commits == 0 || e.Time.Before(t.First) {
		t.First = e.Time
	}
	if t.Commits == 0 || e.Time.After(t.Last) {
		t.Last = e.Time
	}
	t.Commits++
	if len(e.Parents) > 1 {
		t.Merges++
	}
}

func (t *Totals) applyChange(ch Change) {
	t.LinesAdded += ch.Added
	t.LinesRemoved += ch.Removed
	if ch.Binary {
		t.Binary++
	}
}

// Activity counts commits by weekday, Sunday first, and hour, as the author's clock showed them.
type Activity [7][24]int

func (a *Activity) applyCommit(e CommitMade) { a[e.Time.Weekday()][e.Time.Hour()]++ }

// Busiest is the weekday and hour with the most commits, and their number.
func (a *Activity) Busiest() (day time.Weekday, hour, commits int) {
	for d := range a {
		for h, n := range a[d] {
			if n > commits {
				day, hour, commits = time.Weekday(d), h, n
			}
		}
	}
	return day, hour, commits
}

// Authors are the names of authors by [authorKey], as their latest commit has them.
type Authors map[string]Author

// Author is one author's latest commit, as far as it concerns the name.
type Author struct {
	Name string
	at   time.Time
}

func (a Authors) applyCommit(e CommitMade) {
	key := authorKey(e.Author, e.Email)
	old, known := a[key]
	if c := e.Time.Compare(old.at); !known || c > 0 || c == 0 && e.Author > old.Name {
		a[key] = Author{Name: e.Author, at: e.Time}
	}
}

// Files are all paths, by aggregate ID.
type Files map[string]*FileActivity

// FileActivity is what happened at one path. It does not follow renames: the file has another
// history at its other path.
type FileActivity struct {
	ID      string
	Changes int   // without its leaving for another path
	Lines   int64 // added and removed
	Author  string
	Several bool // Author is only the first of them
}

func (f Files) applyChange(id string, ch Change) {
	a := f.applyTouch(id, ch)
	a.Changes++
	a.Lines += ch.Added + ch.Removed
}

// applyTouch takes note of the author only.
func (f Files) applyTouch(id string, ch Change) *FileActivity {
	key := authorKey(ch.Author, ch.Email)
	a := f[id]
	if a == nil {
		a = &FileActivity{ID: id, Author: key}
		f[id] = a
	}
	if a.Author != key {
		a.Several = true
	}
	return a
}

// Touched returns the paths that were changed, the most changed first.
func (f Files) Touched() []*FileActivity {
	touched := slices.DeleteFunc(slices.Collect(maps.Values(f)), func(a *FileActivity) bool { return a.Changes == 0 })
	slices.SortFunc(touched, func(a, b *FileActivity) int {
		return cmp.Or(cmp.Compare(b.Changes, a.Changes), cmp.Compare(b.Lines, a.Lines), cmp.Compare(a.ID, b.ID))
	})
	return touched
}
