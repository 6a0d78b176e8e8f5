package apicheck

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	root     = "../.."
	recorded = root + "/testdata/api.txt"      // as it is
	released = root + "/testdata/api-base.txt" // as of the last release
)

var update = flag.Bool("update", false, "write "+recorded+" anew")

// current returns the API of the module's public packages.
func current(t *testing.T) []string {
	t.Helper()
	lines, err := API(root, "")
	if err != nil {
		t.Fatal(err)
	}
	more, err := API(root+"/eventstoretest", "eventstoretest.")
	if err != nil {
		t.Fatal(err)
	}
	return append(lines, more...)
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestAPI compares the exported API with its record, so that it never changes by accident.
func TestAPI(t *testing.T) {
	now := current(t)
	if *update {
		if err := os.WriteFile(recorded, []byte(strings.Join(now, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	before, _ := Base(read(t, recorded))
	for _, line := range before {
		if !slices.Contains(now, line) {
			t.Errorf("gone: %s", line)
		}
	}
	for _, line := range now {
		if !slices.Contains(before, line) {
			t.Errorf("new: %s", line)
		}
	}
	if t.Failed() {
		t.Errorf("the API is not as recorded: if that is meant, run make api, and name what changes in the changelog")
	}
}

// TestChangelog finds what has changed since the last release named in the changelog.
func TestChangelog(t *testing.T) {
	section, last := Unreleased(read(t, root+"/CHANGELOG.md"))
	before, release := Base(read(t, released))
	if release != last {
		t.Fatalf("%s is the API of %q, and the last release in the changelog is %q: a release copies %s there, below a first line of # and its version", released, release, last, recorded)
	}
	now, _ := Base(read(t, recorded))
	for _, name := range Unnamed(Changed(before, now), section) {
		t.Errorf("the Unreleased section of CHANGELOG.md does not name %s, which is new, changed or gone", name)
	}
}

// TestAPILines reads a package that has one of everything.
func TestAPILines(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.com/shop\n\ngo 1.25.0\n",
		"shop.go": `package shop

import ("context"; "errors"; "time")

type Status int

const (
	Open Status = iota
	Paid
	hidden
)

const Greeting = "hello"

var ErrSold = errors.New("sold")
var Default, other = &Order[int]{}, 1

type Order[T any] struct {
	ID, Customer string
	Due          time.Time
	total        T
}

func (o *Order[T]) Total(ctx context.Context, opts ...func(total T, depth int) bool) (sum T, err error) { return o.total, nil }
func (o *Order[T]) add() {}

type Plain struct {
	N int
	*Order[int]
	time.Time
}

type Shop interface {
	Sell(ctx context.Context, a, b string) error
	close()
}

type When = time.Time
type Prices map[string]int

func New[T any, S interface{ ~int }](first, second T) *Order[T] { return nil }
func private() {}
`,
		"shop_test.go": "package shop\n\nfunc InTest() {}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := API(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"Default var *Order[int]",
		"ErrSold var error",
		`Greeting const untyped string = "hello"`,
		"New func[T any, S interface{ ~int }](T, T) *Order[T]",
		"Open const Status = 0",
		"Order type [T any] struct with unexported fields",
		"Order.Customer field string",
		"Order.Due field time.Time",
		"Order.ID field string",
		"Order.Total method (*Order[T]) func(context.Context, ...func(T, int) bool) (T, error)",
		"Paid const Status = 1",
		"Plain type struct",
		"Plain.N field int",
		"Plain.Order embedded *Order[int]",
		"Plain.Time embedded time.Time",
		"Prices type map[string]int",
		"Shop type interface with unexported methods",
		"Shop.Sell method func(context.Context, string, string) error",
		"Status type int",
		"When type = time.Time",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the API is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestChanged shows that no change of a line passes unnoticed, nor a changelog that does not name it.
func TestChanged(t *testing.T) {
	before := []string{
		"Order type struct",
		"Order.ID field string",
		"Order.Pay method (*Order) func() error",
		"Paid const Status = 1",
		"Shop type struct",
		"Shop.Name field string",
	}
	without := func(name string) []string {
		return slices.DeleteFunc(slices.Clone(before), func(line string) bool { return identifier(line) == name })
	}
	with := func(lines []string, more ...string) []string { return append(slices.Clone(lines), more...) }
	for _, test := range []struct {
		what    string
		after   []string
		changed []string
	}{
		{"nothing", before, nil},
		{"order of lines", with(before[1:], before[0]), nil},
		{"a function", with(before, "New func() *Order"), []string{"New"}},
		{"a method", with(before, "Order.Ship method (*Order) func()"), []string{"Order.Ship"}},
		{"a field", with(before, "Order.Due field time.Time"), []string{"Order.Due"}},
		{"a new type stands for its members", with(before, "Stats type struct", "Stats.Sold field int"), []string{"Stats"}},
		{"a signature", with(without("Order.Pay"), "Order.Pay method (*Order) func(int) error"), []string{"Order.Pay"}},
		{"a constant's value", with(without("Paid"), "Paid const Status = 2"), []string{"Paid"}},
		{"unexported fields", with(without("Order"), "Order type struct with unexported fields"), []string{"Order"}},
		{"a type's kind does not stand for its members", with(without("Shop")[:4], "Shop type interface", "Shop.Name method func() string"), []string{"Shop", "Shop.Name"}},
		{"a method that is gone", without("Order.Pay"), []string{"Order.Pay"}},
		{"a type that is gone", before[:4], []string{"Shop"}},
	} {
		got := Changed(before, test.after)
		if !slices.Equal(got, test.changed) {
			t.Errorf("%s: changed is %q, want %q", test.what, got, test.changed)
		}
		for _, name := range got {
			if un := Unnamed([]string{name}, "- Sells faster, and reads `MyOrder.Ship2`."); len(un) != 1 {
				t.Errorf("%s: a changelog that does not name %s passes", test.what, name)
			}
			if un := Unnamed([]string{name}, "- `"+name+"`, at last."); len(un) != 0 {
				t.Errorf("%s: a changelog that names %s does not pass", test.what, name)
			}
		}
	}
}

func TestUnnamed(t *testing.T) {
	for _, test := range []struct {
		name, text string
		named      bool
	}{
		{"Order", "`Order`: an order", true},
		{"Order", "An Order.", true},
		{"Order", "`Order.Pay` takes an amount", false}, // the method's line, not the type's
		{"Order", "Orders, `NewOrder`, `shop.Order`", false},
		{"Order.Pay", "`Order.Pay`, `Order.Ship`", true},
		{"Order.Pay", "`Order.Payment`, `Pay`", false},
		{"Order.Pay", "call Order.Pay.\nOrder.Ship.", true},
		{"shoptest.Order", "`Order`", false},
		{"shoptest.Order", "`shoptest.Order`", true},
	} {
		if named := len(Unnamed([]string{test.name}, test.text)) == 0; named != test.named {
			t.Errorf("%q names %s: %v, want %v", test.text, test.name, named, test.named)
		}
	}
}

func TestUnreleased(t *testing.T) {
	for _, test := range []struct{ changelog, section, release string }{
		{"# Changelog\n\nText.\n\n## [Unreleased]\n\n### Added\n\n- `New`\n", "- `New`", "unreleased"},
		{"# Changelog\n\n## [Unreleased]\n\n- `New`\n\n## [1.2.0] - 2026-01-02\n\n- `Old`\n\n## [1.1.0]\n", "- `New`", "1.2.0"},
		{"# Changelog\n\n## [1.2.0] - 2026-01-02\n\n- `Old`\n", "", "1.2.0"},
	} {
		section, release := Unreleased(test.changelog)
		if release != test.release || !strings.Contains(section, test.section) || strings.Contains(section, "Old") {
			t.Errorf("of %q the unreleased section is %q, behind release %q, want %q and %q", test.changelog, section, release, test.section, test.release)
		}
	}
	if lines, release := Base("# 1.2.0\nA func()\n\nB func()\n"); release != "1.2.0" || !slices.Equal(lines, []string{"A func()", "B func()"}) {
		t.Errorf("the base is %q of %q", lines, release)
	}
}
