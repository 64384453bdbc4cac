//go:build unix

package forkspawn_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func TestLiveness_StoppedChildIsReplaced(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		t.Parallel()
		failures := make(chan error, 10)
		s := newSpawner(t, forkspawn.Config{Listen: listen, Trace: &forkspawn.Trace{
			Restarting: func(_ forkspawn.ChildEvent, _ int, _ time.Duration, err error) {
				failures <- err
			},
		}})
		g, err := s.NewGroup(t.Context(), forkspawn.GroupConfig{
			Restart: forkspawn.RestartOnFailure, Liveness: time.Second})
		require.NoError(t, err)
		lives := 0
		require.NoError(t, g.Go(spawnspec.Spec{Entry: "waits"},
			func(ctx context.Context, c *forkspawn.Child) error {
				if lives++; lives > 1 {
					return nil
				}
				require.NoError(t, c.Signal(syscall.SIGSTOP))
				<-ctx.Done()
				return ctx.Err()
			}))
		require.NoError(t, g.Wait())
		assert.Equal(t, 2, lives)
		err = testkit.Receive(t, failures)
		assert.ErrorIs(t, err, forkspawn.ErrUnresponsive)
		assert.ErrorContains(t, err, "ended: signal: killed: it did not answer for 1s")
	})
}

func TestLiveness_SilenceEndsAGroupWithoutRestarts(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	g, err := s.NewGroup(t.Context(), forkspawn.GroupConfig{Liveness: time.Second})
	require.NoError(t, err)
	c, err := g.Spawn(t.Context(), spawnspec.Spec{Entry: "waits"})
	require.NoError(t, err)
	require.NoError(t, c.Signal(syscall.SIGSTOP))
	assert.ErrorIs(t, g.Wait(), forkspawn.ErrUnresponsive)
}

// The library answers, so an entry may compute and never receive. It also answers
// while messages wait.
func TestLiveness_BusyEntryIsLeftAlone(t *testing.T) {
	testkit.Long(t)
	s := newSpawner(t, forkspawn.Config{})
	g, err := s.NewGroup(t.Context(), forkspawn.GroupConfig{Liveness: 4 * time.Second})
	require.NoError(t, err)
	c, err := g.Spawn(t.Context(), spawnspec.Spec{Entry: "computes"})
	require.NoError(t, err)
	time.Sleep(10 * time.Second)
	assert.NoError(t, c.Err())
	g.Cancel(nil)
	g.Wait()
}
