package eventstore_test

import (
	"context"
	"testing"

	es "example.com/eventstore"
)

// TestRunnerOfDeleted has a projection deleted and begun anew, by another process, while its runner
// is in a handler: the runner can't write into its successor's row, and ends.
func TestRunnerOfDeleted(t *testing.T) {
	forEachLane(t, func(t *testing.T, l lane) {
		if l.db != nil && l.db.Stats().MaxOpenConnections == 1 {
			return // two processes would not share a connection
		}
		s, other := l.openTwice(t)
		createStream(t, s, "accounts")
		stored := mustAppend(t, s, "accounts", "a", es.AnyVersion, events(3, 1)...)
		handling, goOn := make(chan struct{}), make(chan struct{})
		old := totalsOf("again", es.Do(func(_ context.Context, step *es.Step[totals], e deposited) error {
			if step.Event.Version == 1 {
				close(handling)
				<-goOn
			}
			step.State.Names = append(step.State.Names, "old")
			return nil
		}))
		done := make(chan error, 1)
		go func() { done <- old.Run(t.Context(), s) }()
		<-handling
		p := totalsOf("again")
		if err := p.Delete(t.Context(), other, false); err != nil {
			t.Fatal(err)
		}
		end := running(t, p, other)
		if err := p.Wait(t.Context(), other, stored[2].Position); err != nil {
			t.Fatal(err)
		}
		close(goOn)
		eventually(t, "the old runner to end", func() bool {
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("the old runner returned %v, want nil", err)
				}
				return true
			default:
				return false
			}
		})
		if cp, err := p.Load(t.Context(), s); err != nil || cp.State.Events != 3 || len(cp.State.Names) != 0 {
			t.Errorf("loaded %+v (%v), want nothing of the old runner", cp, err)
		}
		_ = end()
	})
}
