//go:build unix

package forkspawn_test

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func TestOrphan_GroupOfADeadChildIsKilled(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	boot := spawnError(t, testkit.Context(t), s, roles.Command("leaves-grandchild"),
		spawnspec.Spec{Name: "leaver"})
	_, pid, ok := strings.Cut(strings.TrimSpace(boot.Stderr), "leaving ")
	require.True(t, ok, boot.Stderr)
	sleeper, err := strconv.Atoi(pid)
	require.NoError(t, err)
	testkit.Eventually(t, "the grandchild is gone", func() bool { return !running(sleeper) })
}

// Each mechanism works without the other: the parent-death signal, and the end
// of the connection.
func TestOrphan_EndsAfterItsParentIsKilled(t *testing.T) {
	for name, bySignal := range map[string]bool{"by the kernel's signal": true,
		"by the end of the stream": false} {
		t.Run(name, func(t *testing.T) {
			if bySignal && runtime.GOOS != "linux" {
				t.Skip("there is no such signal here")
			}
			s := newSpawner(t, forkspawn.Config{})
			// The process in the middle is killed, and leaves its socket's directory.
			place := testkit.ShortDir(t)
			env := append(os.Environ(), "XDG_RUNTIME_DIR=", "TMPDIR="+place)
			c, err := s.Spawn(testkit.Context(t),
				spawnspec.Spec{Entry: "spawns-leaf", Args: bySignal},
				forkspawn.WithCommand(forkspawn.Command{Env: env}))
			require.NoError(t, err)
			var grandchild int
			require.NoError(t, c.Recv(testkit.Context(t), &grandchild))
			require.True(t, running(grandchild))
			start := time.Now()
			_, err = c.Kill()
			require.NoError(t, err)
			testkit.Eventually(t, "the grandchild has ended", func() bool {
				return !running(grandchild)
			})
			t.Logf("it ended %v after the kill", time.Since(start))
		})
	}
}
