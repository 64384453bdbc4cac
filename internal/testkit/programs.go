package testkit

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/gobuild"
)

// Self returns the path of the test binary.
func Self(t testing.TB) string {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	return exe
}

// Build builds a program as [gobuild.Build] does, and returns its path. It skips the test
// on a machine without Go, to which a test binary was copied.
func Build(t testing.TB, args ...string) string {
	t.Helper()
	needGo(t)
	exe, err := gobuild.Build(t, args...)
	require.NoError(t, err)
	return exe
}

// needGo skips the test on a machine without Go, where no go test has started it.
func needGo(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("it builds a program:", err)
	}
}

// MethodEnv is the environment variable with the start method of children, for the tests
// of package forkspawn.
const MethodEnv = "SPAWNWIRE_TEST_METHOD"

// BuildTests builds the test binary of the package in a folder and returns its path. env
// has assignments such as CGO_ENABLED=0. It skips the test as Build does.
func BuildTests(t testing.TB, dir string, env ...string) string {
	t.Helper()
	needGo(t)
	exe := filepath.Join(t.TempDir(), "program.test")
	cmd := exec.Command("go", "test", "-c", "-o", exe, dir)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "go test -c: %s", out)
	return exe
}

// BuildSource builds a program of one file, given as text, as Build does.
func BuildSource(t testing.TB, source string, env ...string) string {
	t.Helper()
	sum := sha256.Sum256([]byte(source))
	dir, _ := gobuild.Dir(t)
	src := filepath.Join(dir, "source-"+hex.EncodeToString(sum[:8]), "main.go")
	WriteFile(t, src, source)
	return Build(t, append(env, src)...)
}
