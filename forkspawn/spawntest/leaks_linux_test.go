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

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/spawnspec"
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
		record(t, func(r testing.TB) {
			child := spawntest.Spawn(r, leave)
			require.NoError(t, child.Recv(t.Context(), &pid))
			<-child.Exited()
		})
		spawntest.Eventually(t, "it runs", func() bool { return spawntest.State(pid) == "S" })
		return fmt.Sprintf("process %d (S): sleep 60", pid), func() { syscall.Kill(pid, syscall.SIGKILL) }
	}
	leaks["descriptor"] = func(t testing.TB) (string, func()) {
		f, err := os.Open(os.DevNull)
		require.NoError(t, err)
		return fmt.Sprintf("descriptor %d: /dev/null", f.Fd()), func() { f.Close() }
	}
}

// start starts a program, and holds nothing open on it, as os/exec would.
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
		case "S": // and not only for a page of its program
			system, _ := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
			return !strings.HasPrefix(string(system), "running") && !strings.HasPrefix(string(system), "-1")
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

func TestMainFailsWhenProcessesOrDescriptorsAreLeft(t *testing.T) {
	spawntest.NoLeaks(t)
	for leak, said := range map[string]string{
		"process":                        `  process (\d+) \(S\): sleep 60`,
		"zombie":                         `  zombie (\d+) \(Z\): \[true\]`,
		"orphan in a session of its own": `  process (\d+) \(S\): sleep 60`,
		"descriptor":                     `  descriptor (\d+): /dev/null`,
	} {
		t.Run(leak, func(t *testing.T) {
			code, out := runMain(t, leak)
			assert.Equal(t, 1, code)
			assert.Contains(t, out, "PASS\nspawntest: left after all tests:\n")
			assert.Regexp(t, said, out)
		})
	}
	// That what was left is killed, the NoLeaks of this test sees.
}

func TestAnotherFileUnderTheSameNumberIsALeak(t *testing.T) {
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
	assert.Equal(t, []string{fmt.Sprintf("descriptor %d: /proc/%d/stat", fd, os.Getpid())}, s.Leaks())
}

func TestWhatIsJustEndingIsNoLeak(t *testing.T) {
	s := spawntest.TakeSnapshot(t)
	cmd := exec.Command("sleep", "0.2")
	require.NoError(t, cmd.Start())
	waited := make(chan error, 1)
	go func() { waited <- cmd.Wait() }()
	assert.Empty(t, s.Leaks())
	assert.NoError(t, <-waited)
}

func TestMarkFindsTheProcessesOfOneCase(t *testing.T) {
	spawntest.NoLeaks(t)
	mine, other := spawntest.NewMark(), spawntest.NewMark()
	var left, leftByOther int
	for mark, pid := range map[spawntest.Mark]*int{mine: &left, other: &leftByOther} {
		child := spawntest.Spawn(t, leave, func(cfg *forkspawn.Config, _ *spawnspec.Spec) {
			cfg.Command.Env = mark.Env(nil)
		})
		require.NoError(t, child.Recv(t.Context(), pid))
		_, err := child.Wait(t.Context())
		require.NoError(t, err)
	}
	hasty := spawntest.SetPatience(time.Millisecond)
	found := mine.Leaks()
	hasty()
	if assert.Len(t, found, 1) {
		assert.Contains(t, found[0], "process "+strconv.Itoa(left)+" ")
	}
	require.NoError(t, syscall.Kill(left, syscall.SIGKILL))
	assert.Empty(t, mine.Leaks())
	assert.True(t, spawntest.Running(leftByOther))
	require.NoError(t, syscall.Kill(leftByOther, syscall.SIGKILL))
	spawntest.AwaitGone(t, left, leftByOther)
	assert.Empty(t, spawntest.Mark{}.Leaks(), "the zero Mark finds nothing")
}

func TestMarksAddUp(t *testing.T) {
	a, b := spawntest.NewMark(), spawntest.NewMark()
	env := b.Env(a.Env([]string{"X=1", "Y=2"}))
	require.Len(t, env, 3)
	assert.Equal(t, []string{"X=1", "Y=2"}, env[:2])
	assert.Regexp(t, "^"+spawntest.MarksEnv+"=[A-Z0-9]+,[A-Z0-9]+$", env[2])
	assert.Contains(t, a.Env(nil)[len(os.Environ())-1], os.Getenv(spawntest.MarksEnv)+",", "beside the mark of Main")
}

func TestStateOfAProcess(t *testing.T) {
	spawntest.NoLeaks(t)
	pid := start(t, nil, "sleep", "60")
	assert.Equal(t, "S", spawntest.State(pid))
	assert.True(t, spawntest.Running(pid))
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	spawntest.Eventually(t, "it is stopped", func() bool { return spawntest.State(pid) == "T" })
	assert.True(t, spawntest.Running(pid))

	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	spawntest.Eventually(t, "it is a zombie", func() bool { return spawntest.State(pid) == "Z" })
	assert.False(t, spawntest.Running(pid))
	hasty := spawntest.SetBound(time.Millisecond)
	told := record(t, func(r testing.TB) { spawntest.AwaitGone(r, pid) })
	hasty()
	assert.True(t, told.failed, "a zombie of this process is not gone")
	assert.Contains(t, told.said.String(), "process "+strconv.Itoa(pid)+" is gone")
	reap(t, pid)
	spawntest.AwaitGone(t, pid)
	assert.Empty(t, spawntest.State(pid))
	assert.True(t, spawntest.Running(os.Getpid()))
}
