// MySQL and MariaDB: error codes, and what they mean to the store.

package eventstore

import (
	"errors"
	"strings"

	"github.com/go-sql-driver/mysql"
)

// classifyMySQL goes by the server's error numbers.
func classifyMySQL(err error) fault {
	var e *mysql.MySQLError
	if !errors.As(err, &e) {
		switch {
		case errors.Is(err, mysql.ErrInvalidConn):
			return faultLost
		case errors.Is(err, mysql.ErrPktTooLarge):
			return faultPacket
		}
		if errors.As(err, new(interface{ SQLState() string })) {
			return faultForeign
		}
		return classifyConnection(err)
	}
	switch e.Number {
	case 1062, 1242: // ER_DUP_ENTRY; ER_SUBQUERY_NO_1_ROW, which insertMany makes
		return faultTaken
	case 1048: // ER_BAD_NULL_ERROR: insertOne makes it, but so may a trigger
		if strings.Contains(e.Message, "stream_id") {
			return faultTaken
		}
		return faultOther
	case 1105: // ER_UNKNOWN_ERROR, of which this is one: what was sent ahead of a statement is too large
		if strings.Contains(e.Message, "mysql_send_long_data") {
			return faultPacket
		}
	case 1153: // ER_NET_PACKET_TOO_LARGE
		return faultPacket
	case 1205, 1213, 1020, 3572: // lock wait time-out, deadlock, record changed (MariaDB's snapshot isolation), no wait
		return faultRetry
	case 1146, 1054: // no such table, unknown column
		return faultNoTable
	case 1060: // duplicate column name
		return faultHasColumn
	case 1305: // SAVEPOINT does not exist (or a function, whose statement is not understood)
		return faultNoSavepoint
	case 1290, 1836, 3032, 4067, // --read-only and other options; read-only mode; offline mode; MariaDB: read-only
		1021, 1030, 1037, 1038, 1041, 1114, // disk full; storage engine; out of memory; table full
		1040, 1203, 1226, 1047: // too many connections, of the user; resources of the user; not ready (Galera)
		return faultDown
	case 1317, 3024, 1969, 1028: // interrupted; timed out on MySQL, on MariaDB; sort aborted
		return faultEnded
	case 1366, 1364, 1292, 1301: // a value
		return faultOther
	case 1053, 1927, 3169: // shutdown, connection killed, session killed
		return faultLost
	}
	switch string(e.SQLState[:2]) {
	case "28", "3D", "42": // authorization, database, syntax error or access rule violation
		return faultDenied
	case "0A", "21", "22", "23", "45": // features, cardinality, data, constraints, SIGNAL
		return faultOther
	case "08":
		return faultLost
	}
	return faultEnded
}

// violatedMySQL looks for the name of the key, which ends the message in every language of the server, and
// before which MySQL has the table's. MariaDB tells the key alone: PRIMARY is one of every table. An error of
// the guard tells nothing.
func violatedMySQL(table string, err error) (keyOwner, uniqueKey) {
	var e *mysql.MySQLError
	if !errors.As(err, &e) {
		return someKey, keyUnknown
	}
	if e.Number != 1062 {
		return ownKey, keyUnknown // no key, but the guard of an append
	}
	quoted := strings.Split(e.Message, "'")
	if len(quoted) < 3 {
		return someKey, keyUnknown
	}
	key := quoted[len(quoted)-2]
	of, name, tells := strings.Cut(key, ".")
	if tells {
		key = name
	}
	owner := foreignKey
	switch {
	case tells && strings.EqualFold(of, table), !tells && key == "stream_id":
		owner = ownKey
	case !tells && (key == "PRIMARY" || key == "event_id"):
		owner = someKey
	}
	switch {
	case owner == foreignKey:
	case key == "stream_id":
		return owner, keyVersion
	case key == "event_id":
		return owner, keyEventID
	}
	return owner, keyUnknown
}
