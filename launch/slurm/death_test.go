//go:build linux

package slurm_test

import (
	"bufio"
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	"github.com/spawnwire/spawnwire/internal/testkit/launching"
	"github.com/spawnwire/spawnwire/internal/testkit/netns"
	cluster "github.com/spawnwire/spawnwire/internal/testkit/slurm"
	"github.com/spawnwire/spawnwire/launch/slurm"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// processes returns the processes of a cluster whose command line has a word.
func processes(cl *cluster.Cluster, word string) (pids []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		args, err := os.ReadFile(dir + "/cmdline")
		env, eerr := os.ReadFile(dir + "/environ") // as it was at the start
		if err == nil && eerr == nil && strings.Contains(string(args), word) &&
			strings.Contains(string(env), cl.Dir) {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			pids = append(pids, pid)
		}
	}
	return pids
}

// sruns returns the processes of all sruns of children.
func sruns(cl *cluster.Cluster) []int { return processes(cl, "--job-name=spawnwire\x00") }

// stepdOf returns the parent of a supervisor: slurmstepd.
func stepdOf(t testing.TB, supervisor int) int {
	t.Helper()
	stat := testkit.ReadFile(t, "/proc/"+strconv.Itoa(supervisor)+"/stat")
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	pid, err := strconv.Atoi(fields[1])
	require.NoError(t, err)
	return pid
}

// As many children run at once as there are processors, and one more does not wait for
// ever.
func testAllocation(t *testing.T, cl *cluster.Cluster) {
	cl.Run(t, "salloc", "--nodes=2", "--ntasks="+strconv.Itoa(all), "--no-shell",
		"--job-name=outer")
	id, _, _ := strings.Cut(cl.Queue(t), " ")
	defer cl.AwaitNone(t)
	defer cl.Run(t, "scancel", id)
	t.Setenv("SLURM_JOB_ID", id)
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	n := new(slurm.Launcher)
	for _, c := range spawnMany(t, s, n, "reports-state", all) {
		var there launching.State
		require.NoError(t, c.Recv(testkit.Context(t), &there))
		assert.Contains(t, there.Env, "SLURM_JOB_ID="+id)
	}
	requireFull(t, n)
}

// requireFull requires that no child more can start.
func requireFull(t *testing.T, n *slurm.Launcher) {
	t.Helper()
	s := spawntest.NewSpawner(t, forkspawn.Config{BootTimeout: 2 * time.Second})
	_, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"}, launching.On(n))
	require.ErrorIs(t, err, slurm.ErrPending)
	require.ErrorContains(t, err, "all of the allocation is in use")
}

// A second process of srun ends the step.
func testSrunKilled(t *testing.T, cl *cluster.Cluster) {
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	c, there := spawnState(t, s, new(slurm.Launcher))
	both := sruns(cl)
	require.Len(t, both, 2)
	require.NoError(t, syscall.Kill(min(both[0], both[1]), syscall.SIGKILL))
	err := c.Recv(testkit.Context(t), new(any))
	require.ErrorIs(t, err, slurm.ErrLost)
	require.ErrorContains(t, err, "srun has ended: signal: killed")
	var exit *forkspawn.ExitError
	require.ErrorAs(t, err, &exit)
	assert.False(t, exit.Status.Known())
	spawntest.AwaitGone(t, there.PID, there.PPID)
	cl.AwaitNone(t)
}

// SIGKILL cannot reach a child whose supervisor is stopped; Slurm ends it then.
func testSupervisorStopped(t *testing.T, cl *cluster.Cluster) {
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	c, there := spawnState(t, s, new(slurm.Launcher))
	require.NoError(t, syscall.Kill(there.PPID, syscall.SIGSTOP))
	_, err := c.Kill()
	require.NoError(t, err)
	require.ErrorIs(t, c.Err(), slurm.ErrLost)
	spawntest.AwaitGone(t, there.PID, there.PPID)
	cl.AwaitNone(t)
}

// deaths is for a longer run:
//
//	SPAWNWIRE_LONG=1 go test -v -timeout 60m -run '/parent.killed' ./launch/slurm -deaths 100
var deaths = flag.Int("deaths", 20, "the rounds of the test of deaths, with SPAWNWIRE_LONG=1")

// The parent is killed after the start, in the queue, and in the start.
func testParentKilled(t *testing.T, cl *cluster.Cluster) {
	for _, role := range []string{"spawns-on-a-node", "spawns-in-an-allocation"} {
		t.Run(role, func(t *testing.T) { killParents(t, cl, role) })
	}
}

