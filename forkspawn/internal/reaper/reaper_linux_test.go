package reaper

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

// During an exec a process has no environment for a moment. The subreaper looks
// at such a process again, but not at one with an empty environment.
func TestSubreaper_EmptyEnvironmentIsNotAMissingOne(t *testing.T) {
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

// A program that starts a process with os/exec may call Wait much later.
func TestSubreaper_LeavesTheStatusOfOtherProcesses(t *testing.T) {
	r, err := New("tester")
	require.NoError(t, err)
	defer r.Close()
	for _, own := range []bool{false, true} { // in this process's group, and in one of its own
		cmd := exec.Command("sh", "-c", "exit 7")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: own}
		require.NoError(t, cmd.Start())
		for began := time.Now(); !isZombie(cmd.Process.Pid); time.Sleep(time.Millisecond) {
			require.Less(t, time.Since(began), time.Minute)
		}
		for range 3 {
			r.look([]byte("tester/"))
		}
		err := cmd.Wait()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
		assert.Equal(t, 7, exit.ExitCode())
	}
}

// An outer /proc has other numbers than the processes of a PID namespace.
func TestSubreaper_RefusesAnotherNamespacesProc(t *testing.T) {
	if os.Getenv("TEST_OUTER_PROC") != "" {
		_, err := New("tester")
		require.ErrorContains(t, err, "another PID namespace")
		return
	}
	testkit.NeedRoot(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestSubreaper_RefusesAnotherNamespacesProc$")
	cmd.Env = append(os.Environ(), "TEST_OUTER_PROC=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		t.Skip("no PID namespaces here:", err)
	}
	require.NoError(t, err, "%s", out)
}
