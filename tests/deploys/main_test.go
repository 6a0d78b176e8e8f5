package deploys_test

import (
	"flag"
	"os"
	"testing"

	"example.com/eventstore/internal/storetest"
)

var (
	deploysFlag = flag.Int("deploys", 0, "rolling deploys of each store; 0: a few")
	seedFlag    = flag.Uint64("seed", 0, "seed of the first deploy, the next ones have those after it; 0: a new one")
)

// TestMain runs the tests, or a member of a deploy.
func TestMain(m *testing.M) {
	if text := os.Getenv(memberVariable); text != "" {
		os.Exit(memberMain(text))
	}
	storetest.Main(m)
}
