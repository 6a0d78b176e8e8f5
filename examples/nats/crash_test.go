package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// victimVariable makes a process of the test binary a relay that kills itself.
const victimVariable = "EVENTSTORE_NATS_VICTIM"

type victimTask struct {
	Driver, DSN, Prefix, NATS string
	Published                 int
}

// crash runs a relay that publishes some events and dies before the store has noted it: a process
// of its own, by SIGKILL; on memory, which no other process can share, a run that is cut short.
func crash(t *testing.T, l storetest.Lane, s *eventstore.Store, b *broker, prefix string, published int) {
	t.Helper()
	if l.DB == nil {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		relay := testRelay(b.connect(t))
		dying(relay, published, cancel)
		if err := relay.Run(ctx, s); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		return
	}
	task, err := json.Marshal(victimTask{l.Driver, l.DSN, prefix, b.url, published})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), victimVariable+"="+string(task))
	out, err := cmd.CombinedOutput()
	exit := (*exec.ExitError)(nil)
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the relay ended with %v, want SIGKILL: %s", err, out)
	}
}

// dying has a relay die after so many events.
func dying(relay *eventstore.Relay, published int, die func()) {
	publish := relay.Publish
	relay.Publish = func(ctx context.Context, events []eventstore.Event) error {
		err := publish(ctx, events[:min(published, len(events))])
		if err == nil {
			die()
			<-ctx.Done()
			err = ctx.Err()
		}
		return err
	}
}

// victim is the main program of a relay that kills itself.
func victim() int {
	var task victimTask
	err := json.Unmarshal([]byte(os.Getenv(victimVariable)), &task)
	if err == nil {
		err = task.run()
	}
	fmt.Println(err)
	return 1
}

func (task *victimTask) run() error {
	db, err := sql.Open(task.Driver, task.DSN)
	if err != nil {
		return err
	}
	dialect := eventstore.Postgres
	if task.Driver == "mysql" {
		dialect = eventstore.MySQL
	}
	s, err := eventstore.Open(db, dialect, &eventstore.Options{TablePrefix: task.Prefix})
	if err != nil {
		return err
	}
	_, js, err := connect(task.NATS)
	if err != nil {
		return err
	}
	relay := testRelay(js)
	dying(relay, task.Published, func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) })
	return relay.Run(context.Background(), s)
}
