//go:build linux

package kubernetes_test

import (
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/launching"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func TestPod_ChildrenAreAsAnyOther(t *testing.T) {
	spawntest.NoLeaks(t)
	k, l := newCluster(t)
	s := newSpawner(t, forkspawn.Config{})
	launching.Messages(t, s, l)
	launching.Ends(t, s, newSpawner(t, forkspawn.Config{StopGrace: 100 * time.Millisecond}), l)
	t.Run("output, last words and status", func(t *testing.T) {
		var stderr testkit.Output
		c := launching.Spawn(t, s, l, "speaks", forkspawn.WithStdout(forkspawn.Capture(nil)),
			forkspawn.WithStderr(forkspawn.Capture(&stderr)))
		var exit *forkspawn.ExitError
		require.ErrorAs(t, c.Recv(testkit.Context(t), new(any)), &exit)
		assert.Equal(t, 1, exit.Status.Code())
		assert.Equal(t, "that is all", exit.Said)
		testkit.Eventually(t, "all output", func() bool {
			return strings.Contains(stderr.String(), "to stdout\nto stderr\n")
		})
		assert.Empty(t, c.StdoutTail())
	})
	t.Run("output without stderr", func(t *testing.T) {
		var stdout testkit.Output
		launching.Spawn(t, s, l, "speaks", forkspawn.WithStdout(forkspawn.Capture(&stdout)),
			forkspawn.WithStderr(forkspawn.Null()))
		testkit.Eventually(t, "all output", func() bool {
			return strings.Contains(stdout.String(), "to stdout\nto stderr\n")
		})
	})
	k.awaitEmpty(t)
}

// Kubernetes has no SIGKILL without a SIGTERM before.
func TestPod_Kill(t *testing.T) {
	k, l := newCluster(t)
	s := newSpawner(t, forkspawn.Config{})
	ctx := testkit.Context(t)
	t.Run("on SIGTERM", func(t *testing.T) {
		result, err := launching.Spawn(t, s, l, "echo").Kill()
		require.NoError(t, err)
		assert.Equal(t, forkspawn.Killed, result.By)
		assert.Equal(t, 2, result.Status.Code(), "a Go program that is process 1")
	})
	t.Run("on SIGKILL", func(t *testing.T) {
		c := launching.Spawn(t, s, l, "ignores-sigterm")
		require.NoError(t, c.Recv(ctx, new(bool)))
		result, err := c.Kill()
		require.NoError(t, err)
		assert.Equal(t, forkspawn.Killed, result.By)
		assert.Equal(t, syscall.SIGKILL, result.Status.Signal())
	})
	k.awaitEmpty(t)
}

func TestPod_OtherSignalsAreUnsupported(t *testing.T) {
	_, l := newCluster(t)
	c := launching.Spawn(t, newSpawner(t, forkspawn.Config{}), l, "echo")
	require.ErrorIs(t, c.Signal(syscall.SIGHUP), errors.ErrUnsupported)
	launching.RequireEcho(t, c)
	require.NoError(t, c.Signal(syscall.SIGINT))
	status, err := c.Wait(testkit.Context(t))
	require.NoError(t, err)
	assert.Equal(t, "exit status 2", status.String())
}

func TestPod_HasProgramEnvironmentAndDirectory(t *testing.T) {
	k, l := newCluster(t)
	l.Template.Name, l.Template.Labels = "worker", map[string]string{"team": "a"}
	s := newSpawner(t, forkspawn.Config{})
	ctx := testkit.Context(t)
	const odd = "$(PATH) $$ $"
	c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "reports-state", Dir: "/tmp"},
		forkspawn.WithCommand(forkspawn.Command{Launcher: l, Path: testkit.Self(t),
			Args: []string{odd}, Env: []string{"SOME=" + odd}}))
	require.NoError(t, err)
	var there launching.State
	require.NoError(t, c.Recv(ctx, &there))
	assert.Equal(t, 1, there.PID)
	assert.Equal(t, testkit.Self(t), there.Program)
	assert.Contains(t, there.Env, "SOME="+odd)
	k.locked(func() {
		require.Len(t, k.pods, 1)
		for name, pod := range k.pods {
			assert.Equal(t, "worker-"+c.ID(), name)
			assert.Equal(t, "a", pod.Labels["team"])
			assert.Equal(t, "spawnwire", pod.Labels["app.kubernetes.io/managed-by"])
			assert.Equal(t, "/tmp", pod.Spec.Containers[0].WorkingDir)
		}
	})
	assert.Equal(t, "worker", l.Template.Name)
	assert.Empty(t, l.Template.Spec.Volumes, "the template is as before")
}

