//go:build linux

package oci_test

import (
	"bytes"
	"os"
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
	"github.com/spawnwire/spawnwire/launch/oci"
	"github.com/spawnwire/spawnwire/spawnspec"
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

func testChildren(t *testing.T, e *containers.Engine) {
	o := launcherOf(e)
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	ctx := testkit.Context(t)
	t.Run("messages and a stop", func(t *testing.T) {
		c := spawn(t, s, o, "echo")
		requireEcho(t, c)
		large := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
		go c.Send(ctx, large)
		var got []byte
		require.NoError(t, c.Recv(ctx, &got))
		require.True(t, bytes.Equal(large, got))
		result, err := c.Stop(ctx)
		require.NoError(t, err)
		assert.Equal(t, forkspawn.Asked, result.By)
		assert.True(t, result.Status.Success(), "%v", result)
	})
	t.Run("output, last words and status", func(t *testing.T) {
		var stderr testkit.Output
		c := spawn(t, s, o, "speaks", forkspawn.WithStdout(forkspawn.Capture(nil)),
			forkspawn.WithStderr(forkspawn.Capture(&stderr)))
		var exit *forkspawn.ExitError
		require.ErrorAs(t, c.Recv(ctx, new(any)), &exit)
		assert.Equal(t, 1, exit.Status.Code())
		assert.Equal(t, "that is all", exit.Said)
		assert.Contains(t, c.StdoutTail(), "to stdout")
		testkit.Eventually(t, "all output", func() bool {
			return bytes.Contains([]byte(stderr.String()), []byte("to stderr\n"))
		})
	})
	t.Run("force", func(t *testing.T) {
		result, err := spawn(t, s, o, "echo").Kill()
		require.NoError(t, err)
		assert.Equal(t, forkspawn.Killed, result.By)
		assert.Equal(t, syscall.SIGKILL, result.Status.Signal())
	})
	t.Run("the stop ladder", func(t *testing.T) {
		s := spawntest.NewSpawner(t, forkspawn.Config{StopGrace: 100 * time.Millisecond})
		c := spawn(t, s, o, "ignores-requests")
		result, err := c.Stop(ctx)
		require.NoError(t, err)
		assert.NotEqual(t, forkspawn.Asked, result.By)
	})
	t.Run("process 1 reaps", func(t *testing.T) {
		var answer string
		require.NoError(t, spawn(t, s, o, "leaves-zombies").Recv(ctx, &answer))
	})
	t.Run("a start that fails", func(t *testing.T) {
		_, err := s.Spawn(ctx, spawnspec.Spec{Entry: "nowhere"}, in(o))
		require.ErrorContains(t, err, `"nowhere"`)
		_, err = s.Spawn(ctx, spawnspec.Spec{Entry: "echo"}, forkspawn.WithCommand(
			forkspawn.Command{Launcher: o, Path: "/no/such/program"}))
		require.ErrorIs(t, err, os.ErrNotExist)
		require.ErrorContains(t, err, "/no/such/program")
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
	c := spawn(t, spawntest.NewSpawner(t, forkspawn.Config{}), o, "fills-memory")
	err := c.Recv(testkit.Context(t), new(any))
	var exit *forkspawn.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, syscall.SIGKILL, exit.Status.Signal())
	assert.ErrorIs(t, err, oci.ErrMemory)
	assert.ErrorContains(t, err, "out of memory")
}
