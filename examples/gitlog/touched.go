package main

import (
	"context"
	"slices"

	"example.com/eventstore"
)

// Touched is what happened at one path. It does not follow renames: the file has another history
// at its other path.
type Touched struct {
	Changes int      `json:"n"` // without its leaving for another path
	Lines   int64    `json:"l"` // added and removed
	Authors []string `json:"a"` // the first two, by authorKey
}

// touched are documents, one for each path, by aggregate ID. A run goes on where the one before has
// stopped, and writes those that have changed.
var touched = eventstore.Documents[Touched]{
	Name: "gitlog.paths",
	From: eventstore.FromStream(filesStream),
	When: []eventstore.Handler[Touched]{
		touch[FileAdded](),
		touch[FileChanged](),
		touch[FileRenamed](),
		eventstore.On(func(t *Touched, e FileDeleted) {
			t.by(e.Change)
			if e.MovedTo == "" { // or else it is counted at the new path
				t.count(e.Change)
			}
		}),
	},
}

func touch[E changing]() eventstore.Handler[Touched] {
	return eventstore.On(func(t *Touched, e E) {
		t.by(e.change())
		t.count(e.change())
	})
}

func (t *Touched) by(ch Change) {
	if key := authorKey(ch.Author, ch.Email); len(t.Authors) < 2 && !slices.Contains(t.Authors, key) {
		t.Authors = append(t.Authors, key)
	}
}

func (t *Touched) count(ch Change) {
	t.Changes++
	t.Lines += ch.Added + ch.Removed
}

// OnlyAuthor returns the key of the only author, or "" if there are more.
func (t *Touched) OnlyAuthor() string {
	if len(t.Authors) != 1 {
		return ""
	}
	return t.Authors[0]
}

// readTouched brings the documents up to date and returns those of all paths that were changed.
func readTouched(ctx context.Context, s *eventstore.Store) (Files, error) {
	if _, err := touched.CatchUp(ctx, s); err != nil {
		return nil, err
	}
	files := Files{}
	for doc, err := range touched.All(ctx, s, eventstore.DocumentOptions{}) {
		if err != nil {
			return nil, err
		}
		if doc.State.Changes > 0 {
			files[doc.Key] = doc.State
		}
	}
	return files, nil
}
