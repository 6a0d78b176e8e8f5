// Package apicheck keeps the module's exported API on record: a line for each exported identifier,
// which a test compares with the code, and a rule that ties what has changed since the last release
// to the changelog.
package apicheck

import (
	"bytes"
	"go/ast"
	"go/doc"
	"go/printer"
	"go/token"
	"go/types"
	"slices"
	"strings"

	"example.com/eventstore/internal/gosource"
)

// API returns the exported API of the package in a folder, sorted: lines of an identifier, a space
// and its declaration. Types are written as in the source; constants come with their values, and
// parameters without their names, which are nobody's but the function's. Identifiers begin with
// qualifier, which may be empty.
func API(dir, qualifier string) ([]string, error) {
	pkg, err := gosource.Load(dir)
	if err != nil {
		return nil, err
	}
	a := &api{fset: pkg.Fset, types: pkg.Types, qualifier: qualifier}
	// go/doc takes the files over, and with them everything that is not exported out of them.
	exported, err := doc.NewFromFiles(pkg.Fset, pkg.Files, pkg.Types.Name())
	if err != nil {
		return nil, err
	}
	a.values(exported.Consts)
	a.values(exported.Vars)
	a.funcs(exported.Funcs)
	for _, t := range exported.Types {
		a.typ(t)
		a.values(t.Consts)
		a.values(t.Vars)
		a.funcs(t.Funcs)
		for _, m := range t.Methods {
			a.line(t.Name+"."+m.Name, "method ("+a.text(m.Decl.Recv.List[0].Type)+") "+a.text(m.Decl.Type))
		}
	}
	slices.Sort(a.lines)
	return a.lines, a.err
}

type api struct {
	fset      *token.FileSet
	types     *types.Package
	qualifier string
	lines     []string
	err       error
}

func (a *api) line(identifier, declaration string) {
	a.lines = append(a.lines, a.qualifier+identifier+" "+declaration)
}

// values adds constants and variables, whose types and values only the type checker knows.
func (a *api) values(groups []*doc.Value) {
	for _, group := range groups {
		for _, name := range group.Names {
			if !token.IsExported(name) {
				continue
			}
			switch object := a.types.Scope().Lookup(name).(type) {
			case *types.Const:
				a.line(name, "const "+a.typeName(object)+" = "+object.Val().ExactString())
			case *types.Var:
				a.line(name, "var "+a.typeName(object))
			}
		}
	}
}

func (a *api) typeName(object types.Object) string {
	return types.TypeString(object.Type(), func(p *types.Package) string {
		if p == a.types {
			return ""
		}
		return p.Name()
	})
}

func (a *api) funcs(funcs []*doc.Func) {
	for _, f := range funcs {
		a.line(f.Name, a.text(f.Decl.Type))
	}
}

// typ adds a type, its exported fields, and the methods that an interface asks for.
func (a *api) typ(t *doc.Type) {
	for _, spec := range t.Decl.Specs {
		spec := spec.(*ast.TypeSpec)
		head := "type " + a.typeParams(spec.TypeParams)
		if spec.Assign.IsValid() {
			head += "= "
		}
		var members *ast.FieldList
		var kind string
		switch typ := spec.Type.(type) {
		case *ast.StructType:
			head, kind, members = head+"struct", "field ", typ.Fields
			if typ.Incomplete {
				head += " with unexported fields"
			}
		case *ast.InterfaceType:
			head, kind, members = head+"interface", "method ", typ.Methods
			if typ.Incomplete {
				head += " with unexported methods"
			}
		default:
			head += a.text(spec.Type)
		}
		a.line(spec.Name.Name, head)
		if members == nil {
			continue
		}
		for _, member := range members.List {
			text := a.text(member.Type)
			if len(member.Names) == 0 {
				a.line(spec.Name.Name+"."+embedded(member.Type), "embedded "+text)
			}
			for _, name := range member.Names {
				a.line(spec.Name.Name+"."+name.Name, kind+text)
			}
		}
	}
}

// embedded is the name of an embedded field.
func embedded(typ ast.Expr) string {
	switch typ := typ.(type) {
	case *ast.StarExpr:
		return embedded(typ.X)
	case *ast.IndexExpr:
		return embedded(typ.X)
	case *ast.SelectorExpr:
		return typ.Sel.Name
	case *ast.Ident:
		return typ.Name
	}
	return "embedded" // terms of a union, in an interface that is a constraint

}

func (a *api) typeParams(list *ast.FieldList) string {
	if list == nil {
		return ""
	}
	return strings.TrimPrefix(strings.TrimSuffix(a.text(&ast.FuncType{TypeParams: list, Params: &ast.FieldList{}}), "()"), "func") + " "
}

// text prints a type on one line.
func (a *api) text(expr ast.Expr) string {
	ast.Inspect(expr, func(n ast.Node) bool {
		if f, ok := n.(*ast.FuncType); ok {
			f.Params, f.Results = unnamed(f.Params), unnamed(f.Results)
		}
		return true
	})
	var b bytes.Buffer
	if err := printer.Fprint(&b, a.fset, expr); err != nil && a.err == nil {
		a.err = err
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// unnamed is a list of parameters or results without their names.
func unnamed(list *ast.FieldList) *ast.FieldList {
	if list == nil {
		return nil
	}
	out := &ast.FieldList{Opening: list.Opening, Closing: list.Closing}
	for _, field := range list.List {
		for range max(1, len(field.Names)) {
			out.List = append(out.List, &ast.Field{Type: field.Type})
		}
	}
	return out
}
