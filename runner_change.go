// Changes of definitions: what a runner does whose definition wants other events than those that the
// projection's row says have been taken in.

package eventstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// relationTo compares the definition with the one that a row keeps. ok is false if the row has changed
// meanwhile.
func (r *runner) relationTo(ctx context.Context, row *projectionRow) (rel relation, ok bool, err error) {
	switch row.wants {
	case "":
		return relationNew, true, nil
	case r.wants:
		return relationSame, true, nil
	}
	if r.kept == nil || r.keptWants != row.wants {
		kept, err := r.store.backend.definition(ctx, r.name)
		if err != nil {
			return 0, false, err
		}
		if kept.wanted == nil || kept.wanted.hash() != row.wants {
			return 0, false, nil
		}
		r.kept, r.keptWants = kept.wanted, row.wants
	}
	return r.wanted.relationTo(r.kept), true, nil
}

// settled reports whether a catch-up that has nothing left to do may end without the lease.
func (r *runner) settled(row *projectionRow, rel relation) bool {
	switch rel {
	case relationSame:
		return true
	case relationNarrower:
		return r.onChange == RefuseChange || !row.free(r.owner)
	case relationNew:
		return !row.free(r.owner)
	}
	return false
}

// unbarred reports whether something has changed since the runner gave back the lease because of an event
// that it must not pass over.
func (r *runner) unbarred(ctx context.Context, row *projectionRow) (bool, error) {
	e := r.barred
	if e == nil || row.position != e.after || row.wants != e.wants || row.retry || row.status == StatusResetting || row.errText == "" {
		return true, nil
	}
	at := e.event.position
	rows, _, err := r.store.backend.readPage(ctx, &page{from: FromAll(), after: at - 1, before: at + 1, limit: 1})
	if err != nil || len(rows) == 0 {
		return err == nil, err
	}
	verdicts, err := r.store.backend.verdicts(ctx, r.name)
	_, lifted := verdicts[at]
	return err == nil && lifted, err
}

// refusedBefore returns ErrProjectionChanged if an earlier run was refused for an event that is still there,
// still out, and wanted by this definition too. It needs no lease: calls in a loop would take that from an older
// runner again and again, and undo its batches.
func (r *runner) refusedBefore(ctx context.Context, row *projectionRow) error {
	kept, err := r.store.backend.definition(ctx, r.name)
	if err != nil || kept.wanted == nil {
		return err
	}
	look := r.lookFor(kept.wanted)
	// What other definitions have found counts too. They may be more than the row keeps, and the matches of one may
	// differ with each run.
	own := kept.lookedUpTo(look.key)
	looks := slices.SortedFunc(slices.Values(kept.looks), func(x, y changeCheck) int { return cmp.Compare(x.UpTo, y.UpTo) })
	for _, l := range looks {
		if l.UpTo < own || l.UpTo >= row.position {
			continue
		}
		q := look.page
		q.after, q.before, q.limit = l.UpTo, l.UpTo+2, 1
		rows, _, err := r.store.backend.readPage(ctx, &q)
		if err != nil {
			return err
		}
		found, err := r.firstOut(rows, kept)
		if err != nil {
			return err
		}
		if found != nil {
			return r.refusal(row, found)
		}
	}
	return nil
}

// firstOut returns the first of rows that the definition wants and no earlier one has taken in.
func (r *runner) firstOut(rows []record, kept *definition) (*record, error) {
	picker := r.from.picker()
	for i := range rows {
		row := &rows[i]
		if !r.wanted.holds(row.stream, row.name) || kept.takenIn(row.position, row.stream, row.name) {
			continue
		}
		if picked, err := picker.picks(row); picked || err != nil {
			return row, err
		}
	}
	return nil, nil
}

// refusal returns the error of a definition that wants an event which was passed over.
func (r *runner) refusal(row *projectionRow, found *record) error {
	return &changedError{fmt.Sprintf("projection %q stands at %d, and event %d, %q of stream %q, which the definition wants, was passed over by an earlier one: %s",
		r.name, row.position, found.position, found.name, found.stream, whatToDo)}
}

// adopt makes the definition the one that the row keeps, or finds that it must not. It runs under the
// lease, before anything is taken in.
func (r *runner) adopt(ctx context.Context, row *projectionRow) error {
	r.batches.bar = nil
	if row.wants == r.wants {
		return nil
	}
	kept, err := r.store.backend.definition(ctx, r.name)
	if err != nil {
		return err
	}
	rel := relationNew
	if kept.wanted != nil {
		rel = r.wanted.relationTo(kept.wanted)
	}
	switch {
	case rel == relationSame:
		return nil
	case rel == relationNarrower && r.onChange == RefuseChange:
		r.batches.bar = kept.wanted
		return nil
	case rel == relationNeither && r.onChange == RefuseChange:
		return r.neither(kept.wanted)
	case rel == relationWider || rel == relationNeither:
		found, err := r.passedOver(ctx, row, kept)
		switch {
		case err != nil:
			return err
		case found != nil && r.onChange == RefuseChange:
			return r.refusal(row, found)
		case found != nil && r.onChange == RebuildOnChange:
			r.store.opts.Logger.WarnContext(ctx, "projection is rebuilt, as its definition has changed", "projection", r.name, "owner", r.owner, "position", found.position, "event", found.name)
			return r.rebuild(ctx, row)
		}
	}
	held, err := r.store.backend.define(ctx, r.name, row.epoch, kept.followedBy(r.wanted, row.position))
	if err == nil && !held {
		err = ErrLeaseLost
	}
	if err == nil && rel != relationNew {
		r.store.opts.Logger.InfoContext(ctx, "definition of the projection changed", "projection", r.name, "owner", r.owner, "position", row.position)
	}
	return err
}

