// Statistics from memory.

package eventstore

import (
	"context"
	"time"
)

func (m *memBackend) stats(ctx context.Context) (Stats, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	st := Stats{Last: m.last(), Sealed: m.sealed()}
	if since, waits := m.open[st.Sealed+1]; waits {
		st.Hole, st.Waited = st.Sealed+1, time.Since(since)
	}
	for _, info := range m.list() {
		p := ProjectionStats{ProjectionInfo: info}
		if i := search(m.log, p.Position+1); i < len(m.log) && m.log[i].position <= st.Sealed {
			p.Behind = max(0, time.Since(m.log[i].recordedAt))
		}
		st.Projections = append(st.Projections, p)
	}
	return st, ctx.Err()
}

func (b *memTxBackend) stats(ctx context.Context) (Stats, error) {
	if err := b.look(ctx, nothing); err != nil {
		return Stats{}, err
	}
	return b.m.stats(ctx)
}
