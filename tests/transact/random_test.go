package transact_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// deed is one call of a random script, as text and as what it does. It returns what it has seen.
type deed struct {
	text string
	do   func(ctx context.Context, s *es.Store) (string, error)
}

// script makes random calls on three streams with three aggregates each. Some event IDs come twice.
type script struct {
	r   *rand.Rand
	ids []uuid.UUID
}

func (c *script) id() uuid.UUID {
	if len(c.ids) > 0 && c.r.IntN(12) == 0 {
		return c.ids[c.r.IntN(len(c.ids))]
	}
	var id uuid.UUID
	for i := range id {
		id[i] = byte(c.r.UintN(256))
	}
	id[6], id[8] = id[6]&0x0f|0x70, id[8]&0x3f|0x80
	c.ids = append(c.ids, id)
	return id
}

func (c *script) deed() deed {
	stream, id := []string{"x", "x-1", "y"}[c.r.IntN(3)], fmt.Sprint("a", c.r.IntN(3))
	switch k := c.r.IntN(20); {
	case k < 9:
		expected := []es.ExpectedVersion{es.AnyVersion, es.AnyVersion, es.AnyVersion, es.MustExist, es.MustNotExist, es.ExpectedVersion(c.r.IntN(6))}[c.r.IntN(6)]
		evs := storetest.Deposits(1+c.r.IntN(3), 1)
		for i := range evs {
			evs[i].ID = c.id()
		}
		return deed{fmt.Sprintf("append %d to %s/%s at %d", len(evs), stream, id, int64(expected)), func(ctx context.Context, s *es.Store) (string, error) {
			stored, err := s.Append(ctx, stream, id, expected, evs...)
			return storetest.Ranks(stored), err
		}}
	case k < 11:
		return deed{"delete " + stream + "/" + id, func(ctx context.Context, s *es.Store) (string, error) {
			return "", s.DeleteAggregate(ctx, stream, id)
		}}
	case k < 12:
		return deed{"delete " + stream, func(ctx context.Context, s *es.Store) (string, error) { return "", s.DeleteStream(ctx, stream) }}
	case k < 14:
		return deed{"create " + stream, func(ctx context.Context, s *es.Store) (string, error) {
			return "", s.CreateStream(ctx, stream, es.Metadata{"n": len(c.ids)})
		}}
	case k < 15:
		n := c.r.IntN(100)
		return deed{"set metadata of " + stream, func(ctx context.Context, s *es.Store) (string, error) {
			return "", s.SetStreamMetadata(ctx, stream, es.Metadata{"set": n})
		}}
	case k < 16:
		return deed{"streams", func(ctx context.Context, s *es.Store) (string, error) {
			infos, err := s.Streams(ctx, "x")
			for i := range infos {
				infos[i].CreatedAt = time.Time{}
			}
			return fmt.Sprint(infos), err
		}}
	case k < 17:
		return deed{"read " + stream + "/" + id, func(ctx context.Context, s *es.Store) (string, error) {
			return ranks(s.ReadAggregate(ctx, stream, id, 0))
		}}
	default:
		from := []es.Selection{es.FromAll(), es.FromStream(stream), es.FromCategory("x"), es.FromStreams("x", "y"), es.FromAll(es.ByAggregateID.Equals(id))}[c.r.IntN(5)]
		opts := es.ReadOptions{Backward: c.r.IntN(2) == 0, Limit: []int{0, 0, 3}[c.r.IntN(3)]}
		return deed{fmt.Sprintf("read %v %+v", from, opts), func(ctx context.Context, s *es.Store) (string, error) {
			return ranks(s.Read(ctx, from, opts))
		}}
	}
}

func ranks(seq func(yield func(es.Event, error) bool)) (string, error) {
	var evs []es.Event
	for ev, err := range seq {
		if err != nil {
			return "", err
		}
		evs = append(evs, ev)
	}
	return storetest.Ranks(evs), nil
}

// verdict is an error as both stores should have it.
func verdict(err error) string {
	var conflict *es.ConflictError
	switch {
	case errors.As(err, &conflict):
		return fmt.Sprintf("conflict %+v", *conflict)
	case err == nil:
		return "done"
	}
	for _, known := range []error{es.ErrStreamExists, es.ErrStreamNotFound, es.ErrAggregateNotFound} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return err.Error()
}

// perform does deeds in a transaction and returns what all of them have seen. The first conflict ends it, since a
// database may have given the transaction up. Nothing is stored unless commit.
func perform(ctx context.Context, s *es.Store, deeds []deed, commit bool) string {
	var seen strings.Builder
	err := s.Transact(ctx, func(tx *es.Store) error {
		seen.Reset()
		for _, d := range deeds {
			what, err := d.do(ctx, tx)
			fmt.Fprintf(&seen, "%s: %s %s\n", d.text, what, verdict(err))
			if errors.Is(err, es.ErrConflict) || errors.Is(err, es.ErrStreamExists) {
				return errRefused
			}
		}
		if !commit {
			return errRefused
		}
		return nil
	})
	return seen.String() + "end: " + verdict(err)
}

// TestTransactRandom does the same random transactions and plain calls on memory and on a database. Each call has to see
// the same, inside and outside.
func TestTransactRandom(t *testing.T) {
	storetest.ForEach(t, storetest.SomeLanes, storetest.Usual, func(t *testing.T, l storetest.Lane) {
		ctx := t.Context()
		seed := rand.Uint64()
		for round := range uint64(8) {
			c := &script{r: rand.New(rand.NewPCG(seed, round))}
			now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			opts := &es.Options{Now: func() time.Time { return now }}
			mem, other := es.NewMemStore(opts), l.Open(t, opts)
			storetest.CreateStream(t, mem, "x", "y")
			storetest.CreateStream(t, other, "x", "y")
			for n := range 25 {
				deeds := make([]deed, 1+c.r.IntN(8))
				for i := range deeds {
					deeds[i] = c.deed()
				}
				commit := c.r.IntN(4) > 0
				if want, got := perform(ctx, mem, deeds, commit), perform(ctx, other, deeds, commit); got != want {
					t.Fatalf("seed %d/%d, transaction %d:\n%s\nwant, as on memory\n%s", seed, round, n, got, want)
				}
				d := c.deed()
				wantSeen, wantErr := d.do(ctx, mem)
				gotSeen, gotErr := d.do(ctx, other)
				if gotSeen != wantSeen || verdict(gotErr) != verdict(wantErr) {
					t.Fatalf("seed %d/%d, after transaction %d: %s:\n%s %v\nwant, as on memory\n%s %v", seed, round, n, d.text, gotSeen, gotErr, wantSeen, wantErr)
				}
			}
			want, _ := ranks(mem.Read(ctx, es.FromAll(), es.ReadOptions{Sealed: true}))
			last, err := mem.Sealed(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if all, _ := ranks(mem.Read(ctx, es.FromAll(), es.ReadOptions{})); all != want {
				t.Errorf("seed %d/%d: sealed up to %d are\n%s\nwant\n%s", seed, round, last, want, all)
			}
			if got, err := ranks(other.Read(ctx, es.FromAll(), es.ReadOptions{})); err != nil || got != want {
				t.Errorf("seed %d/%d: in the end there are\n%s (%v)\nwant, as on memory\n%s", seed, round, got, err, want)
			}
		}
	})
}
