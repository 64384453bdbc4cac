//go:build unix

package forkspawn_test

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func TestSpawn_ChildAnswersMessagesAndStops(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		s := newSpawner(t, forkspawn.Config{Listen: listen})
		c := spawn(t, s, spawnspec.Spec{Name: "echo-1", Entry: "echo"})
		ctx := testkit.Context(t)
		require.NoError(t, c.Send(ctx, "hello"))
		var got string
		require.NoError(t, c.Recv(ctx, &got))
		assert.Equal(t, "hello", got)
		raw := bytes.Repeat([]byte("raw "), 50_000)
		require.NoError(t, c.SendBytes(ctx, raw))
		buf := make([]byte, len(raw))
		n, err := c.RecvBytes(ctx, buf)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(raw, buf[:n]))

		boot := c.Boot()
		assert.Positive(t, boot.Total)
		if runtime.GOOS == "linux" {
			assert.GreaterOrEqual(t, boot.Runtime, time.Duration(0))
			assert.Positive(t, boot.Connect, "the child has reported its times")
		}
		result, err := c.Stop(ctx)
		require.NoError(t, err)
		assert.Equal(t, forkspawn.Asked, result.By)
		assert.True(t, result.Status.Success(), result)
		again, err := c.Stop(ctx)
		require.NoError(t, err)
		assert.Equal(t, result, again)
		assert.False(t, alive(c.PID()))
		status, err := c.Wait(ctx)
		require.NoError(t, err)
		assert.Equal(t, result.Status, status, "the status is kept")
		assert.ErrorIs(t, c.Signal(syscall.SIGTERM), os.ErrProcessDone)
	})
}

func TestSpawn_ChildReceivesItsSpec(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	dir := t.TempDir()
	deadline := time.Now().Add(time.Hour)
	c, err := s.Spawn(testkit.Context(t),
		spawnspec.Spec{Entry: "reports-spec", Args: []string{"a", "b"}, Dir: dir,
			Deadline: deadline}, forkspawn.WithCommand(forkspawn.Command{
			Args: []string{"-one", "two"},
			Env:  append(os.Environ(), "GREETING=overruled", "GREETING=good day"),
		}))
	require.NoError(t, err)
	var got map[string]any
	require.NoError(t, c.Recv(testkit.Context(t), &got))
	assert.Equal(t, "reports-spec", got["name"], "named after its entry")
	assert.Equal(t, dir, got["dir"])
	assert.EqualValues(t, 1, got["depth"])
	assert.Equal(t, "exec", got["method"])
	assert.EqualValues(t, os.Getpid(), got["parent"])
	assert.EqualValues(t, os.Getpid(), got["ppid"])
	assert.Equal(t, []any{"a", "b"}, got["spec args"])
	assert.WithinDuration(t, deadline, got["deadline"].(time.Time), time.Microsecond)
	assert.Equal(t, false, got["ticket"], "its own children must not see the ticket")
	assert.Equal(t, "-one two", got["args"])
	assert.Equal(t, "good day", got["env"])
	if runtime.GOOS == "linux" {
		assert.Equal(t, filepath.Base(os.Args[0])[:min(15, len(filepath.Base(os.Args[0])))],
			got["comm"])
	}
}

func TestSpawn_AnotherProgramJoins(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		s := newSpawner(t, forkspawn.Config{Listen: listen})
		c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "another"},
			forkspawn.WithCommand(roles.Command("joins")))
		require.NoError(t, err)
		require.NoError(t, c.Send(testkit.Context(t), 42))
		var got int
		require.NoError(t, c.Recv(testkit.Context(t), &got))
		assert.Equal(t, 42, got)
		result, err := c.Stop(testkit.Context(t))
		require.NoError(t, err)
		assert.Equal(t, forkspawn.Asked, result.By)
	})
}

func TestSpawn_ManyOfOneNameAtOnce(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		s := newSpawner(t, forkspawn.Config{Listen: listen})
		ctx := testkit.Context(t)
		var wg sync.WaitGroup
		for i := range 32 {
			wg.Go(func() {
				c, err := s.Spawn(ctx, spawnspec.Spec{Name: "same", Entry: "echo"})
				if !assert.NoError(t, err) {
					return
				}
				assert.NoError(t, c.Send(ctx, i))
				var got int
				assert.NoError(t, c.Recv(ctx, &got))
				assert.Equal(t, i, got)
			})
		}
		wg.Wait()
		assert.Len(t, s.Children(), 32)
	})
}

func TestSpawn_ReplacedProgramFileDoesNoHarm(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc/self/exe here")
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	data, err := os.ReadFile(exe)
	require.NoError(t, err)
	copyPath := filepath.Join(t.TempDir(), "copy")
	require.NoError(t, os.WriteFile(copyPath, data, 0o755))
	// The child runs a copy of this program, and its file is replaced before it
	// spawns a child of its own.
	s := newSpawner(t, forkspawn.Config{})
	c, err := s.Spawn(testkit.Context(t),
		spawnspec.Spec{Name: "copy", Entry: "reports-descriptors", Args: true},
		forkspawn.WithCommand(forkspawn.Command{Path: copyPath}))
	require.NoError(t, err)
	require.NoError(t, os.Remove(copyPath))
	require.NoError(t, os.WriteFile(copyPath, []byte("#!/bin/false\n"), 0o755))
	var report map[string]string
	require.NoError(t, c.Recv(testkit.Context(t), &report))
	require.NoError(t, c.Recv(testkit.Context(t), &report), "the grandchild started")
}

func TestSpawn_FreshlyWrittenProgramStarts(t *testing.T) {
	// Many goroutines write a program and start it while others fork. That must not
	// fail with ETXTBSY (golang/go#22315).
	s := newSpawner(t, forkspawn.Config{})
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				path := filepath.Join(dir, "p"+string(rune('a'+i))+string(rune('a'+j)))
				assert.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\nexit 3\n"), 0o755))
				_, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "fresh"},
					forkspawn.WithCommand(forkspawn.Command{Path: path}))
				assert.ErrorIs(t, err, forkspawn.ErrDied)
			}
		})
	}
	wg.Wait()
}
