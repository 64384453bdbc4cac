//go:build linux

package network

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

func TestEnded_SeesTheEndBehindUnreadInput(t *testing.T) {
	near, far := testkit.Unix(t)
	assert.False(t, Ended(near))
	_, err := far.Write([]byte("unread"))
	require.NoError(t, err)
	assert.False(t, Ended(near))
	require.NoError(t, far.Close())
	testkit.Eventually(t, "the end", func() bool { return Ended(near) })
}
