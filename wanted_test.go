package eventstore

import (
	"slices"
	"testing"
)

// nameSet returns a set of names.
func nameSet(names ...string) map[string]bool {
	set := map[string]bool{}
	for _, name := range names {
		set[name] = true
	}
	return set
}

func TestWantedSetRelations(t *testing.T) {
	sel := func(parts ...Selection) Selection { return slices.Concat(parts...) }
	for what, test := range map[string]struct {
		from   Selection
		names  map[string]bool
		stored *wantedSet
		want   relation
	}{
		"same, in another order": {
			FromStreams("b", "a"), nameSet("y", "x"), newWantedSet(FromStreams("a", "b"), nameSet("x", "y")), relationSame,
		},
		"same, whatever matches": {
			FromStream("a", ByVersion.Equals(1)), nameSet("x"), newWantedSet(FromStream("a"), nameSet("x")), relationSame,
		},
		"same, with a stream that its category holds": {
			sel(FromStream("order-eu"), FromCategory("order")), nameSet("x"), newWantedSet(FromCategory("order"), nameSet("x")), relationSame,
		},
		"same, with a longer category":           {sel(FromCategory("order-eu"), FromCategory("order")), nil, newWantedSet(FromCategory("order"), nil), relationSame},
		"same, beside all":                       {sel(FromAll(), FromStream("a")), nil, newWantedSet(FromAll(), nil), relationSame},
		"another name":                           {FromStream("a"), nameSet("x", "y"), newWantedSet(FromStream("a"), nameSet("x")), relationWider},
		"any name":                               {FromStream("a"), nil, newWantedSet(FromStream("a"), nameSet("x")), relationWider},
		"another stream":                         {FromStreams("a", "b"), nil, newWantedSet(FromStream("a"), nil), relationWider},
		"the category of a stream":               {FromCategory("order"), nil, newWantedSet(FromStream("order-eu"), nil), relationWider},
		"a shorter category":                     {FromCategory("order"), nil, newWantedSet(FromCategory("order-eu"), nil), relationWider},
		"all":                                    {FromAll(), nil, newWantedSet(sel(FromCategory("order"), FromStream("a")), nil), relationWider},
		"something where nothing was wanted":     {FromStream("a"), nameSet("x"), newWantedSet(FromStream("b"), nameSet()), relationWider},
		"one name less":                          {FromStream("a"), nameSet("x"), newWantedSet(FromStream("a"), nameSet("x", "y")), relationNarrower},
		"no name":                                {FromStream("b"), nameSet(), newWantedSet(FromStream("a"), nameSet("x")), relationNarrower},
		"a stream of a category":                 {FromStream("order-eu"), nil, newWantedSet(FromCategory("order"), nil), relationNarrower},
		"a category's streams, one by one":       {FromStreams("order-eu", "order-us"), nil, newWantedSet(FromCategory("order"), nil), relationNarrower},
		"another name in place of one":           {FromStream("a"), nameSet("y"), newWantedSet(FromStream("a"), nameSet("x")), relationNeither},
		"more names of fewer streams":            {FromStream("a"), nameSet("x", "y"), newWantedSet(FromStreams("a", "b"), nameSet("x")), relationNeither},
		"a stream that only begins as the other": {FromStream("orders"), nil, newWantedSet(FromCategory("order"), nil), relationNeither},
		"a category named as a stream":           {FromCategory("order"), nil, newWantedSet(FromStream("order"), nil), relationNeither},
	} {
		w := newWantedSet(test.from, test.names)
		if got := w.relationTo(test.stored); got != test.want {
			t.Errorf("%s: relation is %d, want %d", what, got, test.want)
		}
		if same := w.hash() == test.stored.hash(); same != (test.want == relationSame) {
			t.Errorf("%s: equal hashes: %v", what, same)
		}
		text, earlier, err := (&definition{wanted: w, earlier: []takenSet{{*test.stored, 7}}}).encode()
		if err != nil {
			t.Fatal(err)
		}
		d, err := decodeDefinition(text, earlier)
		if err != nil {
			t.Fatal(err)
		}
		if d.wanted.hash() != w.hash() || d.wanted.relationTo(test.stored) != test.want || d.earlier[0].UpTo != 7 || d.earlier[0].Wanted.hash() != test.stored.hash() {
			t.Errorf("%s: comes back as %+v", what, d)
		}
	}
}

