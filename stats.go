// Store.Stats: how a store is doing, for metrics and alarms. A new statistic begins with a field
// here, and is filled in by backend_sql_stats.go and memstore_stats.go.

package eventstore

import (
	"context"
	"time"
)

// Stats is how a store is doing, for metrics and alarms.
type Stats struct {
	Last   Position // the highest that there is, of an event or of a gap row; zero: none yet
	Sealed Position // the sealed position
	Lag    int64    // Last minus Sealed: an upper bound of the events to be sealed, without counting

	// Hole is the position that sealing waits for, since a transaction may still fill it, and Waited
	// for how long this Store, and what WithTx made of it, has seen it missing. Zero: it waits for
	// none.
	Hole   Position
	Waited time.Duration

	// Projections are all projections and relays that have ever run and were not deleted, by name in
	// byte order.
	Projections []ProjectionStats
}

// ProjectionStats is how a projection or a relay is doing.
type ProjectionStats struct {
	ProjectionInfo

	// Behind is how long ago the first sealed event behind Position was recorded, whether or not it
	// is one that the projection wants; zero: there is none. It is told by the database's clock, on
	// a memory store the process's, and never negative: where [Options].Now says when events are
	// recorded, it is the difference of two clocks.
	Behind time.Duration
}

// Stats looks at a store, cheaply enough for every process to ask every few seconds: by three
// statements where nothing waits, and one more for every 32 projections that are behind, which looks
// into an index once for each. A long run of gap rows behind a projection is read once, and remembered. All
// parked events are counted. It begins by sealing as [Store.Sealed]
// does, so that it is right also where nobody else seals. The numbers are not of one moment, but
// Last and Sealed never go back.
//
// Inside a caller's transaction it tells, without a look, what has been sealed before, with Hole and
// Waited as of this Store's last look outside; the rest is as the transaction sees it. On a memory
// store everything is sealed but what comes after an open transaction's first event.
func (s *Store) Stats(ctx context.Context) (Stats, error) {
	if _, err := s.Sealed(ctx); err != nil {
		return Stats{}, err
	}
	st, err := s.backend.stats(ctx)
	if err != nil {
		return Stats{}, err
	}
	st.Last = max(st.Last, st.Sealed) // the events at the end may have been deleted
	st.Lag = int64(st.Last - st.Sealed)
	for i := range st.Projections {
		st.Projections[i].Lag = st.Projections[i].lag(st.Sealed)
	}
	return st, nil
}
