//go:build linux

package oci_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/containers"
	"github.com/spawnwire/spawnwire/internal/testkit/launching"
	"github.com/spawnwire/spawnwire/launch/oci"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// spawnError spawns a child and returns the error.
func spawnError(t *testing.T, o *oci.Launcher) error {
	t.Helper()
	s := spawntest.NewSpawner(t, forkspawn.Config{Stderr: forkspawn.Capture(nil)})
	_, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"}, launching.On(o))
	var boot *forkspawn.BootError
	require.ErrorAs(t, err, &boot)
	return err
}

// engineError requires an error of the engine with a cause.
func engineError(t *testing.T, o *oci.Launcher, cause error, words string) {
	t.Helper()
	err := spawnError(t, o)
	var failed *oci.Error
	require.ErrorAs(t, err, &failed)
	assert.ErrorIs(t, err, cause)
	assert.ErrorContains(t, err, words)
	assert.Equal(t, o.Engine, failed.Engine)
	assert.Equal(t, o.Image+o.Bundle, failed.From)
}

func testErrors(t *testing.T, e *containers.Engine) {
	with := func(change func(o *oci.Launcher)) *oci.Launcher {
		o := launcherOf(e)
		o.Options = o.Options[:len(o.Options):len(o.Options)]
		change(o)
		return o
	}
	junk := filepath.Join(t.TempDir(), "junk")
	require.NoError(t, os.WriteFile(junk, []byte("junk"), 0o755))
	plain := filepath.Join(t.TempDir(), "plain")
	testkit.WriteFile(t, plain, "\x7fELF")
	t.Run("platform", func(t *testing.T) {
		engineError(t, with(func(o *oci.Launcher) { o.Program = junk }), oci.ErrPlatform,
			"xec format error")
	})
	t.Run("permission", func(t *testing.T) {
		engineError(t, with(func(o *oci.Launcher) { o.Program = plain }), fs.ErrPermission,
			"permission denied")
	})
	t.Run("option", func(t *testing.T) {
		engineError(t, with(func(o *oci.Launcher) { o.Options = append(o.Options, "--bogus") }),
			oci.ErrStart, "bogus")
	})
	t.Run("program", func(t *testing.T) {
		err := spawnError(t, with(func(o *oci.Launcher) { o.Program = "/no/such/program" }))
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.ErrorContains(t, err, "/no/such/program")
	})
	t.Run("engine", func(t *testing.T) {
		none := []string{"/no/such/engine"}
		err := spawnError(t, with(func(o *oci.Launcher) { o.Command = none }))
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.ErrorContains(t, err, "/no/such/engine")
	})
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := spawntest.NewSpawner(t, forkspawn.Config{})
		spawned := testkit.Background(t, func() error {
			_, err := s.Spawn(ctx, spawnspec.Spec{Entry: "echo"}, launching.On(launcherOf(e)))
			return err
		})
		testkit.Eventually(t, "the engine starts", func() bool {
			return len(processes(isOfContainer)) > 0
		})
		cancel()
		require.ErrorIs(t, spawned(), context.Canceled)
		require.Empty(t, e.Containers(t), "nothing is left when Spawn returns")
	})
	if e.Bundle != "" {
		t.Run("bundle", func(t *testing.T) {
			err := spawnError(t, with(func(o *oci.Launcher) { o.Bundle = "/no/such/bundle" }))
			require.ErrorIs(t, err, fs.ErrNotExist)
			require.ErrorContains(t, err, "/no/such/bundle/config.json")
		})
		return
	}
	t.Run("image", func(t *testing.T) {
		engineError(t, with(func(o *oci.Launcher) { o.Image = "localhost:1/no-such-image" }),
			oci.ErrImage, "no-such-image")
		engineError(t, with(func(o *oci.Launcher) {
			o.Image = "no-such-image"
			o.Options = append(o.Options, "--pull=never")
		}), oci.ErrImage, "no-such-image")
	})
	t.Run("loader", func(t *testing.T) {
		dynamic := filepath.Join(t.TempDir(), "dynamic")
		text := strings.Replace(testkit.ReadFile(t, "/bin/true"), "/lib64/ld-", "/none/ld-", 1)
		require.NoError(t, os.WriteFile(dynamic, []byte(text), 0o755))
		engineError(t, with(func(o *oci.Launcher) { o.Program = dynamic }), oci.ErrNotStatic,
			"CGO_ENABLED=0")
	})
}

func TestDocker_DaemonIsNotRunning(t *testing.T) {
	if testkit.Second(os.Stat("/usr/bin/docker")) != nil {
		t.Skip("no docker on this machine")
	}
	engineError(t, &oci.Launcher{Engine: "docker", Image: "empty",
		Command: []string{"docker", "--host", "unix:///no/such/socket"}}, oci.ErrDaemon,
		"Cannot connect to the Docker daemon")
}

func TestLauncher_ChecksItsFields(t *testing.T) {
	for _, test := range []struct {
		o    oci.Launcher
		want string
	}{
		{oci.Launcher{}, "want either an Image or a Bundle"},
		{oci.Launcher{Image: "a", Bundle: "b"}, "want either an Image or a Bundle"},
		{oci.Launcher{Image: "--privileged"}, `field Image: "--privileged"`},
		{oci.Launcher{Image: "a", Engine: "runc"}, `field Engine: "runc" is not podman or docker`},
		{oci.Launcher{Image: "a", Engine: "docker", Program: "/a,b"}, "field Program"},
	} {
		assert.ErrorContains(t, spawnError(t, &test.o), test.want)
	}
	t.Setenv("PATH", "/none")
	err := spawnError(t, &oci.Launcher{Bundle: "b"})
	assert.ErrorIs(t, err, fs.ErrNotExist)
	assert.ErrorContains(t, err, "runc or crun")
}

func testSecret(t *testing.T, e *containers.Engine) {
	var secret string
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	ctx := testkit.Context(t)
	c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "reports-state"}, forkspawn.WithCommand(
		forkspawn.Command{Launcher: launching.Secretive{Launcher: launcherOf(e), Secret: &secret},
			Env: []string{"SOME=thing"}}))
	require.NoError(t, err)
	var inside launching.State
	require.NoError(t, c.Recv(ctx, &inside))
	assert.Equal(t, 1, inside.PPID)
	assert.Equal(t, "/dev/spawnwire", inside.Program)
	assert.Contains(t, inside.Env, "SOME=thing")
	assert.NotContains(t, strings.Join(inside.Env, " "), secret)
	assert.NotContains(t, strings.Join(inside.Env, " "), "SPAWNWIRE_")
	launching.SecretIsInNoProcess(t, secret)
	ids := e.Containers(t)
	require.Len(t, ids, 1)
	verb := "inspect"
	if e.Bundle != "" {
		verb = "state"
	}
	metadata := e.Run(t, verb, ids[0])
	assert.Contains(t, metadata, ids[0])
	assert.NotContains(t, metadata, secret)
	launching.SecretIsInNoFile(t, e.Dir, secret)
}
