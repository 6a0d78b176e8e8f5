package schema_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// right is a privilege on one of the store's tables.
type right struct{ privilege, table string }

// rights reads "SELECT events" and so on.
func rights(list ...string) []right {
	var out []right
	for _, text := range list {
		i := strings.LastIndex(text, " ")
		for privilege := range strings.SplitSeq(text[:i], ", ") {
			out = append(out, right{privilege, text[i+1:]})
		}
	}
	return out
}

// roleCall is what an operation is given: the store as the role sees it, with the role's lane, and as the owner of
// the tables sees it.
type roleCall struct {
	lane, ownerLane storetest.Lane
	store, owner    *es.Store
	id              string // another one for each call
}

// operations are what a service may let a role do, each with the rights that README lists: with all of
// them it works, and with one less it does not.
var operations = []struct {
	name            string
	postgres, mysql []right
	call            func(t *testing.T, c roleCall) error
}{
	{
		"append",
		rights("SELECT, UPDATE (created_at) streams", "SELECT, INSERT, UPDATE (recorded_at) events", "SELECT meta"),
		rights("SELECT streams", "SELECT, INSERT events", "SELECT meta"),
		appendAsRole,
	}, {
		"read",
		rights("SELECT streams", "SELECT events"),
		rights("SELECT streams", "SELECT events"),
		func(t *testing.T, c roleCall) error {
			_, err := c.store.Streams(t.Context(), "")
			return errors.Join(err,
				storetest.FirstError(c.store.Read(t.Context(), es.FromAll(), es.ReadOptions{})),
				storetest.FirstError(c.store.ReadAggregate(t.Context(), "accounts", "a", 0)),
				storetest.Second((&es.Query[storetest.Account]{From: es.FromAll(), When: storetest.Accounts.When}).Run(t.Context(), c.store)))
		},
	}, {
		"read sealed",
		rights("SELECT streams", "SELECT, INSERT events", "SELECT, INSERT, UPDATE meta"),
		rights("SELECT streams", "SELECT, INSERT, UPDATE events", "SELECT, INSERT, UPDATE meta"),
		func(t *testing.T, c roleCall) error {
			// A hole, for which there will be a gap row.
			tx, _ := c.ownerLane.AppendOpen(t, c.owner, "hole "+c.id, 1)
			if err := tx.Rollback(); err != nil {
				return err
			}
			last := storetest.MustAppend(t, c.owner, "accounts", "a", es.AnyVersion, storetest.Deposits(600, 1)...)
			if err := untilSealed(t, c.store, last[len(last)-1].Position); err != nil {
				return err
			}
			return storetest.FirstError(c.store.Read(t.Context(), es.FromAll(), es.ReadOptions{Sealed: true}))
		},
	}, {
		"load and save with snapshots",
		rights("SELECT, UPDATE (created_at) streams", "SELECT, INSERT, UPDATE (recorded_at) events", "SELECT meta", "SELECT, INSERT, UPDATE snapshots"),
		rights("SELECT streams", "SELECT, INSERT events", "SELECT meta", "SELECT, INSERT, UPDATE snapshots"),
		func(t *testing.T, c roleCall) error {
			ledgers := storetest.Ledgers(1000, 1)
			for range 3 {
				if _, err := ledgers.Execute(t.Context(), c.store, c.id, func(r *es.Root[storetest.Ledger]) error {
					r.Record(storetest.Deposited{Cents: 1})
					return nil
				}); err != nil {
					return err
				}
				if err := ledgers.SaveSnapshot(t.Context(), c.store, c.id); err != nil {
					return err
				}
			}
			return nil
		},
	}, {
		"manage streams",
		rights("SELECT, INSERT, UPDATE streams", "SELECT meta"),
		rights("SELECT, INSERT, UPDATE streams", "SELECT meta"),
		func(t *testing.T, c roleCall) error {
			_, err := c.store.HasStream(t.Context(), c.id)
			return errors.Join(err, c.store.CreateStream(t.Context(), c.id, nil), c.store.SetStreamMetadata(t.Context(), c.id, es.Metadata{"k": c.id}))
		},
	}, {
		"run projections",
		rights("SELECT streams", "SELECT, INSERT events", "SELECT, INSERT, UPDATE meta", "SELECT, INSERT, UPDATE, DELETE projections", "SELECT, INSERT, DELETE, UPDATE parked", "SELECT, INSERT, DELETE, UPDATE verdicts"),
		rights("SELECT streams", "SELECT, INSERT, UPDATE events", "SELECT, INSERT, UPDATE meta", "SELECT, INSERT, UPDATE, DELETE projections", "SELECT, INSERT, DELETE, UPDATE parked", "SELECT, INSERT, DELETE, UPDATE verdicts"),
		projectAsRole,
	}, {
		"run documents",
		rights("SELECT streams", "SELECT, INSERT events", "SELECT, INSERT, UPDATE meta", "SELECT, INSERT, UPDATE, DELETE projections", "SELECT, INSERT, DELETE, UPDATE parked", "SELECT, DELETE verdicts", "SELECT, INSERT, UPDATE, DELETE documents", "SELECT, INSERT, DELETE labels"),
		rights("SELECT streams", "SELECT, INSERT, UPDATE events", "SELECT, INSERT, UPDATE meta", "SELECT, INSERT, UPDATE, DELETE projections", "SELECT, INSERT, DELETE, UPDATE parked", "SELECT, DELETE verdicts", "SELECT, INSERT, UPDATE, DELETE documents", "SELECT, INSERT, UPDATE, DELETE labels"),
		documentsAsRole,
	}, {
		"read documents",
		rights("SELECT projections", "SELECT verdicts", "SELECT documents", "SELECT labels"),
		rights("SELECT projections", "SELECT verdicts", "SELECT documents", "SELECT labels"),
		func(t *testing.T, c roleCall) error {
			ds := owners(c.id)
			if err := storetest.Second(ds.CatchUp(t.Context(), c.owner)); err != nil {
				t.Fatal(err)
			}
			_, err := ds.Get(t.Context(), c.store, "a")
			for _, labelled := range []string{"", "label"} {
				for _, e := range ds.All(t.Context(), c.store, es.DocumentOptions{Label: labelled}) {
					err = errors.Join(err, e)
				}
			}
			return err
		},
	}, {
		"delete",
		rights("SELECT, DELETE streams", "SELECT, UPDATE, DELETE events", "SELECT, INSERT, DELETE meta", "SELECT, DELETE snapshots"),
		rights("SELECT, DELETE streams", "SELECT, UPDATE, DELETE events", "SELECT, INSERT, UPDATE, DELETE meta", "SELECT, DELETE snapshots"),
		func(t *testing.T, c roleCall) error {
			storetest.CreateStream(t, c.owner, c.id)
			// Events below the mark are removed, and others made gap rows.
			storetest.MustAppend(t, c.owner, c.id, "x", es.AnyVersion, storetest.Deposits(3, 1)...)
			storetest.MustAppend(t, c.owner, c.id, "z", es.AnyVersion, storetest.Deposits(3, 1)...)
			last := storetest.MustAppend(t, c.owner, "accounts", "a", es.AnyVersion, storetest.Deposits(1100, 1)...)
			if err := untilSealed(t, c.owner, last[len(last)-1].Position); err != nil {
				return err
			}
			storetest.MustAppend(t, c.owner, c.id, "y", es.AnyVersion, storetest.Deposits(3, 1)...)
			ledgers := storetest.Ledgers(1000, 1)
			ledgers.Stream = c.id
			if err := errors.Join(ledgers.SaveSnapshot(t.Context(), c.owner, "x"), ledgers.SaveSnapshot(t.Context(), c.owner, "z")); err != nil {
				return err
			}
			return errors.Join(c.store.DeleteAggregate(t.Context(), c.id, "x"), c.store.DeleteStream(t.Context(), c.id))
		},
	}, {
		"Install, where the tables are up to date",
		rights("SELECT meta", "SELECT streams"),
		rights("SELECT meta", "SELECT streams"),
		func(t *testing.T, c roleCall) error { return c.store.Install(t.Context()) },
	},
}

