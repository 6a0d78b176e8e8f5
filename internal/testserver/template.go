package testserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// templatePrefix begins the names of the folders with initialised data,
	// which stay when their process has ended.
	templatePrefix = "eventstore-template-"

	// templateAge is how long a template stays that no Start has used.
	templateAge = 7 * 24 * time.Hour

	// templateFormat changes when what is in a template does.
	templateFormat = 2

	// manifestFile is in a template, beside the copy of the data.
	manifestFile = "manifest"
)

// template is a copy of a data folder right after its initialisation. To copy
// it takes a small part of the time and work that to initialise takes.
//
// A template is made under another name and gets its own when it is whole.
// Several processes may make the same one at once; the first one's stays. Each
// file's size and checksum are compared when it is copied: of a template that
// a power cut has damaged nothing is used.
type template struct {
	path string
}

// entry is a file or folder of a template's data.
type entry struct {
	Name  string
	Mode  fs.FileMode
	Size  int64
	Parts []part // what is not zeros
	Sum   uint32 // of the parts
}

// part is a range of bytes of a file.
type part struct{ From, To int64 }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// newTemplate returns the place of the template for the data that a command
// would put into a folder. The place depends on the program, its arguments and
// the user.
func newTemplate(f *folder, args []string) (*template, error) {
	program, err := os.Stat(args[0])
	if err != nil {
		return nil, err
	}
	bases := tempBases(f.user)
	if len(bases) == 0 {
		return nil, errors.New("no folder for temporary files")
	}
	key := sha256.New()
	fmt.Fprintln(key, templateFormat, program.Size(), program.ModTime().UnixNano(), os.Geteuid())
	if f.user != nil {
		fmt.Fprintln(key, f.user.Uid, f.user.Gid)
	}
	for _, arg := range args {
		fmt.Fprintf(key, "%q\n", strings.ReplaceAll(arg, f.path, "."))
	}
	name := templatePrefix + hex.EncodeToString(key.Sum(nil)[:12])
	return &template{filepath.Join(bases[0], name)}, nil
}

func (t *template) data() string { return filepath.Join(t.path, "data") }

// fill fills a folder's data part from the template of what a command would put
// there, or by the command.
func fill(ctx context.Context, f *folder, args []string) error {
	t, err := newTemplate(f, args)
	if err != nil {
		return f.run(ctx, args)
	}
	return t.fill(ctx, f, args)
}

// fill copies the template into a folder's data part. Where there is none, or a
// damaged one, the command runs and its result becomes the template.
func (t *template) fill(ctx context.Context, f *folder, args []string) error {
	if t.usable() {
		err := t.copyTo(ctx, f)
		if err == nil || ctx.Err() != nil {
			return err
		}
		// Damaged, or swept away at this moment.
		if err := errors.Join(os.RemoveAll(t.path), f.clear()); err != nil {
			return err
		}
	}
	if err := f.run(ctx, args); err != nil {
		return err
	}
	// Without a template the next Start takes longer, and that is all.
	_ = t.make(f)
	return nil
}

