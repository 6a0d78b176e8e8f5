package deploys_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

const (
	someDeploys = 6                // of each store, where the flag does not say
	atOnce      = 4                // deploys of one store
	hangs       = 90 * time.Second // what takes longer than this never ends
	mostEvents  = 250              // of one deploy
)

// TestRollingDeploys has an older and a newer definition of a projection deployed at random, while events of both
// are appended: processes are started, killed, frozen beyond their leases, replaced and rolled back. Every
// event is counted once, or the newer definition is refused with the first event that was passed over.
func TestRollingDeploys(t *testing.T) {
	n, first := *deploysFlag, *seedFlag
	if n == 0 {
		n = someDeploys
	}
	if first == 0 {
		first = rand.Uint64() >> 32
	}
	var mu sync.Mutex
	tallies := map[string]*tally{}
	storetest.ForEach(t, storetest.SomeLanes, storetest.Usual, func(t *testing.T, l storetest.Lane) {
		lane := &laneUnderTest{Lane: l, journal: &journal{}}
		lane.logger = slog.New(slog.NewJSONHandler(lane.journal, nil))
		opts := &es.Options{Logger: lane.logger}
		if l.DB == nil {
			lane.store = l.Open(t, opts)
		} else {
			lane.prefix = l.NewPrefix(t)
			lane.store = l.OpenIn(t, lane.prefix, opts)
			if err := lane.store.Install(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		seeds := make([]uint64, n)
		for i := range seeds {
			seeds[i] = first + uint64(i)
		}
		storetest.RunEach(t, atOnce, seeds, func(seed uint64) string { return fmt.Sprint("seed-", seed) }, func(t *testing.T, seed uint64) {
			d := newDeploy(t, lane, newScript(seed))
			defer func() {
				if t.Failed() {
					t.Logf("again with -run '%s' -deploys 1 -seed %d", strings.Join(strings.Split(t.Name(), "/")[:2], "/"), seed)
					t.Log(d.script)
				}
				d.count(t.Failed())
			}()
			d.run()
			d.judge()
		})
		mu.Lock()
		defer mu.Unlock()
		tallies[l.Name] = &lane.tally
	})
	t.Logf("seeds from %d\n%s", first, table(tallies))
}

// laneUnderTest is a lane with the one log on which its deploys run.
type laneUnderTest struct {
	storetest.Lane
	store   *es.Store
	prefix  string
	journal *journal
	logger  *slog.Logger

	mu    sync.Mutex
	tally tally
}

// tally is what has happened on a store.
type tally struct {
	Deploys, Kills, Freezes, Rollbacks, TakeOvers, StandBys, Refusals, Rebuilds, Continues int
	Events, Once, Refused, LeftOut, Failed                                                 int
}

func table(tallies map[string]*tally) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "store\tdeploys\tkills\tstops\trollbacks\ttake-overs\tstand-bys\trefusals\trebuilds\tcontinues\tevents\tcounted once\tpassed over and refused\tleft out on purpose\tfailed")
	for _, name := range slices.Sorted(maps.Keys(tallies)) {
		c := tallies[name]
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", name,
			c.Deploys, c.Kills, c.Freezes, c.Rollbacks, c.TakeOvers, c.StandBys, c.Refusals, c.Rebuilds, c.Continues, c.Events, c.Once, c.Refused, c.LeftOut, c.Failed)
	}
	_ = w.Flush() // into memory
	return b.String()
}

// deploy is one script as it is carried out, with a stream and a projection of its own.
type deploy struct {
	t       *testing.T
	lane    *laneUnderTest
	script  *script
	name    string
	rows    *storetest.Rows // nil on memory
	members []running
	tally   tally
}

