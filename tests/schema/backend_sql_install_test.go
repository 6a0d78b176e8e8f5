package schema_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
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

// wantWorks appends and reads in a stream of its own.
func wantWorks(t testing.TB, s *es.Store, stream string) {
	t.Helper()
	storetest.CreateStream(t, s, stream)
	stored := storetest.MustAppend(t, s, stream, "a", es.MustNotExist, storetest.Deposits(2, 1)...)
	storetest.SameEvents(t, stream, storetest.Collect(t, s.Read(t.Context(), es.FromStream(stream), es.ReadOptions{Sealed: true})), stored)
}

func TestInstallTwice(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		prefix := l.NewPrefix(t)
		s := l.OpenIn(t, prefix, nil)
		if got := l.Schema(t, prefix); got != "" {
			t.Fatalf("before Install there is\n%s", got)
		}
		if err := s.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := l.Schema(t, prefix)
		wantWorks(t, s, "first")
		stored := storetest.Everything(t, s)
		other := l.OpenIn(t, prefix, nil)
		for _, s := range []*es.Store{s, other} {
			if err := s.Install(t.Context()); err != nil {
				t.Fatal(err)
			}
			if after := l.Schema(t, prefix); after != before {
				t.Errorf("Install again makes of\n%s\nthis:\n%s", before, after)
			}
			storetest.SameEvents(t, "after Install again", storetest.Everything(t, s), stored)
		}
		wantWorks(t, other, "second")
		storetest.WantIdle(t, l, "at the end")
	})
	if err := es.NewMemStore(nil).Install(t.Context()); err != nil {
		t.Errorf("memory: %v", err)
	}
}

// TestInstallAtOnce has ten processes install at once: where there is nothing, where an installation
// broke off after some of its statements, and where the tables are those of the schema's first step.
func TestInstallAtOnce(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		var fresh string
		var kept []es.Event
		for name, from := range map[string]func(prefix string, texts []string){
			"nothing": func(string, []string) {},
			"broken off": func(_ string, texts []string) {
				for _, text := range texts[:2] {
					l.Exec(t, text)
				}
			},
			"first step": func(prefix string, texts []string) {
				for _, text := range texts {
					l.Exec(t, text)
				}
				s := l.OpenIn(t, prefix, nil)
				storetest.CreateStream(t, s, "kept")
				kept = storetest.MustAppend(t, s, "kept", "a", es.MustNotExist, storetest.Deposits(3, 1)...)
				for _, table := range []string{"snapshots", "projections", "parked", "verdicts", "documents", "labels"} {
					l.Exec(t, "DROP TABLE "+prefix+table)
				}
				l.Exec(t, "ALTER TABLE "+prefix+"streams DROP COLUMN emitted_by")
				l.Exec(t, "UPDATE "+prefix+"meta SET value = 1 WHERE name = 'schema'")
			},
		} {
			prefix := l.NewPrefix(t)
			s := l.OpenIn(t, prefix, nil)
			kept = nil
			from(prefix, schemaStatements(t, s))
			stores := make([]*es.Store, 10)
			for i := range stores {
				stores[i] = l.Pool(t, l.DSN, 1).OpenIn(t, prefix, nil)
			}
			for i, err := range storetest.Race(len(stores), func(i int) error { return stores[i].Install(context.Background()) }) {
				if err != nil {
					t.Fatalf("%s: process %d: %v", name, i, err)
				}
				wantWorks(t, stores[i], fmt.Sprint("stream-", i))
			}
			got := strings.ReplaceAll(l.Schema(t, prefix), prefix, "")
			if fresh == "" {
				fresh = got
			}
			if got != fresh {
				t.Errorf("%s: Install makes\n%s\nwant what it makes elsewhere:\n%s", name, got, fresh)
			}
			storetest.SameEvents(t, name, storetest.Collect(t, s.Read(t.Context(), es.FromStream("kept"), es.ReadOptions{})), kept)
		}
	})
}

// TestInstallNewer finds tables of a later version of the package, and leaves them alone.
func TestInstallNewer(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		l.Exec(t, `UPDATE `+prefix+`meta SET value = 9999 WHERE name = 'schema'`)
		before := l.Schema(t, prefix)
		err := s.Install(t.Context())
		if err == nil || !strings.HasPrefix(err.Error(), "eventstore: ") || !strings.Contains(err.Error(), "9999") || !strings.Contains(err.Error(), "later version") {
			t.Errorf("Install says %v, want that the tables of version 9999 are a later version's", err)
		}
		if after := l.Schema(t, prefix); after != before {
			t.Errorf("Install makes of\n%s\nthis:\n%s", before, after)
		}
		storetest.WantIdle(t, l, "after the error")
	})
}

