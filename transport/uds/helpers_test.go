package uds

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func second[T any](_ T, err error) error { return err }

func mustNewDir(t testing.TB) *Dir {
	t.Helper()
	d, err := NewDir()
	require.NoError(t, err)
	t.Cleanup(func() { d.Remove() })
	return d
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

func removePath(t testing.TB, path string) {
	t.Helper()
	require.NoError(t, os.Remove(path))
}
