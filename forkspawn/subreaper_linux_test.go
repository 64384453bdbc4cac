package forkspawn

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A subreaper waits for a process that has no environment for a moment, and not for one that has an empty one.
func TestAnEmptyEnvironmentIsNotOneThatIsStillToCome(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	cmd.Env = []string{}
	require.NoError(t, cmd.Start())
	pid := cmd.Process.Pid
	until := func(state func() bool) {
		for began := time.Now(); !state(); time.Sleep(time.Millisecond) {
			require.Less(t, time.Since(began), time.Minute)
		}
	}
	until(func() bool { return !changes(pid) }) // at first it is in the middle of its exec
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	require.NoError(t, err)
	assert.Empty(t, environ)
	assert.True(t, changes(os.Getpid()), "it has one, so it was too early to tell")

	require.NoError(t, cmd.Process.Kill())
	until(func() bool { return isZombie(pid) })
	assert.True(t, changes(pid), "it has none any more")
	cmd.Wait()
	assert.False(t, changes(pid), "it is gone")
}
