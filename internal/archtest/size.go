package archtest

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
)

// The limits on production code.
const (
	MaxFileLines  = 450    // of one file
	MaxFuncLines  = 80     // of one function, from its func to its closing brace
	MaxLines      = 20_000 // of all production packages together
	MaxNames      = 420    // that the public packages export
	MaxSpawnLines = 4_300  // of package forkspawn alone
)

// A Size is the length of a package's production code.
type Size struct {
	Lines int
	Long  []string // a sentence for each file and function that is too long
}

// Measure counts the lines of the package's files, comments and blank lines
// included.
func (p Package) Measure() (Size, error) {
	var size Size
	for _, name := range p.Files {
		path := filepath.Join(p.Dir, name)
		text, err := os.ReadFile(path)
		if err != nil {
			return size, err
		}
		lines := bytes.Count(text, []byte("\n"))
		size.Lines += lines
		file := p.Path + "/" + name
		if lines > MaxFileLines {
			size.Long = append(size.Long,
				fmt.Sprintf("%s has %d lines, the limit is %d", file, lines, MaxFileLines))
		}
		positions := token.NewFileSet()
		parsed, err := parser.ParseFile(positions, path, text, parser.SkipObjectResolution)
		if err != nil {
			return size, err
		}
		for _, decl := range parsed.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			first, last := positions.Position(f.Pos()).Line, positions.Position(f.End()).Line
			if lines := last - first + 1; lines > MaxFuncLines {
				size.Long = append(size.Long, fmt.Sprintf("%s:%d: %s has %d lines, the limit is %d",
					file, first, f.Name.Name, lines, MaxFuncLines))
			}
		}
	}
	return size, nil
}