// usable reports whether the template is there and the current user's own. In
// a folder for temporary files anybody can create one of its name.
func (t *template) usable() bool {
	info, err := os.Lstat(t.path)
	if err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// make makes the template of a folder whose server has not run yet.
func (t *template) make(f *folder) error {
	half, err := os.MkdirTemp(filepath.Dir(t.path), filepath.Base(t.path)+".")
	if err != nil {
		return err
	}
	err = (&template{half}).copyFrom(f)
	if err == nil {
		err = os.Rename(half, t.path)
	}
	if err != nil { // also when another process has been first
		return errors.Join(err, os.RemoveAll(half))
	}
	return nil
}

func (t *template) copyFrom(f *folder) error {
	var entries []entry
	err := filepath.WalkDir(f.data(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(f.data(), path)
		if err != nil {
			return err
		}
		e := entry{Name: name, Mode: info.Mode()}
		target := filepath.Join(t.data(), name)
		switch {
		case d.IsDir():
			err = os.Mkdir(target, 0o700)
		case info.Mode().IsRegular():
			err = e.keep(target, path)
		default:
			err = fmt.Errorf("%s is neither a file nor a folder", path)
		}
		entries = append(entries, e)
		return err
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(entries)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(t.path, manifestFile), manifest, 0o600)
}

// copyTo copies the template into a folder's empty data part.
func (t *template) copyTo(ctx context.Context, f *folder) error {
	// The sweep of another process sees that the template is in use.
	now := time.Now()
	if err := os.Chtimes(t.path, now, now); err != nil {
		return err
	}
	manifest, err := os.ReadFile(filepath.Join(t.path, manifestFile))
	if err != nil {
		return err
	}
	var entries []entry
	if err := json.Unmarshal(manifest, &entries); err != nil {
		return err
	}
	if len(entries) == 0 || entries[0].Name != "." {
		return errors.New("the manifest is not whole")
	}
	for _, e := range entries {
		err := context.Cause(ctx)
		switch {
		case err != nil || e.Name == ".": // which is there
		case e.Mode.IsDir():
			err = f.own(os.Mkdir(filepath.Join(f.data(), e.Name), e.Mode.Perm()), e)
		default:
			err = f.own(e.restore(filepath.Join(f.data(), e.Name), filepath.Join(t.data(), e.Name)), e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// own gives what was created without err in the data part to the folder's
// user, with the entry's permissions.
func (f *folder) own(err error, e entry) error {
	path := filepath.Join(f.data(), e.Name)
	if err == nil && f.user != nil {
		err = os.Chown(path, int(f.user.Uid), int(f.user.Gid))
	}
	// What the owner alone may do is not subject to a umask.
	if perm := e.Mode.Perm(); err == nil && perm&^0o700 != 0 {
		err = os.Chmod(path, perm)
	}
	return err
}

// keep copies a file into a template, and notes in the entry what it holds.
func (e *entry) keep(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	var block, zeros [64 << 10]byte
	for {
		n, err := io.ReadFull(in, block[:])
		if !bytes.Equal(block[:n], zeros[:n]) {
			if last := len(e.Parts) - 1; last >= 0 && e.Parts[last].To == e.Size {
				e.Parts[last].To += int64(n)
			} else {
				e.Parts = append(e.Parts, part{e.Size, e.Size + int64(n)})
			}
		}
		e.Size += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return err
		}
	}
	e.Sum, err = e.copyParts(to, in, 0o600)
	return err
}

// restore copies a file out of a template, if it is as the entry says. Most of
// a fresh server's log is zeros, which are neither read nor written.
func (e *entry) restore(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	sum, err := e.copyParts(to, in, e.Mode.Perm())
	if err == nil && (info.Size() != e.Size || sum != e.Sum) {
		err = fmt.Errorf("%s has changed", e.Name)
	}
	return err
}

// copyParts creates a file of the entry's size with its parts, and returns
// their checksum.
func (e *entry) copyParts(to string, in *os.File, perm fs.FileMode) (sum uint32, err error) {
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, perm)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	var end int64
	for _, p := range e.Parts {
		data := make([]byte, p.To-p.From)
		if _, err := in.ReadAt(data, p.From); err != nil {
			return 0, err
		}
		sum = crc32.Update(sum, castagnoli, data)
		if _, err := out.WriteAt(data, p.From); err != nil {
			return 0, err
		}
		end = p.To
	}
	if end < e.Size {
		return sum, out.Truncate(e.Size)
	}
	return sum, nil
}

// sweepTemplates removes the templates of the current user that no Start has
// used for long, among them what is left of those that were never finished.
func sweepTemplates(base string, entries []os.DirEntry) {
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), templatePrefix) {
			continue
		}
		age := templateAge
		if strings.Contains(e.Name(), ".") { // not finished
			age = time.Hour
		}
		t := &template{filepath.Join(base, e.Name())}
		if info, err := e.Info(); err == nil && t.usable() && time.Since(info.ModTime()) > age {
			_ = os.RemoveAll(t.path)
		}
	}
}
