package eventstore

import (
	"fmt"
	"testing"
)

// TestCarry has what is known of missing spans carried to the next look, while some of them are filled, in
// part or in whole, and others appear.
func TestCarry(t *testing.T) {
	a, b := &hole{}, &hole{}
	names := map[*hole]string{nil: "new", a: "a", b: "b"}
	z := newSealer()
	for _, step := range []struct {
		missing []span
		fresh   *hole // what new ones are from here on
		want    string
	}{
		{[]span{{2, 9}, {12, 12}}, a, "[2-9 new, 12-12 new]"},
		{[]span{{2, 9}, {12, 12}}, nil, "[2-9 a, 12-12 a]"},
		{[]span{{2, 3}, {5, 9}, {14, 20}}, b, "[2-3 a, 5-9 a, 14-20 new]"},
		{[]span{{5, 20}}, b, "[5-9 a, 10-13 new, 14-20 b]"},
		{[]span{{1, 1_000_000_000}}, b, "[1-4 new, 5-9 a, 10-13 b, 14-20 b, 21-1000000000 new]"},
		{nil, nil, "[]"},
	} {
		gaps, fresh := z.carry(step.missing)
		got := "["
		isNew := false
		for i := range gaps {
			if i > 0 {
				got += ", "
			}
			got += fmt.Sprintf("%d-%d %s", gaps[i].from, gaps[i].to, names[gaps[i].hole])
			if isNew = isNew || gaps[i].hole == nil; gaps[i].hole == nil {
				gaps[i].hole = step.fresh
			}
		}
		if got += "]"; got != step.want || fresh != isNew {
			t.Errorf("missing are %v: got %s (new: %v), want %s", step.missing, got, fresh, step.want)
		}
		z.holes = gaps
	}
}

// TestSplitIDs divides ranges of ids around the streams that are in them, and never loses an id.
func TestSplitIDs(t *testing.T) {
	for _, c := range []struct {
		r         idRange
		low, high int64
		want      string
	}{
		{idRange{0, allIDs}, 0, 0, "[{0 9223372036854775807}]"},
		{idRange{0, allIDs}, 1, 9, "[{0 5} {6 9223372036854775807}]"},
		{idRange{0, 5}, 3, 3, "[{0 2} {3 3} {4 5}]"},
		{idRange{3, 5}, 3, 3, "[{3 3} {4 5}]"},
		{idRange{3, 3}, 3, 3, "[{3 3}]"},
		{idRange{3, 4}, 3, 4, "[{3 3} {4 4}]"},
	} {
		if got := fmt.Sprint(c.r.split(c.low, c.high)); got != c.want {
			t.Errorf("%v with streams from %d to %d: got %s, want %s", c.r, c.low, c.high, got, c.want)
		}
	}
}
