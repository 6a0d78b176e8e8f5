package documents_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// memberVariable makes a process of the test binary one that keeps documents.
const memberVariable = "EVENTSTORE_TEST_DOCUMENTS"

// member is what such a process is told.
type member struct{ Driver, DSN, Prefix string }

func (m *member) run() error {
	db, err := sql.Open(m.Driver, m.DSN)
	if err != nil {
		return err
	}
	dialect := es.Postgres
	if m.Driver == "mysql" {
		dialect = es.MySQL
	}
	s, err := es.Open(db, dialect, &es.Options{TablePrefix: m.Prefix})
	if err != nil {
		return err
	}
	return files(1+rand.N(1000)>>rand.N(10)).Run(context.Background(), s)
}

// memberMain is the main program of such a process. It ends with its parent.
func memberMain(text string) int {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	var m member
	err := json.Unmarshal([]byte(text), &m)
	if err == nil {
		err = m.run()
	}
	fmt.Fprintln(os.Stderr, "member:", err)
	return 1
}

// start starts a process. The function that it returns kills the process, and reports whether it was still there.
func (m *member) start() (kill func() bool, err error) {
	text, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), memberVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() bool {
		_ = cmd.Process.Kill() // it may have ended by itself, which the exit code tells
		_ = cmd.Wait()
		return cmd.ProcessState.ExitCode() == -1
	}, nil
}

// TestKilledProcesses compares documents with a map, while four processes keep them that are killed from one moment
// to the next.
func TestKilledProcesses(t *testing.T) {
	storetest.ForEachKind(t, func(t *testing.T, l storetest.Lane) {
		seed := rand.Uint64()
		t.Log("seed", seed)
		s, prefix := l.OpenPrefixed(t)
		storetest.CreateStream(t, s, "accounts")
		m := &member{l.Driver, l.DSN, prefix}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var members sync.WaitGroup
		var kills, ended int
		var mu sync.Mutex
		for range 4 {
			members.Go(func() {
				for ctx.Err() == nil {
					kill, err := m.start()
					if err != nil {
						t.Error(err)
						return
					}
					_ = storetest.Pause(ctx, 200*time.Millisecond+rand.N(time.Second))
					alive := kill()
					mu.Lock()
					if kills++; !alive {
						ended++
					}
					mu.Unlock()
				}
			})
		}
		write(t, s, seed, 3*time.Second)
		cancel()
		members.Wait()
		position := storetest.Info(t, s, "files").Position
		t.Logf("%d processes killed, at position %d", kills, position)
		if position == 0 || ended > 0 {
			t.Errorf("the processes have come to position %d, and %d have ended by themselves", position, ended)
		}
		if _, err := files(100).CatchUp(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		compare(t, s, files(0))
	})
}
