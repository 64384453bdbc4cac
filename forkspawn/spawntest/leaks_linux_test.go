package spawntest_test

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
)

func init() {
	leaks["process"] = func(t testing.TB) (string, func()) {
		pid := start(t, nil, "sleep", "60")
		return fmt.Sprintf("process %d (S): sleep 60", pid), func() {
			syscall.Kill(pid, syscall.SIGKILL)
			reap(t, pid)
		}
	}
	leaks["process without the mark"] = func(t testing.TB) (string, func()) {
		pid := start(t, []string{"NOTHING=else"}, "sleep", "60")
		return fmt.Sprintf("process %d (S): sleep 60", pid), func() {
			syscall.Kill(pid, syscall.SIGKILL)
			reap(t, pid)
		}
	}
	leaks["stopped process"] = func(t testing.TB) (string, func()) {
		pid := start(t, nil, "sleep", "60")
		require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
		spawntest.Eventually(t, "it is stopped", func() bool { return spawntest.State(pid) == "T" })
		return fmt.Sprintf("process %d (T): sleep 60", pid), func() {
			syscall.Kill(pid, syscall.SIGKILL)
			reap(t, pid)
		}
	}
	leaks["zombie"] = func(t testing.TB) (string, func()) {
		pid := start(t, nil, "true")
		spawntest.Eventually(t, "it has ended", func() bool { return spawntest.State(pid) == "Z" })
		return fmt.Sprintf("zombie %d (Z): [true]", pid), func() { reap(t, pid) }
	}
	leaks["orphan in a session of its own"] = func(t testing.TB) (string, func()) {
		var pid int
		record(func(r testing.TB) {
			child := spawntest.Spawn(r, leave)
			require.NoError(t, child.Recv(t.Context(), &pid))
			<-child.Exited()
		})
		spawntest.Eventually(t, "it runs", func() bool { return spawntest.State(pid) == "S" })
		return fmt.Sprintf("process %d (S): sleep 60", pid), func() {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	leaks["descriptor"] = func(t testing.TB) (string, func()) {
		f, err := os.Open(os.DevNull)
		require.NoError(t, err)
		return fmt.Sprintf("descriptor %d: /dev/null", f.Fd()), func() { f.Close() }
	}
}

// start starts a program and waits until it sleeps or has ended. Unlike os/exec
// it keeps no descriptor open for the process.
func start(t testing.TB, env []string, name string, args ...string) (pid int) {
	t.Helper()
	path, err := exec.LookPath(name)
	require.NoError(t, err)
	if env == nil {
		env = os.Environ()
	}
	pid, err = syscall.ForkExec(path, append([]string{name}, args...), &syscall.ProcAttr{Env: env})
	require.NoError(t, err)
	spawntest.Eventually(t, "it sleeps or has ended", func() bool {
		switch spawntest.State(pid) {
		case "Z":
			return true
		case "S":
			// The process may only wait for a page of its program. Then the file
			// has "running" or "-1" and not the number of a system call.
			system, _ := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
			return !strings.HasPrefix(string(system), "running") &&
				!strings.HasPrefix(string(system), "-1")
		}
		return false
	})
	return pid
}

func reap(t testing.TB, pid int) {
	for {
		if _, err := syscall.Wait4(pid, nil, 0, nil); err != syscall.EINTR {
			assert.NoError(t, err)
			return
		}
	}
}

func TestMain_FailsWhenProcessesAreLeft(t *testing.T) {
	spawntest.NoLeaks(t)
	for leak, want := range map[string]string{
		"process":                        `  process (\d+) \(S\): sleep 60`,
		"zombie":                         `  zombie (\d+) \(Z\): \[true\]`,
		"orphan in a session of its own": `  process (\d+) \(S\): sleep 60`,
		"descriptor":                     `  descriptor (\d+): /dev/null`,
	} {
		t.Run(leak, func(t *testing.T) {
			code, out := runMain(t, leak)
			assert.Equal(t, 1, code)
			assert.Contains(t, out, "PASS\nspawntest: left after all tests:\n")
			assert.Regexp(t, want, out)
		})
	}
	// The NoLeaks of this test fails if Main has not killed the processes.
}

func TestLeaks_DescriptorWithReusedNumber(t *testing.T) {
	f, err := os.Open(os.DevNull)
	require.NoError(t, err)
	s := spawntest.TakeSnapshot(t)
	fd := int(f.Fd())
	require.NoError(t, f.Close())
	g, err := os.Open("/proc/self/stat")
	require.NoError(t, err)
	defer g.Close()
	require.Equal(t, fd, int(g.Fd()))
	defer spawntest.SetPatience(time.Millisecond)()
	assert.Equal(t, []string{fmt.Sprintf("descriptor %d: /proc/%d/stat", fd, os.Getpid())},
		s.Leaks())
}

func TestLeaks_WaitForEndingProcesses(t *testing.T) {
	s := spawntest.TakeSnapshot(t)
	cmd := exec.Command("sleep", "0.2")
	require.NoError(t, cmd.Start())
	waited := make(chan error, 1)
	go func() { waited <- cmd.Wait() }()
	assert.Empty(t, s.Leaks())
	assert.NoError(t, <-waited)
}

func TestState_FromSleepToZombie(t *testing.T) {
	spawntest.NoLeaks(t)
	pid := start(t, nil, "sleep", "60")
	assert.Equal(t, "S", spawntest.State(pid))
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	spawntest.Eventually(t, "it is stopped", func() bool { return spawntest.State(pid) == "T" })

	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	spawntest.Eventually(t, "it is a zombie", func() bool { return spawntest.State(pid) == "Z" })
	resetBound := spawntest.SetBound(time.Millisecond)
	rec := record(func(r testing.TB) { spawntest.AwaitGone(r, pid) })
	resetBound()
	assert.True(t, rec.failed, "a zombie of this process is not gone")
	assert.Contains(t, rec.log(), "process "+strconv.Itoa(pid)+" is gone")
	reap(t, pid)
	spawntest.AwaitGone(t, pid)
	assert.Empty(t, spawntest.State(pid))
}
