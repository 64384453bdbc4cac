//go:build unix

package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/examples/peers"
)

// polyglot builds polyglot and runs it in the root of the repository.
func polyglot(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	bin := filepath.Join(t.TempDir(), "polyglot")
	built, err := exec.CommandContext(ctx, "go", "build", "-o", bin, ".").CombinedOutput()
	require.NoError(t, err, "%s", built)
	var out, errs strings.Builder
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "../..", &out, &errs
	cmd.Run()
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestPolyglot_ThreeLanguagesAgree(t *testing.T) {
	_, python := peers.Python(t.Context(), "")
	_, node := peers.Node(t.Context(), "../peers/node", "")
	for _, err := range []error{python, node} {
		if err != nil && os.Getenv("SPAWNWIRE_PEERS") != "required" {
			t.Skip(err)
		}
		require.NoError(t, err)
	}
	file := filepath.Join(t.TempDir(), "words")
	require.NoError(t,
		os.WriteFile(file, []byte(strings.Repeat("vier Wörter mit\x00 \xff\t", 100)), 0o600))
	stdout, stderr, code := polyglot(t, "-part", "400", file)
	require.Equal(t, 0, code, stderr)
	assert.Regexp(t,
		`part 0: 400 bytes, \d+ words, sha256 [0-9a-f]{16}\.\.\.: python and node agree\n`+
			`part 1: .*: node and go agree\npart 2: .*: go and python agree\n`+
			`part 3: .*: python and node agree\n`, stdout)
	assert.Regexp(t,
		`python  ended as asked: exit status 0\nnode    ended as asked: exit status 0\n`+
			`go      ended as asked: exit status 0\n$`, stdout)
	assert.Empty(t, stderr)
}

func TestPolyglot_NamesWhatIsMissing(t *testing.T) {
	_, stderr, code := polyglot(t, "-python", "no-such-python", "-node", "no-such-node")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "python3-cbor2")
	assert.Contains(t, stderr, "no-such-python")
	assert.Contains(t, stderr, "npm --prefix")
	assert.Contains(t, stderr, "no-such-node")

	_, stderr, code = polyglot(t, "-peers", t.TempDir())
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "-peers")
}
