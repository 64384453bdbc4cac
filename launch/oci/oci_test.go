//go:build linux

package oci_test

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/containers"
	"github.com/spawnwire/spawnwire/internal/testkit/launching"
	"github.com/spawnwire/spawnwire/launch/oci"
)

func TestPodman(t *testing.T) { testEngine(t, "podman") }
func TestDocker(t *testing.T) { testEngine(t, "docker") }
func TestRunc(t *testing.T)   { testEngine(t, "runc") }
func TestCrun(t *testing.T)   { testEngine(t, "crun") }

// testEngine runs the tests for each engine.
func testEngine(t *testing.T, name string) {
	e := containers.New(t, name)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *containers.Engine)
		long string // the engines that are too slow for it in a short run
	}{
		{"children are as any other", testChildren, ""},
		{"secret is nowhere else", testSecret, "docker"},
		{"memory", testMemory, "podman docker"},
		{"program killed", testProgramKilled, ""},
		{"parent killed", testParentKilled, ""},
		{"supervisor stopped", testSupervisorStopped, "podman docker"},
		{"errors", testErrors, "docker"},
	} {
		if strings.Contains(test.long, name) && !testkit.IsLong() {
			continue
		}
		t.Run(test.name, func(t *testing.T) { test.run(t, e) })
		e.AwaitNone(t)
	}
}

// podman needs no root.
func TestPodman_Rootless(t *testing.T) {
	e := containers.NewRootless(t)
	o := launcherOf(e)
	o.Program = e.Dir + "/program" // in a directory of that user
	require.NoError(t, exec.Command("install", "--mode=755", testkit.Self(t), o.Program).Run())
	launching.Messages(t, spawntest.NewSpawner(t, forkspawn.Config{}), o)
	e.AwaitNone(t)
}

func testChildren(t *testing.T, e *containers.Engine) {
	o := launcherOf(e)
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	launching.Children(t, s,
		spawntest.NewSpawner(t, forkspawn.Config{StopGrace: 100 * time.Millisecond}), o)
	t.Run("process 1 reaps", func(t *testing.T) {
		var answer string
		c := launching.Spawn(t, s, o, "leaves-zombies")
		require.NoError(t, c.Recv(testkit.Context(t), &answer))
	})
	e.AwaitNone(t)
}

func testMemory(t *testing.T, e *containers.Engine) {
	o := launcherOf(e)
	if e.Bundle == "" {
		o.Options = append(o.Options[:len(o.Options):len(o.Options)], "--memory=64m")
	} else {
		old := testkit.ReadFile(t, e.Bundle+"/config.json")
		defer testkit.WriteFile(t, e.Bundle+"/config.json", old)
		e.Configure(t, func(c map[string]any) {
			resources := c["linux"].(map[string]any)["resources"].(map[string]any)
			resources["memory"] = map[string]any{"limit": 64 << 20}
		})
	}
	c := launching.Spawn(t, spawntest.NewSpawner(t, forkspawn.Config{}), o, "fills-memory")
	err := c.Recv(testkit.Context(t), new(any))
	var exit *forkspawn.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, syscall.SIGKILL, exit.Status.Signal())
	assert.ErrorIs(t, err, oci.ErrMemory)
	assert.ErrorContains(t, err, "out of memory")
}
