//go:build unix

package forkspawn_test

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// logged spawns a child with a log level, and returns what it logs.
func logged(
	t *testing.T, s *forkspawn.Spawner, cmd forkspawn.Command, entry string, level slog.Level,
) string {
	t.Helper()
	ctx := testkit.Context(t)
	c, err := s.Spawn(ctx, spawnspec.Spec{Name: "logs", Entry: entry, LogLevel: level},
		forkspawn.WithCommand(cmd))
	require.NoError(t, err)
	require.NoError(t, c.Recv(ctx, new(any)), "it has logged")
	_, err = c.Stop(ctx)
	require.NoError(t, err)
	return c.StderrTail()
}

func TestLogLevel_IsThatOfTheChildsDefaultLogger(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	for name, c := range map[string]struct {
		cmd   forkspawn.Command
		entry string
	}{
		"an entry":  {entry: "logs"},
		"a program": {cmd: roles.Command("joins-and-logs")},
	} {
		t.Run(name, func(t *testing.T) {
			verbose := logged(t, s, c.cmd, c.entry, slog.LevelDebug)
			assert.Contains(t, verbose, "DEBUG of the child")
			assert.Contains(t, verbose, "INFO of the child")

			usual := logged(t, s, c.cmd, c.entry, slog.LevelInfo)
			assert.NotContains(t, usual, "DEBUG")
			assert.Contains(t, usual, "INFO of the child")

			quiet := logged(t, s, c.cmd, c.entry, slog.LevelError)
			assert.NotContains(t, quiet, "WARN")
			assert.Contains(t, quiet, "ERROR of the child")
			assert.Contains(t, quiet, "package log of the child", "package log has no levels")
		})
	}
}

// The program set a logger of its own before Join. Its level stays, and so does
// the level of messages from package log.
func TestLogLevel_LeavesALoggerOfTheProgramAlone(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	text := logged(t, s, roles.Command("joins-and-logs", "own logger"), "", slog.LevelDebug)
	assert.NotContains(t, text, "DEBUG")
	assert.Contains(t, text, "INFO of the child")
	assert.Contains(t, text, "package log of the child")
}

// An entry in this process shares the logger of this process.
func TestLogLevel_OfAnEntryInThisProcessChangesNothing(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{Method: forkspawn.MethodInProcess})
	logged(t, s, forkspawn.Command{}, "logs", slog.LevelError)
	assert.True(t, slog.Default().Enabled(t.Context(), slog.LevelInfo))
}
