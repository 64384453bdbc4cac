//go:build linux

package slurm_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
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
	cluster "github.com/spawnwire/spawnwire/internal/testkit/slurm"
	"github.com/spawnwire/spawnwire/launch/slurm"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// allocate makes an allocation, and a launcher for it.
func allocate(t testing.TB, options ...string) (*slurm.Allocation, *slurm.Launcher) {
	t.Helper()
	a, err := slurm.Allocate(testkit.Context(t), options...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, a.Close()) })
	return a, &slurm.Launcher{Allocation: a}
}

// spawnMany spawns children at once and waits until all are ready.
func spawnMany(t testing.TB, s *forkspawn.Spawner, l forkspawn.Launcher, entry string, count int,
) []*forkspawn.Child {
	t.Helper()
	children, errs := make([]*forkspawn.Child, count), make(chan error, count)
	for i := range children {
		go func() {
			var err error
			children[i], err = s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: entry},
				launching.On(l))
			errs <- err
		}()
	}
	for range children {
		assert.NoError(t, <-errs)
	}
	require.False(t, t.Failed())
	return children
}

// jobs returns how many jobs of children there have been.
func jobs(t testing.TB, cl *cluster.Cluster) int {
	return strings.Count(cl.Run(t, "scontrol", "--oneliner", "show", "jobs"), "JobName=spawnwire-")
}

const all = 2 * cluster.CPUs // the processors of the cluster

func testOneSubmission(t *testing.T, cl *cluster.Cluster) {
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	before := jobs(t, cl)
	a, n := allocate(t, "--ntasks="+strconv.Itoa(all))
	children := spawnMany(t, s, n, "echo", all)
	for _, c := range children {
		launching.RequireEcho(t, c)
	}
	job, _, _ := strings.Cut(cl.Queue(t), " ")
	assert.Equal(t, all, strings.Count(cl.Run(t, "squeue", "--steps", "--noheader"), "\n"))
	assert.Equal(t, before+1, jobs(t, cl))

	requireFull(t, n)
	t.Run("a child in place of another", func(t *testing.T) {
		_, err := children[0].Kill()
		require.NoError(t, err)
		launching.RequireEcho(t, launching.Spawn(t, s, n, "echo"))
	})
	require.NoError(t, a.Close())
	for _, c := range children[1:] {
		err := c.Recv(testkit.Context(t), new(any))
		closed := errors.Is(err, slurm.ErrCancelled) || errors.Is(err, fs.ErrClosed)
		require.True(t, closed, "%v", err)
	}
	err := spawnError(testkit.Context(t), t, n)
	require.ErrorIs(t, err, fs.ErrClosed)
	assert.Equal(t, before+1, jobs(t, cl))
	cl.AwaitNone(t)
	state := cl.Run(t, "squeue", "--states=all", "--noheader", "--format=%T", "--jobs="+job)
	assert.Equal(t, "COMPLETED\n", state)
}

func testAllocationRefused(t *testing.T, cl *cluster.Cluster) {
	for _, test := range []struct {
		name, option string
		want         error
		words        string
	}{
		{"partition", "--partition=none", slurm.ErrPartition, "none"},
		{"memory", "--mem=9G", slurm.ErrStart, "node configuration is not available"},
		{"nodes", "--nodes=3", slurm.ErrPending, "PartitionNodeLimit"},
		{"option", "--bogus", slurm.ErrStart, "--bogus"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(testkit.Context(t), 3*time.Second)
			defer cancel()
			_, err := slurm.Allocate(ctx, test.option)
			t.Log(err)
			var failed *slurm.Error
			require.ErrorAs(t, err, &failed)
			assert.ErrorIs(t, err, test.want)
			assert.ErrorContains(t, err, test.words)
		})
	}
	cl.AwaitNone(t)
}

func testAllocationPending(t *testing.T, cl *cluster.Cluster) {
	defer fill(t, cl)()
	inQueue := func() bool { return strings.Contains(cl.Queue(t), "PENDING spawnwire") }
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(testkit.Context(t))
		defer cancel()
		go func() {
			for !inQueue() && ctx.Err() == nil {
				time.Sleep(20 * time.Millisecond)
			}
			time.Sleep(time.Second) // squeue says None before the scheduler has seen it
			cancel()
		}()
		_, err := slurm.Allocate(ctx, "--ntasks=2")
		require.ErrorIs(t, err, slurm.ErrPending)
		require.ErrorIs(t, err, context.Canceled)
		require.Regexp(t, "has not begun: (Resources|Priority)", err.Error())
		require.NotContains(t, cl.Queue(t), "spawnwire", "nothing is left when Allocate returns")
	})
	for _, test := range []struct {
		name string
		end  func()
		want error
	}{
		{"scancel", func() { cl.Run(t, "scancel", "--state=PENDING") }, slurm.ErrCancelled},
		{"salloc killed", func() { killSalloc(t, cl) }, slurm.ErrStart},
	} {
		t.Run(test.name, func(t *testing.T) {
			ended := testkit.Background(t, func() error {
				_, err := slurm.Allocate(testkit.Context(t), "--ntasks=2")
				return err
			})
			testkit.Eventually(t, "the job is in the queue", inQueue)
			test.end()
			require.ErrorIs(t, ended(), test.want)
			require.NotContains(t, cl.Queue(t), "spawnwire")
		})
	}
}

