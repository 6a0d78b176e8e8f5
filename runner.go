package eventstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
)

// follower is what a runner does with events: a projection handles them, a relay publishes them.
type follower interface {
	// restore sets the state to one that was stored; nil: to the one before the first event.
	restore(state []byte) error
	// handle takes in events, as part of w, and returns how many of them went well.
	handle(ctx context.Context, w *work, rows []record) (done int, err error)
	// encode returns the state as it is to be stored, or nil if there is none or it has not changed.
	encode() ([]byte, error)
	// decide says what becomes of an event on which handle has failed.
	decide(ctx context.Context, r *record, err error, attempt int) Decision
	// fatal is the error that ends the run if that is Fail.
	fatal(r *record, err error) error
}

// runner follows the sealed order of events for a follower and keeps a checkpoint. It holds the
// projection's lease while it does, and stands by while another runner has it.
//
// A batch is read outside any transaction, while the one before it is being handled. What handlers
// write and the checkpoint commit together, if the lease's epoch is still the runner's own. After
// any error the runner takes the lease anew, which begins another epoch, and goes on from what is
// stored: so a commit whose answer was lost is either seen or can't happen any more.
type runner struct {
	store     *Store
	name      string
	from      Selection
	names     []string // under which wanted events are stored; nil: any
	batchSize int
	poll      time.Duration
	term      time.Duration // of the lease
	follower  follower
	readModel ReadModel

	owner      string
	target     Position // a catch-up ends there; noTarget: never
	begun      bool     // generation is known
	generation int64
	made       bool // the read model is there
	failures   int  // since there was last progress

	lease    *lease
	position Position // as stored
	state    []byte   // as stored
	parked   map[aggregateKey]bool
	limit    int // of a page
	found    int // in the last page
	window   Position
	sealed   Position  // as of the last look at what is
	looked   time.Time // when that was
}

const (
	noTarget Position = -1

	defaultBatchSize = 1000
	defaultPoll      = 500 * time.Millisecond

	// A look covers at least minWindow positions and then as many more as can be looked at
	// quickly, so that an event which is rare in a long log is searched for in steps, each of
	// which is remembered.
	minWindow = 10000
	maxWindow = 1 << 40
	quickLook = 50 * time.Millisecond
	slowLook  = 500 * time.Millisecond

	releaseTime = time.Second

	paceTime = 10 * time.Millisecond // from one look that found all there was to the next
)

// errStopped ends a run that has been asked to end, or has reached its target.
var errStopped = errors.New("eventstore: stopped")

