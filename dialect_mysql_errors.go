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

// violatedMySQL looks for the name of the key, before which MySQL has the table's. MariaDB tells the key
// alone: PRIMARY is one of every table. An error of the guard tells nothing.
func violatedMySQL(table string, err error) keyOwner {
	var e *mysql.MySQLError
	if !errors.As(err, &e) {
		return someKey
	}
	if e.Number != 1062 {
		return ownKey // no key, but the guard of an append
	}
	quoted := strings.Split(e.Message, "'")
	if len(quoted) < 3 {
		return someKey
	}
	key := quoted[len(quoted)-2]
	of, _, tells := strings.Cut(key, ".")
	switch {
	case tells && !strings.EqualFold(of, table):
		return foreignKey
	case tells || key == "stream_id":
		return ownKey
	case key == "PRIMARY" || key == "event_id":
		return someKey
	}
	return foreignKey
}

// mysqlKey goes by the name of the key in the message of ER_DUP_ENTRY, which ends it in every language
// of the server. MySQL puts the table's name before it.
func mysqlKey(err error) uniqueKey {
	var e *mysql.MySQLError
	if !errors.As(err, &e) || e.Number != 1062 {
		return keyUnknown
	}
	parts := strings.Split(e.Message, "'")
	if len(parts) < 3 {
		return keyUnknown
	}
	_, key, found := strings.Cut(parts[len(parts)-2], ".")
	if !found {
		key = parts[len(parts)-2]
	}
	switch key {
	case "stream_id":
		return keyVersion
	case "event_id":
		return keyEventID
	}
	return keyUnknown
}
