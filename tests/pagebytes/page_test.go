package pagebytes_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

const mib = 1 << 20

type blob struct{ Text string }

func (blob) EventName() string { return "blob" }

// peak is the most memory that is in use beyond what is in use at first, as it is looked at.
type peak struct{ first, most uint64 }

func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func (p *peak) look() {
	if n := inUse(); n > p.first {
		p.most = max(p.most, n-p.first)
	}
}

// TestPageBytes reads events of 1 MiB, of which the first page of a read would hold 256 if it counted
// rows only, and one that is larger than a page, in every way there is: no more than two pages are in
// memory, also of what is read ahead.
func TestPageBytes(t *testing.T) {
	storetest.ForEachProcess(t, storetest.AnyKind, func(t *testing.T, l storetest.Lane) {
		s, ctx := l.Open(t, nil), t.Context()
		storetest.CreateStream(t, s, "blobs", "others")
		random := make([]byte, mib/2)
		if _, err := rand.Read(random); err != nil {
			t.Fatal(err)
		}
		noise := hex.EncodeToString(random)
		const n = 24
		for i := range n {
			text := noise[i*1000:] + noise[:i*1000]
			if i%3 == 0 {
				text = strings.Repeat("x", mib) // which Postgres compresses to almost nothing
			}
			storetest.MustAppend(t, s, "blobs", "a", es.ExpectedVersion(i), es.NewEvent{Payload: blob{text}})
		}
		storetest.MustAppend(t, s, "others", "b", es.MustNotExist, storetest.Deposits(40, 1)...)
		want := n * mib

		// Each way gives its events to look at, one by one.
		ways := map[string]func(look func(bytes int)){
			"Read": func(look func(int)) {
				for ev, err := range s.Read(ctx, es.FromStream("blobs"), es.ReadOptions{}) {
					if err != nil {
						t.Fatal(err)
					}
					look(len(ev.Data))
				}
			},
			"Read, backward": func(look func(int)) {
				for ev, err := range s.Read(ctx, es.FromAll(), es.ReadOptions{Backward: true}) {
					if err != nil {
						t.Fatal(err)
					}
					look(len(ev.Data))
				}
			},
			"Read, several streams": func(look func(int)) {
				for ev, err := range s.Read(ctx, es.FromStreams("others", "blobs"), es.ReadOptions{}) {
					if err != nil {
						t.Fatal(err)
					}
					look(len(ev.Data))
				}
			},
			"Read, several streams, backward": func(look func(int)) {
				for ev, err := range s.Read(ctx, es.FromStreams("others", "blobs"), es.ReadOptions{Backward: true}) {
					if err != nil {
						t.Fatal(err)
					}
					look(len(ev.Data))
				}
			},
			"ReadAggregate": func(look func(int)) {
				for ev, err := range s.ReadAggregate(ctx, "blobs", "a", 0) {
					if err != nil {
						t.Fatal(err)
					}
					look(len(ev.Data))
				}
			},
			"Subscribe": func(look func(int)) {
				seen := 0
				for ev, err := range s.Subscribe(ctx, es.FromStream("blobs"), 0) {
					if err != nil {
						t.Fatal(err)
					}
					look(len(ev.Data))
					if seen++; seen == n {
						break
					}
				}
			},
			"Query": func(look func(int)) {
				q := es.Query[int]{From: es.FromAll(), When: []es.Fold[int]{es.OnAny(func(_ *int, ev es.Event) { look(len(ev.Data)) })}}
				if _, err := q.Run(ctx, s); err != nil {
					t.Fatal(err)
				}
			},
			"Load": func(look func(int)) {
				a := es.Aggregate[int]{Stream: "blobs", When: []es.Fold[int]{es.OnAny(func(_ *int, ev es.Event) { look(len(ev.Data)) })}}
				if _, err := a.Load(ctx, s, "a"); err != nil {
					t.Fatal(err)
				}
			},
			"Load, with snapshots": func(look func(int)) {
				a := es.Aggregate[int]{Stream: "blobs", When: []es.Fold[int]{es.OnAny(func(_ *int, ev es.Event) { look(len(ev.Data)) })}, Snapshot: es.Snapshot{Every: 1000}}
				if _, err := a.Load(ctx, s, "a"); err != nil {
					t.Fatal(err)
				}
			},
			"Projection": func(look func(int)) {
				p := &es.Projection[int]{Name: "bytes", From: es.FromAll(), When: []es.Handler[int]{es.OnAny(func(seen *int, ev es.Event) { *seen += len(ev.Data); look(len(ev.Data)) })}}
				if cp := storetest.CatchUp(t, p, s); cp.State < want {
					t.Errorf("the projection has seen %d bytes, want at least %d", cp.State, want)
				}
			},
			"Relay": func(look func(int)) {
				ctx, cancel := context.WithCancel(ctx)
				defer cancel()
				seen := 0
				r := &es.Relay{Name: "relay", From: es.FromStream("blobs"), Publish: func(_ context.Context, evs []es.Event) error {
					for _, ev := range evs {
						look(len(ev.Data))
					}
					if seen += len(evs); seen == n {
						cancel()
					}
					return nil
				}}
				if err := r.Run(ctx, s); !errors.Is(err, context.Canceled) {
					t.Errorf("the relay ended with %v", err)
				}
			},
		}
		debug.SetGCPercent(50)
		for what, way := range ways {
			p := peak{first: inUse()}
			bytes, looks := 0, 0
			way(func(n int) {
				bytes += n
				if looks++; looks < 12 || looks%8 == 0 {
					p.look()
				}
			})
			if bytes < want {
				t.Errorf("%s: %d bytes, want at least %d", what, bytes, want)
			}
			t.Logf("%s: %d MiB at most", what, p.most/mib)
			if p.most > 16*mib {
				t.Errorf("%s: %d MiB in use, want at most 16", what, p.most/mib)
			}
		}
	})
}