func newDeploy(t *testing.T, l *laneUnderTest, s *script) *deploy {
	d := &deploy{t: t, lane: l, script: s, name: fmt.Sprint("deploy", s.seed), members: make([]running, len(s.orders))}
	if l.DB != nil {
		d.rows = storetest.NewRows(t, l.Lane)
	}
	storetest.CreateStream(t, l.store, d.name)
	t.Cleanup(func() {
		for _, m := range d.members {
			if m != nil {
				m.kill()
			}
		}
	})
	return d
}

// member returns what a member is told.
func (d *deploy) member(number int, newer bool) *member {
	m := &member{Number: number, Name: d.name, Newer: newer, BatchSize: d.script.batch, Lease: time.Second, Driver: d.lane.Driver, DSN: d.lane.DSN, Prefix: d.lane.prefix}
	if newer {
		m.OnChange = d.script.onChange
	}
	if d.rows != nil {
		m.Table = d.rows.Name
	}
	return m
}

// start starts a member and waits until it begins to run its projection.
func (d *deploy) start(number int, newer bool) {
	d.t.Helper()
	m := d.member(number, newer)
	if d.lane.DB == nil {
		d.members[number] = m.startRoutine(d.t.Context(), d.lane.store, d.lane.logger)
	} else {
		d.members[number] = m.startProcess(d.t, d.lane.journal)
	}
	storetest.Eventually(d.t, fmt.Sprint("member ", number, " to start"), func() bool { return d.lane.journal.started(d.name, number) })
}

