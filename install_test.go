package eventstore_test

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	es "example.com/eventstore"
)

// schemaStatements are what WriteSchema writes, one by one.
func schemaStatements(t testing.TB, s *es.Store) []string {
	t.Helper()
	var b strings.Builder
	if err := s.WriteSchema(&b); err != nil {
		t.Fatal(err)
	}
	var out []string
	for text := range strings.SplitSeq(b.String(), ";\n") {
		if text = strings.TrimSpace(text); text != "" {
			out = append(out, text)
		}
	}
	return out
}

func (l lane) exec(t testing.TB, text string, args ...any) {
	t.Helper()
	if _, err := l.db.Exec(text, args...); err != nil {
		t.Fatalf("%v\nin %s", err, text)
	}
}

// lines returns the rows of a query that has one column.
func (l lane) lines(t testing.TB, text string, args ...any) []string {
	t.Helper()
	rows, err := l.db.Query(text, args...)
	if err != nil {
		t.Fatalf("%v\nin %s", err, text)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		out = append(out, line)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// schema describes the tables under a prefix: their columns, indexes, and what the meta table says.
func (l lane) schema(t testing.TB, prefix string) string {
	t.Helper()
	columns, indexes := `
SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable FROM information_schema.columns
WHERE table_schema = current_schema() AND table_name LIKE '`+prefix+`%'`, `
SELECT indexdef FROM pg_indexes WHERE schemaname = current_schema() AND tablename LIKE '`+prefix+`%'`
	if l.dialect == es.MySQL {
		columns, indexes = `
SELECT CONCAT(table_name, '.', column_name, ' ', column_type, ' ', is_nullable) FROM information_schema.columns
WHERE table_schema = DATABASE() AND table_name LIKE '`+prefix+`%'`, `
SELECT CONCAT(table_name, '.', index_name, ' ', seq_in_index, ' ', column_name) FROM information_schema.statistics
WHERE table_schema = DATABASE() AND table_name LIKE '`+prefix+`%'`
	}
	c, i := l.lines(t, columns), l.lines(t, indexes)
	slices.Sort(c)
	slices.Sort(i)
	out := append(c, i...)
	if len(out) > 0 {
		m := l.lines(t, `SELECT value FROM `+prefix+`meta WHERE name = 'schema'`)
		out = append(append(out, "schema"), m...)
	}
	return strings.Join(out, "\n")
}

// wantWorks appends and reads in a stream of its own.
func wantWorks(t testing.TB, s *es.Store, stream string) {
	t.Helper()
	createStream(t, s, stream)
	stored := mustAppend(t, s, stream, "a", es.MustNotExist, events(2, 1)...)
	sameEvents(t, stream, collect(t, s.Read(t.Context(), es.FromStream(stream), es.ReadOptions{Sealed: true})), stored)
}

func TestInstallTwice(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, l lane) {
		prefix := l.newPrefix(t)
		s := l.openIn(t, prefix, nil)
		if got := l.schema(t, prefix); got != "" {
			t.Fatalf("before Install there is\n%s", got)
		}
		if err := s.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := l.schema(t, prefix)
		wantWorks(t, s, "first")
		stored := everything(t, s)
		other := l.openIn(t, prefix, nil)
		for _, s := range []*es.Store{s, other} {
			if err := s.Install(t.Context()); err != nil {
				t.Fatal(err)
			}
			if after := l.schema(t, prefix); after != before {
				t.Errorf("Install again makes of\n%s\nthis:\n%s", before, after)
			}
			sameEvents(t, "after Install again", everything(t, s), stored)
		}
		wantWorks(t, other, "second")
		wantIdle(t, l, "at the end")
	})
	if err := es.NewMemStore(nil).Install(t.Context()); err != nil {
		t.Errorf("memory: %v", err)
	}
}

// TestInstallAtOnce has ten processes install at once: where there is nothing, where an installation
// broke off after some of its statements, and where the tables are those of the schema's first step.
func TestInstallAtOnce(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, l lane) {
		var fresh string
		for name, from := range map[string]func(prefix string, texts []string){
			"nothing": func(string, []string) {},
			"broken off": func(_ string, texts []string) {
				for _, text := range texts[:2] {
					l.exec(t, text)
				}
			},
			"first step": func(prefix string, texts []string) {
				n := slices.IndexFunc(texts, func(text string) bool { return strings.Contains(text, prefix+"snapshots") })
				for _, text := range texts[:n] {
					l.exec(t, text)
				}
				l.exec(t, `INSERT INTO `+prefix+`meta (name, value) VALUES ('schema', 1)`)
			},
		} {
			prefix := l.newPrefix(t)
			s := l.openIn(t, prefix, nil)
			from(prefix, schemaStatements(t, s))
			var kept []es.Event
			if name == "first step" {
				createStream(t, s, "kept")
				kept = mustAppend(t, s, "kept", "a", es.MustNotExist, events(3, 1)...)
			}
			stores := make([]*es.Store, 10)
			for i := range stores {
				stores[i] = l.pool(t, l.dsn, 1).openIn(t, prefix, nil)
			}
			for i, err := range race(len(stores), func(i int) error { return stores[i].Install(context.Background()) }) {
				if err != nil {
					t.Fatalf("%s: process %d: %v", name, i, err)
				}
				wantWorks(t, stores[i], fmt.Sprint("stream-", i))
			}
			got := strings.ReplaceAll(l.schema(t, prefix), prefix, "")
			if fresh == "" {
				fresh = got
			}
			if got != fresh {
				t.Errorf("%s: Install makes\n%s\nwant what it makes elsewhere:\n%s", name, got, fresh)
			}
			sameEvents(t, name, collect(t, s.Read(t.Context(), es.FromStream("kept"), es.ReadOptions{})), kept)
		}
	})
}