// TestTakenIn remembers what earlier definitions have taken in, and forgets what the last one holds.
// TestLooksAreBounded notes more looks than a row keeps, and stores them beside what earlier definitions have taken
// in.
func TestLooksAreBounded(t *testing.T) {
	d := &definition{wanted: newWantedSet(FromAll(), nil), earlier: []takenSet{{*newWantedSet(FromStream("a"), nameSet("x")), 7}}}
	for i := range maxLooks + 2 {
		d.looked(string(rune('a'+i)), Position(i))
		d.looked("b", Position(100+i)) // which stays, as it is the latest
	}
	wanted, taken, err := d.encode()
	if err != nil {
		t.Fatal(err)
	}
	d, err = decodeDefinition(wanted, taken)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.looks) != maxLooks || d.lookedUpTo("b") != 109 || d.lookedUpTo("j") != 9 || d.lookedUpTo("c") != 0 {
		t.Errorf("looks are %v", d.looks)
	}
	if !d.earlier[0].Wanted.holds("a", "x") || len(d.earlier) != 1 || d.earlier[0].UpTo != 7 {
		t.Errorf("earlier definitions are %v", d.earlier)
	}
	next := d.followedBy(newWantedSet(FromStream("b"), nil), 9)
	if len(next.looks) != 0 || len(next.earlier) != 1 {
		t.Errorf("then looks are %v, earlier ones %v", next.looks, next.earlier)
	}
}

func TestTakenIn(t *testing.T) {
	ab := newWantedSet(FromStream("s"), nameSet("a", "b"))
	a := newWantedSet(FromStream("s"), nameSet("a"))
	ac := newWantedSet(FromStream("s"), nameSet("a", "c"))
	d := (&definition{wanted: ab}).followedBy(a, 10).followedBy(ac, 20)
	for _, test := range []struct {
		at   Position
		name string
		want bool
	}{{5, "a", true}, {25, "a", true}, {5, "b", true}, {10, "b", true}, {11, "b", false}, {5, "c", true}, {5, "d", false}} {
		if got := d.takenIn(test.at, "s", test.name); got != test.want {
			t.Errorf("event %d, %q: taken in is %v, want %v", test.at, test.name, got, test.want)
		}
	}
	if d.takenIn(5, "other", "a") {
		t.Error("an event of another stream counts as taken in")
	}
	if got := d.takenInUpTo(ab); got != 10 {
		t.Errorf("all of {a, b} is in up to %d, want 10", got)
	}
	if n := len(d.earlier); n != 1 {
		t.Errorf("%d earlier sets are kept, want 1", n)
	}
	if n := len(d.followedBy(newWantedSet(FromAll(), nil), 30).earlier); n != 0 {
		t.Errorf("below a set that holds everything %d are kept", n)
	}
	if n := len(d.followedBy(ab, 30).followedBy(ac, 40).followedBy(ab, 50).followedBy(ac, 60).earlier); n != 1 {
		t.Errorf("after going back and forth %d are kept, want 1", n)
	}
}

func TestRowNames(t *testing.T) {
	for row, want := range map[string]int{"loans": 1, "loans@2": 2, "loans@10": 10, "loans@1": 1, "loans@02": 1, "loans@x": 1, "a@b@3": 1, "@2": 2, "loans@-2": 1} {
		if got := versionOf(row); got != want {
			t.Errorf("%q is version %d, want %d", row, got, want)
		}
	}
	if got := rowName("loans", 0) + rowName("loans", 1) + rowName("loans", 2); got != "loansloansloans@2" {
		t.Errorf("rows are %q", got)
	}
}
