// Postgres: error codes, and what they mean to the store.

package eventstore

import (
	"errors"
	"strings"

	"github.com/go-sql-driver/mysql"
)

// classifyPostgres goes by SQLSTATE, which pgx's and lib/pq's errors both tell.
func classifyPostgres(err error) fault {
	var coded interface{ SQLState() string }
	if !errors.As(err, &coded) {
		if errors.As(err, new(*mysql.MySQLError)) {
			return faultForeign
		}
		return classifyConnection(err)
	}
	switch coded.SQLState() {
	case "23505": // unique_violation
		return faultTaken
	case "22012": // division_by_zero
		return faultBelow
	case "40001", "40P01", "55P03": // serialization_failure, deadlock_detected, lock_not_available
		return faultRetry
	case "25P02": // in_failed_sql_transaction
		return faultAborted
	case "42P01", "42703", "3F000": // undefined_table, undefined_column, invalid_schema_name
		return faultNoTable
	case "3B001", "25P01": // invalid_savepoint_specification, no_active_sql_transaction
		return faultNoSavepoint
	case "25006": // read_only_sql_transaction
		return faultDown
	case "57P01", "57P02", "57P03", "57P05", "25P03", "25P04":
		// shutdown, crash, not ready; idle session, idle transaction, transaction timed out
		return faultLost
	}
	switch class := coded.SQLState()[:min(2, len(coded.SQLState()))]; class {
	case "08": // connection exception
		return faultLost
	case "53", "58": // insufficient resources, system error
		return faultDown
	case "28", "3D", "42": // authorization, catalog name, syntax error or access rule violation
		return faultDenied
	case "0A", "20", "21", "22", "23", "27", "2F", "38", "39", "44", "P0":
		return faultOther // of the statement's data, its functions or its triggers
	}
	return faultEnded
}

// violatedPostgres looks for the name of the constraint, which begins with that of the table. Of a long
// name the server cuts both the table's and the columns'. A table that was renamed has constraints of
// the old name, so that another name tells nothing.
func violatedPostgres(table string, err error) (keyOwner, uniqueKey) {
	key := strings.ToLower(table) + "_"
	if strings.Contains(err.Error(), key[:min(len(key), 24)]) {
		return ownKey, keyUnknown
	}
	return someKey, keyUnknown
}
