//go:build linux

package ssh_test

import (
	"bufio"
	"flag"
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
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/netns"
	"github.com/spawnwire/spawnwire/internal/testkit/sshd"
	"github.com/spawnwire/spawnwire/launch/ssh"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// parentOf returns the parent of a process.
func parentOf(t testing.TB, pid int) int {
	t.Helper()
	stat := testkit.ReadFile(t, "/proc/"+strconv.Itoa(pid)+"/stat")
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	parent, err := strconv.Atoi(fields[1])
	require.NoError(t, err)
	return parent
}

// deaths is for a longer run:
//
//	SPAWNWIRE_LONG=1 go test -v -timeout 60m -run 'Killed|Cut' ./launch/ssh -deaths 100
var deaths = flag.Int("deaths", 5, "the rounds of the tests of deaths, with SPAWNWIRE_LONG=1")

// The parent is killed, and so nobody asks the child to end.
func TestParent_KilledLeavesNothing(t *testing.T) {
	_, h := newHost(t)
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	spawn(t, s, h, spawnspec.Spec{Entry: "echo"}) // fills the cache
	place := testkit.ShortDir(t)                  // a killed parent leaves its socket
	rounds := 2
	if testkit.IsLong() {
		rounds = *deaths
	}
	for range rounds {
		parent := testkit.RoleCommand(t, "spawns-afar")
		parent.Env = append(parent.Env, "TMPDIR="+place, "XDG_RUNTIME_DIR=",
			"TEST_SSH="+strings.Join(h.Command, " "),
			"TEST_CACHE="+h.CacheDir)
		parent.Stderr = os.Stderr
		out, err := parent.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, parent.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		child, err := strconv.Atoi(strings.TrimSpace(line))
		require.NoError(t, err)
		supervisor := parentOf(t, child)
		require.NoError(t, parent.Process.Kill())
		var exit *exec.ExitError
		require.ErrorAs(t, parent.Wait(), &exit)
		spawntest.AwaitGone(t, child, supervisor)
	}
}

func TestConnection_CutIsAnExactError(t *testing.T) {
	_, h := newHost(t)
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	c, pid := spawnPID(t, s, h)
	supervisor := parentOf(t, pid)
	session := parentOf(t, supervisor) // of sshd
	require.NoError(t, syscall.Kill(session, syscall.SIGKILL))
	var exit *forkspawn.ExitError
	require.ErrorAs(t, c.Recv(testkit.Context(t), new(any)), &exit)
	assert.False(t, exit.Status.Known())
	require.ErrorIs(t, exit, ssh.ErrLost)
	var lost *ssh.Error
	require.ErrorAs(t, exit, &lost)
	assert.Equal(t, h.Name, lost.Host)
	spawntest.AwaitGone(t, pid, supervisor)
}

func TestSupervisor_KilledTakesItsChildAlong(t *testing.T) {
	_, h := newHost(t)
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	c, pid := spawnPID(t, s, h)
	require.NoError(t, syscall.Kill(parentOf(t, pid), syscall.SIGKILL))
	require.ErrorIs(t, c.Recv(testkit.Context(t), new(any)), ssh.ErrLost)
	spawntest.AwaitGone(t, pid)
}

// SIGKILL cannot reach a child whose supervisor is stopped.
func TestKill_EndsAlthoughTheSupervisorIsStopped(t *testing.T) {
	_, h := newHost(t)
	h.DeadAfter = 300 * time.Millisecond
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	c, pid := spawnPID(t, s, h)
	supervisor := parentOf(t, pid)
	require.NoError(t, syscall.Kill(supervisor, syscall.SIGSTOP))
	_, err := c.Kill()
	require.NoError(t, err)
	require.ErrorIs(t, c.Err(), ssh.ErrLost)
	require.NoError(t, syscall.Kill(supervisor, syscall.SIGCONT))
	spawntest.AwaitGone(t, pid, supervisor)
}

// The kernel of a stopped process still acknowledges.
func TestStopped_IsNotDead(t *testing.T) {
	_, h := newHost(t)
	stopped := 20 * time.Second
	if !testkit.IsLong() {
		h.DeadAfter, stopped = 50*time.Millisecond, 400*time.Millisecond
	}
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	c, pid := spawnPID(t, s, h)
	supervisor := parentOf(t, pid)
	session := parentOf(t, supervisor)
	all := []int{session, supervisor, pid}
	for _, p := range all {
		require.NoError(t, syscall.Kill(p, syscall.SIGSTOP))
	}
	select {
	case <-c.Exited():
	case <-time.After(stopped):
	}
	for _, p := range all {
		assert.NoError(t, syscall.Kill(p, syscall.SIGCONT))
	}
	result, err := c.Stop(testkit.Context(t))
	require.NoError(t, err)
	assert.Equal(t, forkspawn.Asked, result.By, "%v: %v", result, c.Err())
}

// The host has a network of its own, and its cable is cut.
func TestCut_EndsBothEnds(t *testing.T) {
	m := netns.New(t)
	server := sshd.NewAt(t, m.Addr, []string{"ip", "netns", "exec", m.Name},
		"SetEnv TMPDIR="+testkit.ShortDir(t))
	h := &ssh.Host{Name: sshd.Name, Command: server.Command, CacheDir: t.TempDir() + "/cache",
		DeadAfter: time.Second}
	rounds := 1
	if testkit.IsLong() {
		h.DeadAfter, rounds = 0, *deaths
	}
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	t.Cleanup(func() { m.Heal(t) }) // before the end of the server
	for range rounds {
		m.Heal(t)
		testkit.Eventually(t, "the server answers", server.Answers)
		c, pid := spawnPID(t, s, h)
		supervisor := parentOf(t, pid)
		m.Cut(t)
		began := time.Now()
		require.ErrorIs(t, c.Recv(testkit.Context(t), new(any)), ssh.ErrLost)
		near := time.Since(began)
		assert.False(t, c.Err().(*forkspawn.ExitError).Status.Known())
		spawntest.AwaitGone(t, pid, supervisor)
		t.Logf("DeadAfter %v: known after %v, the child is gone after %v",
			h.DeadAfter, near, time.Since(began))
		c.Stop(testkit.Context(t))
	}
}

func TestTree_EndsWithItsRoot(t *testing.T) {
	_, h := newHost(t)
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	ctx := testkit.Context(t)
	inner := func() (c *forkspawn.Child, pid int) {
		c = spawn(t, s, h, spawnspec.Spec{Entry: "spawns-on", Args: placeOf(h)})
		require.NoError(t, c.Recv(ctx, &pid))
		return c, pid
	}
	c, pid := inner()
	result, err := c.Stop(ctx)
	require.NoError(t, err)
	assert.Equal(t, forkspawn.Asked, result.By)
	spawntest.AwaitGone(t, pid)

	c, pid = inner()
	_, err = c.Kill()
	require.NoError(t, err)
	spawntest.AwaitGone(t, pid)
}
