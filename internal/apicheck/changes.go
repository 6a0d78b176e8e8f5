package apicheck

import (
	"regexp"
	"slices"
	"strings"
)

// Changed returns the identifiers whose lines were added, removed or altered between two APIs,
// sorted. A new type, or one that is gone, stands for its fields and methods.
func Changed(before, after []string) []string {
	changed := map[string]bool{}
	for _, line := range before {
		if !slices.Contains(after, line) {
			changed[identifier(line)] = true
		}
	}
	for _, line := range after {
		if !slices.Contains(before, line) {
			changed[identifier(line)] = true
		}
	}
	whole := func(typ string) bool { return changed[typ] && (!declares(before, typ) || !declares(after, typ)) }
	var out []string
	for name := range changed {
		if i := strings.LastIndexByte(name, '.'); i < 0 || !whole(name[:i]) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func identifier(line string) string {
	name, _, _ := strings.Cut(line, " ")
	return name
}

func declares(lines []string, name string) bool {
	return slices.ContainsFunc(lines, func(line string) bool { return identifier(line) == name })
}

// Unnamed returns those of the identifiers that a text does not name in full, as words.
func Unnamed(identifiers []string, text string) []string {
	var out []string
	for _, name := range identifiers {
		if !regexp.MustCompile(`(^|[^\w.])` + regexp.QuoteMeta(name) + `($|[^\w.]|\.(\W|$))`).MatchString(text) {
			out = append(out, name)
		}
	}
	return out
}

var (
	heading = regexp.MustCompile(`(?m)^## \[?([^\]\s]+)\]?.*$`)
	base    = regexp.MustCompile(`^# (\S+)`)
)

// Unreleased returns a changelog's section of that name, and the version of the section behind it,
// the last release; while there is none: "unreleased".
func Unreleased(changelog string) (section, release string) {
	release = "unreleased"
	found := heading.FindAllStringSubmatchIndex(changelog, -1)
	for i, at := range found {
		title := changelog[at[2]:at[3]]
		if title != "Unreleased" {
			return section, title
		}
		end := len(changelog)
		if i+1 < len(found) {
			end = found[i+1][0]
		}
		section = changelog[at[1]:end]
	}
	return section, release
}

// Base returns the lines of a recorded API, and the release that its first line, a comment, names.
func Base(text string) (lines []string, release string) {
	if m := base.FindStringSubmatch(text); m != nil {
		release = m[1]
	}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return lines, release
}
