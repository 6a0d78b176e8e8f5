package main

import (
	"strconv"
	"strings"
	"time"

	"example.com/eventstore"
	"github.com/google/uuid"
)

// The streams of a store. In filesStream every path that the history names is an aggregate of its
// own; in commitsStream one aggregate holds all commits.
const (
	filesStream   = "files"
	commitsStream = "commits"
	historyID     = "history"
)

// Change is what the events of a file have in common: who did it, when, in which commit, and the
// lines that it added and removed.
type Change struct {
	Commit  string    `json:"commit"`
	Author  string    `json:"author"`
	Email   string    `json:"email"`
	Time    time.Time `json:"time"` // by the author's clock, in the author's zone
	Added   int64     `json:"added"`
	Removed int64     `json:"removed"`
	Binary  bool      `json:"binary,omitempty"` // git counts no lines then
	Path    string    `json:"path,omitempty"`   // in full, where the aggregate ID had to be shortened
}

// changing is any event of a file.
type changing interface {
	eventstore.Payload
	change() Change
}

func (ch Change) change() Change { return ch }

// FileAdded says that a file came to be at this path.
type FileAdded struct {
	Change
	CopiedFrom string `json:"copiedFrom,omitempty"`
}

// FileChanged says that a file's content, mode or type changed.
type FileChanged struct{ Change }

// FileRenamed says that a file came to this path from another one. The other path's own history
// has a FileDeleted for it, whose MovedTo names this one.
type FileRenamed struct {
	Change
	From string `json:"from"`
}

// FileDeleted says that the file at this path is gone. With MovedTo it was renamed: the lines of
// that change are counted once, by the FileRenamed at the new path.
type FileDeleted struct {
	Change
	MovedTo string `json:"movedTo,omitempty"`
}

// CommitMade is a commit. Those that change no file, as most merges, have no other event.
type CommitMade struct {
	Commit  string    `json:"commit"`
	Parents []string  `json:"parents,omitempty"`
	Author  string    `json:"author"`
	Email   string    `json:"email"`
	Time    time.Time `json:"time"`
}

// The names are what is stored, so they must stay as they are.
const (
	fileAdded   = "file.added"
	fileChanged = "file.changed"
	fileRenamed = "file.renamed"
	fileDeleted = "file.deleted"
	commitMade  = "commit.made"
)

// EventName returns "file.added".
func (FileAdded) EventName() string { return fileAdded }

// EventName returns "file.changed".
func (FileChanged) EventName() string { return fileChanged }

// EventName returns "file.renamed".
func (FileRenamed) EventName() string { return fileRenamed }

// EventName returns "file.deleted".
func (FileDeleted) EventName() string { return fileDeleted }

// EventName returns "commit.made".
func (CommitMade) EventName() string { return commitMade }

// authorKey tells authors apart: by address, whatever its case, or by name if there is none.
func authorKey(name, email string) string {
	if email == "" {
		return name
	}
	return strings.ToLower(email)
}

// namespace is the UUIDv5 namespace of all event IDs of this program.
var namespace = uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://example.com/eventstore/examples/gitlog"))

// commitEventID is the ID of a commit's CommitMade.
func commitEventID(commit string) uuid.UUID {
	return uuid.NewSHA1(namespace, []byte(commit))
}

// fileEventID is the ID of what a commit did to a path, as git has its bytes. A commit that
// touches a path again, as when two files swap their names, has nth above 1.
func fileEventID(commit, path string, nth int) uuid.UUID {
	key := commit + "\x00" + path
	if nth > 1 {
		key += "\x00" + strconv.Itoa(nth)
	}
	return uuid.NewSHA1(namespace, []byte(key))
}

// commitEvent returns the event of the commit itself.
func commitEvent(c *commit) eventstore.NewEvent {
	return eventstore.NewEvent{ID: commitEventID(c.hash), Payload: CommitMade{
		Commit: c.hash, Parents: c.parents, Author: c.author, Email: c.email, Time: c.time,
	}}
}

// fileEvent is an event of the file with this aggregate ID.
type fileEvent struct {
	fileID string
	event  eventstore.NewEvent
}

// fileEvents returns what a commit did to files. Departures come first: where one file leaves a
// path and another takes its place, the path's history ends with the one that is there.
func fileEvents(c *commit) []fileEvent {
	var events []fileEvent
	touched := make(map[string]int, len(c.changes))
	add := func(path string, ch Change, payload func(Change) eventstore.Payload) {
		touched[path]++
		id := fileID(path)
		if full := quotePath(path); full != id {
			ch.Path = full
		}
		events = append(events, fileEvent{fileID: id, event: eventstore.NewEvent{
			ID: fileEventID(c.hash, path, touched[path]), Payload: payload(ch),
		}})
	}
	who := Change{Commit: c.hash, Author: c.author, Email: c.email, Time: c.time}
	with := func(f *fileChange) Change {
		ch := who
		ch.Added, ch.Removed, ch.Binary = f.added, f.removed, f.binary
		return ch
	}
	for i := range c.changes {
		switch f := &c.changes[i]; f.status {
		case 'D':
			add(f.path, with(f), func(ch Change) eventstore.Payload { return FileDeleted{Change: ch} })
		case 'R':
			add(f.from, who, func(ch Change) eventstore.Payload {
				return FileDeleted{Change: ch, MovedTo: fileID(f.path)}
			})
		}
	}
	for i := range c.changes {
		switch f := &c.changes[i]; f.status {
		case 'A':
			add(f.path, with(f), func(ch Change) eventstore.Payload { return FileAdded{Change: ch} })
		case 'C':
			add(f.path, with(f), func(ch Change) eventstore.Payload {
				return FileAdded{Change: ch, CopiedFrom: fileID(f.from)}
			})
		case 'M', 'T':
			add(f.path, with(f), func(ch Change) eventstore.Payload { return FileChanged{ch} })
		case 'R':
			add(f.path, with(f), func(ch Change) eventstore.Payload {
				return FileRenamed{Change: ch, From: fileID(f.from)}
			})
		}
	}
	return events
}
