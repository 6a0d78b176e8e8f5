// Package eventstore is an event store for services that already have a [database/sql.DB], on
// Postgres, MySQL or MariaDB, with a store in memory that answers the same in their tests.
//
// # Types
//
// A [Store] keeps events in named streams. Each event belongs to an aggregate, whose versions
// count from 1 without holes, and has a [Position] in the order of the whole store.
//
// A [Payload] is the application's own struct, which names itself. An [Aggregate] says how
// payloads, taken by [Fold] functions, become a state to decide on; a [Root] is one such state
// in memory.
//
// A [Selection] picks events by stream, category and [Match], for what reads them:
//
//   - [Store.Read] returns them.
//   - A [Query] folds them into a state whenever it is run.
//   - A [Projection] keeps its state, or tables (a [ReadModel]), up to date and remembers how far it is.
//   - [Documents] do the same with a state for each key, which is found by key or label.
//   - A [Relay] hands them on to a broker.
//
// # Order
//
// A database hands out positions before transactions commit: the event at position 8 can be there
// while that at 7 is still to come, and a reader that remembers 8 as its last would never see 7.
// The sealed position is the one up to which nothing can come any more, since every position holds
// an event by now or, where a transaction was rolled back, a gap row that nobody sees. Whatever
// follows the log reads up to there and no further.
//
// # Basics
//
// Open a store over the service's own pool, install its tables, make a stream:
//
//	store, err := eventstore.Open(db, eventstore.Postgres, nil)
//	err = store.Install(ctx)
//	err = store.CreateStream(ctx, "accounts", nil)
//
// Then let an aggregate decide and record, as in the package's example, or use [Store.Append] and
// [Store.Read] directly. [Store.Transact] runs a transaction over several aggregates, and [Store.WithTx] puts
// appends into the service's own.
//
// Run projections beside the service's other work, in as many processes as there are: one of them
// does it, the others stand by.
//
//	go balances.Run(ctx, store)
//	err = balances.Wait(ctx, store, stored[len(stored)-1].Position) // read your writes
//
// In tests [NewMemStore] takes the database's place, with nothing else changed, and package
// eventstoretest has given, when, then.
//
// # Guarantees
//
//   - An append stores all of its events or none, in a caller's transaction too. Of appends that race on one version exactly one
//     succeeds; the others get a [*ConflictError], never an error of the driver.
//   - Repeating an append with the same event IDs changes nothing, so one whose answer was lost
//     can be repeated.
//   - Appends never wait for each other unless they touch the same aggregate. On MySQL and MariaDB
//     there are exceptions for transactions of the caller's, which [Store.WithTx] lists.
//   - The sealed position only grows, and no event ever appears at or below it. Projections,
//     relays, subscriptions and reads with [ReadOptions].Sealed read only sealed events, so none of
//     them ever misses one, with any number of writers, long transactions, rollbacks and crashes.
//   - A projection's state, its rows, the events it emits and its position commit together, or not
//     at all: each event counts once. So do documents, their labels and their position. A runner
//     that has been replaced can't commit any more.
//   - A projection owns the stream that its [Step.Emit] has created. Resetting or deleting a projection
//     or a relay deletes no other stream, whatever its name.
//   - A relay publishes each event at least once, and in order.
//   - Payloads come back byte for byte, integers with all their digits, times to the microsecond
//     in UTC.
//   - All stores answer alike. What a filter means is defined in Go; SQL only narrows the rows.
//   - The store never closes the caller's pool, never ends the caller's transaction (but for one in
//     which part of a failed append can't be undone: see [Store.WithTx]), starts no goroutine
//     outside a running call, writes no log unless given one, and keeps no global state.
//   - No value becomes part of a statement's text.
//
// # Caveats
//
// A connection that breaks during an append leaves open whether it was stored. Give events their
// IDs and repeat: [Root.Record] gives them, for [Aggregate.Save]; [Root.RecordEvent] takes those
// that have to outlive the process, such as a client's, for [Aggregate.Execute].
//
// On MySQL the time of recording is the database's clock as it was last asked, at most a minute
// ago, carried on by the process's. On Postgres it is that of the statement.
//
// A transaction that has appended holds the sealed position up until it ends: projections wait for
// it, other appends don't. Keep such transactions short; [Store.Stats] and [Options].Logger tell of
// one that is not.
//
// An effect that leaves the database's transaction (a mail, a call) can come about twice, as the
// batch it is part of can be handled again.
//
// Streams are few and made on purpose; aggregates are many and begin with their first event. Give
// each kind of aggregate a stream, not each aggregate.
package eventstore
