// Package layers finds out which file of a package knows which other, so that a test can hold the
// order of layers that CONTRIBUTING states.
package layers

import (
	"cmp"
	"fmt"
	"go/types"
	"path/filepath"
	"slices"

	"example.com/eventstore/internal/gosource"
)

// Arrow says that one file uses what another declares: a type, function, variable or constant of
// the package, a method, or a field.
type Arrow struct{ From, To string }

func (a Arrow) String() string { return fmt.Sprintf("%s -> %s", a.From, a.To) }

// Arrows returns the arrows between the files of the package in a folder, each once and in order,
// and the names of the files.
func Arrows(dir string) (arrows []Arrow, files []string, err error) {
	pkg, err := gosource.Load(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, f := range pkg.Files {
		files = append(files, filepath.Base(pkg.Fset.File(f.Pos()).Name()))
	}
	seen := map[Arrow]bool{}
	for id, object := range pkg.Info.Uses {
		if object.Pkg() != pkg.Types || !shared(object) {
			continue
		}
		a := Arrow{
			From: filepath.Base(pkg.Fset.Position(id.Pos()).Filename),
			To:   filepath.Base(pkg.Fset.Position(object.Pos()).Filename),
		}
		if a.From != a.To && !seen[a] {
			seen[a] = true
			arrows = append(arrows, a)
		}
	}
	slices.SortFunc(arrows, func(a, b Arrow) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	return arrows, files, nil
}

// shared reports whether an object can be used from other files.
func shared(object types.Object) bool {
	switch object := object.(type) {
	case *types.Var:
		return object.IsField() || object.Parent() == object.Pkg().Scope()
	case *types.Func:
		return true // methods have no parent
	}
	return object.Parent() == object.Pkg().Scope()
}
