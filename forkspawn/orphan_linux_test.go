package forkspawn_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// An orphan lives on because it has set OnParentGone, although nobody reads its
// lines. SIGINT ends it as it ends any process.
func TestOrphan_InterruptEndsIt(t *testing.T) {
	spawntest.NoLeaks(t)
	s := newSpawner(t, forkspawn.Config{})
	alive := filepath.Join(t.TempDir(), "alive")
	c := spawn(t, s, spawnspec.Spec{Entry: "spawns-survivor", Args: alive})
	var orphan int
	require.NoError(t, c.Recv(testkit.Context(t), &orphan))
	_, err := c.Kill()
	require.NoError(t, err)
	testkit.Eventually(t, "it and its child have written to stderr", func() bool {
		_, err := os.Stat(alive)
		return err == nil
	})
	require.True(t, running(orphan))
	// It waits, and does not try to read from its connections in a loop.
	before := cpuTicks(t, orphan)
	time.Sleep(300 * time.Millisecond)
	assert.Less(t, cpuTicks(t, orphan)-before, 15, "ticks of 10 ms; a loop would have 30")
	require.NoError(t, syscall.Kill(orphan, syscall.SIGINT))
	spawntest.AwaitGone(t, orphan)
}

// cpuTicks returns the CPU time of a process in ticks of 10 ms
// (proc_pid_stat(5)).
func cpuTicks(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile("/proc/" + itoa(pid) + "/stat")
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	user, err := strconv.Atoi(fields[11])
	require.NoError(t, err)
	system, err := strconv.Atoi(fields[12])
	require.NoError(t, err)
	return user + system
}