// The ticket is in the Secret only, and the Secret is gone when the container runs.
func TestPod_SecretIsNowhereElse(t *testing.T) {
	k, l := newCluster(t)
	k.slow = make(chan struct{})
	var secret string
	s := newSpawner(t, forkspawn.Config{})
	ctx := testkit.Context(t)
	spawned := testkit.Background(t, func() *forkspawn.Child {
		c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "reports-state"}, launching.On(
			launching.Secretive{Launcher: l, Secret: &secret}))
		assert.NoError(t, err)
		return c
	})
	testkit.Eventually(t, "there is a Secret", func() (there bool) {
		k.locked(func() { there = len(k.secrets) == 1 })
		return there
	})
	k.locked(func() {
		for name, got := range k.secrets {
			assert.Contains(t, got.StringData["ticket"], secret)
			assert.Equal(t, k.pods[name].UID, got.OwnerReferences[0].UID)
			assert.True(t, *got.Immutable)
		}
		k.slow = nil
		k.notify()
	})
	c := spawned()
	require.NotNil(t, c)
	var there launching.State
	require.NoError(t, c.Recv(ctx, &there))
	assert.NotContains(t, strings.Join(there.Env, " "), secret)
	assert.NotContains(t, strings.Join(there.Env, " "), "SPAWNWIRE_TICKET")
	launching.SecretIsInNoProcess(t, secret)
	testkit.Eventually(t, "the Secret is gone", func() (gone bool) {
		k.locked(func() { gone = len(k.secrets) == 0 })
		return gone
	})
	k.locked(func() {
		for _, change := range k.history {
			assert.NotContains(t, change.pod.String(), secret)
		}
		for _, l := range k.lines {
			assert.NotContains(t, strings.Join(l.lines, ""), secret)
		}
	})
}

// Without a group for the volume, a program that is not root must be able to read it.
func TestPod_TicketIsReadable(t *testing.T) {
	for name, test := range map[string]struct {
		group *int64
		want  int32
	}{"by all": {nil, 0o444}, "by the group": {new(int64(7)), 0o400}} {
		t.Run(name, func(t *testing.T) {
			k, l := newCluster(t)
			if test.group != nil {
				l.Template.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: test.group}
			}
			s := newSpawner(t, forkspawn.Config{})
			launching.RequireEcho(t, launching.Spawn(t, s, l, "echo"))
			k.locked(func() {
				for _, pod := range k.pods {
					assert.Equal(t, test.want, *pod.Spec.Volumes[0].Secret.DefaultMode)
				}
			})
		})
	}
}

func TestPod_ClearedEnvironmentEndsTheChild(t *testing.T) {
	k, l := newCluster(t)
	s := newSpawner(t, forkspawn.Config{})
	_, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"}, forkspawn.WithCommand(
		forkspawn.Command{Launcher: l, Path: "/usr/bin/env",
			Args: []string{"-i", testkit.Self(t)}}))
	var boot *forkspawn.BootError
	require.ErrorAs(t, err, &boot)
	assert.Contains(t, boot.Stderr, "has removed SPAWNWIRE_TICKET")
	k.awaitEmpty(t)
}

func TestPod_StartsOverlap(t *testing.T) {
	k, l := newCluster(t)
	k.slow = make(chan struct{})
	s := newSpawner(t, forkspawn.Config{})
	const n = 32
	children := make([]*forkspawn.Child, n)
	var starts sync.WaitGroup
	for i := range children {
		starts.Go(func() {
			c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"}, launching.On(l))
			assert.NoError(t, err)
			children[i] = c
		})
	}
	testkit.Eventually(t, "all pods wait at the same time", func() (all bool) {
		k.locked(func() { all = len(k.secrets) == n })
		return all
	})
	k.locked(func() { k.slow = nil; k.notify() })
	starts.Wait()
	require.False(t, t.Failed())
	for _, c := range children {
		launching.RequireEcho(t, c)
	}
	require.NoError(t, s.Close())
	k.awaitEmpty(t)
}