// TestInstallNewer finds tables of a later version of the package, and leaves them alone.
func TestInstallNewer(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, l lane) {
		s, prefix := l.openPrefixed(t)
		l.exec(t, `UPDATE `+prefix+`meta SET value = 9999 WHERE name = 'schema'`)
		before := l.schema(t, prefix)
		err := s.Install(t.Context())
		if err == nil || !strings.HasPrefix(err.Error(), "eventstore: ") || !strings.Contains(err.Error(), "9999") || !strings.Contains(err.Error(), "later version") {
			t.Errorf("Install says %v, want that the tables of version 9999 are a later version's", err)
		}
		if after := l.schema(t, prefix); after != before {
			t.Errorf("Install makes of\n%s\nthis:\n%s", before, after)
		}
		wantIdle(t, l, "after the error")
	})
}

// TestWriteSchema installs by hand what WriteSchema writes.
func TestWriteSchema(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, l lane) {
		installed := l.newPrefix(t)
		s := l.openIn(t, installed, nil)
		if err := s.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		prefix := l.newPrefix(t)
		s = l.openIn(t, prefix, nil)
		for _, text := range schemaStatements(t, s) {
			l.exec(t, text)
		}
		wantWorks(t, s, "by-hand")
		before := l.schema(t, prefix)
		if want := strings.ReplaceAll(l.schema(t, installed), installed, prefix); before != want {
			t.Errorf("WriteSchema makes\n%s\nwant what Install makes:\n%s", before, want)
		}
		if err := s.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		if after := l.schema(t, prefix); after != before {
			t.Errorf("Install makes of\n%s\nthis:\n%s", before, after)
		}
	})
	var b strings.Builder
	if err := es.NewMemStore(nil).WriteSchema(&b); err != nil || b.Len() > 0 {
		t.Errorf("memory: WriteSchema writes %q, %v, want nothing", b.String(), err)
	}
}

// TestWriteSchemaFails has the writer fail.
func TestWriteSchemaFails(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, l lane) {
		s := l.openIn(t, "x_", nil)
		if err := s.WriteSchema(failingWriter{}); err == nil || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("WriteSchema says %v, want the writer's error", err)
		}
	})
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, fmt.Errorf("disk full") }

func TestNotInstalled(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, l lane) {
		s := l.openIn(t, l.newPrefix(t), nil)
		check := func(what string, err error) {
			t.Helper()
			wantErr(t, what, err, es.ErrNotInstalled)
			if err != nil && !strings.Contains(err.Error(), "Store.Install") {
				t.Errorf("%s: error reads %q, want it to name Store.Install", what, err)
			}
			wantIdle(t, l, what)
		}
		for _, c := range everyCall {
			check(c.name, c.call(t.Context(), s))
			var err error
			// Postgres gives a transaction up after an error, so each call has one of its own.
			tx, terr := l.db.BeginTx(t.Context(), nil)
			if terr != nil {
				t.Fatal(terr)
			}
			err = c.call(t.Context(), s.WithTx(tx))
			if terr := tx.Rollback(); terr != nil {
				t.Fatalf("%s: the transaction has ended: %v", c.name, terr)
			}
			check(c.name+" in a transaction", err)
		}
	})
}

