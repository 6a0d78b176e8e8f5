package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/eventstore"
	"example.com/eventstore/internal/storetest"
	"github.com/nats-io/nats.go/jetstream"
)

// witness is a consumer that notes what it takes in.
type witness struct {
	mu      sync.Mutex
	events  []eventstore.Event
	dropped int
	fail    bool // once, before the next event
}

func (w *witness) consumer() *consumer {
	return &consumer{
		name:    "witness",
		ackWait: time.Second,
		apply: func(_ context.Context, ev eventstore.Event) (seen bool, err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if n := len(w.events); n > 0 && ev.Position <= w.events[n-1].Position {
				return true, nil
			}
			if w.fail {
				w.fail = false
				return false, errors.New("the consumer's database is away")
			}
			w.events = append(w.events, ev)
			return false, nil
		},
		dropped: func(eventstore.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.dropped++
		},
	}
}

func (w *witness) counts() (events, dropped int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.events), w.dropped
}

func (w *witness) failOnce() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail = true
}

// waitFor waits until the witness has n events, and compares them with what the store has.
func (w *witness) waitFor(t *testing.T, s *eventstore.Store, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d events", n), func() bool { got, _ := w.counts(); return got >= n })
	var want []string
	for ev, err := range s.Read(t.Context(), eventstore.FromStream("accounts"), eventstore.ReadOptions{Sealed: true}) {
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, describe(ev))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var got []string
	for _, ev := range w.events {
		got = append(got, describe(ev))
	}
	if !slices.Equal(got, want) {
		t.Errorf("consumed:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func describe(ev eventstore.Event) string {
	return fmt.Sprintf("%d %s %q/%q v%d %q %s %v %s", ev.Position, ev.ID, ev.Stream, ev.AggregateID, ev.Version, ev.Name, ev.Data, ev.Metadata, ev.RecordedAt)
}

// background runs something until the function that it returns is called, or the test ends.
func background(t *testing.T, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v, want context.Canceled", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func startRelay(t *testing.T, s *eventstore.Store, js jetstream.JetStream) (stop func()) {
	return background(t, func(ctx context.Context) error {
		return testRelay(js).Run(ctx, s)
	})
}

// testRelay is the example's relay, in a hurry to take over from another that has died.
func testRelay(js jetstream.JetStream) *eventstore.Relay {
	relay := newRelay(js, eventstore.FromStream("accounts"))
	relay.Lease, relay.Poll = time.Second, 20*time.Millisecond
	return relay
}

func deposit(t *testing.T, s *eventstore.Store, id string, cents int64) eventstore.Event {
	t.Helper()
	stored, err := s.Append(t.Context(), "accounts", id, eventstore.AnyVersion, eventstore.NewEvent{Payload: deposited{cents}})
	if err != nil {
		t.Fatal(err)
	}
	return stored[0]
}

// TestArrives has many writers append while relays end and begin, connections are cut, the NATS
// server goes away and returns, and the consumer fails and begins again: it takes in each event
// once, in order.
func TestArrives(t *testing.T) {
	forEachLane(t, func(t *testing.T, l storetest.Lane) {
		s, _ := openLane(t, l)
		b := newBroker(t)
		js := b.connect(t)
		if err := createStream(t.Context(), js, 2*time.Minute); err != nil {
			t.Fatal(err)
		}
		var w witness
		consuming := background(t, func(ctx context.Context) error { return w.consumer().run(ctx, b.connect(t)) })
		relaying := startRelay(t, s, js)

		const rounds, writers, each = 5, 4, 10
		missed := 0 // events appended while the server was away, beside those of the writers
		for round := range rounds {
			var wg sync.WaitGroup
			for writer := range writers {
				wg.Go(func() {
					for i := range each {
						_, err := s.Append(context.Background(), "accounts", fmt.Sprintf("A-%d", writer), eventstore.AnyVersion,
							eventstore.NewEvent{Payload: deposited{int64(i)}, Metadata: eventstore.Metadata{"round": round, "half": 0.5, "by": "Änne\n"}})
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			switch round {
			case 1:
				relaying()
				relaying = startRelay(t, s, b.connect(t))
			case 2:
				b.away()
				missed = 1
				ev := deposit(t, s, "A-0", 1)
				eventually(t, "the relay to fall behind", func() bool { return lag(t, s) > 0 })
				if _, err := js.Stream(t.Context(), streamName); err == nil {
					t.Errorf("event %d has a server to go to", ev.Position)
				}
				b.back()
			case 3:
				b.proxy.CutAll()
			case 4:
				w.failOnce()
				consuming()
				background(t, func(ctx context.Context) error { return w.consumer().run(ctx, b.connect(t)) })
			}
			wg.Wait()
			w.waitFor(t, s, (round+1)*writers*each+missed)
		}
		if n, want := stored(t, js), rounds*writers*each+missed; n != want {
			t.Errorf("the server keeps %d messages, want %d: repetitions within its window are dropped", n, want)
		}
	})
}

func lag(t *testing.T, s *eventstore.Store) int64 {
	t.Helper()
	infos, err := s.Projections(t.Context())
	if err != nil || len(infos) != 1 {
		t.Fatalf("%d relays, %v", len(infos), err)
	}
	return infos[0].Lag
}

// TestCrash has a relay die after it has published some events and before the store has noted it.
// The one that takes over publishes them again: within the server's window that leaves no trace,
// and after it the consumer drops them.
func TestCrash(t *testing.T) {
	forEachLane(t, func(t *testing.T, l storetest.Lane) {
		for _, late := range []bool{false, true} {
			t.Run(map[bool]string{false: "within the window", true: "after the window"}[late], func(t *testing.T) {
				s, prefix := openLane(t, l)
				b := newBroker(t)
				js := b.connect(t)
				window := 2 * time.Minute
				if late {
					window = 100 * time.Millisecond // the shortest that there is
				}
				if err := createStream(t.Context(), js, window); err != nil {
					t.Fatal(err)
				}
				const published, events = 3, 5
				var last eventstore.Event // of those published before the crash
				for i := range events {
					ev := deposit(t, s, "A-1", int64(i))
					if i < published {
						last = ev
					}
				}
				crash(t, l, s, b, prefix, published)
				if n := stored(t, js); n != published {
					t.Fatalf("the server keeps %d messages, want %d", n, published)
				}
				extra := 0
				if late {
					eventually(t, "the end of the window", func() bool {
						msg, err := newMessage(last)
						if err != nil {
							t.Fatal(err)
						}
						ack, err := js.PublishMsg(t.Context(), msg)
						if err != nil {
							t.Fatal(err)
						}
						return !ack.Duplicate
					})
					extra = published // that one here, and by the relay those before it
				}
				var w witness
				background(t, func(ctx context.Context) error { return w.consumer().run(ctx, js) })
				startRelay(t, s, js)
				w.waitFor(t, s, events)
				if n := stored(t, js); n < events+extra {
					t.Errorf("the server keeps %d messages, want at least %d", n, events+extra)
				} else if !late && n != events {
					t.Errorf("the server keeps %d messages, want %d", n, events)
				}
				if _, dropped := w.counts(); (dropped > 0) != late {
					t.Errorf("the consumer has dropped %d messages, after the window: %v", dropped, late)
				}
			})
		}
	})
}

// TestOddNames publishes events with the longest and oddest names that a store takes.
func TestOddNames(t *testing.T) {
	s, _ := openLane(t, storetest.Lanes()[0])
	b := newBroker(t)
	js := b.connect(t)
	if err := createStream(t.Context(), js, 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	ids := []string{strings.Repeat("*", 255), "a.b > c", "\r\n", "日本語", "%", " "}
	for _, id := range ids {
		_, err := s.Append(t.Context(), "accounts", id, eventstore.AnyVersion,
			eventstore.NewEvent{Payload: odd(strings.Repeat("ÿ", 127))}, eventstore.NewEvent{Payload: odd("..\n")})
		if err != nil {
			t.Fatal(err)
		}
	}
	var w witness
	background(t, func(ctx context.Context) error { return w.consumer().run(ctx, js) })
	startRelay(t, s, js)
	w.waitFor(t, s, 2*len(ids))
}

// odd is an event of any name.
type odd string

func (o odd) EventName() string { return string(o) }

// TestRun runs the program, and once more on the same store. The second relay may begin with the last
// events of the first, which ended as soon as they had been consumed.
func TestRun(t *testing.T) {
	forEachLane(t, func(t *testing.T, l storetest.Lane) {
		prefix := l.NewPrefix(t)
		for range 2 {
			var out strings.Builder
			if err := run(t.Context(), &out, "", l.URL(t), prefix); err != nil {
				t.Fatal(err)
			}
			if want := " events consumed, 0 repetitions dropped\naccount A-1 holds "; !strings.Contains(out.String(), want) {
				t.Errorf("it wrote\n%s\nwithout %s", out.String(), want)
			}
		}
	})
	for nats, store := range map[string]string{"": "oracle://127.0.0.1/test", "nats://127.0.0.1:4222": "memory"} {
		if err := run(t.Context(), io.Discard, nats, store, "nats_example_"); err == nil || !strings.Contains(err.Error(), "-store") {
			t.Errorf("-nats %s -store %s: %v, want an error about -store", nats, store, err)
		}
	}
}
