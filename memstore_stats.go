// Statistics from memory.

package eventstore

import (
	"context"
	"time"
)

func (m *memBackend) stats(ctx context.Context) (Stats, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	st := Stats{Last: m.next - 1, Sealed: m.next - 1}
	for _, info := range m.list() {
		p := ProjectionStats{ProjectionInfo: info}
		if i := search(m.log, p.Position+1); i < len(m.log) {
			p.Behind = max(0, time.Since(m.log[i].recordedAt))
		}
		st.Projections = append(st.Projections, p)
	}
	return st, ctx.Err()
}
