package neighbours_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// town is where a transaction does something, and neighbours do not notice: streams in which some
// aggregates exist, with room between them.
type town struct {
	s        *es.Store
	accounts string
	cards    string
	doomed   string
	idle     string
	ledgers  *es.Aggregate[storetest.Ledger] // in accounts
	stored   map[string][]es.Event           // in accounts
}

// newTown makes the streams, whose names begin with a prefix.
func newTown(t *testing.T, s *es.Store, prefix string) *town {
	t.Helper()
	c := &town{s: s, accounts: prefix + "accounts", cards: prefix + "cards", doomed: prefix + "doomed", idle: prefix + "idle", stored: map[string][]es.Event{}}
	a := *storetest.Ledgers(100, 1)
	a.Stream = c.accounts
	c.ledgers = &a
	for _, stream := range []string{c.accounts, c.doomed, c.idle, c.cards} {
		storetest.CreateStream(t, s, stream)
		for _, id := range []string{"b", "h", "m", "r", "x"} {
			c.stored[id] = storetest.MustAppend(t, s, stream, id, 0, storetest.WithIDs(storetest.Deposits(2, 1))...)
		}
		if stream == c.accounts {
			for _, id := range []string{"b", "m", "x"} {
				if err := c.ledgers.SaveSnapshot(t.Context(), s, id); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, id := range []string{"b", "h", "m", "r", "x"} {
		c.stored[id] = storetest.Collect(t, s.ReadAggregate(t.Context(), c.accounts, id, 0))
	}
	return c
}

// again returns new events with the IDs of stored ones.
func again(evs []es.Event) []es.NewEvent {
	out := make([]es.NewEvent, len(evs))
	for i, ev := range evs {
		out[i] = es.NewEvent{ID: ev.ID, Payload: storetest.Deposited{Cents: 1}}
	}
	return out
}

// deed is what a transaction does before it stays open.
type deed struct {
	name string
	do   func(ctx context.Context, in *es.Store, c *town) error
	want error

	// appends: sealing waits for the transaction, as it does for each that has tried to append.
	appends bool
	// next: on MySQL and MariaDB those wait that begin an aggregate next to "m", or append to the one before
	// it. It is the isolation levels at which they do.
	next []sql.IsolationLevel
}

// deeds are all that a store does in a transaction. Those on aggregates are about "m" and what would be
// next to it, which no neighbour touches.
var deeds = []deed{
	{"appended", func(ctx context.Context, in *es.Store, c *town) error {
		return storetest.Second(in.Append(ctx, c.accounts, "m", 2, storetest.Deposits(1, 1)...))
	}, nil, true, nil},
	{"appended at any version", func(ctx context.Context, in *es.Store, c *town) error {
		return storetest.Second(in.Append(ctx, c.accounts, "m", es.AnyVersion, storetest.Deposits(3, 1)...))
	}, nil, true, nil},
	{"appended many", func(ctx context.Context, in *es.Store, c *town) error {
		return storetest.Second(in.Append(ctx, c.accounts, "m", es.MustExist, storetest.Deposits(300, 1)...))
	}, nil, true, nil},
	{"begun an aggregate", func(ctx context.Context, in *es.Store, c *town) error {
		return storetest.Second(in.Append(ctx, c.accounts, "mm", es.MustNotExist, storetest.Deposits(2, 1)...))
	}, nil, true, nil},
	{"executed a command", func(ctx context.Context, in *es.Store, c *town) error {
		return storetest.Second(c.ledgers.Execute(ctx, in, "m", func(r *es.Root[storetest.Ledger]) error {
			r.Record(storetest.Deposited{Cents: 1})
			return nil
		}))
	}, nil, true, nil},
	{"met a conflict", func(ctx context.Context, in *es.Store, c *town) error {
		return storetest.Second(in.Append(ctx, c.accounts, "m", 1, storetest.Deposits(1, 1)...))
	}, es.ErrConflict, true, nil},
	{"met a conflict with an aggregate that exists", func(ctx context.Context, in *es.Store, c *town) error {
		return storetest.Second(in.Append(ctx, c.accounts, "m", es.MustNotExist, storetest.Deposits(2, 1)...))
	}, es.ErrConflict, true, nil},
	{"met a conflict with an aggregate that is missing", func(ctx context.Context, in *es.Store, c *town) error {
		return storetest.Second(in.Append(ctx, c.accounts, "mm", 3, storetest.Deposits(2, 1)...))
	}, es.ErrConflict, true, nil},
	{"met a conflict of event IDs", func(ctx context.Context, in *es.Store, c *town) error {
		return storetest.Second(in.Append(ctx, c.accounts, "m", es.AnyVersion, again(c.stored["x"])...))
	}, es.ErrConflict, true, nil},
	{"repeated an append", func(ctx context.Context, in *es.Store, c *town) error {
		return storetest.Second(in.Append(ctx, c.accounts, "m", 0, again(c.stored["m"])...))
	}, nil, true, nil},
	{"repeated an append at any version", func(ctx context.Context, in *es.Store, c *town) error {
		return storetest.Second(in.Append(ctx, c.accounts, "m", es.AnyVersion, again(c.stored["m"])...))
	}, nil, true, nil},
	{"appended to no stream", func(ctx context.Context, in *es.Store, c *town) error {
		return storetest.Second(in.Append(ctx, c.accounts+"-none", "m", es.AnyVersion, storetest.Deposits(1, 1)...))
	}, es.ErrStreamNotFound, true, nil},
	{"deleted an aggregate", func(ctx context.Context, in *es.Store, c *town) error {
		return in.DeleteAggregate(ctx, c.accounts, "m")
	}, nil, false, nil},
	{"deleted an aggregate and begun it anew", func(ctx context.Context, in *es.Store, c *town) error {
		return errors.Join(in.DeleteAggregate(ctx, c.accounts, "m"),
			storetest.Second(in.Append(ctx, c.accounts, "m", es.MustNotExist, storetest.Deposits(1, 1)...)))
	}, nil, true, everyLevel},
	{"deleted an aggregate that is missing", func(ctx context.Context, in *es.Store, c *town) error {
		return in.DeleteAggregate(ctx, c.accounts, "mm")
	}, es.ErrAggregateNotFound, false, nil},
	{"deleted a stream", func(ctx context.Context, in *es.Store, c *town) error {
		return in.DeleteStream(ctx, c.doomed)
	}, nil, false, nil},
	{"deleted a stream that is missing", func(ctx context.Context, in *es.Store, c *town) error {
		return in.DeleteStream(ctx, c.accounts+"-none")
	}, es.ErrStreamNotFound, false, nil},
	{"created a stream", func(ctx context.Context, in *es.Store, c *town) error {
		return in.CreateStream(ctx, c.accounts+"-new", nil)
	}, nil, false, nil},
	{"created a stream that exists", func(ctx context.Context, in *es.Store, c *town) error {
		return in.CreateStream(ctx, c.doomed, nil)
	}, es.ErrStreamExists, false, nil},
	{"set a stream's metadata", func(ctx context.Context, in *es.Store, c *town) error {
		return in.SetStreamMetadata(ctx, c.idle, es.Metadata{"k": "v"})
	}, nil, false, nil},
	{"set the metadata of no stream", func(ctx context.Context, in *es.Store, c *town) error {
		return in.SetStreamMetadata(ctx, c.accounts+"-none", nil)
	}, es.ErrStreamNotFound, false, nil},
	{"read", func(ctx context.Context, in *es.Store, c *town) error {
		for _, seq := range []func(func(es.Event, error) bool){
			in.Read(ctx, es.FromAll(), es.ReadOptions{}),
			in.Read(ctx, es.FromStream(c.accounts), es.ReadOptions{Backward: true}),
			in.Read(ctx, es.FromAll(), es.ReadOptions{Sealed: true}),
			in.ReadAggregate(ctx, c.accounts, "m", 0),
			in.ReadAggregate(ctx, c.accounts, "mm", 0),
		} {
			for _, err := range seq {
				if err != nil {
					return err
				}
			}
		}
		return nil
	}, nil, false, nil},
	{"looked around", func(ctx context.Context, in *es.Store, c *town) error {
		return errors.Join(storetest.Second(in.HasStream(ctx, c.accounts+"-none")), storetest.Second(in.Streams(ctx, "")),
			storetest.Second(in.Sealed(ctx)), storetest.Second(in.Stats(ctx)), storetest.Second(c.ledgers.Load(ctx, in, "m")))
	}, nil, false, nil},
}

var everyLevel = []sql.IsolationLevel{sql.LevelReadUncommitted, sql.LevelReadCommitted, sql.LevelRepeatableRead}

// neighbour is something that is done outside of the transaction meanwhile.
type neighbour struct {
	name string
	do   func(ctx context.Context, c *town) error
	next bool // to "m"
}

// append is a neighbour's.
func (c *town) append(ctx context.Context, stream, id string, expected es.ExpectedVersion) error {
	return storetest.Second(c.s.Append(ctx, stream, id, expected, storetest.Deposits(2, 1)...))
}

// appendIn appends to an aggregate in a transaction.
func (c *town) appendIn(ctx context.Context, in *es.Store, id string, expected es.ExpectedVersion) error {
	return storetest.Second(in.Append(ctx, c.accounts, id, expected, storetest.Deposits(1, 1)...))
}

// neighbours has all neighbours, or all but those next to "m", do what they do while a transaction is open.
func (c *town) neighbours(t *testing.T, done string, butNext bool) {
	t.Helper()
	for _, n := range neighbours {
		if n.next && butNext {
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if err := n.do(ctx, c); err != nil {
			t.Errorf("one that %s, while a transaction has %s: %v", n.name, done, err)
		}
		cancel()
	}
}

var neighbours = []neighbour{
	{"appends to older aggregates", func(ctx context.Context, c *town) error {
		for _, id := range []string{"b", "r", "x"} {
			if err := c.append(ctx, c.accounts, id, 2); err != nil {
				return err
			}
		}
		return nil
	}, false},
	{"appends at any version", func(ctx context.Context, c *town) error {
		return errors.Join(c.append(ctx, c.accounts, "b", es.AnyVersion), c.append(ctx, c.accounts, "r", es.AnyVersion))
	}, false},
	{"appends to the aggregate before it", func(ctx context.Context, c *town) error { return c.append(ctx, c.accounts, "h", 2) }, true},
	{"appends to the last aggregate", func(ctx context.Context, c *town) error {
		return c.append(ctx, c.cards, "x", 2)
	}, false},
	{"begins an aggregate before it", func(ctx context.Context, c *town) error { return c.append(ctx, c.accounts, "l", 0) }, true},
	{"begins an aggregate after it", func(ctx context.Context, c *town) error { return c.append(ctx, c.accounts, "n", 0) }, true},
	{"begins an aggregate at the beginning", func(ctx context.Context, c *town) error { return c.append(ctx, c.accounts, "A", 0) }, false},
	{"begins an aggregate at the end", func(ctx context.Context, c *town) error { return c.append(ctx, c.cards, "z", es.AnyVersion) }, false},
	{"appends an event with an older ID", func(ctx context.Context, c *town) error {
		id := c.stored["m"][0].ID
		id[15]++ // it was made at the same time
		return storetest.Second(c.s.Append(ctx, c.cards, "b", es.AnyVersion, es.NewEvent{ID: id, Payload: storetest.Deposited{Cents: 1}}))
	}, true},
	{"appends an event with a random ID", func(ctx context.Context, c *town) error {
		return storetest.Second(c.s.Append(ctx, c.cards, "h", es.AnyVersion, es.NewEvent{ID: uuid.New(), Payload: storetest.Deposited{Cents: 1}}))
	}, false},
	{"appends many", func(ctx context.Context, c *town) error {
		return storetest.Second(c.s.Append(ctx, c.cards, "m", 2, storetest.Deposits(300, 1)...))
	}, false},
	{"creates streams", func(ctx context.Context, c *town) error {
		return errors.Join(c.s.CreateStream(ctx, c.accounts+"-a", nil), c.s.CreateStream(ctx, c.accounts+"-z", nil), c.s.CreateStream(ctx, c.cards+"-z", nil))
	}, false},
	{"saves snapshots", func(ctx context.Context, c *town) error {
		return errors.Join(c.ledgers.SaveSnapshot(ctx, c.s, "b"), c.ledgers.SaveSnapshot(ctx, c.s, "r"), c.ledgers.SaveSnapshot(ctx, c.s, "x"))
	}, false},
	{"deletes an aggregate", func(ctx context.Context, c *town) error { return c.s.DeleteAggregate(ctx, c.accounts, "r") }, true},
}

// TestNeighboursDoNotWait has a transaction do each thing that a store does, and stay open: what others
// do to other aggregates, streams and projections does not wait for it.
func TestNeighboursDoNotWait(t *testing.T) {
	storetest.ForEachIsolation(t, func(t *testing.T, l storetest.Lane, opts *sql.TxOptions) {
		if l.Odd {
			return // enough once for each kind of database
		}
		s := l.Open(t, nil)
		for i, d := range deeds {
			innoDB := l.Dialect == es.MySQL
			readsLock := innoDB && opts.Isolation == sql.LevelSerializable
			if readsLock && (d.want != nil || !d.appends || d.next != nil) {
				continue // the transaction locks what it reads, with the gaps around
			}
			c := newTown(t, s, fmt.Sprintf("%02d-", i))
			l.InTx(t, s, false, opts, func(_ *sql.Tx, in *es.Store) {
				if err := d.do(t.Context(), in, c); d.want == nil && err != nil || !errors.Is(err, d.want) {
					t.Errorf("a transaction has %s: %v, want %v", d.name, err, d.want)
				}
				c.neighbours(t, d.name, readsLock || innoDB && slices.Contains(d.next, opts.Isolation))
				if d.appends {
					return // projections wait for it
				}
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				if _, err := storetest.TotalsOf("totals").CatchUp(ctx, s); err != nil {
					t.Errorf("a projection, while a transaction has %s: %v", d.name, err)
				}
			})
		}
	})
}

// race is lost by a transaction: against an append that its snapshot does not show.
type race struct {
	name     string
	winner   func(ctx context.Context, s *es.Store, c *town) error
	loser    func(ctx context.Context, in *es.Store, c *town) error
	survives bool // there is nothing to lose for one that sees the winner's events
	next     bool // on MySQL and MariaDB those wait that begin an aggregate next to it
}

var races = []race{
	{"lost an aggregate's next version", func(ctx context.Context, s *es.Store, c *town) error {
		return c.appendIn(ctx, s, "m", 2)
	}, func(ctx context.Context, in *es.Store, c *town) error {
		return c.appendIn(ctx, in, "m", 2)
	}, false, false},
	{"lost an aggregate's next version at any version", func(ctx context.Context, s *es.Store, c *town) error {
		return c.appendIn(ctx, s, "m", es.AnyVersion)
	}, func(ctx context.Context, in *es.Store, c *town) error {
		return c.appendIn(ctx, in, "m", es.AnyVersion)
	}, true, false},
	{"lost with many events", func(ctx context.Context, s *es.Store, c *town) error {
		return c.appendIn(ctx, s, "m", 2)
	}, func(ctx context.Context, in *es.Store, c *town) error {
		return storetest.Second(in.Append(ctx, c.accounts, "m", 2, storetest.Deposits(6000, 1)...))
	}, false, false},
	{"lost a new aggregate", func(ctx context.Context, s *es.Store, c *town) error {
		return c.appendIn(ctx, s, "mm", es.MustNotExist)
	}, func(ctx context.Context, in *es.Store, c *town) error {
		return c.appendIn(ctx, in, "mm", es.MustNotExist)
	}, false, false},
	{"lost the last event", func(ctx context.Context, s *es.Store, c *town) error {
		return s.DeleteAggregate(ctx, c.accounts, "m")
	}, func(ctx context.Context, in *es.Store, c *town) error {
		return c.appendIn(ctx, in, "m", 2)
	}, false, true},
}

// theft is the race for an event ID, where the loser's events are many or few.
func theft(events int) race {
	stolen := storetest.WithIDs(storetest.Deposits(1, 1))
	return race{fmt.Sprintf("lost the ID of the last of %d events", events), func(ctx context.Context, s *es.Store, c *town) error {
		return storetest.Second(s.Append(ctx, c.cards, "b", es.AnyVersion, stolen...))
	}, func(ctx context.Context, in *es.Store, c *town) error {
		return storetest.Second(in.Append(ctx, c.accounts, "m", 2, append(storetest.Deposits(events-1, 1), stolen...)...))
	}, false, false}
}

// lost fails the test if a race has not been lost as races are.
func (r *race) lost(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, es.ErrConflict) && !errors.Is(err, es.ErrRetryTx) && (err != nil || !r.survives) {
		t.Errorf("a transaction has %s: %v", r.name, err)
	}
}

// TestLostRacesHoldUpNobody has a transaction look around, lose a race against an append of later, and stay
// open: nothing waits for it that is done to other aggregates.
func TestLostRacesHoldUpNobody(t *testing.T) {
	storetest.ForEachIsolation(t, func(t *testing.T, l storetest.Lane, opts *sql.TxOptions) {
		if l.Odd || l.Dialect == es.MySQL && opts.Isolation == sql.LevelSerializable {
			return // the transaction locks what it reads, with the gaps around
		}
		s := l.Open(t, nil)
		for i, r := range append(races, theft(1), theft(1500), theft(6000)) {
			c := newTown(t, s, fmt.Sprintf("%02d-", i))
			l.InTx(t, s, false, opts, func(_ *sql.Tx, in *es.Store) {
				storetest.Collect(t, in.ReadAggregate(t.Context(), c.accounts, "m", 0)) // takes the snapshot
				if err := r.winner(t.Context(), s, c); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				r.lost(t, r.loser(ctx, in, c))
				c.neighbours(t, r.name, r.next && l.Dialect == es.MySQL)
			})
		}
	})
}

// TestLosersHoldUpNobody is the same with a race that the transaction waits in: the winner is in flight when
// it appends, and committed then.
func TestLosersHoldUpNobody(t *testing.T) {
	storetest.ForEachIsolation(t, func(t *testing.T, l storetest.Lane, opts *sql.TxOptions) {
		if l.Odd || l.Dialect == es.MySQL && opts.Isolation == sql.LevelSerializable {
			return
		}
		s := l.Open(t, nil)
		for i, r := range races {
			c := newTown(t, s, fmt.Sprintf("%02d-", i))
			first, err := l.DB.BeginTx(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = first.Rollback() }() // does nothing after the commit
			if err := r.winner(t.Context(), s.WithTx(first), c); err != nil {
				t.Fatal(err)
			}
			l.InTx(t, s, false, opts, func(_ *sql.Tx, in *es.Store) {
				second := make(chan error, 1)
				go func() { second <- r.loser(t.Context(), in, c) }()
				select {
				case err := <-second:
					second <- err // of its snapshot, at read uncommitted
				case <-time.After(100 * time.Millisecond):
				}
				if err := first.Commit(); err != nil {
					t.Fatal(err)
				}
				r.lost(t, <-second)
				c.neighbours(t, r.name+" and waited", r.next && l.Dialect == es.MySQL)
			})
		}
	})
}

// TestWaitersHoldUpNoThird has one transaction hold an aggregate, which it has begun or appended to, and
// another append wait for that: a third, to an aggregate next to it, does not wait, and neither does it
// when the first was rolled back.
func TestWaitersHoldUpNoThird(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		s := l.Open(t, nil)
		n := 0
		for what, version := range map[string]es.ExpectedVersion{"begun": 0, "appended to": 2} {
			for _, expected := range []es.ExpectedVersion{version, es.AnyVersion} {
				n++
				c := newTown(t, s, fmt.Sprintf("%02d-", n))
				m := "m"
				if version == 0 {
					m = "mm"
				}
				waiter := make(chan error, 1)
				third := func(when string, ids ...string) {
					for _, id := range ids {
						ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
						if err := c.append(ctx, c.accounts, id, es.AnyVersion); err != nil {
							t.Errorf("expected %d: an append to %q, when an aggregate was %s and a waiter %s: %v", int64(expected), id, what, when, err)
						}
						cancel()
					}
				}
				l.InTx(t, s, false, &sql.TxOptions{Isolation: sql.LevelRepeatableRead}, func(_ *sql.Tx, in *es.Store) {
					if err := c.appendIn(t.Context(), in, m, version); err != nil {
						t.Fatal(err)
					}
					go func() { waiter <- c.append(context.WithoutCancel(t.Context()), c.accounts, m, expected) }()
					select {
					case err := <-waiter:
						t.Errorf("the second has not waited: %v", err)
						waiter <- err
					case <-time.After(100 * time.Millisecond):
					}
					third("waits", "l", "ml", "n", "h", "r")
				})
				if err := <-waiter; err != nil {
					t.Errorf("expected %d: the second, after the first was rolled back: %v", int64(expected), err)
				}
				third("has gone on", "la", "mn", "o", "h", "r")
			}
		}
	})
}

// TestTxWaiters is TestWaitersHoldUpNoThird with a transaction that waits, and stays open when it has the
// aggregate. On MySQL and MariaDB a transaction that waits for a new aggregate holds up those that append
// next to it, and on MariaDB also one that waits for an older aggregate: only these.
func TestTxWaiters(t *testing.T) {
	storetest.ForEachIsolation(t, func(t *testing.T, l storetest.Lane, opts *sql.TxOptions) {
		if l.Odd || l.Dialect == es.MySQL && opts.Isolation == sql.LevelSerializable {
			return
		}
		s := l.Open(t, nil)
		for n, m := range []string{"m", "mm"} {
			c := newTown(t, s, fmt.Sprintf("%02d-", n))
			free := []string{"b", "c", "r", "y"}
			if l.Dialect == es.Postgres || strings.HasPrefix(l.Name, "mysql") && m == "m" {
				free = append(free, "l", "n", "mo", "h")
			} else if m == "m" {
				free = append(free, "l", "h") // the gap that is locked is behind its first event
			}
			third := func(when string) {
				for _, id := range free {
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					if err := c.append(ctx, c.accounts, id, es.AnyVersion); err != nil {
						t.Errorf("an append to %q, when a transaction %s %q: %v", id, when, m, err)
					}
					cancel()
				}
			}
			first, err := l.DB.BeginTx(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = first.Rollback() }()
			if err := c.appendIn(t.Context(), s.WithTx(first), m, es.AnyVersion); err != nil {
				t.Fatal(err)
			}
			l.InTx(t, s, false, opts, func(_ *sql.Tx, in *es.Store) {
				second := make(chan error, 1)
				go func() { second <- c.appendIn(t.Context(), in, m, es.AnyVersion) }()
				select {
				case err := <-second:
					t.Errorf("the second has not waited: %v", err)
					second <- err
				case <-time.After(100 * time.Millisecond):
				}
				third("waits for")
				if err := first.Rollback(); err != nil {
					t.Fatal(err)
				}
				if err := <-second; err != nil && (opts.Isolation != sql.LevelReadUncommitted || !errors.Is(err, es.ErrRetryTx)) { // it has seen the first's
					t.Errorf("the second, after the first was rolled back: %v", err)
				}
				third("has waited for")
			})
		}
	})
}
