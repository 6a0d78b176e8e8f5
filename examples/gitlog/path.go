package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxID is the longest aggregate ID that a store takes, in bytes.
const maxID = 255

// fileID returns the aggregate ID of a path, which git has as bytes. It is the path itself,
// quoted if [quotePath] says so. One that is too long becomes "/", the first 32 hexadecimal
// digits of its SHA-256, "/…" and as much of its end as there is room for: no path in git begins
// with a slash, so it can't be mistaken for one.
func fileID(path string) string {
	id := quotePath(path)
	if len(id) <= maxID {
		return id
	}
	sum := sha256.Sum256([]byte(path))
	head := "/" + hex.EncodeToString(sum[:16]) + "/…"
	tail := id[len(id)-(maxID-len(head)):]
	for !utf8.RuneStart(tail[0]) {
		tail = tail[1:]
	}
	return head + tail
}

// quotePath returns a path as valid UTF-8 without control characters, so that unquotePath has it
// back: as it is if it can be, else within double quotes and with the escapes of C, as git writes
// it with core.quotePath off. Bytes that are not UTF-8 become octal escapes too.
func quotePath(path string) string {
	var b strings.Builder
	quoted := false
	escape := func(format string, c byte) {
		quoted = true
		fmt.Fprintf(&b, format, c)
	}
	for i := 0; i < len(path); {
		r, size := utf8.DecodeRuneInString(path[i:])
		c := path[i]
		switch at := strings.IndexByte(escaped, c); {
		case at >= 0:
			escape(`\%c`, escapes[at])
		case c < ' ' || c == 0x7f || r == utf8.RuneError && size == 1:
			escape(`\%03o`, c)
		default:
			b.WriteString(path[i : i+size])
		}
		i += size
	}
	if !quoted {
		return path
	}
	return `"` + b.String() + `"`
}

// The bytes that have an escape of their own, and the letters for them.
const (
	escaped = "\a\b\t\n\v\f\r\"\\"
	escapes = `abtnvfr"\`
)

// unquotePath returns the bytes of a path as git writes it.
func unquotePath(s string) (string, error) {
	if !strings.HasPrefix(s, `"`) {
		if s == "" {
			return "", fmt.Errorf("the path is empty")
		}
		return s, nil
	}
	if len(s) < 3 || !strings.HasSuffix(s, `"`) {
		return "", fmt.Errorf("the quotes of the path are not closed")
	}
	s = s[1 : len(s)-1]
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '"' {
			return "", fmt.Errorf("the path has a quote in its middle")
		}
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		i++
		if i == len(s) {
			return "", fmt.Errorf("the path ends within an escape")
		}
		if at := strings.IndexByte(escapes, s[i]); at >= 0 {
			b.WriteByte(escaped[at])
			continue
		}
		c, ok := octal(s[i:])
		if !ok {
			return "", fmt.Errorf("the path has an unknown escape")
		}
		b.WriteByte(c)
		i += 2
	}
	return b.String(), nil
}

// octal reads the three digits that s begins with. No path has a NUL byte.
func octal(s string) (c byte, ok bool) {
	if len(s) < 3 || s[0] > '3' {
		return 0, false
	}
	for i := range 3 {
		if s[i] < '0' || s[i] > '7' {
			return 0, false
		}
		c = c<<3 | (s[i] - '0')
	}
	return c, c != 0
}
