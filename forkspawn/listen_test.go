//go:build unix

package forkspawn_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// Another program empties the temporary directory. The children live on, and the
// next Spawn makes the socket again.
func TestSocket_IsRestored(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	old := spawn(t, s, spawnspec.Spec{Entry: "echo"})
	socket := s.Addr().Target
	dir := filepath.Dir(socket)
	for _, remove := range []func() error{
		func() error { return os.Remove(socket) },
		func() error { return os.RemoveAll(dir) },
	} {
		require.NoError(t, remove())
		requireEchoes(t, old, "hello")
		var spawns sync.WaitGroup
		for range 4 {
			spawns.Go(func() {
				c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"})
				if assert.NoError(t, err) {
					requireEchoes(t, c, "hello")
				}
			})
		}
		spawns.Wait()
		assert.Equal(t, socket, s.Addr().Target)
	}
	require.NoError(t, s.Close())
	assert.NoDirExists(t, dir)
}
