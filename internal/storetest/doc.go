// Package storetest runs tests on every store, and holds what these tests share.
//
// A store, or one way to be connected to it, is a [Lane]. [Main] opens the lanes: it starts
// throw-away servers, connects to them in all the ways to be tested, and stops them after the
// tests. DSNs in the environment replace the servers:
//
//	EVENTSTORE_TEST_POSTGRES  a PostgreSQL
//	EVENTSTORE_TEST_MYSQL     a MariaDB or MySQL
//	EVENTSTORE_TEST_MYSQL9    a MySQL, for lanes of its own
//
// With the flag -memory there is the lane of the memory store alone.
//
// A test takes its lanes with [ForEachStore], [ForEachLane], [ForEachDatabase] or [ForEachKind]. Tables
// get a prefix for each test and are dropped after it.
//
// The tests' domain is bank accounts: [Opened], [Deposited], [Accounts].
package storetest
