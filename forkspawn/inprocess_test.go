//go:build unix

package forkspawn_test

import (
	"context"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// local returns a Spawner with MethodInProcess.
func local(t *testing.T, cfg forkspawn.Config) *forkspawn.Spawner {
	t.Helper()
	cfg.Method = forkspawn.MethodInProcess
	return newSpawner(t, cfg)
}

func TestInProcess_AnswersMessagesAndStops(t *testing.T) {
	s := local(t, forkspawn.Config{})
	c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
	ctx := testkit.Context(t)
	require.NoError(t, c.Send(ctx, "hello"))
	var got string
	require.NoError(t, c.Recv(ctx, &got))
	assert.Equal(t, "hello", got)
	require.NoError(t, c.SendBytes(ctx, make([]byte, 1<<20)))
	n, err := c.RecvBytes(ctx, make([]byte, 1<<20))
	require.NoError(t, err)
	assert.Equal(t, 1<<20, n)
	assert.Zero(t, c.PID())
	assert.Positive(t, c.Boot().Total)
	result, err := c.Stop(ctx)
	require.NoError(t, err)
	assert.Equal(t, forkspawn.Asked, result.By)
	assert.Equal(t, forkspawn.ExitedStatus(0), result.Status)
	assert.ErrorIs(t, c.Signal(syscall.SIGTERM), os.ErrProcessDone)
}

func TestInProcess_GetsItsSpec(t *testing.T) {
	s := local(t, forkspawn.Config{})
	c := spawn(t, s,
		spawnspec.Spec{Name: "o", Entry: "reports-spec", Args: map[string]any{"x": "y"}})
	var got map[string]any
	require.NoError(t, c.Recv(testkit.Context(t), &got))
	assert.Equal(t, "o", got["name"])
	assert.Equal(t, "inprocess", got["method"])
	assert.EqualValues(t, 1, got["depth"])
	assert.Equal(t, map[string]any{"x": "y"}, got["spec args"])
}

func TestInProcess_BusyEntryLearnsThatItShouldStop(t *testing.T) {
	s := local(t, forkspawn.Config{StopGrace: bound})
	c := spawn(t, s, spawnspec.Spec{Entry: "computes"})
	result, err := c.Stop(testkit.Context(t))
	require.NoError(t, err)
	assert.Equal(t, forkspawn.Asked, result.By)
	assert.Equal(t, forkspawn.ExitedStatus(0), result.Status, c.StderrTail())
}

func TestInProcess_EndsReadAsThoseOfAChild(t *testing.T) {
	s := local(t, forkspawn.Config{})
	for entry, want := range map[string]struct {
		status forkspawn.ExitStatus
		text   []string
		stderr string
	}{
		"panics": {forkspawn.ExitedStatus(2),
			[]string{"exit status 2", "panic: at the disco"}, "inprocess_test"},
		"fails": {forkspawn.ExitedStatus(1),
			[]string{"exit status 1", "no luck today"}, "no luck today"},
		"calls-goexit": {forkspawn.ExitedStatus(2), []string{"runtime.Goexit called"}, ""},
	} {
		c := spawn(t, s, spawnspec.Spec{Entry: entry})
		var v any
		err := c.Recv(testkit.Context(t), &v)
		var exit *forkspawn.ExitError
		require.ErrorAs(t, err, &exit, entry)
		assert.Equal(t, want.status, exit.Status, entry)
		for _, text := range want.text {
			assert.ErrorContains(t, err, text)
		}
		if entry != "panics" {
			continue
		}
		assert.Contains(t, exit.Stderr, "goroutine", "the stack")
		assert.Contains(t, exit.Stderr, "roles.panics", "with the entry in it")
	}
}

func TestInProcess_BootFailuresAreExact(t *testing.T) {
	s := local(t, forkspawn.Config{})
	ctx := testkit.Context(t)
	_, err := s.Spawn(ctx, spawnspec.Spec{Entry: "nope"})
	var boot *forkspawn.BootError
	require.ErrorAs(t, err, &boot)
	assert.Equal(t, handshake.PhaseSpec, boot.Phase)
	assert.ErrorIs(t, err, handshake.ErrUnknownEntry)
	_, err = s.Spawn(ctx, spawnspec.Spec{Entry: "echo", Dir: t.TempDir()})
	var field *spawnspec.FieldError
	require.ErrorAs(t, err, &field)
	assert.Equal(t, "dir", field.Field)
	_, err = s.Spawn(ctx, spawnspec.Spec{Name: "sh", Entry: "echo"},
		forkspawn.WithCommand(forkspawn.Command{Path: "sh"}))
	assert.ErrorContains(t, err, "no command")
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = s.Spawn(ended, spawnspec.Spec{Entry: "echo"})
	assert.ErrorIs(t, err, context.Canceled)
}

func TestInProcess_Force(t *testing.T) {
	s := local(t, forkspawn.Config{StopGrace: 50 * time.Millisecond,
		TermGrace: 50 * time.Millisecond})
	c := spawn(t, s, spawnspec.Spec{Entry: "waits-for-disconnect"})
	result, err := c.Stop(testkit.Context(t))
	require.NoError(t, err)
	assert.Equal(t, forkspawn.Terminated, result.By)
	assert.Equal(t, forkspawn.KilledStatus(syscall.SIGTERM, false), result.Status)

	c = spawn(t, s, spawnspec.Spec{Entry: "waits-for-disconnect"})
	result, err = c.Kill()
	require.NoError(t, err)
	assert.Equal(t, forkspawn.KilledStatus(syscall.SIGKILL, false), result.Status)
}

func TestInProcess_UnkillableEntryIsReported(t *testing.T) {
	defer forkspawn.SetKillBound(50 * time.Millisecond)()
	s, err := forkspawn.New(forkspawn.Config{Method: forkspawn.MethodInProcess,
		Stderr: forkspawn.Null()})
	require.NoError(t, err)
	c := spawn(t, s, spawnspec.Spec{Name: "rock", Entry: "ignores-everything"})
	result, err := c.Kill()
	require.ErrorContains(t, err, `"rock"`)
	assert.ErrorContains(t, err, "after SIGKILL")
	assert.False(t, result.Status.Known())
	roles.Release <- struct{}{}
	require.NoError(t, s.Close())
}

func TestInProcess_UnkillableEntryDoesNotHoldUpClose(t *testing.T) {
	defer forkspawn.SetKillBound(50 * time.Millisecond)()
	s, err := forkspawn.New(forkspawn.Config{
		Method: forkspawn.MethodInProcess, StopGrace: time.Millisecond, TermGrace: time.Millisecond,
		Stderr: forkspawn.Null(),
	})
	require.NoError(t, err)
	c := spawn(t, s, spawnspec.Spec{Name: "rock", Entry: "ignores-everything"})
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		assert.ErrorContains(t, err, `"rock"`)
	case <-time.After(bound):
		assert.Fail(t, "Close hangs")
	}
	roles.Release <- struct{}{}
	<-c.Exited()
}

func TestInProcess_GrandchildrenEndWithinItsGrace(t *testing.T) {
	for grace := 2 * time.Second; ; grace *= 2 { // a quarter of it is for a slow machine
		s := local(t, forkspawn.Config{StopGrace: grace, TermGrace: bound})
		c := spawn(t, s, spawnspec.Spec{Entry: "stops-a-deaf-child"})
		require.NoError(t, c.Recv(testkit.Context(t), new(any)))
		result, err := c.Stop(testkit.Context(t))
		require.NoError(t, err)
		if result.By == forkspawn.Asked {
			return
		}
		require.Less(t, grace, bound,
			"it did not close its own Spawner before the parent used force: %v", result)
	}
}