// neither returns the error of a definition that is neither wider nor narrower than the one that the row
// keeps.
func (r *runner) neither(kept *wantedSet) error {
	return &changedError{fmt.Sprintf("projection %q: the definition no longer takes in %s, and now takes in %s: %s", r.name, r.wanted.lacks(kept), kept.lacks(r.wanted), whatToDo)}
}

// rebuild has the runner begin at the first event again.
func (r *runner) rebuild(ctx context.Context, row *projectionRow) error {
	sealed, _, err := r.store.backend.seal(ctx)
	if err != nil {
		return err
	}
	held, err := r.store.backend.rebuild(ctx, r.name, row.epoch, r.wanted, sealed)
	if err != nil {
		return err
	}
	if !held {
		return ErrLeaseLost
	}
	row.replayTo, row.began = max(sealed, row.position), 0
	row.status, row.position, row.state, row.retry = StatusResetting, 0, nil, false
	return nil
}

// passedOver returns the first event at or below the row's position that the definition wants and no earlier
// one has taken in; nil: there is none. It goes through the log in windows, and stores how far it is, so that
// the next run of the same definition goes on from there.
func (r *runner) passedOver(ctx context.Context, row *projectionRow, kept *definition) (*record, error) {
	look := r.lookFor(kept.wanted)
	after := max(row.began, kept.takenInUpTo(r.wanted), kept.lookedUpTo(look.key))
	note := func() error {
		// Also of a look that ends with its context, but not at any price.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
		defer cancel()
		kept.looked(look.key, after)
		return r.store.backend.noteLooks(ctx, r.name, row.epoch, kept)
	}
	window, noted := Position(minWindow), time.Now()
	for after < row.position {
		began := time.Now()
		q := &look.page
		q.after, q.before, q.window, q.limit = after, min(after+window, row.position)+1, true, maxPage
		to := q.before - 1
		rows, more, err := r.store.backend.readPage(ctx, q)
		if err != nil {
			_ = note() // the error that matters is the page's
			return nil, err
		}
		found, err := r.firstOut(rows, kept)
		if err != nil {
			return nil, err
		}
		if found != nil {
			after = found.position - 1
			return found, note()
		}
		if after = to; more {
			after = q.after
		} else {
			window = nextWindowSize(window, time.Since(began))
		}
		if time.Since(noted) >= noteChecks {
			err := note()
			if err == nil {
				err = r.batches.check(ctx) // another may have the lease by now
			}
			if err != nil {
				return nil, err
			}
			noted = time.Now()
		}
	}
	return nil, ctx.Err()
}

// noteChecks is how often passedOver stores how far it is.
const noteChecks = time.Second

// changeLook is what passedOver reads.
type changeLook struct {
	page page
	key  string // of what is looked for
}

// lookFor returns what to read to find events that a stored set does not hold.
func (r *runner) lookFor(kept *wantedSet) changeLook {
	look := changeLook{page: page{from: r.from, names: r.wanted.storedNames()}, key: hashOf(lookKey(r.wanted, r.from))}
	switch {
	case kept.holdsStreams(r.wanted) && !r.wanted.AnyName:
		look.page.names = slices.DeleteFunc(slices.Clone(r.wanted.Names), kept.holdsName)
	case kept.holdsNames(r.wanted):
		look.page.from = slices.DeleteFunc(slices.Clone(r.from), func(src Source) bool {
			switch {
			case src.Stream != "":
				return kept.holdsStream(src.Stream)
			case src.Category != "":
				return kept.holdsCategory(src.Category)
			}
			return kept.All
		})
	}
	return look
}

// lookKey describes a set and the matches of a selection.
func lookKey(w *wantedSet, from Selection) string {
	var b strings.Builder
	b.WriteString(w.hash())
	for _, src := range from {
		fmt.Fprintf(&b, "\x00%s\x00%s", src.Stream, src.Category)
		for _, m := range src.Match {
			fmt.Fprintf(&b, "\x00%v %d %#v", m.field, m.op, m.values)
			if m.regex != nil {
				fmt.Fprintf(&b, " %s", m.regex)
			}
		}
	}
	return b.String()
}

// standBy notes that the runner has given back the lease because of an event that it must not pass over.
func (r *runner) standBy(ctx context.Context, e *barredError) {
	if b := r.barred; b == nil || b.event.position != e.event.position || b.wants != e.wants {
		r.store.opts.Logger.WarnContext(ctx, "older definition stands by", "projection", r.name, "owner", r.owner, "position", e.event.position, "event", e.event.name)
	}
	r.barred = e
}

// changeOutcome returns what a runner gives its lease back with after an error of adopt or of a bar: what
// the row was before, or why it stands by.
func (r *runner) changeOutcome(err error) (status ProjectionStatus, errText string, ok bool) {
	if barred := (*barredError)(nil); errors.As(err, &barred) {
		return StatusIdle, errorText(err), true
	}
	if errors.Is(err, ErrProjectionChanged) && !terminal(err) {
		if r.before.status == StatusFailed {
			return StatusFailed, r.before.errText, true
		}
		return StatusIdle, r.before.errText, true
	}
	return "", "", false
}
