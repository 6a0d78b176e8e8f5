// The runner of projections and relays: it takes the lease, stands by while another runner has
// it, and begins again after faults.

package eventstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"
)

// runner runs a projection or a relay: it holds the lease and has a batcher follow the log
// meanwhile, stands by while another runner has it, and carries out what was asked for by name.
//
// After any error it takes the lease anew, which begins another epoch, and goes on from what is
// stored: so a commit whose answer was lost is either seen or can't happen any more.
type runner struct {
	runnerConfig
	store   *Store
	batches *batcher

	owner          string
	target         Position // a catch-up ends there; noTarget: never
	started        bool     // generation is known
	generation     int64
	readModelReady bool // the read model is there

	wants     string        // the hash of the definition's set
	before    projectionRow // as it was when the lease was taken
	kept      *wantedSet    // of the row, as last read
	keptWants string        // its hash
	barred    *barredError  // why the lease was given back
}

// newRunner returns a runner for a checked definition, with what it leaves open filled in.
func newRunner(s *Store, c runnerConfig) *runner {
	c.batchSize = cmp.Or(c.batchSize, defaultBatchSize)
	c.poll = cmp.Or(c.poll, defaultPoll)
	c.term = cmp.Or(c.term, defaultLease)
	r := &runner{runnerConfig: c, store: s, target: noTarget}
	if c.wanted != nil {
		r.wants = c.wanted.hash()
	}
	r.batches = &batcher{looker: looker{runnerConfig: &r.runnerConfig, store: s, limit: min(firstPage, c.batchSize), window: minWindow}}
	return r
}

// run follows until ctx ends, somebody stops it, the target is reached, or something fails for good.
func (r *runner) run(ctx context.Context) error {
	r.owner = newOwner()
	var barred *barredError
	for {
		err := surviveStore(func() error { return r.hold(ctx) })
		switch {
		case errors.Is(err, errStopped):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case terminal(err) || errors.Is(err, ErrProjectionChanged):
			return err
		case errors.As(err, &barred):
			r.standBy(ctx, barred)
		case errors.Is(err, ErrLeaseLost):
			r.store.opts.Logger.InfoContext(ctx, "lease lost", "projection", r.name, "owner", r.owner)
		case transient(err):
			r.batches.failures++
			pause := pauseAfter(r.batches.failures)
			if r.batches.losses.err == err { //nolint:errorlint // the very error: the database is well otherwise
				pause = min(pause, lossPause)
			}
			r.store.opts.Logger.WarnContext(ctx, "projection begins again from its checkpoint", "projection", r.name, "attempt", r.batches.failures, "error", err)
			if sleep(ctx, pause) != nil {
				r.release(ctx, StatusIdle, "")
				return ctx.Err()
			}
		default:
			return err
		}
	}
}

// catchUp runs until every event that was committed before the call is in.
func (r *runner) catchUp(ctx context.Context) (err error) {
	for failures := 1; ; failures++ {
		if r.target, err = r.store.backend.lastPosition(ctx); err == nil {
			return r.run(ctx)
		}
		if !transient(err) || sleep(ctx, pauseAfter(failures)) != nil {
			return cmp.Or(ctx.Err(), err)
		}
	}
}

// newOwner names a run: the host and the process for people who look for it, the rest so that no
// other run has the name.
func newOwner() string {
	host, _ := os.Hostname() // without a name the rest has to do
	return fmt.Sprintf("%.100s/%d/%s", host, os.Getpid(), uuid.NewString())
}

// hold takes the lease and follows until something ends that. It gives the lease back unless it
// was lost.
func (r *runner) hold(ctx context.Context) (err error) {
	row, err := r.acquire(ctx)
	if err != nil {
		return err
	}
	status := StatusIdle
	errText := ""
	l := r.store.leases.begin(ctx, r.store.backend, r.name, r.owner, row.epoch, r.term)
	r.batches.lease, r.batches.noted = l, false
	returned := false
	defer func() {
		if !returned {
			err = errGoexit
		}
		if l.lost() && !errors.Is(err, errStopped) {
			err = ErrLeaseLost
		}
		l.giveUp()
		if err != nil && !errors.Is(err, errStopped) && (terminal(err) || !errors.Is(err, ErrLeaseLost)) && ctx.Err() == nil {
			if transient(err) {
				if !r.batches.noted {
					r.batches.noteFailure(ctx, err)
				}
				return // run takes it again
			}
			var ok bool
			if status, errText, ok = r.changeOutcome(err); !ok {
				status, errText = StatusFailed, errorText(err)
			}
		}
		r.release(ctx, status, errText)
	}()
	r.store.opts.Logger.InfoContext(ctx, "lease taken", "projection", r.name, "owner", r.owner, "epoch", row.epoch)
	err = surviveStore(func() error {
		if err := r.adopt(l.ctx, &row); err != nil {
			return err
		}
		if err := r.prepare(l.ctx, &row); err != nil {
			return err
		}
		return r.batches.follow(l.ctx, r.target)
	})
	returned = true
	return err
}

// surviveStore is survive for the store's own work, where all of the application's functions are called by survive.
// What panics then is the driver: no event is to blame, and the database is asked again.
func surviveStore(fn func() error) error {
	var err error
	if panicked := survive(func() error { err = fn(); return nil }); panicked != nil {
		return &statementError{"projection", panicked, errUnavailable}
	}
	return err
}

