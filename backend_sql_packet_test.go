package eventstore

import (
	"database/sql"
	"errors"
	"io"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"
)

// TestStatementLimit keeps within a limit that no setting tells, as Postgres has it, without a
// connection: what is too large is refused before anything is sent.
func TestStatementLimit(t *testing.T) {
	const most = 1 << 20
	small := *Postgres
	small.maxPacket = most
	b := newSQLBackend(sql.OpenDB(unconnected{io.ErrUnexpectedEOF}), &small, "es_", slog.New(slog.DiscardHandler))
	b.settings.passed.Store(time.Now().UnixNano())
	b.sealer.floorDue.Store(math.MaxInt64)
	row := func(n int) record { return record{data: make([]byte, n), metadata: noMetadata} }
	for _, n := range []int{most, most - packetSlack} {
		a := &appendRequest{stream: "accounts", aggregateID: "a", lastEvent: lastEvent{expected: AnyVersion}, rows: []record{row(20), row(n)}}
		if err := b.append(t.Context(), a); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "event 1") || !strings.Contains(err.Error(), "1048576") {
			t.Errorf("%d bytes: append says %v, want ErrInvalid with event 1 and the limit", n, err)
		}
	}
	if err := b.saveSnapshot(t.Context(), &snapshot{state: make([]byte, most)}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "save snapshot") {
		t.Errorf("a snapshot: %v, want ErrInvalid", err)
	}
	chunks, err := b.chunks(t.Context(), []record{row(most / 2), row(most / 2), row(10), row(most - 3*packetSlack)})
	if err != nil {
		t.Fatal(err)
	}
	var rows int
	for _, c := range chunks {
		bytes := 0
		for i := range c {
			bytes += c[i].sizeInStatement()
		}
		if rows += len(c); bytes > most {
			t.Errorf("a chunk has %d bytes, want at most %d", bytes, most)
		}
	}
	if rows != 4 {
		t.Errorf("%d rows in chunks, want 4", rows)
	}
}

// TestGroupLimit cuts groups by what the server takes.
func TestGroupLimit(t *testing.T) {
	b := newSQLBackend(sql.OpenDB(unconnected{io.ErrUnexpectedEOF}), MySQL, "es_", slog.New(slog.DiscardHandler))
	if n := b.groupCommit.mostBytes(); n != maxGroupBytes {
		t.Errorf("while nothing is known a group has up to %d bytes, want %d", n, maxGroupBytes)
	}
	b.limit.server.Store(512 << 10)
	if n := b.groupCommit.mostBytes(); n > 256<<10 || n < 200<<10 {
		t.Errorf("where a packet has 512 KiB a group has up to %d bytes, want about half", n)
	}
}
