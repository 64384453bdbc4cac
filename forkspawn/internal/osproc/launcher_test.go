package osproc

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

// Each start that hangs for a while takes a thread from the others. It must not cost
// one thread more each time.
func TestLauncher_UsesAReplacedThreadAgain(t *testing.T) {
	l := NewLauncher()
	ctx := testkit.Context(t)
	for range 3 {
		release, hangs, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		go func() {
			ended <- l.Do(ctx, "", "", func() error {
				close(hangs)
				<-release
				return nil
			}, func() {})
		}()
		<-hangs
		require.NoError(t, l.Do(ctx, "", "", func() error { return nil }, func() {}))
		close(release)
		require.NoError(t, <-ended)
		assert.Len(t, l.replaced, 1)
	}
	assert.False(t, l.Close())
}