// errGoexit is why a run has ended that has not returned.
var errGoexit = errors.New("eventstore: runtime.Goexit has ended the goroutine of the run")

// release gives the lease back, also when ctx is over, but not at any price: it runs out by itself.
func (r *runner) release(ctx context.Context, status ProjectionStatus, errText string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	if err := r.store.backend.releaseLease(ctx, r.name, r.owner, status, errText); err != nil {
		r.store.opts.Logger.WarnContext(ctx, "lease not released", "projection", r.name, "owner", r.owner, "error", err)
	}
	r.store.progress.publish()
}

// acquire waits until it has the lease and returns what is stored under it.
func (r *runner) acquire(ctx context.Context) (projectionRow, error) {
	poll := newPoller(r.store.progress, min(r.poll, r.term/4))
	for {
		poll.listen()
		row, found, err := r.store.backend.projection(ctx, r.name)
		switch {
		case err != nil:
			return row, err
		case !found && r.started:
			return row, r.end(&row) // it has been deleted
		case r.kind != row.kind && row.kind != "":
			return row, r.kind.owns(r.name, &row)
		case !found:
			if err := r.create(ctx); err != nil {
				return row, err
			}
			continue
		}
		if row.status == StatusDeleting && row.free(r.owner) {
			if err := r.withLease(ctx, &row, r.finishDelete); err != nil {
				return row, err
			}
			if !r.started {
				continue // from nothing
			}
		}
		if row.status == StatusDeleting && !r.started {
			// This run was not there when the delete was asked for, and begins behind it.
			if err := poll.wait(ctx, true); err != nil {
				return row, err
			}
			continue
		}
		if !r.started {
			r.started, r.generation = true, row.generation
		}
		if row.generation != r.generation {
			r.release(ctx, StatusIdle, "")
			return row, r.end(&row)
		}
		claim, err := r.mayTake(ctx, &row)
		if err != nil {
			return row, err
		}
		if claim != nil {
			if taken, err := r.store.backend.takeLease(ctx, &row, *claim); err != nil {
				return row, err
			} else if taken {
				// Whatever was under way when the lease was taken is stored by now, or never will be.
				now, found, err := r.store.backend.projection(ctx, r.name)
				if err != nil {
					return now, err
				}
				if found && now.owner == r.owner && now.epoch == row.epoch+1 { // else a control call came between
					r.before = row
					now.readModel = now.readModel || row.readModel
					return now, nil
				}
			}
			continue
		}
		if err := poll.wait(ctx, true); err != nil {
			return row, err
		}
	}
}

// create makes the projection's row.
func (r *runner) create(ctx context.Context) error {
	sealed, _, err := r.store.backend.seal(ctx)
	if err != nil {
		return err
	}
	after := r.after
	if after == Latest {
		after = sealed
	}
	return r.store.backend.createProjection(ctx, r.name, after, sealed)
}

// mayTake returns what to take the lease with, or nil to stand by. It returns errStopped when nothing is left
// to do for a catch-up, and ErrProjectionChanged when the definition is refused as things are.
func (r *runner) mayTake(ctx context.Context, row *projectionRow) (*leaseClaim, error) {
	free := row.free(r.owner)
	rel, ok, err := r.relationTo(ctx, row)
	switch {
	case err != nil || !ok:
		return nil, err
	case rel == relationNeither && r.onChange == RefuseChange:
		return nil, r.neither(r.kept)
	case r.caughtUp(row) && r.settled(row, rel):
		return nil, r.end(row)
	case row.paused && row.status == StatusResetting && free:
		return nil, r.withLease(ctx, row, r.reset)
	case row.paused:
		return nil, nil
	case rel == relationNarrower && r.onChange == RefuseChange && free:
		free, err = r.unbarred(ctx, row)
	case rel == relationWider && r.onChange == RefuseChange:
		err = r.refusedBefore(ctx, row)
	}
	claim := r.claim(row)
	if rel == relationWider {
		claim.over = row.wants
	}
	claim.changing = rel == relationWider || rel == relationNeither || rel == relationNarrower && r.onChange != RefuseChange
	// A wider definition takes it from any holder but one that is about to change the set itself: two of them
	// would take it from each other for as long as a look lasts.
	if err != nil || !free && (rel != relationWider || row.changing) {
		return nil, err
	}
	return &claim, nil
}

// claim is what the runner takes a lease with.
func (r *runner) claim(row *projectionRow) leaseClaim {
	return leaseClaim{name: r.name, owner: r.owner, kind: cmp.Or(r.kind, row.kind), readModel: r.readModel != nil, term: r.term}
}

// end ends a run. A catch-up returns what is stored by then: the state here may hold events whose
// batch was never committed, or be none yet.
func (r *runner) end(row *projectionRow) error {
	if r.target == noTarget {
		return errStopped
	}
	if row.status == StatusDeleting {
		row = &projectionRow{}
	}
	r.batches.position = row.position
	return cmp.Or(r.batches.restore(row.state), errStopped)
}

// caughtUp reports whether nothing is left to do for a catch-up.
func (r *runner) caughtUp(row *projectionRow) bool {
	return r.target != noTarget && row.position >= r.target && !row.retry &&
		row.status != StatusResetting && row.status != StatusDeleting && (r.readModel == nil || row.readModel)
}
