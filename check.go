// Checks of names, IDs and identifiers, which every argument and definition goes through.

package eventstore

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// maxName is the longest name or ID, in bytes.
const maxName = 255

// checkName finds what is wrong with a name or an ID; what says which.
func checkName(what, name string) error {
	switch {
	case name == "":
		return invalid("%s is empty", what)
	case len(name) > maxName:
		return invalid("%s %.40q… has %d bytes, more than %d", what, name, len(name), maxName)
	}
	return checkText(what, name)
}

func checkText(what, s string) error {
	switch {
	case !utf8.ValidString(s):
		return invalid("%s %q is not UTF-8", what, s)
	case strings.IndexByte(s, 0) >= 0:
		return invalid("%s %q holds a NUL byte", what, s)
	}
	return nil
}

func checkAggregate(stream, aggregateID string) error {
	if err := checkName("stream name", stream); err != nil {
		return err
	}
	return checkName("aggregate ID", aggregateID)
}

func checkIdentifier(what, name string) error {
	if !identifierPattern.MatchString(name) {
		return invalid("%s %q: want letters, digits and underscores, at most 63 and no digit first", what, name)
	}
	return nil
}

var identifierPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`)
