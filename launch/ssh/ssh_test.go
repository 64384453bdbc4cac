//go:build linux

package ssh_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/launching"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func TestHost_ChildrenAreAsAnyOther(t *testing.T) {
	server, h := newHost(t)
	h.Command = server.Share(t)
	s := spawntest.NewSpawner(t, forkspawn.Config{})

	t.Run("at the same time, with one upload", func(t *testing.T) {
		ctx := testkit.Context(t)
		var starts sync.WaitGroup
		for range 3 {
			starts.Go(func() {
				c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "echo"}, on(h))
				if !assert.NoError(t, err) {
					return
				}
				launching.RequireEcho(t, c)
				result, err := c.Stop(ctx)
				assert.NoError(t, err)
				assert.Equal(t, forkspawn.Asked, result.By)
				assert.True(t, result.Status.Success(), "%v", result)
			})
		}
		starts.Wait()
		entries, err := os.ReadDir(h.CacheDir)
		require.NoError(t, err)
		require.Len(t, entries, 1, "the program alone is in the cache")
		dir, err := os.Stat(h.CacheDir)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o700), dir.Mode().Perm())
	})
	t.Run("output and last words", func(t *testing.T) {
		ctx := testkit.Context(t)
		var stdout, stderr testkit.Output
		c := spawn(t, s, h, spawnspec.Spec{Entry: "speaks"},
			forkspawn.WithStdout(forkspawn.Capture(&stdout)),
			forkspawn.WithStderr(forkspawn.Capture(&stderr)))
		var exit *forkspawn.ExitError
		require.ErrorAs(t, c.Recv(ctx, new(any)), &exit)
		assert.Equal(t, 1, exit.Status.Code())
		assert.Equal(t, "that is all", exit.Said)
		assert.Contains(t, exit.Stderr, "to stderr")
		assert.Contains(t, c.StdoutTail(), "to stdout")
		c.Stop(ctx)
		testkit.Eventually(t, "all output", func() bool {
			return stdout.String() == "to stdout\n" &&
				bytes.Contains([]byte(stderr.String()), []byte("to stderr\n"))
		})
	})
	t.Run("a panic", func(t *testing.T) {
		ctx := testkit.Context(t)
		c := spawn(t, s, h, spawnspec.Spec{Entry: "panics"})
		var exit *forkspawn.ExitError
		require.ErrorAs(t, c.Recv(ctx, new(any)), &exit)
		assert.Equal(t, 2, exit.Status.Code())
		assert.Contains(t, exit.Stderr, "at the disco")
	})
	t.Run("a start that fails", func(t *testing.T) {
		ctx := testkit.Context(t)
		_, err := s.Spawn(ctx, spawnspec.Spec{Entry: "nowhere"}, on(h))
		require.ErrorContains(t, err, `"nowhere"`)
		_, err = s.Spawn(ctx, spawnspec.Spec{Entry: "echo", Dir: "/no/such/dir"}, on(h))
		require.ErrorIs(t, err, os.ErrNotExist)
		require.ErrorContains(t, err, "/no/such/dir")
		_, err = s.Spawn(ctx, spawnspec.Spec{Entry: "echo"}, forkspawn.WithCommand(
			forkspawn.Command{Launcher: h, Path: "/no/such/program"}))
		require.ErrorIs(t, err, os.ErrNotExist)
		require.ErrorContains(t, err, "/no/such/program")
	})
	t.Run("calls", func(t *testing.T) {
		ctx := testkit.Context(t)
		c := spawn(t, s, h, spawnspec.Spec{Entry: "serves"})
		conn := call.New(c, nil)
		defer conn.Close()
		got, err := upper.Call(ctx, conn, "word")
		require.NoError(t, err)
		assert.Equal(t, "WORD", got)
		_, err = upper.Call(ctx, conn, "moon")
		require.ErrorContains(t, err, "no moon")
	})
	t.Run("a large message", func(t *testing.T) {
		ctx := testkit.Context(t)
		c := spawn(t, s, h, spawnspec.Spec{Entry: "echo"})
		large := bytes.Repeat([]byte("0123456789abcdef"), 500_000)
		go c.Send(ctx, large)
		var got []byte
		require.NoError(t, c.Recv(ctx, &got))
		require.True(t, bytes.Equal(large, got))
	})
	t.Run("force", func(t *testing.T) {
		c := spawn(t, s, h, spawnspec.Spec{Entry: "echo"})
		result, err := c.Kill()
		require.NoError(t, err)
		assert.Equal(t, forkspawn.Killed, result.By)
		assert.Equal(t, syscall.SIGKILL, result.Status.Signal())
	})
	t.Run("a signal", func(t *testing.T) {
		ctx := testkit.Context(t)
		c := spawn(t, s, h, spawnspec.Spec{Entry: "echo"})
		require.NoError(t, c.Signal(syscall.SIGTERM))
		status, err := c.Wait(ctx)
		require.NoError(t, err)
		assert.Equal(t, syscall.SIGTERM, status.Signal())
		assert.ErrorIs(t, c.Signal(syscall.SIGTERM), os.ErrProcessDone)
	})
}

func TestHost_RestartsInAGroup(t *testing.T) {
	server, h := newHost(t)
	h.Command = server.Share(t)
	s := spawntest.NewSpawner(t, forkspawn.Config{Command: forkspawn.Command{Launcher: h}})
	ctx := testkit.Context(t)
	g, err := s.NewGroup(ctx, forkspawn.GroupConfig{Restart: forkspawn.RestartOnFailure})
	require.NoError(t, err)
	lives := make(chan int, 3)
	g.Go(spawnspec.Spec{Entry: "reports-pid"}, func(ctx context.Context, c *forkspawn.Child) error {
		var pid int
		if err := c.Recv(ctx, &pid); err != nil {
			return err
		}
		lives <- pid
		return c.Recv(ctx, new(any))
	})
	first := testkit.Receive(t, lives)
	require.NoError(t, syscall.Kill(first, syscall.SIGKILL))
	second := testkit.Receive(t, lives)
	assert.NotEqual(t, first, second)
	g.Cancel(errEnough)
	require.ErrorIs(t, g.Wait(), errEnough)
	spawntest.AwaitGone(t, first, second)
}

var errEnough = errors.New("enough")

func TestHost_HasSpares(t *testing.T) {
	server, h := newHost(t)
	h.Command = server.Share(t)
	s := spawntest.NewSpawner(t, forkspawn.Config{Spares: 1,
		Command: forkspawn.Command{Launcher: h}})
	ctx := testkit.Context(t)
	require.NoError(t, s.AwaitSpares(ctx))
	c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "echo"})
	require.NoError(t, err)
	assert.True(t, c.Boot().Spare)
	launching.RequireEcho(t, c)
}
