package main

import (
	"context"

	es "example.com/eventstore"
)

func (b *databaseBench) reads() []benchCase {
	return []benchCase{
		{name: "global typed read", unit: "events", goal: .90, lib: once(b.libRead), raw: once(b.rawRead)},
		{name: "query", unit: "events", goal: .90, lib: once(b.libQuery), raw: once(b.rawRead)},
		{name: "read 1 stream of 100", unit: "reads", goal: .90, lib: repeated(b.libReadStream), raw: repeated(b.rawReadStream)},
		{name: "read 1 event name in 1000", unit: "reads", goal: .90, lib: repeated(b.libReadName), raw: repeated(b.rawReadName)},
	}
}

// libRead reads the whole log as events, and decodes each.
func (b *databaseBench) libRead(ctx context.Context) (int, error) {
	var a account
	err := readTyped(ctx, b.stores[logPrefix], es.FromAll(), a.add)
	return int(a.Deposits), err
}

func readTyped[E es.Payload](ctx context.Context, s *es.Store, from es.Selection, fold func(E)) error {
	for ev, err := range s.Read(ctx, from, es.ReadOptions{}) {
		if err != nil {
			return err
		}
		e, err := es.Decode[E](ev)
		if err != nil {
			return err
		}
		fold(e)
	}
	return nil
}

// libQuery folds the whole log.
func (b *databaseBench) libQuery(ctx context.Context) (int, error) {
	q := es.Query[account]{From: es.FromAll(), When: []es.Fold[account]{es.On((*account).add)}}
	a, err := q.Run(ctx, b.stores[logPrefix])
	return int(a.Deposits), err
}

func (b *databaseBench) rawRead(ctx context.Context) (int, error) {
	var a account
	err := readPages(ctx, b, b.pageText(logPrefix, ""), a.add)
	return int(a.Deposits), err
}

// pageText reads a page of a log.
func (b *databaseBench) pageText(prefix, and string) string {
	join := "STRAIGHT_JOIN" // or MariaDB goes through the whole log for each page
	if b.postgres {
		join = "JOIN"
	}
	return "SELECT " + columns + " FROM " + prefix + "events e " + join + " " + prefix + "streams s ON s.id = e.stream_id WHERE e.position > ? " + and + "ORDER BY e.position LIMIT 1000"
}

// readPages folds all pages that a statement returns.
func readPages[E any](ctx context.Context, b *databaseBench, text string, fold func(E), args ...any) error {
	st, err := b.prepared(ctx, text)
	if err != nil {
		return err
	}
	for n, last := 1000, int64(0); n == 1000; {
		if n, last, err = foldRows(ctx, st, func(e E, _ string) { fold(e) }, append([]any{last}, args...)...); err != nil {
			return err
		}
	}
	return nil
}

// plainStream names one of the streams without events of the rare name.
func (b *databaseBench) plainStream() string { return mixStream(1 + int(b.next.Add(1))%(mixStreams-1)) }

func (b *databaseBench) libReadStream(ctx context.Context) error {
	var a account
	if err := readTyped(ctx, b.stores[mixPrefix], es.FromStream(b.plainStream()), a.add); err != nil {
		return err
	}
	return loaded(a, *logSize/mixStreams)
}

func (b *databaseBench) rawReadStream(ctx context.Context) error {
	text := "SELECT " + columns + " FROM " + mixPrefix + "streams s JOIN " + mixPrefix + "events e ON e.stream_id = s.id WHERE e.position > ? AND s.id = ? ORDER BY e.position LIMIT 1000"
	var a account
	if err := readPages(ctx, b, text, a.add, b.streams[mixPrefix+b.plainStream()]); err != nil {
		return err
	}
	return loaded(a, *logSize/mixStreams)
}

func (b *databaseBench) libReadName(ctx context.Context) error {
	n := 0
	if err := readTyped(ctx, b.stores[mixPrefix], es.FromAll(es.ByEventName.Equals("account.opened")), func(opened) { n++ }); err != nil {
		return err
	}
	return loaded(account{Deposits: int64(n)}, *logSize/mixRare)
}

func (b *databaseBench) rawReadName(ctx context.Context) error {
	n := 0
	if err := readPages(ctx, b, b.pageText(mixPrefix, "AND e.name = ? "), func(opened) { n++ }, "account.opened"); err != nil {
		return err
	}
	return loaded(account{Deposits: int64(n)}, *logSize/mixRare)
}
