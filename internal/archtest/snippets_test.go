package archtest

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Go code in the pages for users is part of a program or an example, which is
// compiled and run. Only the indentation may differ. A block with "go before" shows
// another library.
func TestDocs_GoIsPartOfAProgram(t *testing.T) {
	var programs strings.Builder
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(file) != ".go" {
			return err
		}
		text, err := os.ReadFile(file)
		programs.WriteString(flush(string(text)))
		return err
	})
	require.NoError(t, err)
	all := programs.String()

	block := regexp.MustCompile("(?ms)^```go\n(.*?)^```")
	for file, text := range documents(t) {
		guide := file == "README.md" || file == "docs/tutorial.md" ||
			strings.HasPrefix(file, "docs/guides/")
		if !guide {
			continue
		}
		for _, m := range block.FindAllStringSubmatch(text, -1) {
			assert.True(t, strings.Contains(all, flush(m[1])),
				"%s has this, and no program has it:\n%s", file, m[1])
		}
	}
}

// flush returns the lines without their indentation.
func flush(text string) string {
	return regexp.MustCompile(`(?m)^[\t ]+`).ReplaceAllString(text, "")
}

// The comment of a public package is read on one page.
func TestPackageComments_FitOnAPage(t *testing.T) {
	for _, p := range packages(t) {
		if !p.Public() {
			continue
		}
		lines := 0
		for _, name := range p.Files {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil,
				parser.ParseComments|parser.PackageClauseOnly)
			require.NoError(t, err)
			if file.Doc != nil {
				lines += strings.Count(file.Doc.Text(), "\n")
			}
		}
		assert.Positive(t, lines, "%s has no package comment", p.Path)
		assert.LessOrEqual(t, lines, 60, "the package comment of %s", p.Path)
	}
}