// killSalloc kills all sallocs of allocations.
func killSalloc(t testing.TB, cl *cluster.Cluster) {
	t.Helper()
	pids := processes(cl, "--kill-command=KILL")
	require.NotEmpty(t, pids)
	for _, pid := range pids {
		if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); string(comm) == "salloc\n" {
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		}
	}
}

func testAllocationEnds(t *testing.T, cl *cluster.Cluster) {
	for _, test := range []struct {
		name             string
		end              func(job string, there []launching.State)
		children, starts error
	}{
		{"scancel", func(job string, _ []launching.State) { cl.Run(t, "scancel", job) },
			slurm.ErrCancelled, slurm.ErrCancelled},
		{"salloc killed", func(string, []launching.State) { killSalloc(t, cl) },
			slurm.ErrCancelled, slurm.ErrLost},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, n := allocate(t, "--ntasks=3")
			requireEnd(t, cl, n, 3, test.end, test.children, test.starts)
		})
	}
}

// The shortest limit of Slurm is a minute.
func testAllocationTimeLimit(t *testing.T, cl *cluster.Cluster) {
	testkit.Long(t)
	_, n := allocate(t, "--ntasks=3", "--time=1")
	requireEnd(t, cl, n, 3, func(string, []launching.State) {},
		slurm.ErrTimeLimit, slurm.ErrTimeLimit)
}

// The failure of one node ends the allocation, with the children on the other one.
func testAllocationNodeFailure(t *testing.T, cl *cluster.Cluster) {
	testkit.Long(t) // Slurm takes half a minute to notice it
	_, n := allocate(t, "--nodes=2", "--ntasks="+strconv.Itoa(all))
	requireEnd(t, cl, n, all, func(_ string, there []launching.State) {
		failNode(t, cl, "h1", there)
	}, slurm.ErrNode, slurm.ErrNode)
}

// requireEnd fills the allocation with count children, lets a start wait in it, and ends
// it. The errors of the children match one error, and those of the starts another one.
func requireEnd(t *testing.T, cl *cluster.Cluster, n *slurm.Launcher, count int,
	end func(job string, there []launching.State), children, starts error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	s := spawntest.NewSpawner(t, forkspawn.Config{BootTimeout: 5 * time.Minute})
	running := spawnMany(t, s, n, "reports-state", count)
	there := make([]launching.State, count)
	for i, c := range running {
		require.NoError(t, c.Recv(ctx, &there[i]))
	}
	job, _, _ := strings.Cut(cl.Queue(t), " ")
	waiting := make(chan error, 1)
	go func() {
		_, err := s.Spawn(ctx, spawnspec.Spec{Entry: "echo"}, launching.On(n))
		waiting <- err
	}()
	testkit.Eventually(t, "a step waits", func() bool {
		return strings.Contains(cl.Run(t, "scontrol", "show", "step"), "State=PENDING")
	})
	end(job, there)
	for _, c := range running {
		err := c.Recv(ctx, new(any))
		// srun can lose the connection to a node before Slurm declares the node failed.
		lost := children == slurm.ErrNode && errors.Is(err, slurm.ErrLost)
		assert.True(t, lost || errors.Is(err, children), "%v", err)
	}
	for _, err := range []error{<-waiting, spawnError(ctx, t, n)} {
		require.ErrorIs(t, err, slurm.ErrStart)
		require.ErrorIs(t, err, starts)
		require.ErrorContains(t, err, "its allocation has ended")
	}
	for _, state := range there {
		spawntest.AwaitGone(t, state.PID)
	}
	cl.AwaitNone(t)
}

// An allocation made in another one takes none of its settings.
func testAllocationInAnother(t *testing.T, cl *cluster.Cluster) {
	t.Setenv("SLURM_JOB_ID", "4711")
	t.Setenv("SLURM_MEM_PER_NODE", "9000")
	t.Setenv("SLURM_NTASKS_PER_NODE", "9")
	_, n := allocate(t)
	_, there := spawnState(t, spawntest.NewSpawner(t, forkspawn.Config{}), n)
	job, _, _ := strings.Cut(cl.Queue(t), " ")
	assert.Contains(t, there.Env, "SLURM_JOB_ID="+job)
}

func TestAllocate_WithoutSalloc(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := slurm.Allocate(testkit.Context(t))
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "salloc")
}
