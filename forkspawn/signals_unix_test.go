//go:build unix

package forkspawn_test

import (
	"context"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func TestDrain_SignalsHaveSteps(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{StopGrace: testkit.Patience, TermGrace: testkit.Patience})
	accepting, ctx, stop := s.NotifyDrain(t.Context(), syscall.SIGUSR1)
	defer stop()
	c := spawn(t, s, spawnspec.Spec{Entry: "ignores-requests", Args: true})
	require.NoError(t, c.Recv(testkit.Context(t), new(string)), "it ignores SIGTERM now")
	signal := func() { require.NoError(t, syscall.Kill(syscall.Getpid(), syscall.SIGUSR1)) }

	signal()
	testkit.Receive(t, accepting.Done())
	assert.NoError(t, ctx.Err())
	var cause *forkspawn.SignalError
	require.ErrorAs(t, context.Cause(accepting), &cause)

	signal()
	testkit.Receive(t, ctx.Done())
	require.ErrorAs(t, context.Cause(ctx), &cause)

	stopped := make(chan forkspawn.StopResult, 1)
	go func() {
		result, _ := c.Stop(context.Background())
		stopped <- result
	}()
	// A third and a fourth signal shorten the graces.
	var result forkspawn.StopResult
	testkit.Eventually(t, "the child has ended", func() bool {
		signal()
		select {
		case result = <-stopped:
			return true
		default:
			return false
		}
	})
	assert.Equal(t, forkspawn.Killed, result.By)
}

func TestDrain_EndOfTheParentEndsBoth(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	parent, cancel := context.WithCancel(t.Context())
	accepting, ctx, stop := s.NotifyDrain(parent, syscall.SIGUSR1)
	cancel()
	testkit.Receive(t, accepting.Done())
	testkit.Receive(t, ctx.Done())
	stop()
}
