// The backend that stands in where there is none.

package eventstore

import (
	"context"
	"database/sql"
	"io"
	"time"
)

// brokenBackend fails every call with the same error: it stands in where there is no backend, and
// no call to say so in time.
type brokenBackend struct{ err error }

func (b *brokenBackend) install(context.Context) error { return b.err }

func (b *brokenBackend) writeSchema(io.Writer) error { return b.err }

func (b *brokenBackend) withTx(*sql.Tx) backend { return b }

func (b *brokenBackend) beginTx(context.Context) (callerTx, error) { return nil, b.err }

func (b *brokenBackend) createStream(context.Context, string, []byte, string, time.Time) (bool, error) {
	return false, b.err
}

func (b *brokenBackend) streamEmitter(context.Context, string) (*string, bool, error) {
	return nil, false, b.err
}

func (b *brokenBackend) disownStream(context.Context, string) error { return b.err }

func (b *brokenBackend) deleteStream(context.Context, string) (bool, error) { return false, b.err }

func (b *brokenBackend) hasStream(context.Context, string) (bool, error) { return false, b.err }

func (b *brokenBackend) streams(context.Context, string) ([]streamRow, error) {
	return nil, b.err
}

func (b *brokenBackend) setStreamMetadata(context.Context, string, []byte) (bool, error) {
	return false, b.err
}

func (b *brokenBackend) deleteAggregate(context.Context, string, string) (bool, int64, error) {
	return false, 0, b.err
}

func (b *brokenBackend) readSnapshot(context.Context, string, string, int64, int) ([]record, bool, error) {
	return nil, false, b.err
}

func (b *brokenBackend) saveSnapshot(context.Context, *snapshot) error { return b.err }

func (b *brokenBackend) append(context.Context, *appendRequest) error { return b.err }

func (b *brokenBackend) diagnose(context.Context, *appendRequest) (conflictCause, error) {
	return conflictCause{}, b.err
}

func (b *brokenBackend) seal(context.Context) (Position, bool, error) { return 0, true, b.err }

func (b *brokenBackend) readPage(context.Context, *page) ([]record, bool, error) {
	return nil, false, b.err
}

func (b *brokenBackend) readAggregate(context.Context, string, string, int64, int) ([]record, bool, error) {
	return nil, false, b.err
}

func (b *brokenBackend) lastPosition(context.Context) (Position, error) { return 0, b.err }

func (b *brokenBackend) createProjection(context.Context, string, Position, Position) error {
	return b.err
}

func (b *brokenBackend) definition(context.Context, string) (*definition, error) { return nil, b.err }

func (b *brokenBackend) define(context.Context, string, int64, *definition) (bool, error) {
	return false, b.err
}

func (b *brokenBackend) rebuild(context.Context, string, int64, *wantedSet, Position) (bool, error) {
	return false, b.err
}

func (b *brokenBackend) noteLooks(context.Context, string, int64, *definition) error {
	return b.err
}

func (b *brokenBackend) verdicts(context.Context, string) (map[Position]controlKind, error) {
	return nil, b.err
}

func (b *brokenBackend) projections(context.Context) ([]ProjectionInfo, error) { return nil, b.err }

func (b *brokenBackend) stats(context.Context) (Stats, error) { return Stats{}, b.err }

func (b *brokenBackend) projection(context.Context, string) (projectionRow, bool, error) {
	return projectionRow{}, false, b.err
}

func (b *brokenBackend) takeLease(context.Context, *projectionRow, leaseClaim) (bool, error) {
	return false, b.err
}

func (b *brokenBackend) renewLease(context.Context, string, int64, time.Duration) (bool, error) {
	return false, b.err
}

func (b *brokenBackend) releaseLease(context.Context, string, string, ProjectionStatus, string) error {
	return b.err
}

func (b *brokenBackend) noteError(context.Context, string, int64, string) error { return b.err }

func (b *brokenBackend) control(context.Context, string, control) (found, changed bool, err error) {
	return false, false, b.err
}

func (b *brokenBackend) parked(context.Context, string) ([]parkedRow, error) { return nil, b.err }

func (b *brokenBackend) document(context.Context, string, string) (documentRow, bool, runnerKind, error) {
	return documentRow{}, false, "", b.err
}

func (b *brokenBackend) documents(context.Context, *documentPage) ([]documentRow, bool, error) {
	return nil, false, b.err
}

func (b *brokenBackend) begin(context.Context) backendTx { return nil }
