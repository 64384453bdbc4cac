//go:build unix

package forkspawn_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func TestClose_EndsChildrenSideBySide(t *testing.T) {
	const grace = time.Second
	s, err := forkspawn.New(forkspawn.Config{StopGrace: grace, TermGrace: grace,
		Stderr: forkspawn.Null()})
	require.NoError(t, err)
	dir := filepath.Dir(s.Addr().Target)
	for range 8 {
		c := spawn(t, s, spawnspec.Spec{Entry: "ignores-requests", Args: true})
		var ready string
		require.NoError(t, c.Recv(testkit.Context(t), &ready))
	}
	children := s.Children()
	start := time.Now()
	require.NoError(t, s.Close())
	assert.Less(t, time.Since(start), 8*2*grace,
		"not one after the other, which is eight times as long")
	for _, c := range children {
		assert.False(t, alive(c.PID()))
	}
	assert.NoDirExists(t, dir)
	assert.NoError(t, s.Close())
}

func TestClose_ShutdownHastensIt(t *testing.T) {
	s, err := forkspawn.New(forkspawn.Config{StopGrace: time.Hour, Stderr: forkspawn.Null()})
	require.NoError(t, err)
	c := spawn(t, s, spawnspec.Spec{Entry: "ignores-requests"})
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	testkit.Eventually(t, "the Close has begun", func() bool {
		_, err := s.Spawn(context.Background(), spawnspec.Spec{Entry: "echo"})
		return errors.Is(err, forkspawn.ErrSpawnerClosed)
	})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, s.Shutdown(ctx))
	require.NoError(t, <-closed)
	assert.False(t, alive(c.PID()))
}