// appendAsRole appends in every way.
func appendAsRole(t *testing.T, c roleCall) error {
	l, s, id := c.lane, c.store, c.id
	ctx := t.Context()
	evs := storetest.WithIDs(storetest.Deposits(20, 1))
	var err error
	add := func(s *es.Store, expected es.ExpectedVersion, evs ...es.NewEvent) {
		if err == nil {
			_, err = s.Append(ctx, "accounts", id, expected, evs...)
		}
	}
	add(s, es.AnyVersion, evs...)
	add(s, es.AnyVersion, evs...) // again
	add(s, 20, storetest.Deposits(1, 1)...)
	add(s, 21, storetest.Deposits(2, 1)...)
	if err == nil {
		if _, err = s.Append(ctx, "accounts", id, 3, storetest.Deposits(1, 1)...); errors.Is(err, es.ErrConflict) {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	return storetest.InOwnTx(ctx, l, s, nil, func(s *es.Store) error {
		add(s, es.AnyVersion, evs...)
		add(s, es.MustExist, storetest.Deposits(2, 1)...)
		return err
	})
}

// projectAsRole runs a projection that parks events, retries them, skips one, and is deleted.
func projectAsRole(t *testing.T, c roleCall) error {
	// A hole, for which there will be a gap row.
	tx, _ := c.ownerLane.AppendOpen(t, c.owner, "hole "+c.id, 1)
	if err := tx.Rollback(); err != nil {
		return err
	}
	// So many that it is worth a note how far all is sealed, and some that the handler refuses.
	many := make([]es.NewEvent, 600)
	for i := range many {
		many[i].Payload = storetest.Opened{Owner: "ann"}
	}
	storetest.MustAppend(t, c.owner, "accounts", c.id, es.AnyVersion, append(many, storetest.Deposits(3, 1)...)...)
	p := storetest.TotalsOf(c.id, es.Do(func(context.Context, *es.Step[storetest.Totals], storetest.Deposited) error {
		return errors.New("refused")
	}))
	p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Park }
	for _, step := range []func() error{
		func() error { return storetest.Second(p.CatchUp(t.Context(), c.store)) },
		func() error { return storetest.Second(c.store.Projections(t.Context())) },
		func() error { return storetest.Second(c.store.Stats(t.Context())) },
		func() error { return storetest.Second(c.store.ParkedEvents(t.Context(), c.id)) },
		func() error { return c.store.RetryParked(t.Context(), c.id) },
		func() error { return storetest.Second(p.CatchUp(t.Context(), c.store)) },
		func() error {
			next := storetest.MustAppend(t, c.owner, "accounts", c.id, es.AnyVersion, storetest.Deposits(1, 1)...)
			return c.store.SkipEvent(t.Context(), c.id, next[0].Position)
		},
		func() error { return storetest.Second(p.CatchUp(t.Context(), c.store)) },
		func() error { return c.store.DeleteProjection(t.Context(), c.id, false) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// owners returns documents of the accounts in stream "accounts".
func owners(name string) *es.Documents[storetest.Account] {
	return &es.Documents[storetest.Account]{
		Name: name, From: es.FromStream("accounts"), When: []es.Handler[storetest.Account]{
			es.On(func(a *storetest.Account, e storetest.Opened) { a.Owner = e.Owner }),
			es.On(func(a *storetest.Account, e storetest.Deposited) { a.Cents += e.Cents }),
			es.Do(func(_ context.Context, _ *es.Step[storetest.Account], e storetest.Opened) error {
				if e.Owner == "nobody" {
					return errors.New("refused")
				}
				return nil
			}),
		},
		Labels:  func(_ string, a *storetest.Account) []string { return []string{"label", a.Owner} },
		OnError: func(context.Context, es.Event, error, int) es.ErrorAction { return es.Park },
	}
}

// documentsAsRole keeps documents that are written, labelled otherwise, and deleted.
func documentsAsRole(t *testing.T, c roleCall) error {
	// A hole, for which there will be a gap row.
	tx, _ := c.ownerLane.AppendOpen(t, c.owner, "hole "+c.id, 1)
	if err := tx.Rollback(); err != nil {
		return err
	}
	ds := owners(c.id)
	for _, owner := range []string{"ann", "bob", "nobody"} {
		many := storetest.Deposits(600, 1)
		many[599].Payload = storetest.Opened{Owner: owner}
		storetest.MustAppend(t, c.owner, "accounts", c.id, es.AnyVersion, many...)
		if err := storetest.Second(ds.CatchUp(t.Context(), c.store)); err != nil {
			return err
		}
	}
	return errors.Join(c.store.RetryParked(t.Context(), c.id), storetest.Second(ds.CatchUp(t.Context(), c.store)), ds.Delete(t.Context(), c.store, false))
}

// untilSealed waits until all up to a position is sealed, or sealing fails.
func untilSealed(t *testing.T, s *es.Store, p es.Position) (err error) {
	storetest.Eventually(t, "all to be sealed", func() bool {
		var sealed es.Position
		sealed, err = s.Sealed(t.Context())
		return err != nil || sealed >= p
	})
	return err
}

// asRole returns the lane as a new role with no rights is connected, and functions that change its rights.
func asRole(t *testing.T, l storetest.Lane, prefix string) (role storetest.Lane, grant, revoke func(right)) {
	t.Helper()
	name := strings.TrimSuffix(prefix, "_") + "_role"
	to := name
	if l.Dialect == es.MySQL {
		to = "'" + name + "'@'%'"
		l.Exec(t, "CREATE USER "+to+" IDENTIFIED BY 'secret'")
		cfg, err := mysql.ParseDSN(l.DSN)
		if err != nil {
			t.Fatal(err)
		}
		cfg.User, cfg.Passwd = name, "secret"
		role = l.Pool(t, cfg.FormatDSN(), 3)
		// A user who has no right at all in a database can't connect to it.
		l.Exec(t, "CREATE TABLE "+prefix+"own (id BIGINT)")
		l.Exec(t, "GRANT SELECT ON "+prefix+"own TO "+to)
		t.Cleanup(func() {
			_ = role.DB.Close()
			l.Exec(t, "DROP USER "+to)
			l.Exec(t, "DROP TABLE "+prefix+"own")
		})
	} else {
		l.Exec(t, "CREATE ROLE "+name)
		u, err := url.Parse(l.DSN)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		q.Set("role", name)
		u.RawQuery = q.Encode()
		role = l.Pool(t, u.String(), 3)
		t.Cleanup(func() {
			_ = role.DB.Close()
			l.Exec(t, "DROP OWNED BY "+name)
			l.Exec(t, "DROP ROLE "+name)
		})
	}
	grant = func(r right) { l.Exec(t, fmt.Sprintf("GRANT %s ON %s%s TO %s", r.privilege, prefix, r.table, to)) }
	revoke = func(r right) { l.Exec(t, fmt.Sprintf("REVOKE %s ON %s%s FROM %s", r.privilege, prefix, r.table, to)) }
	return role, grant, revoke
}

// isDenied reports whether the database has refused a statement for want of a right.
func isDenied(err error) bool {
	var m *mysql.MySQLError
	var p interface{ SQLState() string }
	return errors.As(err, &m) && (m.Number == 1142 || m.Number == 1143) || errors.As(err, &p) && p.SQLState() == "42501"
}

// TestRights does each operation as a role that has the rights listed for it, and with any of them missing.
func TestRights(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		for _, op := range operations {
			t.Run(op.name, func(t *testing.T) {
				owner, prefix := l.OpenPrefixed(t)
				storetest.CreateStream(t, owner, "accounts")
				storetest.MustAppend(t, owner, "accounts", "a", es.AnyVersion, storetest.Deposits(3, 1)...)
				role, grant, revoke := asRole(t, l, prefix)
				list := op.mysql
				if l.Dialect == es.Postgres {
					list = op.postgres
				}
				for _, r := range list {
					grant(r)
				}
				n := 0
				call := func() error {
					n++
					return op.call(t, roleCall{role, l, role.OpenIn(t, prefix, nil), owner, fmt.Sprint(op.name, n)})
				}
				if err := call(); err != nil {
					t.Fatalf("with all rights: %v", err)
				}
				for _, r := range list {
					revoke(r)
					if err := call(); !isDenied(err) {
						t.Errorf("without %s on %s: error is %v, want that it is denied", r.privilege, r.table, err)
					}
					grant(r)
				}
				if err := call(); err != nil {
					t.Errorf("with all rights again: %v", err)
				}
			})
		}
	})
}

// TestInstallRights installs as a role that may create the tables and keep the version of the schema.
func TestInstallRights(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		prefix := l.NewPrefix(t)
		role, grant, _ := asRole(t, l, prefix)
		if l.Dialect == es.Postgres {
			l.Exec(t, "GRANT USAGE, CREATE ON SCHEMA public TO "+strings.TrimSuffix(prefix, "_")+"_role")
		} else {
			grant(right{"CREATE, SELECT, INSERT, DELETE", "meta"})
			for _, table := range []string{"streams", "events", "snapshots", "projections", "parked", "verdicts", "documents", "labels"} {
				grant(right{"CREATE, ALTER, SELECT", table})
			}
		}
		if err := role.OpenIn(t, prefix, nil).Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantWorks(t, l.OpenIn(t, prefix, nil), "accounts")
	})
}
