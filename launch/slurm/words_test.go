//go:build linux

package slurm_test

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/launch/slurm"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// srunWithLateWords runs the supervisor here. Some time after it has read a line from the
// FIFO $ENDED, it writes as Slurm does when it has ended a step.
const srunWithLateWords = `#!/bin/sh
while [ "$1" != /usr/bin/env ]; do shift; done
{
	read line <"$ENDED"
	sleep 0.1
	echo "slurmstepd: error: *** STEP 1.0 ON h1 CANCELLED AT 2026-01-01T00:00:00 ***" >&2
} >/dev/null &
"$@"
`

// isKilled writes to the FIFO $ENDED and ends by SIGKILL.
func isKilled(context.Context, *forkspawn.Parent) error {
	if err := os.WriteFile(os.Getenv("ENDED"), []byte("\n"), 0o600); err != nil {
		return err
	}
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// Slurm ends a child with signals. Its words can come after the child's exit status.
func TestErrors_WordsAfterTheExitStatus(t *testing.T) {
	dir := t.TempDir()
	srun := filepath.Join(dir, "srun")
	require.NoError(t, os.WriteFile(srun, []byte(srunWithLateWords), 0o700))
	ended := filepath.Join(dir, "ended")
	require.NoError(t, syscall.Mkfifo(ended, 0o600))
	t.Setenv("ENDED", ended)
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "is-killed"},
		forkspawn.WithCommand(forkspawn.Command{
			Launcher: &slurm.Launcher{Command: []string{srun}}}))
	require.NoError(t, err)
	err = c.Recv(testkit.Context(t), new(any))
	require.ErrorIs(t, err, slurm.ErrCancelled)
	require.ErrorContains(t, err, "signal: killed")
}
