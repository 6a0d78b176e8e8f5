package schema_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// withoutDefinitions makes tables those of the schema's third step, which kept nothing of definitions.
func withoutDefinitions(t testing.TB, l storetest.Lane, prefix string) {
	t.Helper()
	for _, column := range []string{
		"began", "replay_to", "wants", "wanted", "taken", "changing", "paused", "control", "control_by", "control_position", "control_at",
	} {
		l.Exec(t, "ALTER TABLE "+prefix+"projections DROP COLUMN "+column)
	}
	l.Exec(t, "ALTER TABLE "+prefix+"parked DROP COLUMN retry")
	for _, table := range []string{"verdicts", "documents", "labels"} {
		l.Exec(t, "DROP TABLE "+prefix+table)
	}
	l.Exec(t, "UPDATE "+prefix+"meta SET value = 3 WHERE name = 'schema'")
}

// TestUpgradeOfDefinitions installs over tables that kept nothing of definitions, with projections in
// them, while a runner of the version before goes on.
func TestUpgradeOfDefinitions(t *testing.T) {
	storetest.ForEachDatabase(t, func(t *testing.T, l storetest.Lane) {
		s, prefix := l.OpenPrefixed(t)
		fresh := l.Schema(t, prefix)
		storetest.CreateStream(t, s, "accounts")
		evs := storetest.MustAppend(t, s, "accounts", "a", es.MustNotExist, append(storetest.Deposits(3, 1), es.NewEvent{Payload: storetest.Opened{Owner: "ann"}})...)
		p := storetest.TotalsOf("totals", es.Do(func(_ context.Context, step *es.Step[storetest.Totals], _ storetest.Deposited) error {
			if step.Event.Version == 3 {
				return errors.New("refused")
			}
			return nil
		}))
		p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Park }
		before := storetest.CatchUp(t, p, s)
		withoutDefinitions(t, l, prefix)
		storetest.WantErr(t, "before Install", storetest.Second(p.CatchUp(t.Context(), s)), es.ErrNotInstalled)

		stores := make([]*es.Store, 4)
		for i := range stores {
			stores[i] = l.Pool(t, l.DSN, 1).OpenIn(t, prefix, nil)
		}
		for i, err := range storetest.Race(len(stores), func(i int) error { return stores[i].Install(context.Background()) }) {
			if err != nil {
				t.Fatalf("process %d: %v", i, err)
			}
		}
		fields := func(schema string) []string {
			lines := strings.Split(schema, "\n")
			slices.Sort(lines)
			return lines
		}
		if got := l.Schema(t, prefix); !slices.Equal(fields(got), fields(fresh)) {
			t.Errorf("Install makes\n%s\nwant what it makes where there is nothing:\n%s", got, fresh)
		}

		// A runner of the version before has the lease, and gets on.
		until := map[*es.Dialect]string{es.Postgres: "clock_timestamp() + interval '1 hour'", es.MySQL: "UTC_TIMESTAMP(6) + INTERVAL 1 HOUR"}[l.Dialect]
		l.Exec(t, fmt.Sprintf("UPDATE %sprojections SET owner = 'older', epoch = epoch + 1, status = 'running', kind = 'projection', read_model = %s, lease_until = %s WHERE name = 'totals'", prefix, "FALSE", until))
		more := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, es.NewEvent{Payload: storetest.Opened{Owner: "bob"}})
		storetest.SealUpTo(t, s, more[0].Position)
		l.Exec(t, fmt.Sprintf("UPDATE %sprojections SET position = %d, error = '', lease_until = %s WHERE name = 'totals'", prefix, more[0].Position, until))
		l.Exec(t, fmt.Sprintf("INSERT INTO %sprojections (name, position, status, owner, epoch, generation, lease_until, read_model, retry, error) VALUES ('theirs', 0, 'idle', '', 7, 7, %s, FALSE, FALSE, '')", prefix, until))
		if info := storetest.Info(t, s, "totals"); info.Owner != "older" || info.Position != more[0].Position || info.Parked != 1 || info.Version != 1 {
			t.Errorf("Projections shows %+v", info)
		}
		// It has nothing left to do, and the other's lease stands.
		if cp := storetest.CatchUp(t, p, s); cp.State.Events != before.State.Events || cp.Position != more[0].Position {
			t.Errorf("beside the older runner: %+v, was %+v", cp, before)
		}
		// Once the lease is free the first definition is accepted, whatever it wants, and the next are compared.
		l.Exec(t, "UPDATE "+prefix+"projections SET lease_until = '2020-01-01 00:00:00' WHERE name = 'totals'")
		opened := 0
		p.When = append(p.When, es.On(func(*storetest.Totals, storetest.Opened) { opened++ }))
		last := storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, storetest.Deposits(1, 4)...)
		cp := storetest.CatchUp(t, p, s)
		if cp.Position != last[0].Position || opened != 0 {
			t.Errorf("accepted: %+v, %d opened", cp, opened)
		}
		p.When = append(p.When, es.OnAny(func(*storetest.Totals, es.Event) {}))
		storetest.MustAppend(t, s, "accounts", "a", es.AnyVersion, es.NewEvent{Payload: storetest.Raw{Name: "other", Text: "{}"}})
		if cp := storetest.CatchUp(t, p, s); cp.Position <= last[0].Position {
			t.Errorf("wider with nothing passed over: %+v", cp)
		}
		if parked, err := s.ParkedEvents(t.Context(), "totals"); err != nil || len(parked) == 0 || parked[0].Event.Position != evs[2].Position {
			t.Errorf("parked are %+v, %v", parked, err)
		}
		p.Name = "theirs"
		p.OnError = func(context.Context, es.Event, error, int) es.ErrorAction { return es.Skip }
		storetest.CatchUp(t, p, s)
	})
}
