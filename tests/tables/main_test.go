package tables_test

import (
	"testing"

	"example.com/eventstore/internal/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }
