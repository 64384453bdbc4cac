//go:build unix

package forkspawn_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// An entry has no setting for its limit. It uses the parent's.
func TestLimit_ReachesEntries(t *testing.T) {
	large := bytes.Repeat([]byte("large"), transport.DefaultMaxFrameSize/4)
	for _, limit := range []int{2 * transport.DefaultMaxFrameSize, 1 << 20} {
		s := newSpawner(t, forkspawn.Config{MaxFrameSize: limit})
		c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
		message := large[:min(len(large), limit-100)]
		require.NoError(t, c.Send(testkit.Context(t), string(message)))
		var back string
		require.NoError(t, c.Recv(testkit.Context(t), &back))
		assert.Equal(t, len(message), len(back))
	}
}
