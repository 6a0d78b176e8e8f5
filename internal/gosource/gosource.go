// Package gosource loads a package of this module from source, with its types, for tests that look
// at the code itself.
package gosource

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/build"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Package is a package with its syntax and types, without its tests.
type Package struct {
	Fset  *token.FileSet
	Files []*ast.File
	Types *types.Package
	Info  *types.Info // Defs and Uses
}

// Load parses and checks the package in a folder. What it imports comes as the go command has
// compiled it.
func Load(dir string) (*Package, error) {
	found, err := build.ImportDir(dir, 0)
	if err != nil {
		return nil, err
	}
	p := &Package{
		Fset: token.NewFileSet(),
		Info: &types.Info{Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{}},
	}
	for _, name := range found.GoFiles {
		file, err := parser.ParseFile(p.Fset, filepath.Join(dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		p.Files = append(p.Files, file)
	}
	imports, err := exports(dir, p.Fset)
	if err != nil {
		return nil, err
	}
	checker := types.Config{Importer: imports}
	p.Types, err = checker.Check(found.Name, p.Fset, p.Files, p.Info)
	return p, err
}

// exports returns an importer of what the package in a folder requires, as compiled by the go command.
func exports(dir string, fset *token.FileSet) (types.Importer, error) {
	list := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}", ".")
	list.Dir = dir
	var stderr bytes.Buffer
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", list, err, stderr.Bytes())
	}
	compiled := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), "\t")
		compiled[path] = file
	}
	return importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(compiled[path])
	}), nil
}
