package main

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestFileID(t *testing.T) {
	for path, want := range map[string]string{
		"src/main.go":  "src/main.go",
		"with space":   "with space",
		"日本語.md":       "日本語.md",
		"a\tb":         `"a\tb"`,
		"\a\b\n\v\f\r": `"\a\b\n\v\f\r"`,
		`quo"ted`:      `"quo\"ted"`,
		`back\slash`:   `"back\\slash"`,
		"\xff\x01":     `"\377\001"`,
		"ü\xc3":        `"ü\303"`,
		"\x7f":         `"\177"`,
		"\ufffd":       "\ufffd", // a true one
		"a/" + `"b"`:   `"a/\"b\""`,
		" ":            " ",
		long("x", 255): long("x", 255),
		long("x", 256): "/" + "85e62acd750c4eb56b7b6a1d66dca5bf" + "/…" + long("x", 218),
		long("深/", 80): "/" + "d65e5e9d98489aeaba0043a5f5bf1564" + "/…/" + long("深/", 54),
	} {
		if got := fileID(path); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}

// long repeats s up to a number of bytes, or times where it has several.
func long(s string, n int) string { return strings.Repeat(s, n) }

func FuzzPath(f *testing.F) {
	for _, name := range oddNames {
		f.Add(name, name+"x")
	}
	f.Fuzz(func(t *testing.T, path, other string) {
		if path == "" || strings.Contains(path, "\x00") {
			return
		}
		quoted := quotePath(path)
		if back, err := unquotePath(quoted); err != nil || back != path {
			t.Errorf("%q is quoted as %s and comes back as %q, %v", path, quoted, back, err)
		}
		id := fileID(path)
		if len(id) == 0 || len(id) > maxID || !utf8.ValidString(id) || strings.ContainsAny(id, "\x00\n") {
			t.Errorf("%q has the ID %q", path, id)
		}
		// No path of git begins with a slash.
		if other != path && !strings.HasPrefix(path, "/") && !strings.HasPrefix(other, "/") && fileID(other) == id {
			t.Errorf("%q and %q have one ID, %q", path, other, id)
		}
	})
}
