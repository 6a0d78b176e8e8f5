package testserver

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// initialised returns a folder and the command that fills its data part, as
// one of an engine would, only with fewer files.
func initialised(t *testing.T) (*folder, []string) {
	t.Helper()
	user, err := serverUser()
	if err != nil {
		t.Fatal(err)
	}
	f, err := newFolder(user, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.remove() })
	return f, []string{"/bin/sh", "-c", "cd " + f.data() + ` && mkdir -m 700 base && echo begun >> ../work/begun &&
		echo small > base/small && head -c 200000 /dev/zero > base/large && echo end >> base/large && : > empty && chmod 640 empty`}
}

// content describes what a folder holds, with owners and permissions.
func content(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || path == dir {
			return err
		}
		var raw []byte
		if info.Mode().IsRegular() {
			raw, err = os.ReadFile(path)
		}
		stat := info.Sys().(*syscall.Stat_t)
		fmt.Fprintln(&b, strings.TrimPrefix(path, dir), info.Mode(), stat.Uid, stat.Gid, len(raw), crc32.ChecksumIEEE(raw))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// times returns how often the command of initialised has run.
func times(t *testing.T, f *folder) int {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(f.work(), "begun"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(raw), "begun")
}

// TestTemplate fills a folder by the command, and then again from the template,
// which is the same in content, owners and permissions. Of a template that was
// damaged nothing is used: the command runs, and the template is made anew.
func TestTemplate(t *testing.T) {
	t.Parallel()
	f, args := initialised(t)
	tm := &template{filepath.Join(t.TempDir(), templatePrefix+"own")}
	var want string
	fill := func(what string, runs int) {
		t.Helper()
		if err := errors.Join(f.clear(), tm.fill(t.Context(), f, args)); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		got := content(t, f.data())
		if want == "" {
			want = got
		}
		if got != want || times(t, f) != runs || !tm.usable() {
			t.Errorf("%s: after %d runs of the command there is\n%s\nwant after %d\n%s", what, times(t, f), got, runs, want)
		}
	}
	fill("no template", 1)
	fill("a template", 1)
	large := filepath.Join(tm.data(), "base", "large")
	for i, damage := range []func() error{
		func() error {
			raw, err := os.ReadFile(large)
			if err == nil {
				raw[len(raw)-2] ^= 1
				err = os.WriteFile(large, raw, 0o600)
			}
			return err
		},
		func() error { return os.Truncate(large, 1000) },
		func() error { return os.Remove(large) },
		func() error { return os.Truncate(filepath.Join(tm.path, manifestFile), 0) },
		func() error { return os.Truncate(filepath.Join(tm.path, manifestFile), 50) },
		func() error { return os.Remove(filepath.Join(tm.path, manifestFile)) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		what := fmt.Sprint("damage ", i)
		fill(what, i+2)
		fill(what+", repaired", i+2)
	}
}

// TestTemplateOfAnother uses no template that others could have written.
func TestTemplateOfAnother(t *testing.T) {
	t.Parallel()
	f, args := initialised(t)
	tm := &template{filepath.Join(t.TempDir(), templatePrefix+"own")}
	if err := os.Mkdir(tm.path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(tm.path, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := tm.fill(t.Context(), f, args); err != nil || times(t, f) != 1 {
		t.Errorf("the command ran %d times, %v, want once", times(t, f), err)
	}
	if entries, err := os.ReadDir(tm.path); err != nil || len(entries) > 0 {
		t.Errorf("the folder has %v, %v, want it untouched", entries, err)
	}
}

// TestTemplateMadeAtOnce makes one template several times at once, as several
// processes would. One stays, and nothing else.
func TestTemplateMadeAtOnce(t *testing.T) {
	t.Parallel()
	f, args := initialised(t)
	if err := f.run(t.Context(), args); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	tm := &template{filepath.Join(dir, templatePrefix+"own")}
	var wait sync.WaitGroup
	var made atomic.Int64
	for range 8 {
		wait.Go(func() {
			if tm.make(f) == nil {
				made.Add(1)
			}
		})
	}
	wait.Wait()
	entries, err := os.ReadDir(dir)
	if err != nil || made.Load() != 1 || len(entries) != 1 || !tm.usable() {
		t.Errorf("made %d times, there are %v (%v), want one that is usable", made.Load(), entries, err)
	}
}

// TestTemplateKey has a template of its own for each command.
func TestTemplateKey(t *testing.T) {
	t.Parallel()
	f, args := initialised(t)
	other, otherArgs := initialised(t)
	same, err := newTemplate(f, args)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := newTemplate(other, otherArgs); err != nil || again.path != same.path {
		t.Errorf("the template of another folder is %v (%v), want %s", again, err, same.path)
	}
	if more, err := newTemplate(f, append(args, "more")); err != nil || more.path == same.path {
		t.Errorf("the template of another command is %v (%v), want another", more, err)
	}
}

// TestSweepTemplates removes templates that are out of use, and no others.
func TestSweepTemplates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	stays := map[string]bool{"used": true, "old": false, "half.1": false, "half.2": true}
	for name := range stays {
		path := filepath.Join(dir, templatePrefix+name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		at := time.Now()
		if name == "old" {
			at = at.Add(-templateAge - time.Hour)
		}
		if name == "half.1" {
			at = at.Add(-2 * time.Hour)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	sweepTemplates(dir, entries)
	for name, want := range stays {
		if got := exists(filepath.Join(dir, templatePrefix+name)); got != want {
			t.Errorf("%s: there is one: %t, want %t", name, got, want)
		}
	}
}
