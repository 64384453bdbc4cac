//go:build unix

package forkspawn_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// A computing program uses the processors, and memory.
func TestUsage_IsKnownAfterTheEnd(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	c := start(t, s, "read l; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done",
		forkspawn.WithStdin(forkspawn.Pipe()))
	assert.Zero(t, c.Usage())
	require.NoError(t, c.Stdin().Close())
	_, err := c.Wait(testkit.Context(t))
	require.NoError(t, err)
	used := c.Usage()
	assert.Greater(t, used.User+used.System, 5*time.Millisecond)
	assert.Less(t, used.User+used.System, bound)
	assert.Greater(t, used.MaxRSS, int64(200<<10))

	child := spawn(t, s, spawnspec.Spec{Entry: "echo"})
	_, err = child.Stop(testkit.Context(t))
	require.NoError(t, err)
	assert.Greater(t, child.Usage().MaxRSS, int64(1<<20))
}
