package prose_test

import (
	"fmt"
	"go/ast"
	"go/doc"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	_ "example.com/eventstore/internal/storetest" // defines the flag -memory
)

// TestMain goes to the module's root, where the documents and the package's source are.
func TestMain(m *testing.M) {
	if err := os.Chdir(filepath.Join("..", "..")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

var (
	goBlock = regexp.MustCompile("(?ms)^```go\n(.*?)^```")
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

// unindented is a text without the indentation of its lines.
func unindented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.TrimSpace(line) + "\n")
	}
	return strings.TrimSpace(b.String())
}

// TestReadmeCode finds every piece of Go in the README in an example that the tests run.
func TestReadmeCode(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("example*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var examples string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		examples += unindented(string(text)) + "\n"
	}
	blocks := goBlock.FindAllStringSubmatch(string(readme), -1)
	if len(blocks) == 0 {
		t.Fatal("the README has no Go")
	}
	for _, block := range blocks {
		if !strings.Contains(examples, unindented(block[1])) {
			t.Errorf("this piece of the README is in none of %v:\n%s", files, block[1])
		}
	}
}

// TestLinks follows every relative link of the repository's Markdown files.
func TestLinks(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".md" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			u, err := url.Parse(m[1])
			if err != nil {
				t.Errorf("%s: link %s: %v", path, m[1], err)
				continue
			}
			if u.IsAbs() || u.Path == "" {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), filepath.FromSlash(u.Path))); err != nil {
				t.Errorf("%s: link %s leads nowhere", path, m[1])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

var (
	testName  = regexp.MustCompile("`((?:Test|Fuzz|Example)[A-Z][A-Za-z_]*)`")
	testFound = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Example)[A-Za-z_]+)\(`)
)

// TestFeatures looks for the tests that the documents name as showing something.
func TestFeatures(t *testing.T) {
	there := map[string]bool{}
	var documents []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || d.IsDir():
			return err
		case filepath.Ext(path) == ".md":
			documents = append(documents, path)
		case strings.HasSuffix(path, "_test.go"):
			text, err := os.ReadFile(path)
			for _, m := range testFound.FindAllStringSubmatch(string(text), -1) {
				there[m[1]] = true
			}
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, path := range documents {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testName.FindAllStringSubmatch(string(text), -1) {
			if named++; !there[m[1]] {
				t.Errorf("%s names %s, which is not there", path, m[1])
			}
		}
	}
	if named < 100 {
		t.Errorf("the documents name %d tests, want every feature's", named)
	}
}

// TestExamples wants examples that documentation sites show whole, with all that they name (what they
// share has to stand in their own file), and whose output is checked, unless they need a database.
func TestExamples(t *testing.T) {
	for _, dir := range []string{".", "eventstoretest"} {
		paths, err := filepath.Glob(filepath.Join(dir, "example*_test.go"))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s has no examples: %v", dir, err)
		}
		for _, path := range paths {
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range doc.Examples(file) {
				if e.Play == nil {
					t.Errorf("%s: Example%s names what is not in its file: it can't be shown whole", path, e.Name)
					continue
				}
				var whole strings.Builder
				if err := format.Node(&whole, fset, e.Play); err != nil {
					t.Fatal(err)
				}
				if e.Output == "" && !strings.Contains(whole.String(), "*sql.DB") {
					t.Errorf("%s: Example%s has no output to check", path, e.Name)
				}
			}
		}
	}
}

// TestSource keeps out of the package what a library should not do: panic, print, reflect, run code
// by being imported, or keep state that is everybody's.
func TestSource(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range file.Imports {
			switch imp.Path.Value {
			case `"reflect"`, `"log"`, `"unsafe"`:
				t.Errorf("%s: imports %s", fset.Position(imp.Pos()), imp.Path.Value)
			}
		}
		for _, decl := range file.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				if decl.Recv == nil && decl.Name.Name == "init" {
					t.Errorf("%s: an init function", fset.Position(decl.Pos()))
				}
			case *ast.GenDecl:
				for _, spec := range decl.Specs {
					if v, ok := spec.(*ast.ValueSpec); ok && decl.Tok == token.VAR && mutable(v) {
						t.Errorf("%s: package-level state", fset.Position(v.Pos()))
					}
				}
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.Ident); ok && (f.Name == "panic" || f.Name == "print" || f.Name == "println") {
					t.Errorf("%s: calls %s", fset.Position(n.Pos()), f.Name)
				}
			case *ast.AssignStmt:
				for _, to := range n.Lhs {
					// Identifiers of package level are resolved by the parser within a file.
					if id, ok := to.(*ast.Ident); ok && id.Obj != nil && file.Scope.Lookup(id.Name) == id.Obj {
						t.Errorf("%s: assigns to %s, which is the package's", fset.Position(n.Pos()), id.Name)
					}
				}
			}
			return true
		})
	}
}

// mutable says that a variable is of a kind made for changing: a map or a channel that is empty,
// anything of sync, or one without a value.
func mutable(v *ast.ValueSpec) bool {
	if len(v.Values) == 0 {
		return true
	}
	if sel, ok := v.Type.(*ast.SelectorExpr); ok {
		if pkg, ok := sel.X.(*ast.Ident); ok && strings.HasPrefix(pkg.Name, "sync") {
			return true
		}
	}
	for _, value := range v.Values {
		switch value := value.(type) {
		case *ast.CallExpr:
			if f, ok := value.Fun.(*ast.Ident); ok && (f.Name == "make" || f.Name == "new") {
				return true
			}
		case *ast.CompositeLit:
			switch typ := value.Type.(type) {
			case *ast.MapType, *ast.ChanType:
				return true
			case *ast.SelectorExpr:
				if pkg, ok := typ.X.(*ast.Ident); ok && strings.HasPrefix(pkg.Name, "sync") {
					return true
				}
			}
		}
	}
	return false
}
