//go:build unix

package forkspawn_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/transport/uds"
)

// listenUDS returns a handshake listener in a private directory that the test's end removes.
func listenUDS(t testing.TB) *handshake.Listener {
	t.Helper()
	dir, err := uds.NewDir()
	require.NoError(t, err)
	t.Cleanup(func() { dir.Remove() })
	ln, err := uds.Listen(context.Background(), dir.Addr("s"))
	require.NoError(t, err)
	l, err := handshake.Listen(ln, handshake.ListenerConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// allStopped tells whether all threads of a process have stopped, or ended: it is not stopped before. Only Linux tells.
func allStopped(pid int) bool {
	stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, name := range stats {
		stat, err := os.ReadFile(name)
		if err == nil && !strings.Contains(string(stat), ") T ") && !strings.Contains(string(stat), ") Z ") {
			return false
		}
	}
	return true
}