// everyCall is every operation that needs a store's tables, with arguments that are valid.
var everyCall = []struct {
	name string
	call func(context.Context, *es.Store) error
}{
	{"CreateStream", func(ctx context.Context, s *es.Store) error { return s.CreateStream(ctx, "accounts", nil) }},
	{"HasStream", func(ctx context.Context, s *es.Store) error { _, err := s.HasStream(ctx, "accounts"); return err }},
	{"Streams", func(ctx context.Context, s *es.Store) error { _, err := s.Streams(ctx, ""); return err }},
	{"SetStreamMetadata", func(ctx context.Context, s *es.Store) error { return s.SetStreamMetadata(ctx, "accounts", nil) }},
	{"Append", func(ctx context.Context, s *es.Store) error {
		_, err := s.Append(ctx, "accounts", "a", es.AnyVersion, events(1, 1)...)
		return err
	}},
	{"Append at a version", func(ctx context.Context, s *es.Store) error {
		_, err := s.Append(ctx, "accounts", "a", 1, events(30, 1)...)
		return err
	}},
	{"Read", func(ctx context.Context, s *es.Store) error {
		return firstError(s.Read(ctx, es.FromAll(), es.ReadOptions{}))
	}},
	{"Read backward", func(ctx context.Context, s *es.Store) error {
		return firstError(s.Read(ctx, append(es.FromStreams("accounts", "cards"), es.FromCategory("order")...), es.ReadOptions{Backward: true}))
	}},
	{"Read sealed", func(ctx context.Context, s *es.Store) error {
		return firstError(s.Read(ctx, es.FromAll(), es.ReadOptions{Sealed: true}))
	}},
	{"ReadAggregate", func(ctx context.Context, s *es.Store) error {
		return firstError(s.ReadAggregate(ctx, "accounts", "a", 0))
	}},
	{"Subscribe", func(ctx context.Context, s *es.Store) error { return firstError(s.Subscribe(ctx, es.FromAll(), 0)) }},
	{"Sealed", func(ctx context.Context, s *es.Store) error { _, err := s.Sealed(ctx); return err }},
	{"Stats", func(ctx context.Context, s *es.Store) error { _, err := s.Stats(ctx); return err }},
	{"Load", func(ctx context.Context, s *es.Store) error { _, err := accounts.Load(ctx, s, "a"); return err }},
	{"Save", func(ctx context.Context, s *es.Store) error {
		r := accounts.New("a")
		r.Record(opened{"ann"})
		_, err := accounts.Save(ctx, s, r)
		return err
	}},
	{"Execute", func(ctx context.Context, s *es.Store) error {
		_, err := accounts.Execute(ctx, s, "a", func(r *es.Root[account]) error {
			r.Record(deposited{1})
			return nil
		})
		return err
	}},
	{"Query.Run", func(ctx context.Context, s *es.Store) error {
		_, err := (&es.Query[account]{From: es.FromAll(), When: accounts.When}).Run(ctx, s)
		return err
	}},
	{"DeleteStream", func(ctx context.Context, s *es.Store) error { return s.DeleteStream(ctx, "accounts") }},
}

// firstError reads until an error or the first event.
func firstError(seq func(yield func(es.Event, error) bool)) error {
	for _, err := range seq {
		return err
	}
	return nil
}

func TestTablePrefix(t *testing.T) {
	forEachLane(t, func(t *testing.T, l lane) {
		for _, prefix := range []string{"1a", "a-b", "a.b", "a b", "a;", `a"`, "a`", "a'", "ä_", "a\x00", "a\n", strings.Repeat("a", 33)} {
			opts := &es.Options{TablePrefix: prefix}
			if l.db == nil {
				wantInvalid(t, "memory with "+prefix, es.NewMemStore(opts).Install(t.Context()), "Options.TablePrefix")
				continue
			}
			s, err := es.Open(l.db, l.dialect, opts)
			wantInvalid(t, "Open with "+prefix, err, "Options.TablePrefix")
			if s != nil {
				t.Errorf("Open with %q: returned a store with the error", prefix)
			}
		}
		if l.db == nil {
			return
		}
		// The longest prefix and one in upper case, beside one that differs in case only.
		long := strings.TrimSuffix(l.newPrefix(t), "_")
		for _, prefix := range []string{long + strings.Repeat("x", 32-len(long)), long + "_U_", long + "_u_"} {
			s := l.openIn(t, prefix, nil)
			t.Cleanup(func() {
				for _, table := range []string{"meta", "streams", "events", "snapshots", "projections", "parked"} {
					l.exec(t, "DROP TABLE IF EXISTS "+prefix+table)
				}
			})
			if l.dialect == es.Postgres && strings.HasSuffix(prefix, "_U_") {
				continue // Postgres folds case: the two would be one
			}
			if err := s.Install(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantWorks(t, s, "accounts")
			if n := len(everything(t, s)); n != 2 {
				t.Errorf("prefix %q: %d events, want its own 2", prefix, n)
			}
		}
	})
}

// TestInstallEncoding refuses databases and connections that would change text.
func TestInstallEncoding(t *testing.T) {
	forEachKind(t, func(t *testing.T, l lane) {
		var other lane
		if l.dialect == es.MySQL {
			other = l.pool(t, withParams(l.dsn, "charset=latin1"), 1)
		} else {
			name := l.newPrefix(t) + "latin1"
			l.exec(t, `CREATE DATABASE `+name+` ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'`)
			u, err := url.Parse(l.dsn)
			if err != nil {
				t.Fatal(err)
			}
			u.Path = "/" + name
			other = l.pool(t, u.String(), 1)
			t.Cleanup(func() {
				_ = other.db.Close()
				l.exec(t, `DROP DATABASE `+name)
			})
		}
		prefix := l.newPrefix(t)
		s := other.openIn(t, prefix, nil)
		err := s.Install(t.Context())
		wantInvalid(t, "Install over latin1", err, "UTF-8")
		if got := other.schema(t, prefix); got != "" {
			t.Errorf("after the error there is\n%s", got)
		}
		wantIdle(t, other, "after the error")
	})
}
