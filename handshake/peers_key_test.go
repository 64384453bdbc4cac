package handshake_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
)

func TestKeyFile_IsMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	var wg sync.WaitGroup
	keys := make([][]byte, 20)
	for i := range keys {
		wg.Go(func() {
			key, err := handshake.KeyFile(path)
			assert.NoError(t, err)
			keys[i] = key
		})
	}
	wg.Wait()
	for _, key := range keys {
		assert.Len(t, key, 64)
		assert.Equal(t, keys[0], key)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	assert.Len(t, left, 1, "only the key")
	_, err = handshake.KeyFile(filepath.Join(t.TempDir(), "no", "such", "key"))
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestKeyFile_UnsuitableOnesAreRefused(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		content string
		mode    os.FileMode
		want    string
	}{
		"too short": {"short\n", 0o600, "5 bytes"},
		"too long":  {strings.Repeat("x", 5000), 0o600, "5000 bytes"},
		"readable":  {strings.Repeat("x", 32), 0o640, "mode 0640"},
		"writable":  {strings.Repeat("x", 32), 0o602, "mode 0602"},
	} {
		if c.mode != 0o600 && runtime.GOOS == "windows" {
			continue
		}
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(c.content), 0o600))
		require.NoError(t, os.Chmod(path, c.mode))
		_, err := handshake.KeyFile(path)
		assert.ErrorIs(t, err, handshake.ErrKeyFile, name)
		assert.ErrorContains(t, err, c.want, name)
	}
	_, err := handshake.KeyFile(dir)
	assert.ErrorIs(t, err, handshake.ErrKeyFile)
}
