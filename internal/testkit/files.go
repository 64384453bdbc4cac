package testkit

import (
	"encoding/hex"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// ShortDir returns a new directory. The test's cleanup removes it. Its path
// leaves room for a socket's name. That of t.TempDir may be too long, because
// it contains the test's name.
func ShortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sw")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// WriteFile writes a file, and makes the directories above it.
func WriteFile(t testing.TB, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
}

// ReadFile returns the content of a file.
func ReadFile(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

// Hex decodes hexadecimal digits. Spaces between them are ignored.
func Hex(t testing.TB, digits string) []byte {
	t.Helper()
	data, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
	require.NoError(t, err)
	return data
}

// ReadVectors decodes a JSON file of the module's testdata directory.
func ReadVectors(t testing.TB, name string, into any) {
	t.Helper()
	require.NoError(t,
		json.Unmarshal([]byte(ReadFile(t, filepath.Join(Root(t), "testdata", name))), into))
}

// Root returns the module's directory: the one above the test's with go.mod.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	require.NoError(t, err)
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		above := filepath.Dir(dir)
		require.NotEqual(t, dir, above, "there is no go.mod above the working directory")
		dir = above
	}
}

// StaleSocket leaves a socket file without a process, as a killed process does.
func StaleSocket(t testing.TB, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
}
