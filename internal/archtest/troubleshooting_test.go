package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The first column of a table of docs/troubleshooting.md has texts of errors.
// Each piece between two dots is part of a text in the code, or of the system.
func TestTroubleshooting_TextsAreInTheCode(t *testing.T) {
	page := documents(t)["docs/troubleshooting.md"]
	_, page, ok := strings.Cut(page, "## A child does not start")
	require.True(t, ok)
	texts := texts(t)
	rows := regexp.MustCompile("(?m)^\\| `([^`]*)` \\|").FindAllStringSubmatch(page, -1)
	require.Greater(t, len(rows), 40)
	for _, row := range rows {
		for piece := range strings.SplitSeq(row[1], "…") {
			assert.True(t, strings.Contains(texts, strings.TrimSpace(piece)),
				"docs/troubleshooting.md has %q, and the code has no %q", row[1], piece)
		}
	}
}

// texts returns the string literals of the production code, and texts of the
// system: statuses, signals and errors.
func texts(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, p := range packages(t) {
		if !p.Production() {
			continue
		}
		for _, name := range p.Files {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, 0)
			require.NoError(t, err)
			ast.Inspect(file, func(n ast.Node) bool {
				if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
					text, err := strconv.Unquote(literal.Value)
					require.NoError(t, err)
					all.WriteString(text + "\n")
				}
				return true
			})
		}
	}
	for status := range 126 {
		all.WriteString("exit status " + strconv.Itoa(status) + "\n")
	}
	for errno := range syscall.Errno(134) {
		all.WriteString(errno.Error() + "\n")
	}
	all.WriteString("signal: " + syscall.SIGKILL.String() + "\n" + exec.ErrNotFound.Error() + "\n")
	return all.String()
}
