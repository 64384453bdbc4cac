//go:build linux

package slurm_test

import (
	"testing"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/launching"
	cluster "github.com/spawnwire/spawnwire/internal/testkit/slurm"
	"github.com/spawnwire/spawnwire/launch/slurm"
)

func TestSlurm(t *testing.T) {
	c := cluster.New(t, 2)
	t.Setenv("TMPDIR", testkit.ShortDir(t)) // a killed supervisor leaves its socket
	t.Setenv("XDG_RUNTIME_DIR", "")
	for _, test := range []struct {
		name string
		run  func(*testing.T, *cluster.Cluster)
	}{
		{"children are as any other", testChildren},
		{"inside an allocation", testAllocation},
		{"one submission", testOneSubmission},
		{"allocation refused", testAllocationRefused},
		{"allocation pending", testAllocationPending},
		{"allocation ends", testAllocationEnds},
		{"allocation in another", testAllocationInAnother},
		{"secret is nowhere else", testSecret},
		{"errors", testErrors},
		{"pending", testPending},
		{"cancelled", testCancelled},
		{"memory", testMemory},
		{"srun killed", testSrunKilled},
		{"supervisor stopped", testSupervisorStopped},
		{"parent killed", testParentKilled},
		{"time limit", testTimeLimit},
		{"allocation time limit", testAllocationTimeLimit},
		{"allocation node failure", testAllocationNodeFailure}, // near the end: h1 is gone then
		{"node failure", testNodeFailure},
		{"no controller", testController},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, c) })
	}
}

func testChildren(t *testing.T, cl *cluster.Cluster) {
	t.Setenv("SLURM_LABELIO", "1") // a user's habit
	launching.Children(t, spawntest.NewSpawner(t, forkspawn.Config{}),
		spawntest.NewSpawner(t, forkspawn.Config{StopGrace: 100 * time.Millisecond}),
		new(slurm.Launcher))
	cl.AwaitNone(t)
}
