package layers_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"example.com/eventstore/internal/layers"
)

const root = "../.."

var (
	rows     = regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|")
	names    = regexp.MustCompile("`([a-z_]+\\.go)`")
	upwards  = regexp.MustCompile("(?m)^- `([a-z_]+\\.go)` → `([a-z_]+\\.go)`: ")
	maxLines = 450
)

// contributing returns the files in the order of CONTRIBUTING's table, and the arrows that it names
// as exceptions.
func contributing(t *testing.T) (order []string, exceptions []layers.Arrow) {
	t.Helper()
	text, err := os.ReadFile(root + "/CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## Where things live\n")
	if !found {
		t.Fatal(`CONTRIBUTING.md has no section "Where things live"`)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for _, row := range rows.FindAllStringSubmatch(section, -1) {
		for _, name := range names.FindAllStringSubmatch(row[1], -1) {
			order = append(order, name[1])
		}
	}
	for _, arrow := range upwards.FindAllStringSubmatch(section, -1) {
		exceptions = append(exceptions, layers.Arrow{From: arrow[1], To: arrow[2]})
	}
	return order, exceptions
}

// TestLayers holds what CONTRIBUTING says of the files: each stands in its table, and knows only
// those above it, but for the exceptions that are named there.
func TestLayers(t *testing.T) {
	order, exceptions := contributing(t)
	arrows, files, err := layers.Arrows(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !slices.Contains(order, file) {
			t.Errorf("CONTRIBUTING's table lacks %s", file)
		}
	}
	for i, file := range order {
		if !slices.Contains(files, file) {
			t.Errorf("CONTRIBUTING's table has %s, which is not there", file)
		}
		if slices.Index(order, file) != i {
			t.Errorf("CONTRIBUTING's table has %s twice", file)
		}
	}
	for _, arrow := range arrows {
		up := slices.Index(order, arrow.From) < slices.Index(order, arrow.To)
		switch named := slices.Contains(exceptions, arrow); {
		case up && !named:
			t.Errorf("%s knows %s, which stands below it in CONTRIBUTING's table", arrow.From, arrow.To)
		case !up && named:
			t.Errorf("CONTRIBUTING names %v as an exception, which is none", arrow)
		}
	}
	for _, arrow := range exceptions {
		if !slices.Contains(arrows, arrow) {
			t.Errorf("CONTRIBUTING names %v as an exception, which is not there", arrow)
		}
	}
	if most := 15; len(exceptions) > most {
		t.Errorf("%d exceptions, want at most %d", len(exceptions), most)
	}
}

// TestFileSizes keeps files small enough to be about one thing.
func TestFileSizes(t *testing.T) {
	order, _ := contributing(t)
	for _, file := range order {
		text, err := os.ReadFile(root + "/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), "\n"); n > maxLines {
			t.Errorf("%s has %d lines, want at most %d: which second subject has moved in?", file, n, maxLines)
		}
	}
}
