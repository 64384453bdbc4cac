//go:build unix

package forkspawn_test

import (
	"context"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// local is a Spawner of entries in this process.
func local(t *testing.T, cfg forkspawn.Config) *forkspawn.Spawner {
	t.Helper()
	cfg.Method = forkspawn.MethodInProcess
	return newSpawner(t, cfg)
}

func TestEntryInThisProcessAnswersMessagesAndStops(t *testing.T) {
	s := local(t, forkspawn.Config{})
	c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
	ctx := testContext(t)
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
	assert.Equal(t, forkspawn.EndedAsked, result.By)
	assert.Equal(t, forkspawn.Exited(0), result.Status)
	assert.ErrorIs(t, c.Signal(syscall.SIGTERM), os.ErrProcessDone)
}

func TestEntryInThisProcessGetsItsOrders(t *testing.T) {
	s := local(t, forkspawn.Config{})
	c := spawn(t, s, spawnspec.Spec{Name: "o", Entry: "orders", Vars: map[string]any{"x": "y"}})
	var got map[string]any
	require.NoError(t, c.Recv(testContext(t), &got))
	assert.Equal(t, "o", got["name"])
	assert.Equal(t, "inprocess", got["method"])
	assert.EqualValues(t, 1, got["depth"])
	assert.Equal(t, map[any]any{"x": "y"}, got["vars"])
}

func TestBusyEntryInThisProcessLearnsThatItShouldStop(t *testing.T) {
	s := local(t, forkspawn.Config{StopGrace: bound})
	c := spawn(t, s, spawnspec.Spec{Entry: "busy"})
	result, err := c.Stop(testContext(t))
	require.NoError(t, err)
	assert.Equal(t, forkspawn.EndedAsked, result.By)
	assert.Equal(t, forkspawn.Exited(0), result.Status, c.StderrTail())
}

func TestEndsInThisProcessReadAsThoseOfAChild(t *testing.T) {
	s := local(t, forkspawn.Config{})
	for entry, want := range map[string]struct {
		status forkspawn.ExitStatus
		text   []string
		stderr string
	}{
		"panic":  {forkspawn.Exited(2), []string{"exit status 2", "panic: at the disco"}, "inprocess_test"},
		"fail":   {forkspawn.Exited(1), []string{"exit status 1", "no luck today"}, "no luck today"},
		"goexit": {forkspawn.Exited(2), []string{"runtime.Goexit called"}, ""},
	} {
		c := spawn(t, s, spawnspec.Spec{Entry: entry})
		var v any
		err := c.Recv(testContext(t), &v)
		var exit *forkspawn.ExitError
		require.ErrorAs(t, err, &exit, entry)
		assert.Equal(t, want.status, exit.Status, entry)
		for _, text := range want.text {
			assert.ErrorContains(t, err, text)
		}
		if entry != "panic" {
			continue
		}
		assert.Contains(t, exit.Stderr, "goroutine", "the stack")
		assert.Contains(t, exit.Stderr, "forkspawn_test.", "with the entry in it")
	}
}

func TestFailuresToStartInThisProcessAreExact(t *testing.T) {
	s := local(t, forkspawn.Config{})
	ctx := testContext(t)
	_, err := s.Spawn(ctx, spawnspec.Spec{Entry: "nope"})
	var boot *forkspawn.BootError
	require.ErrorAs(t, err, &boot)
	assert.Equal(t, handshake.PhaseSpec, boot.Phase)
	assert.ErrorIs(t, err, handshake.ErrUnknownEntry)
	_, err = s.Spawn(ctx, spawnspec.Spec{Entry: "echo", Dir: t.TempDir()})
	var field *spawnspec.FieldError
	require.ErrorAs(t, err, &field)
	assert.Equal(t, "dir", field.Field)
	_, err = s.SpawnCommand(ctx, forkspawn.Command{Path: "sh"}, spawnspec.Spec{Name: "sh", Entry: "echo"})
	assert.ErrorContains(t, err, "no command")
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = s.Spawn(ended, spawnspec.Spec{Entry: "echo"})
	assert.ErrorIs(t, err, context.Canceled)
}

func TestForceOnAnEntryInThisProcess(t *testing.T) {
	s := local(t, forkspawn.Config{StopGrace: 50 * time.Millisecond, TermGrace: 50 * time.Millisecond})
	c := spawn(t, s, spawnspec.Spec{Entry: "stubborn"})
	result, err := c.Stop(testContext(t))
	require.NoError(t, err)
	assert.Equal(t, forkspawn.EndedTerminated, result.By)
	assert.Equal(t, forkspawn.Killed(syscall.SIGTERM, false), result.Status)

	c = spawn(t, s, spawnspec.Spec{Entry: "stubborn"})
	result, err = c.Kill()
	require.NoError(t, err)
	assert.Equal(t, forkspawn.Killed(syscall.SIGKILL, false), result.Status)
}

func TestWhatCannotBeEndedIsSaid(t *testing.T) {
	defer forkspawn.SetKillBound(50 * time.Millisecond)()
	s, err := forkspawn.New(forkspawn.Config{Method: forkspawn.MethodInProcess, Stderr: forkspawn.Null()})
	require.NoError(t, err)
	c := spawn(t, s, spawnspec.Spec{Name: "rock", Entry: "unkillable"})
	result, err := c.Kill()
	require.ErrorContains(t, err, `"rock"`)
	assert.ErrorContains(t, err, "after SIGKILL")
	assert.False(t, result.Status.Known())
	release <- struct{}{}
	require.NoError(t, s.Close())
}

func TestWhatCannotBeEndedDoesNotHoldUpClose(t *testing.T) {
	defer forkspawn.SetKillBound(50 * time.Millisecond)()
	s, err := forkspawn.New(forkspawn.Config{
		Method: forkspawn.MethodInProcess, StopGrace: time.Millisecond, TermGrace: time.Millisecond, Stderr: forkspawn.Null(),
	})
	require.NoError(t, err)
	c := spawn(t, s, spawnspec.Spec{Name: "rock", Entry: "unkillable"})
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		assert.ErrorContains(t, err, `"rock"`)
	case <-time.After(bound):
		assert.Fail(t, "Close hangs")
	}
	release <- struct{}{}
	<-c.Exited()
}

