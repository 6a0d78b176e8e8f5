package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// The columns of a report; it is at most 80 wide.
const (
	nameWidth  = 40
	countWidth = 7
	barWidth   = 27
)

// render writes a report. Lists are cut after top entries; strangers is the number of commits in
// the store that the history just read does not have.
func render(w io.Writer, r *Report, top, strangers int) {
	if r.Totals.Commits == 0 {
		fmt.Fprintln(w, "There are no commits yet, so there is nothing to report.")
		return
	}
	touched := r.Files.Touched()
	renderTotals(w, r, len(touched), strangers)
	renderMostChanged(w, touched, top)
	renderActivity(w, &r.Activity)
	renderSingleAuthor(w, r, touched, top)
}

func renderTotals(w io.Writer, r *Report, touched, strangers int) {
	t := &r.Totals
	fmt.Fprintf(w, "History from %s to %s\n\n", t.First.Format(time.DateOnly), t.Last.Format(time.DateOnly))
	row := func(name string, n int64, note string) {
		line := fmt.Sprintf("  %-16s%14s   %s", name, thousands(n), note)
		fmt.Fprintln(w, strings.TrimRight(line, " "))
	}
	row("commits", int64(t.Commits), "")
	row("  merges", int64(t.Merges), "")
	if strangers > 0 {
		row("  elsewhere", int64(strangers), "stored earlier, not in the history just read")
	}
	row("authors", int64(len(r.Authors)), "")
	row("files touched", int64(touched), "")
	row("file changes", int64(t.Changes()), "")
	row("  added", int64(t.Added), "")
	row("  changed", int64(t.Changed), "")
	row("  renamed", int64(t.Renamed), "")
	row("  deleted", int64(t.Deleted), "")
	if t.Binary > 0 {
		row("  binary", int64(t.Binary), "of all these; their lines are not counted")
	}
	row("lines added", t.LinesAdded, "")
	row("lines removed", t.LinesRemoved, "")
}

func renderMostChanged(w io.Writer, touched []FileActivity, top int) {
	if len(touched) == 0 {
		return
	}
	fmt.Fprintf(w, "\nMost changed files\n\n")
	most := touched[0].Changes
	for _, f := range touched[:min(top, len(touched))] {
		bar := strings.Repeat("█", max(1, f.Changes*barWidth/most))
		fmt.Fprintf(w, "  %s %*s %s\n", nameColumn(f.ID), countWidth, count(f.Changes), bar)
	}
	renderRest(w, len(touched)-top)
}

func renderActivity(w io.Writer, a *Activity) {
	day, hour, most := a.Busiest()
	fmt.Fprintf(w, "\nCommits by weekday and hour, in the authors' local time\n\n")
	fmt.Fprintln(w, "       0     3     6     9     12    15    18    21")
	for i := range a {
		d := (i + 1) % 7 // Monday first
		sum := 0
		var cells strings.Builder
		for _, n := range a[d] {
			sum += n
			cells.WriteString(cell(n, most))
		}
		fmt.Fprintf(w, "  %.3s  %s %*s\n", time.Weekday(d), cells.String(), countWidth, count(sum))
	}
	fmt.Fprintf(w, "\n  busiest: %v from %d:00 to %d:59 with %s\n", day, hour, hour, plural(most, "commit"))
}

// cell shades a number by its share of the highest one.
func cell(n, most int) string {
	if n == 0 {
		return "· "
	}
	shades := [...]string{"░░", "▒▒", "▓▓", "██"}
	return shades[(n*len(shades)-1)/most]
}

func renderSingleAuthor(w io.Writer, r *Report, touched []FileActivity, top int) {
	var single []FileActivity
	for _, f := range touched {
		if f.OnlyAuthor() != "" {
			single = append(single, f)
		}
	}
	fmt.Fprintf(w, "\nTouched by one author only: %s of %s\n", count(len(single)), plural(len(touched), "file"))
	if len(single) > 0 {
		fmt.Fprintln(w)
	}
	for _, f := range single[:min(top, len(single))] {
		name := f.OnlyAuthor()
		if a, ok := r.Authors[name]; ok {
			name = a.Name
		}
		line := fmt.Sprintf("  %s %*s %s", nameColumn(f.ID), countWidth, count(f.Changes), shorten(printable(name), barWidth))
		fmt.Fprintln(w, strings.TrimRight(line, " "))
	}
	renderRest(w, len(single)-top)
}

func renderRest(w io.Writer, n int) {
	if n > 0 {
		fmt.Fprintf(w, "  … and %s more\n", count(n))
	}
}

func nameColumn(s string) string { return pad(shorten(printable(s), nameWidth), nameWidth) }

func count(n int) string { return thousands(int64(n)) }

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return count(n) + " " + noun + "s"
}

// thousands groups the digits of a number that is not negative.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// printable replaces what a terminal would not show as a character of its own, or would obey.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
	}
	return b.String()
}

// pad fills s up to a width.
func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-displayWidth(s)))
}

// shorten cuts out the middle of a text that is wider than a width.
func shorten(s string, width int) string {
	if displayWidth(s) <= width {
		return s
	}
	runes := []rune(s)
	headWidth := (width - 1) / 3
	head, tail := 0, len(runes)
	for w := 0; w+runeWidth(runes[head]) <= headWidth; head++ {
		w += runeWidth(runes[head])
	}
	left := width - 1 - displayWidth(string(runes[:head]))
	for w := 0; w+runeWidth(runes[tail-1]) <= left; tail-- {
		w += runeWidth(runes[tail-1])
	}
	for tail < len(runes) && runeWidth(runes[tail]) == 0 { // marks without their letter
		tail++
	}
	return string(runes[:head]) + "…" + string(runes[tail:])
}

// displayWidth is the number of columns that a terminal needs for s.
func displayWidth(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

// wide are the blocks whose characters take two columns.
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x1100, Hi: 0x115f, Stride: 1}, // Hangul initials
		{Lo: 0x2e80, Hi: 0x303e, Stride: 1}, // CJK radicals and punctuation
		{Lo: 0x3041, Hi: 0xa4cf, Stride: 1}, // kana, CJK ideographs, Yi
		{Lo: 0xac00, Hi: 0xd7a3, Stride: 1}, // Hangul
		{Lo: 0xf900, Hi: 0xfaff, Stride: 1}, // CJK compatibility
		{Lo: 0xfe30, Hi: 0xfe6f, Stride: 1}, // CJK forms
		{Lo: 0xff00, Hi: 0xff60, Stride: 1}, // full-width forms
		{Lo: 0xffe0, Hi: 0xffe6, Stride: 1},
	},
	R32: []unicode.Range32{
		{Lo: 0x1f300, Hi: 0x1f64f, Stride: 1}, // pictographs
		{Lo: 0x1f680, Hi: 0x1f6ff, Stride: 1},
		{Lo: 0x1f900, Hi: 0x1f9ff, Stride: 1},
		{Lo: 0x20000, Hi: 0x3fffd, Stride: 1}, // more CJK ideographs
	},
}

func runeWidth(r rune) int {
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case unicode.Is(wide, r):
		return 2
	}
	return 1
}