// TestWriteSchema installs by hand what WriteSchema writes.
func TestWriteSchema(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		installed := l.NewPrefix(t)
		s := l.OpenIn(t, installed, nil)
		if err := s.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		prefix := l.NewPrefix(t)
		s = l.OpenIn(t, prefix, nil)
		for _, text := range schemaStatements(t, s) {
			l.Exec(t, text)
		}
		wantWorks(t, s, "by-hand")
		before := l.Schema(t, prefix)
		if want := strings.ReplaceAll(l.Schema(t, installed), installed, prefix); before != want {
			t.Errorf("WriteSchema makes\n%s\nwant what Install makes:\n%s", before, want)
		}
		if err := s.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		if after := l.Schema(t, prefix); after != before {
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
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		s := l.OpenIn(t, "x_", nil)
		if err := s.WriteSchema(failingWriter{}); err == nil || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("WriteSchema says %v, want the writer's error", err)
		}
	})
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, fmt.Errorf("disk full") }

func TestNotInstalled(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		s := l.OpenIn(t, l.NewPrefix(t), nil)
		check := func(what string, err error) {
			t.Helper()
			storetest.WantErr(t, what, err, es.ErrNotInstalled)
			if err != nil && !strings.Contains(err.Error(), "Store.Install") {
				t.Errorf("%s: error reads %q, want it to name Store.Install", what, err)
			}
			storetest.WantIdle(t, l, what)
		}
		for _, c := range storetest.EveryCall {
			check(c.Name, c.Call(t.Context(), s))
			var err error
			// Postgres gives a transaction up after an error, so each call has one of its own.
			tx, terr := l.DB.BeginTx(t.Context(), nil)
			if terr != nil {
				t.Fatal(terr)
			}
			err = c.Call(t.Context(), s.WithTx(tx))
			if terr := tx.Rollback(); terr != nil {
				t.Fatalf("%s: the transaction has ended: %v", c.Name, terr)
			}
			check(c.Name+" in a transaction", err)
		}
	})
}

func TestTablePrefix(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		for _, prefix := range []string{"1a", "a-b", "a.b", "a b", "a;", `a"`, "a`", "a'", "ä_", "a\x00", "a\n", strings.Repeat("a", 33)} {
			opts := &es.Options{TablePrefix: prefix}
			if l.DB == nil {
				storetest.WantInvalid(t, "memory with "+prefix, es.NewMemStore(opts).Install(t.Context()), "Options.TablePrefix")
				continue
			}
			s, err := es.Open(l.DB, l.Dialect, opts)
			storetest.WantInvalid(t, "Open with "+prefix, err, "Options.TablePrefix")
			if s != nil {
				t.Errorf("Open with %q: returned a store with the error", prefix)
			}
		}
		if l.DB == nil {
			return
		}
		// The longest prefix and one in upper case, beside one that differs in case only.
		long := strings.TrimSuffix(l.NewPrefix(t), "_")
		for _, prefix := range []string{long + strings.Repeat("x", 32-len(long)), long + "_U_", long + "_u_"} {
			s := l.OpenIn(t, prefix, nil)
			t.Cleanup(func() {
				for _, table := range []string{"meta", "streams", "events", "snapshots", "projections", "parked", "verdicts", "documents", "labels"} {
					l.Exec(t, "DROP TABLE IF EXISTS "+prefix+table)
				}
			})
			if l.Dialect == es.Postgres && strings.HasSuffix(prefix, "_U_") {
				continue // Postgres folds case: the two would be one
			}
			if err := s.Install(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantWorks(t, s, "accounts")
			if n := len(storetest.Everything(t, s)); n != 2 {
				t.Errorf("prefix %q: %d events, want its own 2", prefix, n)
			}
		}
	})
}

// TestInstallEncoding refuses databases and connections that would change text.
func TestInstallEncoding(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		var other storetest.Lane
		if l.Dialect == es.MySQL {
			other = l.Pool(t, storetest.WithParams(l.DSN, "charset=latin1"), 1)
		} else {
			name := l.NewPrefix(t) + "latin1"
			l.Exec(t, `CREATE DATABASE `+name+` ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'`)
			u, err := url.Parse(l.DSN)
			if err != nil {
				t.Fatal(err)
			}
			u.Path = "/" + name
			other = l.Pool(t, u.String(), 1)
			t.Cleanup(func() {
				_ = other.DB.Close()
				l.Exec(t, `DROP DATABASE `+name)
			})
		}
		prefix := l.NewPrefix(t)
		s := other.OpenIn(t, prefix, nil)
		err := s.Install(t.Context())
		storetest.WantInvalid(t, "Install over latin1", err, map[*es.Dialect]string{es.Postgres: "server_encoding", es.MySQL: "character_set_client"}[l.Dialect])
		if got := other.Schema(t, prefix); got != "" {
			t.Errorf("after the error there is\n%s", got)
		}
		storetest.WantIdle(t, other, "after the error")
	})
}
