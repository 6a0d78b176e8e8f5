// Documents in memory: pages of them, and what a batch reads and writes.

package eventstore

import "context"

// shown returns a projection's documents as readers see them: none while they are about to be removed.
func (m *memBackend) shown(name string) (d *memDocuments, kind runnerKind) {
	p := m.projected[name]
	switch {
	case p == nil:
		return &memDocuments{}, ""
	case p.status == StatusResetting || p.status == StatusDeleting:
		return &memDocuments{}, p.kind
	}
	return &p.documents, p.kind
}

func (m *memBackend) document(ctx context.Context, name, key string) (row documentRow, found bool, kind runnerKind, err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	d, kind := m.shown(name)
	row, found = d.rows[key]
	return row, found, kind, ctx.Err()
}

func (m *memBackend) documents(ctx context.Context, q *documentPage) (rows []documentRow, more bool, err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	d, _ := m.shown(q.name)
	rows, more = d.page(q)
	return rows, more, ctx.Err()
}

// document and documents show what the transaction of a batch has written.

func (b *memTxBackend) document(ctx context.Context, name, key string) (row documentRow, found bool, kind runnerKind, err error) {
	err = b.look(ctx, func() error {
		var d *memDocuments
		d, kind = b.shown(name)
		row, found = d.rows[key]
		return nil
	})
	return row, found, kind, err
}

func (b *memTxBackend) documents(ctx context.Context, q *documentPage) (rows []documentRow, more bool, err error) {
	err = b.look(ctx, func() error {
		d, _ := b.shown(q.name)
		rows, more = d.page(q)
		return nil
	})
	return rows, more, err
}

func (b *memTxBackend) shown(name string) (*memDocuments, runnerKind) {
	d, kind := b.m.shown(name)
	if len(b.written) == 0 || b.written[0].name != name {
		return d, kind
	}
	d = d.clone()
	for _, c := range b.written {
		d.apply(c)
	}
	return d, kind
}

func (u memBatchTx) documents(name string, keys []string, most int) (rows []documentRow, all bool, err error) {
	size := 0
	err = u.look(u.ctx, func() error {
		p := u.m.projected[name]
		if p == nil {
			return nil
		}
		for _, key := range keys {
			if row, found := p.documents.rows[key]; found {
				rows, size = append(rows, row), size+row.size()
			}
		}
		return nil
	})
	if most != noBound && size > most {
		return nil, false, err
	}
	return rows, true, err
}

func (u memBatchTx) changeDocuments(c *documentChanges) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.written = append(u.written, c)
	return u.ctx.Err()
}

func (u memBatchTx) dropDocuments(string) error {
	u.parks = append(u.parks, func(p *memProjection) { p.documents = memDocuments{} })
	return nil
}