func TestChildrenOfAnEntryInThisProcessEndWithinItsGrace(t *testing.T) {
	s := local(t, forkspawn.Config{StopGrace: 2 * time.Second, TermGrace: bound})
	c := spawn(t, s, spawnspec.Spec{Entry: "patient"})
	var up string
	require.NoError(t, c.Recv(testContext(t), &up))
	result, err := c.Stop(testContext(t))
	require.NoError(t, err)
	assert.Equal(t, forkspawn.EndedAsked, result.By, "it has closed its own Spawner before force was used on it")
}

// release ends the entry "unkillable".
var release = make(chan struct{})

func init() {
	forkspawn.Register("goexit", func(context.Context, *forkspawn.Parent) error {
		runtime.Goexit()
		return nil
	})
	// stubborn heeds no request, but the end of its connection.
	forkspawn.Register("stubborn", func(_ context.Context, p *forkspawn.Parent) error {
		var v any
		return p.Recv(context.Background(), &v)
	})
	// patient has a deaf child, for which it would wait very long.
	forkspawn.Register("patient", func(ctx context.Context, p *forkspawn.Parent) error {
		s, err := forkspawn.New(forkspawn.Config{StopGrace: time.Hour, TermGrace: time.Hour, Stderr: forkspawn.Null()})
		if err != nil {
			return err
		}
		defer s.Close()
		c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "deaf", Args: true})
		if err != nil {
			return err
		}
		var up string
		if err := c.Recv(ctx, &up); err != nil {
			return err
		}
		if err := p.Send(ctx, up); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	})
	forkspawn.Register("unkillable", func(context.Context, *forkspawn.Parent) error {
		<-release
		return nil
	})
}
