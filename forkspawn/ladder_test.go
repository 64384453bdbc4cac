//go:build unix

package forkspawn_test

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func init() {
	// warden has a child that heeds nothing and, when it is asked to stop, stops it with all the patience of
	// an hour, and writes what it took.
	forkspawn.Register("warden", func(ctx context.Context, p *forkspawn.Parent) error {
		s, err := forkspawn.New(forkspawn.Config{StopGrace: time.Hour, TermGrace: time.Hour})
		if err != nil {
			return err
		}
		defer s.Close()
		c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "deaf", Args: true})
		if err != nil {
			return err
		}
		var ready string
		if err := c.Recv(ctx, &ready); err != nil {
			return err
		}
		if err := p.Send(ctx, []any{s.Addr().Target, c.PID()}); err != nil {
			return err
		}
		<-ctx.Done()
		result, err := c.Stop(context.Background())
		if err != nil {
			return err
		}
		os.Stderr.WriteString(result.String())
		return nil
	})
}

func spawnWarden(t *testing.T, s *forkspawn.Spawner) (c *forkspawn.Child, socket string, prisoner int) {
	t.Helper()
	c = spawn(t, s, spawnspec.Spec{Entry: "warden"})
	var got []any
	require.NoError(t, c.Recv(testContext(t), &got))
	return c, got[0].(string), int(got[1].(uint64))
}

// Its own parent's patience bounds a process's patience with its children.
func TestGracesFitIntoTheParents(t *testing.T) {
	// Side by side, as each takes three quarters of its grace.
	t.Run("at once", func(t *testing.T) { t.Parallel(); testGracesFit(t, false) })
	t.Run("asked before, without a grace", func(t *testing.T) { t.Parallel(); testGracesFit(t, true) })
}

func testGracesFit(t *testing.T, askedBefore bool) {
	const grace = 16 * time.Second // a quarter of it is what a busy machine may take
	s := newSpawner(t, forkspawn.Config{StopGrace: grace, TermGrace: bound})
	c, _, prisoner := spawnWarden(t, s)
	if askedBefore {
		require.NoError(t, c.Cancel(testContext(t), "when it suits you"))
	}
	result, err := c.Stop(testContext(t))
	require.NoError(t, err)
	assert.Equal(t, forkspawn.EndedAsked, result.By, "it had time to stop its own child")
	assert.Equal(t, "killed: signal: killed", c.StderrTail()) // a message would be lost when Stop is faster than a Recv
	assert.False(t, running(prisoner))
	t.Logf("of a grace of %v it took %v", grace, result.Elapsed)
}

func TestHastenShortensTheLadder(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{StopGrace: time.Hour, TermGrace: time.Hour})
	c := spawn(t, s, spawnspec.Spec{Entry: "deaf", Args: true})
	var ready string
	require.NoError(t, c.Recv(testContext(t), &ready))
	stopped := make(chan forkspawn.StopResult, 1)
	go func() {
		r, _ := c.Stop(context.Background())
		stopped <- r
	}()
	s.Hasten() // it ignores the SIGTERM that comes now
	select {
	case r := <-stopped:
		t.Fatalf("%v: the first call is for StopGrace alone", r)
	case <-time.After(50 * time.Millisecond):
	}
	s.Hasten()
	assert.Equal(t, forkspawn.EndedKilled, (<-stopped).By)

	c = spawn(t, s, spawnspec.Spec{Entry: "deaf"})
	require.NoError(t, c.Recv(testContext(t), &ready))
	r, err := c.Stop(testContext(t))
	require.NoError(t, err)
	assert.NotEqual(t, forkspawn.EndedAsked, r.By, "later stops are short too")
}

func TestStoppedChildIsContinuedSoThatItCanEnd(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{StopGrace: 100 * time.Millisecond, TermGrace: bound})
	c := spawn(t, s, spawnspec.Spec{Entry: "deaf"})
	var ready string
	require.NoError(t, c.Recv(testContext(t), &ready))
	require.NoError(t, c.Signal(syscall.SIGSTOP))
	result, err := c.Stop(testContext(t))
	require.NoError(t, err)
	assert.Equal(t, forkspawn.EndedTerminated, result.By)
}

// A process of a tree that is killed leaves no socket: it had it in its root's directory, where its parent
// removes it.
func TestKilledParentLeavesNoSocket(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	dir := filepath.Dir(s.Addr().Target)
	c, socket, prisoner := spawnWarden(t, s)
	assert.Equal(t, dir, filepath.Dir(socket), "in the root's directory")
	assert.FileExists(t, socket)
	_, err := c.Kill()
	require.NoError(t, err)
	assert.NoFileExists(t, socket)
	eventually(t, "the child's child has ended", func() bool { return !running(prisoner) })
	require.NoError(t, s.Close())
	assert.NoDirExists(t, dir)
}
