package archtest

import (
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
)

// Names returns the exported names of the package on linux/amd64, sorted.
// Methods and fields of exported types are in it as Type.Name.
func (p Package) Names() ([]string, error) {
	linux := build.Default
	linux.GOOS, linux.GOARCH = "linux", "amd64"
	there, err := linux.ImportDir(p.Dir, 0)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, name := range slices.Concat(there.GoFiles, there.CgoFiles) {
		path := filepath.Join(p.Dir, name)
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, decl := range file.Decls {
			names = append(names, declared(decl)...)
		}
	}
	slices.Sort(names)
	return names, nil
}

// declared returns the exported names of one declaration.
func declared(decl ast.Decl) []string {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		switch {
		case !d.Name.IsExported():
		case d.Recv == nil:
			return []string{d.Name.Name}
		case ast.IsExported(typeName(d.Recv.List[0].Type)):
			return []string{typeName(d.Recv.List[0].Type) + "." + d.Name.Name}
		}
	case *ast.GenDecl:
		var names []string
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.ValueSpec:
				names = append(names, exported("", s.Names)...)
			case *ast.TypeSpec:
				if s.Name.IsExported() {
					names = append(names, s.Name.Name)
					names = append(names, members(s)...)
				}
			}
		}
		return names
	}
	return nil
}

// members returns the exported fields of a struct type, with its embedded
// types, or the exported methods of an interface type.
func members(t *ast.TypeSpec) []string {
	var list *ast.FieldList
	switch x := t.Type.(type) {
	case *ast.StructType:
		list = x.Fields
	case *ast.InterfaceType:
		list = x.Methods
	default:
		return nil
	}
	var names []string
	for _, field := range list.List {
		names = append(names, exported(t.Name.Name+".", field.Names)...)
		if _, isStruct := t.Type.(*ast.StructType); isStruct && field.Names == nil {
			if name := typeName(field.Type); ast.IsExported(name) {
				names = append(names, t.Name.Name+"."+name)
			}
		}
	}
	return names
}

func exported(prefix string, idents []*ast.Ident) []string {
	var names []string
	for _, ident := range idents {
		if ident.IsExported() {
			names = append(names, prefix+ident.Name)
		}
	}
	return names
}

// typeName returns the name of a receiver's or an embedded field's type.
func typeName(expr ast.Expr) string {
	switch x := expr.(type) {
	case *ast.StarExpr:
		return typeName(x.X)
	case *ast.IndexExpr:
		return typeName(x.X)
	case *ast.IndexListExpr:
		return typeName(x.X)
	case *ast.SelectorExpr:
		return x.Sel.Name
	case *ast.Ident:
		return x.Name
	}
	return ""
}
