//go:build linux

package slurm_test

import (
	"context"
	"io/fs"
	"os/exec"
	"path/filepath"
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

// spawnError spawns a child and returns the error.
func spawnError(ctx context.Context, t *testing.T, n *slurm.Launcher) error {
	t.Helper()
	s := spawntest.NewSpawner(t, forkspawn.Config{Stderr: forkspawn.Capture(nil)})
	_, err := s.Spawn(ctx, spawnspec.Spec{Entry: "echo"}, launching.On(n))
	var boot *forkspawn.BootError
	require.ErrorAs(t, err, &boot)
	return err
}

func testErrors(t *testing.T, cl *cluster.Cluster) {
	plain := filepath.Join(t.TempDir(), "plain")
	testkit.WriteFile(t, plain, "\x7fELF")
	for _, test := range []struct {
		name, program string
		options       []string
		want          error
		words         string
	}{
		{"partition", "", []string{"--partition=none"}, slurm.ErrPartition, "none"},
		{"memory", "", []string{"--mem=9G"}, slurm.ErrStart, "node configuration is not available"},
		{"node", "", []string{"--nodelist=h9"}, slurm.ErrStart, "Invalid node name"},
		{"option", "", []string{"--bogus"}, slurm.ErrStart, "--bogus"},
		{"program", "/no/such/program", nil, fs.ErrNotExist, "/no/such/program"},
		{"permission", plain, nil, fs.ErrPermission, plain},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := spawnError(testkit.Context(t), t,
				&slurm.Launcher{Options: test.options, Program: test.program})
			var failed *slurm.Error
			require.ErrorAs(t, err, &failed)
			assert.ErrorIs(t, err, test.want)
			assert.ErrorContains(t, err, test.words)
		})
	}
	t.Run("srun", func(t *testing.T) {
		err := spawnError(testkit.Context(t), t,
			&slurm.Launcher{Command: []string{"/no/such/srun"}})
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.ErrorContains(t, err, "/no/such/srun")
	})
	cl.AwaitNone(t)
}

func TestLauncher_ChecksItsProgram(t *testing.T) {
	for _, program := range []string{"here", "/a=b"} {
		err := spawnError(testkit.Context(t), t, &slurm.Launcher{Program: program})
		require.ErrorContains(t, err, "field Program")
	}
}

// fill runs a job that has all processors, until the caller calls end.
func fill(t *testing.T, cl *cluster.Cluster) (end func()) {
	t.Helper()
	job := exec.Command("srun", "--nodes=2", "--exclusive", "--job-name=fill", "sleep", "300")
	require.NoError(t, job.Start())
	ended := testkit.Background(t, job.Wait)
	testkit.Eventually(t, "the nodes are full", func() bool {
		return strings.Contains(cl.Queue(t), "RUNNING fill")
	})
	return func() {
		cl.Run(t, "scancel", "--name=fill")
		ended()
		cl.AwaitNone(t)
	}
}

func testPending(t *testing.T, cl *cluster.Cluster) {
	defer fill(t, cl)()
	t.Run("immediate", func(t *testing.T) {
		err := spawnError(testkit.Context(t), t,
			&slurm.Launcher{Options: []string{"--immediate=1"}})
		require.ErrorIs(t, err, slurm.ErrPending)
	})
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(testkit.Context(t))
		defer cancel()
		go func() {
			for !strings.Contains(cl.Queue(t), "PENDING spawnwire") && ctx.Err() == nil {
				time.Sleep(20 * time.Millisecond)
			}
			time.Sleep(time.Second) // squeue says None before the scheduler has seen it
			cancel()
		}()
		err := spawnError(ctx, t, new(slurm.Launcher))
		require.ErrorIs(t, err, slurm.ErrPending)
		require.ErrorIs(t, err, context.Canceled)
		require.Regexp(t, "has not begun: (Resources|Priority)", err.Error())
		require.NotContains(t, cl.Queue(t), "spawnwire", "nothing is left when Spawn returns")
	})
}

func testCancelled(t *testing.T, cl *cluster.Cluster) {
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	c, there := spawnState(t, s, new(slurm.Launcher))
	cl.Run(t, "scancel", "--name=spawnwire")
	err := c.Recv(testkit.Context(t), new(any))
	require.ErrorIs(t, err, slurm.ErrCancelled)
	require.ErrorContains(t, err, "CANCELLED AT")
	spawntest.AwaitGone(t, there.PID, there.PPID)
	cl.AwaitNone(t)
}

// Slurm looks at the memory every second here, as its control groups are not used.
func testMemory(t *testing.T, cl *cluster.Cluster) {
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	c := launching.Spawn(t, s, &slurm.Launcher{Options: []string{"--mem=350M"}}, "fills-memory")
	require.ErrorIs(t, c.Recv(testkit.Context(t), new(any)), slurm.ErrMemory)
	cl.AwaitNone(t)
}

func testSecret(t *testing.T, cl *cluster.Cluster) {
	var secret string
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	ctx := testkit.Context(t)
	c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "reports-state"}, forkspawn.WithCommand(
		forkspawn.Command{
			Launcher: launching.Secretive{Launcher: new(slurm.Launcher), Secret: &secret},
			Env:      []string{"SOME=thing"}}))
	require.NoError(t, err)
	var there launching.State
	require.NoError(t, c.Recv(ctx, &there))
	env := strings.Join(there.Env, "\n")
	assert.Contains(t, env, "SOME=thing")
	assert.Contains(t, env, "SLURM_PROCID=0")
	assert.NotContains(t, env, "SPAWNWIRE_SUPERVISE")
	assert.NotContains(t, env, "SPAWNWIRE_TICKET")
	assert.NotContains(t, env, secret)
	launching.SecretIsInNoProcess(t, secret)
	assert.Greater(t, launching.SecretIsInNoFile(t, cl.Dir, secret), 3)
}

// The shortest limit of Slurm is a minute.
func testTimeLimit(t *testing.T, cl *cluster.Cluster) {
	testkit.Long(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	c, there := spawnState(t, s, &slurm.Launcher{Options: []string{"--time=1"}})
	require.ErrorIs(t, c.Recv(ctx, new(any)), slurm.ErrTimeLimit)
	spawntest.AwaitGone(t, there.PID, there.PPID)
	cl.AwaitNone(t)
}

func testController(t *testing.T, cl *cluster.Cluster) {
	testkit.Long(t) // srun tries for nine seconds
	cl.Kill("ctld", syscall.SIGKILL)
	began := time.Now()
	err := spawnError(testkit.Context(t), t, new(slurm.Launcher))
	t.Logf("after %v: %v", time.Since(began), err)
	require.ErrorIs(t, err, slurm.ErrController)
}