func killParents(t *testing.T, cl *cluster.Cluster, role string) {
	place := testkit.ShortDir(t) // a killed parent leaves its socket
	var longest time.Duration
	kill := func(until func(lines *bufio.Scanner)) {
		parent := testkit.RoleCommand(t, role)
		parent.Env = append(parent.Env, "TMPDIR="+place, "XDG_RUNTIME_DIR=")
		parent.Stderr = os.Stderr
		out, err := parent.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, parent.Start())
		lines := bufio.NewScanner(out)
		require.True(t, lines.Scan(), "begins")
		until(lines)
		began := time.Now()
		require.NoError(t, parent.Process.Kill())
		var exit *exec.ExitError
		require.ErrorAs(t, parent.Wait(), &exit)
		testkit.Eventually(t, "srun and salloc have ended", func() bool {
			return len(processes(cl, "spawnwire-"))+len(processes(cl, "--job-name=spawnwire")) == 0
		})
		testkit.Eventually(t, "no job is left", func() bool {
			return !strings.Contains(cl.Queue(t), "spawnwire")
		})
		longest = max(longest, time.Since(began))
	}
	ready := func(lines *bufio.Scanner) {
		var pids []string
		for len(pids) < 2 {
			require.True(t, lines.Scan(), "ready")
			pids = strings.Fields(lines.Text())
		}
		t.Cleanup(func() {
			for _, digits := range pids {
				pid, err := strconv.Atoi(digits)
				require.NoError(t, err)
				spawntest.AwaitGone(t, pid)
			}
		})
	}
	kill(ready)
	if role == "spawns-in-an-allocation" {
		kill(func(lines *bufio.Scanner) {
			ready(lines)
			killSalloc(t, cl)
		})
	}
	end := fill(t, cl)
	kill(func(*bufio.Scanner) {
		testkit.Eventually(t, "the job is in the queue", func() bool {
			return strings.Contains(cl.Queue(t), "PENDING spawnwire")
		})
		time.Sleep(time.Second) // srun may miss a SIGTERM before its wait, see docs/design/222
	})
	end()
	rounds := 3
	if testkit.IsLong() {
		rounds = *deaths
	}
	for round := range rounds {
		kill(func(*bufio.Scanner) { time.Sleep(time.Duration(round%20) * 20 * time.Millisecond) })
	}
	testkit.Eventually(t, "no child and no supervisor is left", func() bool {
		return len(processes(cl, testkit.Self(t))) == 0
	})
	t.Logf("all was gone after %v at most", longest)
}

// failNode kills all of a node's processes at once, as when a machine fails, but for the
// children.
func failNode(t testing.TB, cl *cluster.Cluster, node string, children []launching.State) {
	t.Helper()
	var pids []int
	for _, there := range children {
		if slices.Contains(there.Env, "SLURMD_NODENAME="+node) {
			pids = append(pids, stepdOf(t, there.PPID), there.PPID)
		}
	}
	require.NotEmpty(t, pids)
	cl.Kill(node, syscall.SIGKILL)
	for _, pid := range pids {
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	}
}

func testNodeFailure(t *testing.T, cl *cluster.Cluster) {
	testkit.Long(t) // Slurm takes half a minute to notice it
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	c, there := spawnState(t, s, &slurm.Launcher{Options: []string{"--nodelist=h2"}})
	failNode(t, cl, "h2", []launching.State{there})
	err := c.Recv(testkit.Context(t), new(any))
	require.ErrorIs(t, err, slurm.ErrNode)
	require.ErrorIs(t, err, slurm.ErrLost)
	require.ErrorContains(t, err, "Node failure on h2")
	var exit *forkspawn.ExitError
	require.ErrorAs(t, err, &exit)
	assert.False(t, exit.Status.Known())
	spawntest.AwaitGone(t, there.PID)
}

// TestCut_IsReported cuts the cable between the parent and the node. Slurm notices it after
// SlurmdTimeout. The supervisor there would end itself after five minutes without a sign of
// its parent. The test does not wait so long.
func TestCut_IsReported(t *testing.T) {
	testkit.Long(t)
	m := netns.New(t)
	cluster.NewAt(t, m)
	t.Setenv("TMPDIR", testkit.ShortDir(t))
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Cleanup(func() { m.Heal(t) }) // before the end of the cluster
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	c, there := spawnState(t, s, new(slurm.Launcher))
	pids := []int{there.PID, there.PPID, stepdOf(t, there.PPID)}
	t.Cleanup(func() {
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	m.Cut(t)
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	err := c.Recv(ctx, new(any))
	t.Logf("known after %v: %v", time.Since(began), err)
	require.ErrorIs(t, err, slurm.ErrNode)
	require.ErrorIs(t, err, slurm.ErrLost)
	var exit *forkspawn.ExitError
	require.ErrorAs(t, err, &exit)
	assert.False(t, exit.Status.Known())
}
