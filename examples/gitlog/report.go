package main

import (
	"cmp"
	"context"
	"slices"
	"time"

	"example.com/eventstore"
)

// Report is what is told about a history, made of the store's events alone. None of its parts
// depends on the order of different files' events.
type Report struct {
	Totals   Totals
	Activity Activity
	Authors  Authors
	Files    Files
}

// readReport asks the store. What is cheap to count again is a query; what would not be, and is
// kept up to date instead, are documents.
func readReport(ctx context.Context, s *eventstore.Store) (*Report, error) {
	var r Report
	var err error
	if r.Totals, err = totals.Run(ctx, s); err != nil {
		return nil, err
	}
	if r.Activity, err = activity.Run(ctx, s); err != nil {
		return nil, err
	}
	if r.Authors, err = authors.Run(ctx, s); err != nil {
		return nil, err
	}
	if r.Files, err = readTouched(ctx, s); err != nil {
		return nil, err
	}
	return &r, nil
}

var totals = eventstore.Query[Totals]{
	From: eventstore.FromStreams(filesStream, commitsStream),
	When: []eventstore.Fold[Totals]{
		eventstore.On(func(t *Totals, e CommitMade) { t.applyCommit(e) }),
		eventstore.On(func(t *Totals, e FileAdded) { t.applyChange(e.Change, &t.Added) }),
		eventstore.On(func(t *Totals, e FileChanged) { t.applyChange(e.Change, &t.Changed) }),
		eventstore.On(func(t *Totals, e FileRenamed) { t.applyChange(e.Change, &t.Renamed) }),
		eventstore.On(func(t *Totals, e FileDeleted) {
			if e.MovedTo == "" { // or else it is counted at the new path
				t.applyChange(e.Change, &t.Deleted)
			}
		}),
	},
}

var activity = eventstore.Query[Activity]{
	From: eventstore.FromStream(commitsStream),
	When: []eventstore.Fold[Activity]{eventstore.On(func(a *Activity, e CommitMade) { a.applyCommit(e) })},
}

var authors = eventstore.Query[Authors]{
	From: eventstore.FromStream(commitsStream),
	Init: func() Authors { return Authors{} },
	When: []eventstore.Fold[Authors]{eventstore.On(func(a *Authors, e CommitMade) { a.applyCommit(e) })},
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

func (t *Totals) applyChange(ch Change, kind *int) {
	*kind++
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

// Files are the paths that were changed, by aggregate ID.
type Files map[string]Touched

// FileActivity is one path of Files.
type FileActivity struct {
	ID string
	Touched
}

// Touched returns the paths, the most changed first.
func (f Files) Touched() []FileActivity {
	touched := make([]FileActivity, 0, len(f))
	for id, t := range f {
		touched = append(touched, FileActivity{id, t})
	}
	slices.SortFunc(touched, func(a, b FileActivity) int {
		return cmp.Or(cmp.Compare(b.Changes, a.Changes), cmp.Compare(b.Lines, a.Lines), cmp.Compare(a.ID, b.ID))
	})
	return touched
}
