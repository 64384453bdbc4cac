package forkspawn_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// When an entry runs, the child has its control connection. The library needs
// nothing more from the file system or the network.
func TestConfinement_ChildKeepsItsParent(t *testing.T) {
	testkit.NeedRoot(t)
	networks(t, func(t *testing.T, listen transport.Addr) {
		command := forkspawn.Command{Env: append(os.Environ(), "GOMAXPROCS=1")}
		s := newSpawner(t, forkspawn.Config{Listen: listen, Command: command})
		for range 10 {
			c, err := s.Spawn(testkit.Context(t),
				spawnspec.Spec{Entry: "confines-itself", Args: t.TempDir()})
			require.NoError(t, err)
			answers(t, c)
			result, err := c.Stop(testkit.Context(t))
			require.NoError(t, err)
			assert.Equal(t, forkspawn.Asked, result.By)
			assert.True(t, result.Status.Success(), result)
		}
	})
}

// A failed dial is no proof of the parent's end.
func TestConfinement_LostSocketIsNotTheParentsEnd(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
	require.NoError(t, os.Remove(s.Addr().Target))
	answers(t, c)
	result, err := c.Stop(testkit.Context(t))
	require.NoError(t, err)
	assert.True(t, result.Status.Success(), result)
}
