// Appends in a caller's transaction on MySQL: what is in the way is found out before the INSERT, because
// one that fails locks the end of the log.

package eventstore

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"
)

const (
	// aheadTime is how long a look ahead may take, with the time until a connection is free.
	aheadTime  = 500 * time.Millisecond
	aheadPause = 10 * time.Second // until the next, after one that was not possible
)

// lookAhead returns errVersion if a row of a is in the way of an append in a caller's transaction.
//
// At repeatable read InnoDB checks the primary key first and stores the row there. When another key then
// refuses it, MySQL turns the removed row's lock into one on the gap where it was. That is the end of the
// log, so every append to the store would wait until the transaction ends. MariaDB gives the lock up, and so
// does MySQL at read committed, but of a caller's transaction the isolation is not known. So nothing may refuse
// the INSERT:
//
//   - The aggregate's last event, as the transaction knows it, is locked. Each append after it has this row
//     locked until its end, at least shared. So none is in flight, and none begins. The transaction waits here
//     for one that is, where a wait locks no gap.
//   - An aggregate that is new has no such row. A look outside of the transaction, which does not wait, finds
//     an append in flight that begins it. The row of that is there to be waited for.
//   - The same look finds what is committed and the transaction's snapshot may not show: the next version, and
//     the IDs of all the events.
//
// What is left: an aggregate that another append begins between the look and the INSERT, an event ID that
// another append stores in that very moment, and a look for which there is no connection. A role that may not
// update events can't lock the last one either: it looks as if the aggregate were new.
func (b *sqlBackend) lookAhead(ctx context.Context, c conn, a *appendRequest, h *appendHint) error {
	var claimed bool
	if h.version > 0 {
		var free bool
		var err error
		if free, claimed, err = b.claimLast(ctx, c, a, h); err != nil || !free {
			return orVersion(err)
		}
	}
	refused, inFlight := b.inTheWay(ctx, a, h, claimed)
	if err := ctx.Err(); err != nil {
		return err
	}
	if inFlight {
		taken, err := c.row(ctx, []any{new(int64)}, b.text.numbered.await, h.stream, a.aggregateID, h.version+1)
		if err != nil {
			return err
		}
		if taken {
			refused = keyVersion
		}
	}
	if refused != keyUnknown {
		a.refused = refused
		return errVersion
	}
	return nil
}

func orVersion(err error) error {
	if err == nil {
		err = errVersion
	}
	return err
}

// claimLast locks the aggregate's last event until the transaction ends, if the role may. It is not free if the
// event is gone, or if the append is a repeated one of this very transaction, which any version would admit: the
// first of its IDs is among the last of the aggregate.
func (b *sqlBackend) claimLast(ctx context.Context, c conn, a *appendRequest, h *appendHint) (free, claimed bool, err error) {
	after := h.version
	if a.expected < 0 {
		const atLeast = 100
		after = max(h.version-max(int64(len(a.rows)), atLeast), 0)
	}
	look := func(text string) error {
		var recent int
		found, err := c.row(ctx, []any{&recent}, text,
			h.stream, a.aggregateID, after, b.dialect.eventID(a.rows[0].id), h.stream, a.aggregateID, h.version)
		free = found && recent == 0
		return err
	}
	text := b.text.numbered
	if now := int64(time.Since(b.ahead.began)); now >= b.ahead.claim.Load() {
		if err = look(text.claim + text.claimLock); b.dialect.classify(err) != faultDenied {
			return free, err == nil, err
		}
		b.ahead.claim.Store(now + int64(aheadPause))
	}
	err = look(text.claim)
	return free, false, err
}

// inTheWay looks outside of the transaction which of an append's keys is taken, or whether an append in flight
// makes the aggregate's next version, which a claimed aggregate has none of. If it can't, the INSERT finds out.
func (b *sqlBackend) inTheWay(ctx context.Context, a *appendRequest, h *appendHint, claimed bool) (refused uniqueKey, inFlight bool) {
	now := int64(time.Since(b.ahead.began))
	if now < b.ahead.due.Load() {
		return keyUnknown, false
	}
	if st := b.db.Stats(); st.MaxOpenConnections > 0 && st.InUse >= st.MaxOpenConnections {
		return keyUnknown, false
	}
	limited, cancel := context.WithTimeout(ctx, aheadTime)
	defer cancel()
	outside := conn{b: &sqlBackend{sqlShared: b.sqlShared}}
	text := b.text.numbered.ahead
	if !claimed {
		text += b.text.numbered.aheadNoWait
	}
	text += b.text.numbered.aheadIDs
	for rows := a.rows; len(rows) > 0 && refused == keyUnknown; {
		part := rows[:min(len(rows), maxAhead)]
		rows = rows[len(part):]
		args := []any{h.stream, a.aggregateID, h.version + 1}
		for i := range part {
			args = append(args, b.dialect.eventID(part[i].id))
		}
		err := outside.query(limited, func(r *sql.Rows) error {
			var key uniqueKey
			err := r.Scan(&key)
			if refused != keyVersion {
				refused = key
			}
			return err
		}, text+strings.TrimSuffix(strings.Repeat("?, ", len(part)), ", ")+b.text.numbered.aheadTail, args...)
		switch {
		case err == nil:
		case b.dialect.classify(err) == faultRetry && !errors.Is(err, context.DeadlineExceeded):
			return keyUnknown, true
		default:
			b.ahead.due.Store(now + int64(aheadPause))
			return keyUnknown, false
		}
	}
	return refused, false
}

// maxAhead is how many event IDs one look is about.
const maxAhead = 1000
