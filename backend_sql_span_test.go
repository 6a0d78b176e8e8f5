package eventstore_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// TestAppendsLockTheirStream runs each form of an append on MySQL and MariaDB in a transaction, at all
// isolation levels: the stream's row is locked until its end, on which it rests that sealing may pass over
// spans of positions.
func TestAppendsLockTheirStream(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		if l.Dialect != es.MySQL {
			return // there it rests on the lock of the table
		}
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "accounts", "others")
		l.Fill(t, prefix, 50_000, 1000)
		storetest.MustAppend(t, s, "others", "any", es.AnyVersion, storetest.Deposits(7, 1)...)
		for what, st := range es.Statements(s) {
			switch what {
			case "append", "first append", "append of several", "first append of several", "append in a transaction",
				"append of several in a transaction", "several appends":
			default:
				continue
			}
			for _, level := range []sql.IsolationLevel{sql.LevelReadUncommitted, sql.LevelReadCommitted, sql.LevelRepeatableRead, sql.LevelSerializable} {
				t.Run(fmt.Sprint(what, " at ", level), func(t *testing.T) {
					tx, err := l.DB.BeginTx(context.WithoutCancel(t.Context()), &sql.TxOptions{Isolation: level})
					if err != nil {
						t.Fatal(err)
					}
					defer func() { _ = tx.Rollback() }()
					if _, err := tx.Exec(st.Text, st.Args...); err != nil {
						// The first version of "big" is taken, which is found out after the number is.
						t.Log(err)
					}
					var id int64
					if err := l.DB.QueryRow("SELECT id FROM " + prefix + "streams WHERE id = 1 FOR UPDATE NOWAIT").Scan(&id); err == nil {
						t.Error("the stream can be locked while an append to it is in flight")
					}
				})
			}
		}
	})
}