// TestOneLargeEvent reads a single event that is many times as large as a page, among small ones.
func TestOneLargeEvent(t *testing.T) {
	storetest.ForEachProcess(t, storetest.AnyKind, func(t *testing.T, l storetest.Lane) {
		size := 40 * mib
		if l.Dialect == es.MySQL { // what the server takes in a packet
			var most int
			if err := l.DB.QueryRow("SELECT @@max_allowed_packet").Scan(&most); err != nil {
				t.Fatal(err)
			}
			size = min(size, most*3/4)
		}
		s := l.Open(t, nil)
		storetest.CreateStream(t, s, "blobs")
		storetest.MustAppend(t, s, "blobs", "a", 0, storetest.Deposits(20, 1)...)
		storetest.MustAppend(t, s, "blobs", "a", 20, es.NewEvent{Payload: blob{strings.Repeat("x", size)}})
		storetest.MustAppend(t, s, "blobs", "a", 21, storetest.Deposits(20, 1)...)
		debug.SetGCPercent(50)
		for what, seq := range map[string]func(func(es.Event, error) bool){
			"Read":          s.Read(t.Context(), es.FromStream("blobs"), es.ReadOptions{}),
			"Backward":      s.Read(t.Context(), es.FromAll(), es.ReadOptions{Backward: true}),
			"ReadAggregate": s.ReadAggregate(t.Context(), "blobs", "a", 0),
		} {
			p := peak{first: inUse()}
			n := 0
			for ev, err := range seq {
				if err != nil {
					t.Fatal(err)
				}
				if n++; len(ev.Data) > size || n%20 == 1 {
					p.look()
				}
			}
			if n != 41 {
				t.Errorf("%s: %d events, want 41", what, n)
			}
			t.Logf("%s: %d MiB at most, with events of %d MiB", what, p.most/mib, size/mib)
			if p.most > uint64(3*size+16*mib) { // the driver has it too, and so has the connection's buffer
				t.Errorf("%s: %d MiB in use for an event of %d MiB", what, p.most/mib, size/mib)
			}
		}
	})
}
