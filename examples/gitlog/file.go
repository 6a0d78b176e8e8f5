package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"example.com/eventstore"
)

// File is the state of one path.
type File struct {
	Path           string // in full
	Exists         bool
	From, MovedTo  string
	Changes        int
	Added, Removed int64
	Authors        map[string]string // name by authorKey
}

// files is how the events of a path make a File.
var files = eventstore.Aggregate[File]{
	Stream: filesStream,
	Init:   func() File { return File{Authors: make(map[string]string)} },
	When: []eventstore.Fold[File]{
		eventstore.On(func(f *File, e FileAdded) {
			f.Exists, f.From, f.MovedTo = true, e.CopiedFrom, ""
			f.apply(e.Change)
		}),
		eventstore.On(func(f *File, e FileChanged) { f.apply(e.Change) }),
		eventstore.On(func(f *File, e FileRenamed) {
			f.Exists, f.From, f.MovedTo = true, e.From, ""
			f.apply(e.Change)
		}),
		eventstore.On(func(f *File, e FileDeleted) {
			f.Exists, f.MovedTo = false, e.MovedTo
			f.apply(e.Change)
		}),
	},
}

func (f *File) apply(ch Change) {
	f.Path = ch.Path
	f.Changes++
	f.Added += ch.Added
	f.Removed += ch.Removed
	f.Authors[authorKey(ch.Author, ch.Email)] = ch.Author
}

// showFile writes the state of a path and its history.
func showFile(ctx context.Context, s *eventstore.Store, w io.Writer, path string) error {
	id := fileID(path)
	root, err := files.Load(ctx, s, id)
	if errors.Is(err, eventstore.ErrAggregateNotFound) && (path[0] == '"' || path[0] == '/') {
		id = path // an ID, as the report shows it
		root, err = files.Load(ctx, s, id)
	}
	if errors.Is(err, eventstore.ErrAggregateNotFound) {
		return fmt.Errorf("the store has no file %s", printable(path))
	}
	if err != nil {
		return err
	}
	f := root.State()
	path = id
	if f.Path != "" {
		path = f.Path
	}
	fmt.Fprintln(w, printable(path))
	fmt.Fprintf(w, "  %s: %s, +%s -%s lines\n", f.status(), plural(f.Changes, "event"), thousands(f.Added), thousands(f.Removed))
	fmt.Fprintf(w, "  by %s\n\n", printable(strings.Join(slices.Sorted(maps.Values(f.Authors)), ", ")))
	for ev, err := range s.ReadAggregate(ctx, filesStream, id, 0) {
		if err != nil {
			return err
		}
		line, err := fileLine(ev)
		if err != nil {
			return err
		}
		fmt.Fprintln(w, line)
	}
	return nil
}

func (f *File) status() string {
	switch {
	case f.MovedTo != "":
		return "moved to " + printable(f.MovedTo)
	case !f.Exists:
		return "deleted"
	case f.From != "":
		return "present, from " + printable(f.From)
	}
	return "present"
}

// fileLine is one event as a line of the history.
func fileLine(ev eventstore.Event) (line string, err error) {
	show := func(ch Change, what string) {
		lines := fmt.Sprintf("%8s %8s", "+"+thousands(ch.Added), "-"+thousands(ch.Removed))
		if ch.Binary {
			lines = fmt.Sprintf("%17s", "binary")
		}
		line = fmt.Sprintf("  %4d  %s  %.8s  %s %s  %s", ev.Version, ch.Time.Format("2006-01-02 15:04"), ch.Commit,
			pad(shorten(printable(ch.Author), 16), 16), lines, what)
	}
	// Another path goes into a line of its own.
	with := func(what, link, path string) string {
		if path == "" {
			return what
		}
		return what + "\n        " + link + " " + printable(path)
	}
	switch ev.Name {
	case fileAdded:
		err = on(ev, func(e FileAdded) { show(e.Change, with("added", "a copy of", e.CopiedFrom)) })
	case fileChanged:
		err = on(ev, func(e FileChanged) { show(e.Change, "changed") })
	case fileRenamed:
		err = on(ev, func(e FileRenamed) { show(e.Change, with("renamed", "from", e.From)) })
	case fileDeleted:
		err = on(ev, func(e FileDeleted) {
			what := "deleted"
			if e.MovedTo != "" {
				what = "renamed"
			}
			show(e.Change, with(what, "to", e.MovedTo))
		})
	default:
		err = fmt.Errorf("%w: %q", eventstore.ErrUnknownEvent, ev.Name)
	}
	return line, err
}