// run follows until ctx ends, somebody stops it, the target is reached, or something fails for good.
func (r *runner) run(ctx context.Context) error {
	r.owner = newOwner()
	r.limit, r.window = min(firstPage, r.batchSize), minWindow
	for {
		err := r.hold(ctx)
		switch {
		case errors.Is(err, errStopped):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case final(err):
			return err
		case errors.Is(err, ErrLeaseLost):
			r.store.opts.Logger.InfoContext(ctx, "lease lost", "projection", r.name, "owner", r.owner)
		case passing(err):
			r.failures++
			r.store.opts.Logger.WarnContext(ctx, "projection begins again from its checkpoint", "projection", r.name, "attempt", r.failures, "error", err)
			if sleep(ctx, pauseAfter(r.failures)) != nil {
				r.release(ctx, StatusIdle, "")
				return ctx.Err()
			}
		default:
			return err
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
	problem := ""
	r.lease = r.store.beginLease(ctx, r.name, row.epoch, r.term)
	defer func() {
		if r.lease.lost() && !errors.Is(err, errStopped) {
			err = ErrLeaseLost
		}
		r.lease.giveUp()
		if err != nil && !errors.Is(err, errStopped) && (final(err) || !errors.Is(err, ErrLeaseLost)) && ctx.Err() == nil {
			if passing(err) {
				return // run takes it again at once
			}
			status, problem = StatusFailed, problemText(err)
		}
		r.release(ctx, status, problem)
	}()
	r.store.opts.Logger.InfoContext(ctx, "lease taken", "projection", r.name, "owner", r.owner, "epoch", row.epoch)
	if err := r.prepare(r.lease.ctx, &row); err != nil {
		return err
	}
	return r.follow(r.lease.ctx)
}

// problemText is an error's text as every database takes it: a handler's may hold bytes of whatever
// it has failed on. It is never empty, which would say that there was no error.
func problemText(err error) string {
	const most = 64 << 10
	text := err.Error()
	text = strings.ToValidUTF8(text[:min(most, len(text))], "\uFFFD")
	return cmp.Or(strings.ReplaceAll(text, "\x00", "\uFFFD"), fmt.Sprintf("%T", err))
}

// release gives the lease back, also when ctx is over, but not at any price: it runs out by itself.
func (r *runner) release(ctx context.Context, status ProjectionStatus, problem string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	if err := r.store.backend.releaseLease(ctx, r.name, r.owner, status, problem); err != nil {
		r.store.opts.Logger.WarnContext(ctx, "lease not released", "projection", r.name, "owner", r.owner, "error", err)
	}
	r.store.moves.publish()
}

// acquire waits until it has the lease and returns what is stored under it.
func (r *runner) acquire(ctx context.Context) (projectionRow, error) {
	wait := newWaiter(r.store.moves, min(r.poll, r.term/4))
	for {
		wait.listen()
		row, found, err := r.store.backend.projection(ctx, r.name)
		switch {
		case err != nil:
			return row, err
		case !found && r.begun:
			return row, r.stop(&row) // it has been deleted
		case !found:
			if err := r.store.backend.createProjection(ctx, r.name); err != nil {
				return row, err
			}
			continue
		}
		if row.status == StatusDeleting && row.free(r.owner) {
			if err := r.alone(ctx, &row, r.finishDelete); err != nil {
				return row, err
			}
			if !r.begun {
				continue // from nothing
			}
		}
		if row.status == StatusDeleting && !r.begun {
			// This run was not there when the delete was asked for, and begins behind it.
			if err := wait.wait(ctx, true); err != nil {
				return row, err
			}
			continue
		}
		if !r.begun {
			r.begun, r.generation = true, row.generation
		}
		switch {
		case row.generation != r.generation:
			r.release(ctx, StatusIdle, "")
			return row, r.stop(&row)
		case r.caughtUp(&row):
			return row, r.stop(&row)
		}
		if row.free(r.owner) {
			if taken, err := r.store.backend.takeLease(ctx, r.name, r.owner, &row, r.readModel != nil, r.term); err != nil {
				return row, err
			} else if taken {
				// Whatever was under way when the lease was taken is stored by now, or never will be.
				row, found, err := r.store.backend.projection(ctx, r.name)
				if err != nil {
					return row, err
				}
				if found && row.owner == r.owner {
					return row, nil
				}
			}
			continue
		}
		if err := wait.wait(ctx, true); err != nil {
			return row, err
		}
	}
}

// stop ends a run. A catch-up returns what is stored by then: the state here may hold events whose
// batch was never committed, or be none yet.
func (r *runner) stop(row *projectionRow) error {
	if r.target == noTarget {
		return errStopped
	}
	if row.status == StatusDeleting {
		row = &projectionRow{}
	}
	r.position = row.position
	return cmp.Or(r.restore(row.state), errStopped)
}

func (r *runner) restore(state []byte) error {
	if err := r.follower.restore(state); err != nil {
		return fmt.Errorf("eventstore: state of projection %q: %w", r.name, err)
	}
	return nil
}

// caughtUp says whether nothing is left to do for a catch-up.
func (r *runner) caughtUp(row *projectionRow) bool {
	return r.target != noTarget && row.position >= r.target && !row.retry &&
		row.status != StatusResetting && row.status != StatusDeleting && (r.readModel == nil || row.readModel)
}

// prepare brings the read model and the state to where row says that they are.
func (r *runner) prepare(ctx context.Context, row *projectionRow) error {
	if r.readModel != nil && !r.made {
		if err := r.makeReadModel(ctx, row); err != nil {
			return err
		}
		r.made = true
	}
	if row.status == StatusResetting {
		if err := r.finishReset(ctx, row); err != nil {
			return err
		}
	}
	r.position, r.state = row.position, row.state
	if err := r.restore(r.state); err != nil {
		return err
	}
	waiting, err := r.store.backend.parked(ctx, r.name)
	if err != nil {
		return err
	}
	r.parked = map[aggregateKey]bool{}
	for _, p := range waiting {
		r.parked[aggregateKey{p.stream, p.aggregateID}] = true
	}
	if row.retry {
		return r.retryParked(ctx, waiting)
	}
	return nil
}

// makeReadModel creates the read model in a transaction of its own: on MySQL creating a table ends
// whatever transaction it is in.
func (r *runner) makeReadModel(ctx context.Context, row *projectionRow) error {
	u := r.store.backend.unit(ctx)
	defer u.rollback()
	tx, err := u.sqlTx()
	if err == nil {
		err = r.readModel.Init(ctx, tx)
	}
	if err != nil {
		return r.readModelFailed(u, "initialise", err)
	}
	return r.commitReadModel(u, row)
}

// commitReadModel commits what has been done to a read model, if the lease that row tells of is still
// held: whoever has taken over may have gone on by now.
func (r *runner) commitReadModel(u unit, row *projectionRow) error {
	held, err := u.commit(checkpoint{name: r.name, epoch: row.epoch, position: row.position, term: r.term})
	if err == nil && !held {
		err = ErrLeaseLost
	}
	return err
}

func (r *runner) readModelFailed(u unit, op string, err error) error {
	if passing(err) {
		return err
	}
	if broken := u.broken(err); broken != nil {
		return broken
	}
	return fmt.Errorf("eventstore: projection %q: %s read model: %w", r.name, op, err)
}

// finishReset empties what the projection has written, and begins at the beginning.
func (r *runner) finishReset(ctx context.Context, row *projectionRow) error {
	u := r.store.backend.unit(ctx)
	defer u.rollback()
	if r.readModel != nil {
		tx, err := u.sqlTx()
		if err == nil {
			err = r.readModel.Reset(ctx, tx)
		}
		if err != nil {
			return r.readModelFailed(u, "reset", err)
		}
	}
	inside, err := u.store()
	if err == nil {
		_, err = inside.deleteStream(ctx, r.name)
	}
	if err == nil {
		err = u.dropParked(r.name)
	}
	if err != nil {
		return err
	}
	held, err := u.commit(checkpoint{name: r.name, epoch: row.epoch, term: r.term, resumed: true})
	if err == nil && !held {
		err = ErrLeaseLost
	}
	return err
}

// alone calls fn with the lease that row has seen free, unless another takes it first. The lease is
// renewed for as long as fn takes, which may have to wait for others' locks on a table.
func (r *runner) alone(ctx context.Context, row *projectionRow, fn func(context.Context, *projectionRow) error) (err error) {
	taken, err := r.store.backend.takeLease(ctx, r.name, r.owner, row, r.readModel != nil, r.term)
	if err != nil || !taken {
		return err
	}
	held := *row
	held.epoch++
	defer r.release(ctx, StatusIdle, "") // behind a delete there is nothing to release
	l := r.store.beginLease(ctx, r.name, held.epoch, r.term)
	defer func() {
		if err != nil && l.lost() {
			err = ErrLeaseLost
		}
		l.giveUp()
	}()
	return fn(l.ctx, &held)
}

// finishDelete drops what belongs to a projection that has been deleted.
func (r *runner) finishDelete(ctx context.Context, row *projectionRow) error {
	if r.readModel != nil {
		u := r.store.backend.unit(ctx)
		defer u.rollback()
		tx, err := u.sqlTx()
		if err == nil {
			err = r.readModel.Delete(ctx, tx)
		}
		if err != nil {
			return r.readModelFailed(u, "delete", err)
		}
		if err := r.commitReadModel(u, row); err != nil {
			return err
		}
		r.made = false
	}
	return r.store.backend.removeProjection(ctx, r.name, row.epoch)
}

// batch is what a look at the log has found.
type batch struct {
	rows    []record
	upTo    Position // the position behind which to look next
	more    bool     // sealed events are left behind upTo
	settled bool     // unless another look soon may get further
	began   time.Time
	err     error
}

// follow handles one batch after the other, and reads the next one meanwhile if it is there.
func (r *runner) follow(ctx context.Context) error {
	wait := newWaiter(r.store.news, r.poll)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var ahead chan batch
	defer func() {
		cancel()
		if ahead != nil {
			<-ahead
		}
	}()
	checked := time.Now()
	for {
		if r.target != noTarget && r.position >= r.target {
			return errStopped
		}
		if ahead == nil {
			ahead = r.fetch(ctx, wait, r.position)
		}
		b := <-ahead
		ahead = nil
		if b.err != nil {
			return b.err
		}
		if b.upTo > r.position {
			wait.found()
			if b.more && (r.target == noTarget || b.upTo < r.target) {
				ahead = r.fetch(ctx, wait, b.upTo)
			}
			if err := r.process(ctx, b.rows, b.upTo); err != nil {
				return err
			}
			if !b.more && r.target == noTarget && len(b.rows) > 1 {
				if err := r.pace(ctx, b.began); err != nil {
					return err
				}
			}
			continue
		}
		if err := wait.wait(ctx, b.settled); err != nil {
			return err
		}
		if time.Since(checked) >= r.poll {
			if err := r.check(ctx); err != nil {
				return err
			}
			checked = time.Now()
		}
	}
}

// pace lets events gather before the next look, if more than one came at once and nobody is waiting
// for them: each batch costs a look, a page and a transaction, which appends have to share the
// database with, however few events it has.
func (r *runner) pace(ctx context.Context, began time.Time) error {
	t := time.NewTimer(time.Until(began.Add(min(paceTime, r.poll))))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-r.store.moves.awaited():
	case <-t.C:
	}
	return ctx.Err()
}

// check finds out whether the lease is still held, where no checkpoint does.
func (r *runner) check(ctx context.Context) error {
	row, found, err := r.store.backend.projection(ctx, r.name)
	if err == nil && (!found || row.epoch != r.lease.epoch) {
		err = ErrLeaseLost
	}
	return err
}

// fetch looks for sealed events after a position.
func (r *runner) fetch(ctx context.Context, wait *waiter, after Position) chan batch {
	out := make(chan batch, 1)
	go func() {
		var b batch
		b.err = r.look(ctx, wait, after, &b)
		out <- b
	}()
	return out
}

func (r *runner) look(ctx context.Context, wait *waiter, after Position, b *batch) error {
	wait.listen()
	b.began, b.settled = time.Now(), true
	// What was sealed stays so. A runner far behind still seals now and then, for those who look at
	// Stats while no other does.
	if r.sealed <= after || b.began.Sub(r.looked) > r.poll {
		var err error
		if r.sealed, b.settled, err = r.store.backend.seal(ctx); err != nil {
			return err
		}
		r.looked = b.began
	}
	b.upTo = max(after, min(r.sealed, after+r.window))
	if b.upTo == after {
		return nil
	}
	began := time.Now()
	rows, more, err := r.store.backend.readPage(ctx, &page{from: r.from, names: r.names, after: after, before: b.upTo + 1, limit: r.limit, expected: r.found})
	if err != nil {
		return err
	}
	r.found = len(rows)
	if more {
		b.upTo = rows[len(rows)-1].position
		r.limit = pageSize(rows, r.batchSize)
	} else if took := time.Since(began); took < quickLook {
		r.window = min(2*r.window, maxWindow)
	} else if took > slowLook {
		r.window = max(r.window/2, minWindow)
	}
	b.more = b.upTo < r.sealed
	b.rows = rows[:0]
	for i := range rows {
		picked, err := r.from.picks(&rows[i])
		if err != nil {
			return err
		}
		if picked {
			b.rows = append(b.rows, rows[i])
		}
	}
	return nil
}

// process takes in a batch, whatever becomes of single events, and moves the checkpoint to upTo.
func (r *runner) process(ctx context.Context, rows []record, upTo Position) error {
	for {
		done, failure, err := r.attempt(ctx, rows, upTo)
		if err != nil || failure == nil {
			return err
		}
		if done == unknown {
			for i := range rows {
				if err := r.process(ctx, rows[i:i+1], rows[i].position); err != nil {
					return err
				}
			}
			rows = nil
			continue
		}
		if done > 0 {
			// What went well before was undone with the rest: once more, by itself.
			if err := r.process(ctx, rows[:done], rows[done-1].position); err != nil {
				return err
			}
			rows = rows[done:]
		}
		if err := r.settle(ctx, rows[:1], failure); err != nil {
			return err
		}
		rows = rows[1:]
	}
}

// settle does with an event that has failed what the definition says.
func (r *runner) settle(ctx context.Context, one []record, failure error) error {
	ev := &one[0]
	for attempt := 1; ; attempt++ {
		decision := r.follower.decide(ctx, ev, failure, attempt)
		r.store.opts.Logger.WarnContext(ctx, "projection failed on an event", "projection", r.name, "position", ev.position, "attempt", attempt, "decision", decision, "error", failure)
		switch decision {
		case Retry:
			r.noteFailure(ctx, failure)
			if err := sleep(ctx, pauseAfter(attempt)); err != nil {
				return err
			}
			var err error
			if _, failure, err = r.attempt(ctx, one, ev.position); err != nil || failure == nil {
				return err
			}
		case Skip:
			return r.finish(r.begin(ctx), ev.position)
		case Park:
			w := r.begin(ctx)
			defer w.unit.rollback()
			if err := w.park(ev, problemText(failure)); err != nil {
				return err
			}
			if err := r.finish(w, ev.position); err != nil {
				return err
			}
			r.parked[aggregateKey{ev.stream, ev.aggregateID}] = true
			return nil
		default:
			return r.follower.fatal(ev, failure)
		}
	}
}

// noteFailure lets it be seen from elsewhere why a runner does not get on. That it can't must not
// keep the runner from trying again.
func (r *runner) noteFailure(ctx context.Context, failure error) {
	if err := r.store.backend.failedTry(ctx, r.name, r.lease.epoch, problemText(failure)); err != nil && ctx.Err() == nil {
		r.store.opts.Logger.WarnContext(ctx, "error not stored", "projection", r.name, "owner", r.owner, "error", err)
	}
}

func (w *work) park(r *record, problem string) error {
	err := w.unit.park(w.name, parkedRow{r.position, r.stream, r.aggregateID, problem})
	w.blame(err)
	return err
}

func (r *runner) begin(ctx context.Context) *work {
	return &work{unit: r.store.backend.unit(ctx), lease: r.lease, name: r.name}
}

// unknown is how many events went well when it turned out only at the commit that one did not: a
// handler has hidden an error of its statement, or a deferred constraint is broken, or the state
// can't be encoded.
const unknown = -1

// attempt handles events and commits, or does neither. A failure is a handler's; done is how many
// events went well before it, or unknown.
func (r *runner) attempt(ctx context.Context, rows []record, upTo Position) (done int, failure, err error) {
	w := r.begin(ctx)
	defer w.unit.rollback()
	if len(rows) > 0 {
		if done, failure = r.follower.handle(ctx, w, rows); failure != nil {
			return r.undo(ctx, w, done, failure)
		}
		if w.stopped && done > 0 {
			upTo = rows[done-1].position
		}
	}
	switch err := r.finish(w, upTo); {
	case err == nil && w.stopped:
		return done, nil, errStopped
	case err == nil:
		return done, nil, nil
	case passing(err) || errors.Is(err, ErrLeaseLost) || len(rows) == 0:
		return 0, nil, err
	case len(rows) == 1:
		return r.undo(ctx, w, 0, err)
	default:
		return r.undo(ctx, w, unknown, err)
	}
}

// undo takes back what handlers have done, and says whether the failure was theirs.
func (r *runner) undo(ctx context.Context, w *work, done int, failure error) (int, error, error) {
	broken := w.unit.broken(failure)
	if w.fault != nil {
		broken = w.fault
	}
	w.unit.rollback()
	if ctx.Err() != nil {
		return 0, nil, context.Cause(ctx)
	}
	// A handler that makes the database ask for a repetition every time fails all the same.
	if broken != nil && (errors.Is(broken, errLost) || r.failures < maxRepeats) {
		return 0, nil, broken
	}
	if err := r.restore(r.state); err != nil {
		return 0, nil, err
	}
	if done > 0 && w.unit.late(failure) {
		done = unknown
	}
	return done, failure, nil
}

// finish commits work together with the checkpoint behind it.
func (r *runner) finish(w *work, upTo Position) error {
	state, err := r.follower.encode()
	if err != nil {
		return fmt.Errorf("eventstore: state of projection %q: %w", r.name, err)
	}
	if err := r.commit(w, checkpoint{position: upTo, state: state}); err != nil {
		return err
	}
	r.position, r.failures = upTo, 0
	if state != nil {
		r.state = state
	}
	if w.wrote {
		r.store.news.publish()
	}
	r.store.moves.publish()
	return nil
}

// commit commits work, if the lease is still this runner's.
func (r *runner) commit(w *work, c checkpoint) error {
	c.name, c.epoch, c.term = r.name, r.lease.epoch, r.term
	held, err := w.unit.commit(c)
	switch {
	case err != nil:
		return err
	case !held:
		r.lease.lose(ErrLeaseLost)
		return ErrLeaseLost
	}
	r.lease.confirm()
	return nil
}

// retryParked tries the events that have been set aside again, each aggregate's in order. What
// fails again stays, and what stands behind it.
func (r *runner) retryParked(ctx context.Context, waiting []parkedRow) error {
	clear(r.parked)
	for i := range waiting {
		if !r.parked[aggregateKey{waiting[i].stream, waiting[i].aggregateID}] {
			if err := r.retryOne(ctx, &waiting[i]); err != nil {
				return err
			}
		}
	}
	w := r.begin(ctx)
	defer w.unit.rollback()
	return r.commit(w, checkpoint{position: r.position, resumed: true})
}

func (r *runner) retryOne(ctx context.Context, p *parkedRow) error {
	rows, _, err := r.store.backend.readPage(ctx, &page{from: FromAll(), after: p.position - 1, before: p.position + 1, limit: 1})
	if err != nil {
		return err
	}
	w := r.begin(ctx)
	defer func() { w.unit.rollback() }()
	if len(rows) > 0 { // or else it has been deleted
		if _, failure := r.follower.handle(ctx, w, rows); failure != nil {
			if _, failure, err = r.undo(ctx, w, 0, failure); err != nil {
				return err
			}
			r.parked[aggregateKey{p.stream, p.aggregateID}] = true
			w = r.begin(ctx)
			if err := w.park(&rows[0], problemText(failure)); err != nil {
				return err
			}
			return r.finish(w, r.position)
		}
	}
	if err := w.unit.unpark(r.name, p.position); err != nil {
		return err
	}
	if err := r.finish(w, r.position); err != nil {
		return err
	}
	if w.stopped {
		return errStopped
	}
	return nil
}