// run carries the script out while events are appended.
func (d *deploy) run() {
	t := d.t
	appending, stop := context.WithCancel(t.Context())
	defer stop()
	var newName atomic.Bool
	done := make(chan error, 1)
	go func() { done <- d.appendEvents(appending, &newName) }()
	frozen := map[int]time.Time{}
	for i, o := range d.script.orders {
		if i == d.script.newFrom {
			newName.Store(true)
		}
		var err error
		switch o.do {
		case start:
			d.start(o.member, o.newer)
		case kill:
			d.members[o.member].kill()
			d.tally.Kills++
		case freeze:
			err = d.members[o.member].freeze()
			frozen[o.member] = time.Now()
			d.tally.Freezes++
		case thaw:
			_ = storetest.Pause(t.Context(), time.Until(frozen[o.member].Add(o.after)))
			err = d.members[o.member].thaw()
		}
		if err != nil {
			t.Fatalf("order %d: %v", i, err)
		}
		_ = storetest.Pause(t.Context(), o.pause)
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !d.script.leave {
		d.end()
	}
}

// end kills the members that are left.
func (d *deploy) end() {
	d.t.Helper()
	for i, m := range d.members {
		if m == nil {
			continue
		}
		m.kill()
		if why := m.crashed(); why != "" {
			d.t.Errorf("member %d: %s", i, why)
		}
	}
}

// appendEvents appends events until ctx ends: at least one, so that there is something to count.
func (d *deploy) appendEvents(ctx context.Context, newName *atomic.Bool) error {
	r := rand.New(rand.NewPCG(d.script.seed, 2))
	for n := 0; n < mostEvents && (n == 0 || ctx.Err() == nil); {
		evs := make([]es.NewEvent, 1+r.IntN(3))
		for i := range evs {
			evs[i].Payload = lent{}
			if newName.Load() && r.IntN(2) == 0 {
				evs[i].Payload = returned{}
			}
		}
		if _, err := d.lane.store.Append(d.t.Context(), d.name, fmt.Sprint("copy", r.IntN(5)), es.AnyVersion, evs...); err != nil {
			return err
		}
		n += len(evs)
		_ = storetest.Pause(ctx, time.Duration(r.IntN(15))*time.Millisecond)
	}
	return nil
}

// judge runs the newest definition to the end, and compares what was counted with what is stored.
func (d *deploy) judge() {
	t := d.t
	stored := storetest.Collect(t, d.lane.store.Read(t.Context(), es.FromStream(d.name), es.ReadOptions{}))
	d.tally.Events = len(stored)
	refusals := d.refusals()
	_, err := d.catchUp(d.member(-1, true))
	switch {
	case errors.Is(err, es.ErrProjectionChanged) && d.script.onChange == es.RefuseChange:
		d.tally.Refusals++
		refusals = append(d.refusals(), passedOver(err.Error()))
		d.judgeRefusals(stored, refusals)
		rebuild := d.member(-1, true)
		rebuild.OnChange = es.RebuildOnChange
		if _, err := d.catchUp(rebuild); err != nil {
			t.Fatalf("rebuilding: %v", err)
		}
	case err != nil:
		t.Fatalf("the newest definition ends with %v\nrow: %+v", err, storetest.Info(t, d.lane.store, d.name))
	case len(refusals) > 0:
		t.Fatalf("the newer definition was refused because of events %v, and then it was not", refusals)
	}
	d.end()
	if t.Failed() {
		return
	}
	cp := d.load()
	leftOut := d.leftOut(stored, cp.State.Events)
	d.wantOnce(stored, cp.State.Events, leftOut)
	if last := stored[len(stored)-1].Position; cp.Position < last {
		t.Errorf("the projection is at %d, before the last event %d", cp.Position, last)
	}
}

func (d *deploy) catchUp(m *member) (es.Checkpoint[counts], error) {
	ctx, cancel := context.WithTimeout(d.t.Context(), hangs)
	defer cancel()
	return m.projection().CatchUp(ctx, d.lane.store)
}

func (d *deploy) load() es.Checkpoint[counts] {
	d.t.Helper()
	cp, err := d.member(-1, true).projection().Load(d.t.Context(), d.lane.store)
	if err != nil {
		d.t.Fatal(err)
	}
	return cp
}

// refusals returns the events because of which members were refused. A member ends for no other reason.
func (d *deploy) refusals() (out []es.Position) {
	d.t.Helper()
	for _, e := range d.lane.journal.of(d.name, memberEnds) {
		if !e.Changed || d.script.onChange != es.RefuseChange {
			d.t.Errorf("member %d ended with %s", e.Member, e.Error)
		}
		out = append(out, passedOver(e.Error))
	}
	return out
}

var passedOverText = regexp.MustCompile(`event (\d+), "returned" of stream "deploy\d+", which the definition wants, was passed over`)

// passedOver returns the event that an ErrProjectionChanged names, or zero.
func passedOver(text string) es.Position {
	found := passedOverText.FindStringSubmatch(text)
	if found == nil {
		return 0
	}
	n, _ := strconv.ParseInt(found[1], 10, 64) // digits
	return es.Position(n)
}

// judgeRefusals finds out whether the newer definition was rightly refused: never has it gone on, and each time
// it named the first event that was passed over. Then the older definition has to be as it was.
func (d *deploy) judgeRefusals(stored []es.Event, refusals []es.Position) {
	t := d.t
	cp := d.load()
	in := positions(cp.State.Events)
	var missing []es.Position
	for _, ev := range stored {
		if ev.Position <= cp.Position && !in[ev.Position] {
			missing = append(missing, ev.Position)
			if ev.Name != "returned" {
				t.Errorf("event %d, %q, is lost: the projection is at %d", ev.Position, ev.Name, cp.Position)
			}
		}
	}
	d.tally.Refused = len(missing)
	for _, named := range refusals {
		if len(missing) == 0 || named != missing[0] {
			t.Errorf("the newer definition was refused because of event %d, at %d; passed over were %v", named, cp.Position, missing)
		}
	}
	for _, e := range cp.State.Events {
		if e.Newer {
			t.Errorf("event %d was counted by the newer definition, which was refused", e.At)
		}
	}
	older, err := d.catchUp(d.member(-1, false))
	if err != nil {
		t.Errorf("after the refusal the older definition ends with %v", err)
		return
	}
	var left []es.Position
	for _, ev := range stored {
		if ev.Name == "returned" {
			left = append(left, ev.Position)
		}
	}
	d.wantOnce(stored, older.State.Events, left)
}

// leftOut returns the events that have to be missing because the newer definition went on with OnChange
// ContinueOnChange.
func (d *deploy) leftOut(stored []es.Event, in []counted) (out []es.Position) {
	if d.script.onChange != es.ContinueOnChange {
		return nil
	}
	changes := d.lane.journal.of(d.name, "definition of the projection changed")
	found := positions(in)
	var from es.Position // from where the newer definition went on
	switch len(changes) {
	case 0:
		// The newer one was the first, or it was killed before it could tell: then it has left out a beginning.
		for _, ev := range stored {
			if !found[ev.Position] {
				from = ev.Position
			}
		}
		if from > 0 && d.tally.Kills == 0 && d.script.leave {
			d.t.Errorf("event %d is missing, and no definition has changed", from)
		}
	case 1:
		from = changes[0].Position
	default:
		d.t.Errorf("the definition has changed %d times", len(changes))
	}
	for _, ev := range stored {
		if ev.Name == "returned" && ev.Position <= from {
			out = append(out, ev.Position)
		}
	}
	for _, e := range in {
		if e.Newer && e.At <= from {
			d.t.Errorf("event %d was counted by the newer definition, which went on from %d", e.At, from)
		}
	}
	d.tally.LeftOut = len(out)
	if len(out) > 0 {
		d.tally.Continues++
	}
	return out
}

// wantOnce compares what was counted with what is stored: each event once and in order, but for those left out.
func (d *deploy) wantOnce(stored []es.Event, in []counted, leftOut []es.Position) {
	t := d.t
	t.Helper()
	times := map[es.Position]int{}
	for i, e := range in {
		times[e.At]++
		if i > 0 && in[i-1].At >= e.At {
			t.Errorf("event %d was counted after event %d", e.At, in[i-1].At)
		}
	}
	var want []int64
	once := 0
	for _, ev := range stored {
		expected := 1
		if slices.Contains(leftOut, ev.Position) {
			expected = 0
		} else {
			want = append(want, int64(ev.Position))
		}
		if n := times[ev.Position]; n != expected {
			t.Errorf("event %d, %q, was counted %d times, want %d", ev.Position, ev.Name, n, expected)
		}
		if times[ev.Position] == 1 {
			once++
		}
		delete(times, ev.Position)
	}
	d.tally.Once = once
	for at := range times {
		t.Errorf("event %d was counted and is not stored", at)
	}
	for _, e := range in {
		if i := slices.IndexFunc(stored, func(ev es.Event) bool { return ev.ID == e.ID }); i < 0 || stored[i].Position != e.At {
			t.Errorf("event %d was counted under ID %v, which is not its own", e.At, e.ID)
		}
	}
	if d.rows != nil {
		if rows := d.rows.Positions(t); !slices.Equal(rows, want) {
			t.Errorf("the table has %v, want %v", rows, want)
		}
	}
}

func positions(in []counted) map[es.Position]bool {
	out := map[es.Position]bool{}
	for _, e := range in {
		out[e.At] = true
	}
	return out
}

// count adds what has happened to the lane's tally.
func (d *deploy) count(failed bool) {
	j, l, c := d.lane.journal, d.lane, d.tally
	l.mu.Lock()
	defer l.mu.Unlock()
	sum := &l.tally
	sum.Deploys++
	sum.Kills += c.Kills
	sum.Freezes += c.Freezes
	sum.Rollbacks += d.script.rollbacks
	sum.TakeOvers += j.takeOvers(d.name)
	sum.StandBys += len(j.of(d.name, "older definition stands by"))
	sum.Refusals += c.Refusals + len(j.of(d.name, memberEnds))
	sum.Rebuilds += len(j.of(d.name, "projection is rebuilt, as its definition has changed"))
	sum.Continues += c.Continues
	sum.Events += c.Events
	sum.Once += c.Once
	sum.Refused += c.Refused
	sum.LeftOut += c.LeftOut
	if failed {
		sum.Failed++
	}
}
