//go:build unix

package forkspawn_test

import (
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func TestLog_LevelsMakeSense(t *testing.T) {
	var out testkit.Output
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo}))
	s := newSpawner(t, forkspawn.Config{Logger: log, StopGrace: bound})
	c := spawn(t, s, spawnspec.Spec{Name: "good", Entry: "waits"})
	_, err := c.Stop(testkit.Context(t))
	require.NoError(t, err)
	assert.Empty(t, out.String(), "the usual course of a life is below Info")

	s = newSpawner(t,
		forkspawn.Config{Logger: log, StopGrace: 50 * time.Millisecond, TermGrace: bound})
	c = spawn(t, s, spawnspec.Spec{Name: "bad", Entry: "ignores-requests"})
	var ready string
	require.NoError(t, c.Recv(testkit.Context(t), &ready))
	_, err = c.Stop(testkit.Context(t))
	require.NoError(t, err)
	assert.Contains(t, out.String(), "level=WARN")
	assert.Contains(t, out.String(), "name=bad")
	assert.Contains(t, out.String(), syscall.SIGTERM.String())
	assert.Equal(t, 1, strings.Count(out.String(), "\n"), "one line for the force")
}
