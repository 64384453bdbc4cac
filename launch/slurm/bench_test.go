//go:build linux

package slurm_test

import (
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	cluster "github.com/spawnwire/spawnwire/internal/testkit/slurm"
	"github.com/spawnwire/spawnwire/launch/slurm"
)

// BenchmarkStarts starts many children at once: in an existing allocation, and as a job
// for each. One srun with as many tasks, true(1), is the floor, and so are as many sruns
// for steps of their own.
//
//	go test -run '^$' -bench Starts -benchtime 5x ./launch/slurm
func BenchmarkStarts(b *testing.B) {
	const count = 32
	cl := cluster.New(b, count/cluster.CPUs)
	b.Setenv("XDG_RUNTIME_DIR", "")
	s := spawntest.NewSpawner(b, forkspawn.Config{})
	start := func(b *testing.B, n *slurm.Launcher) {
		for b.Loop() {
			children := spawnMany(b, s, n, "echo", count)
			b.StopTimer()
			for _, c := range children {
				_, err := c.Kill()
				require.NoError(b, err)
			}
			b.StartTimer()
		}
	}
	b.Run("allocation", func(b *testing.B) {
		a, n := allocate(b, "--ntasks="+strconv.Itoa(count))
		start(b, n)
		require.NoError(b, a.Close())
		cl.AwaitNone(b)
	})
	b.Run("jobs", func(b *testing.B) { start(b, new(slurm.Launcher)) })
	b.Run("srun", func(b *testing.B) {
		cl.AwaitNone(b)
		allocate(b, "--ntasks="+strconv.Itoa(count))
		job, _, _ := strings.Cut(cl.Queue(b), " ")
		for b.Loop() {
			cl.Run(b, "srun", "--jobid="+job, "--ntasks="+strconv.Itoa(count), "true")
		}
	})
	b.Run("sruns", func(b *testing.B) {
		cl.AwaitNone(b)
		allocate(b, "--ntasks="+strconv.Itoa(count))
		job, _, _ := strings.Cut(cl.Queue(b), " ")
		for b.Loop() {
			var steps sync.WaitGroup
			for range count {
				steps.Go(func() {
					assert.NoError(b, exec.Command("srun", "--jobid="+job, "--exact",
						"--ntasks=1", "true").Run())
				})
			}
			steps.Wait()
		}
	})
}
