package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestHello_IsTheProgramOfTheREADME(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	source, err := os.ReadFile("main.go")
	require.NoError(t, err)
	_, program, ok := strings.Cut(string(source), ")\n\n// upper runs")
	require.True(t, ok)
	program, _, ok = strings.Cut(program, "\nfunc check")
	require.True(t, ok)
	assert.Contains(t, string(readme), "```go\n// upper runs"+program+"```")
}

func TestHello_PrintsAnswer(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "hello")
	out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command(bin).CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Equal(t, "HELLO\nended as asked: exit status 0 <nil>\n", string(out))
}
