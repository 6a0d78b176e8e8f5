package storetest

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

// laneVariable makes a process of the test binary one that ForEachProcess has started: it has this
// lane alone.
const laneVariable = "EVENTSTORE_TEST_LANE"

// ForEachProcess is like ForEach for a test that looks at the whole process, at its goroutines or its
// memory. On each lane it runs in a process of its own, on up to SomeLanes of them at once.
func ForEachProcess(t *testing.T, wanted func(Lane) bool, test func(t *testing.T, l Lane)) {
	t.Helper()
	ForEach(t, SomeLanes, wanted, func(t *testing.T, l Lane) {
		if os.Getenv(laneVariable) != "" {
			test(t, l)
			return
		}
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		args := []string{"-test.run=^" + topLevel(t.Name()) + "$/^" + l.Name + "$", "-test.v"}
		if deadline, ok := t.Deadline(); ok {
			args = append(args, fmt.Sprint("-test.timeout=", time.Until(deadline)))
		}
		if testing.Short() {
			args = append(args, "-test.short")
		}
		if MemoryOnly() {
			args = append(args, "-memory")
		}
		cmd := exec.CommandContext(t.Context(), self, args...)
		cmd.Env = append(os.Environ(), laneVariable+"="+l.Name)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("in a process of its own: %v\n%s", err, out)
		} else {
			t.Logf("in a process of its own:\n%s", out)
		}
	})
}

// topLevel returns the name of the test that a subtest is a part of.
func topLevel(name string) string {
	for i, r := range name {
		if r == '/' {
			return name[:i]
		}
	}
	return name
}

// keepLane leaves only the lane that laneVariable names, if it names one.
func keepLane() error {
	name := os.Getenv(laneVariable)
	if name == "" {
		return nil
	}
	lanes = slices.DeleteFunc(lanes, func(l Lane) bool {
		drop := l.Name != name
		if drop && l.DB != nil {
			_ = l.DB.Close()
		}
		return drop
	})
	if len(lanes) != 1 {
		return fmt.Errorf("%s names no lane: %s", laneVariable, name)
	}
	return nil
}
