//go:build unix

package forkspawn_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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

func TestStop_UsesNoMoreForceThanItTakes(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		const short = 300 * time.Millisecond
		for _, c := range []struct {
			spec       spawnspec.Spec
			stop, term time.Duration // short if the child lets it end
			by         forkspawn.Ending
			status     forkspawn.ExitStatus
		}{
			{spawnspec.Spec{Entry: "waits"}, bound, bound, forkspawn.Asked,
				forkspawn.ExitedStatus(0)},
			{spawnspec.Spec{Entry: "computes"}, bound, bound, forkspawn.Asked,
				forkspawn.ExitedStatus(0)},
			{spawnspec.Spec{Entry: "ignores-requests", Args: false}, short, bound,
				forkspawn.Terminated, forkspawn.KilledStatus(syscall.SIGTERM, false)},
			{spawnspec.Spec{Entry: "ignores-requests", Args: true}, short, short, forkspawn.Killed,
				forkspawn.KilledStatus(syscall.SIGKILL, false)},
		} {
			s := newSpawner(t,
				forkspawn.Config{Listen: listen, StopGrace: c.stop, TermGrace: c.term})
			child := spawn(t, s, c.spec)
			if c.spec.Entry != "waits" {
				var ready string
				require.NoError(t, child.Recv(testkit.Context(t), &ready))
			}
			result, err := child.Stop(testkit.Context(t))
			require.NoError(t, err)
			assert.Equal(t, c.by, result.By, c.spec)
			assert.Equal(t, c.status, result.Status, c.spec)
			assert.False(t, alive(child.PID()))
		}
	})
}

func TestStop_KillsWhenItsContextEnds(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{StopGrace: time.Hour})
	c := spawn(t, s, spawnspec.Spec{Entry: "ignores-requests"})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	result, err := c.Stop(ctx)
	require.NoError(t, err)
	assert.Equal(t, forkspawn.Killed, result.By)

	c = spawn(t, s, spawnspec.Spec{Entry: "ignores-requests"})
	go c.Stop(context.Background())
	result, err = c.Kill()
	require.NoError(t, err)
	assert.Equal(t, forkspawn.KilledStatus(syscall.SIGKILL, false), result.Status)
}

func TestStop_KillThatOutlastsItsBound(t *testing.T) {
	// Kill returns an error, and has no data race with the end of the child, which
	// comes at the same time.
	defer forkspawn.SetKillBound(1)()
	s, err := forkspawn.New(forkspawn.Config{Stderr: forkspawn.Null()})
	require.NoError(t, err)
	for range 10 {
		c := spawn(t, s, spawnspec.Spec{Entry: "waits"})
		if _, err := c.Kill(); err != nil {
			assert.ErrorContains(t, err, "after SIGKILL")
		}
		<-c.Exited()
	}
	require.NoError(t, s.Close())
}

// The child computes and does not receive, megabytes are queued in front of the
// request to stop, and a Send of the parent is blocked. The child stops without
// force all the same. The log shows how fast.
func TestStop_BusyChildLearnsOfIt(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		s := newSpawner(t, forkspawn.Config{Listen: listen, StopGrace: bound})
		best := time.Hour
		for range 5 {
			c := spawn(t, s, spawnspec.Spec{Entry: "computes"})
			var ready string
			require.NoError(t, c.Recv(testkit.Context(t), &ready))
			blocked := make(chan error, 1)
			go func() {
				for {
					if err := c.SendBytes(context.Background(), make([]byte, 1<<20)); err != nil {
						blocked <- err
						return
					}
				}
			}()
			result, err := c.Stop(testkit.Context(t))
			require.NoError(t, err)
			assert.Equal(t, forkspawn.Asked, result.By)
			assert.Equal(t, forkspawn.ExitedStatus(0), result.Status, c.StderrTail())
			best = min(best, result.Elapsed)
			var exit *forkspawn.ExitError
			assert.ErrorAs(t, <-blocked, &exit)
		}
		t.Logf("a busy child ended %v after the request", best)
	})
}

func TestStop_TakesTheWholeProcessGroup(t *testing.T) {
	// The shell starts the child, and another process beside it.
	pidFile := filepath.Join(t.TempDir(), "pid")
	cmd := sh(`sleep 60 & echo $! >"` + pidFile + `"; "$PROGRAM"; wait`)
	program := roles.Command("joins")
	cmd.Env = append(program.Env, "PROGRAM="+program.Path)
	s := newSpawner(t, forkspawn.Config{StopGrace: 100 * time.Millisecond, TermGrace: bound})
	c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "wrapped"},
		forkspawn.WithCommand(cmd))
	require.NoError(t, err)
	require.NoError(t, c.Send(testkit.Context(t), "through the wrapper"))
	var got string
	require.NoError(t, c.Recv(testkit.Context(t), &got))
	b, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	sleeper, err := strconv.Atoi(strings.TrimSpace(string(b)))
	require.NoError(t, err)
	_, err = c.Stop(testkit.Context(t))
	require.NoError(t, err)
	testkit.Eventually(t, "the sleeper is gone", func() bool { return !running(sleeper) })
}

func TestStop_LastMessagesCanBeReceived(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		s := newSpawner(t, forkspawn.Config{Listen: listen})
		c := spawn(t, s, spawnspec.Spec{Entry: "counts-interrupts"})
		var got string
		require.NoError(t, c.Recv(testkit.Context(t), &got))
		require.NoError(t, c.RequestStop(testkit.Context(t), "that is enough"))
		var count int
		require.NoError(t, c.Recv(testkit.Context(t), &count))
		status, err := c.Wait(testkit.Context(t))
		require.NoError(t, err)
		assert.Equal(t, forkspawn.ExitedStatus(0), status)
		assert.NoError(t, c.RequestStop(testkit.Context(t), "again"), "it has ended")
		result, err := c.Stop(testkit.Context(t))
		require.NoError(t, err)
		assert.Equal(t, forkspawn.AlreadyEnded, result.By)
	})
}

// The grace of a process limits the graces that it gives its own children.
func TestStop_GracesFitIntoTheParents(t *testing.T) {
	// In parallel, because each takes three quarters of its grace.
	t.Run("at once", func(t *testing.T) { t.Parallel(); testGracesFit(t, false) })
	t.Run("asked before, without a grace", func(t *testing.T) {
		t.Parallel()
		testGracesFit(t, true)
	})
}

func testGracesFit(t *testing.T, askedBefore bool) {
	// A quarter of the grace is for the slowness of the machine, so a slow one
	// needs a longer grace.
	for grace := 3 * time.Second; ; grace *= 2 {
		s := newSpawner(t, forkspawn.Config{StopGrace: grace, TermGrace: bound})
		c, _, grandchild := spawnWithDeafChild(t, s)
		if askedBefore {
			require.NoError(t, c.RequestStop(testkit.Context(t), "when it suits you"))
		}
		result, err := c.Stop(testkit.Context(t))
		require.NoError(t, err)
		t.Logf("of a grace of %v it took %v", grace, result.Elapsed)
		if result.By != forkspawn.Asked {
			require.Less(t, grace, bound, "it had no time to stop its own child: %v", result)
			testkit.Eventually(t, "the grandchild is gone", func() bool {
				return !running(grandchild)
			})
			continue
		}
		assert.Equal(t, "killed: signal: killed", c.StderrTail()) // Stop could discard a message
		assert.False(t, running(grandchild))
		return
	}
}

func TestStop_HastenShortensIt(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{StopGrace: time.Hour, TermGrace: time.Hour})
	c := spawn(t, s, spawnspec.Spec{Entry: "ignores-requests", Args: true})
	var ready string
	require.NoError(t, c.Recv(testkit.Context(t), &ready))
	stopped := make(chan forkspawn.StopResult, 1)
	go func() {
		r, _ := c.Stop(context.Background())
		stopped <- r
	}()
	s.Hasten() // it makes Stop send SIGTERM, which the child ignores
	select {
	case r := <-stopped:
		t.Fatalf("%v: the first call is for StopGrace alone", r)
	case <-time.After(50 * time.Millisecond):
	}
	s.Hasten()
	assert.Equal(t, forkspawn.Killed, (<-stopped).By)

	c = spawn(t, s, spawnspec.Spec{Entry: "ignores-requests"})
	require.NoError(t, c.Recv(testkit.Context(t), &ready))
	r, err := c.Stop(testkit.Context(t))
	require.NoError(t, err)
	assert.NotEqual(t, forkspawn.Asked, r.By, "later stops are short too")
}

func TestStop_ContinuesAStoppedChild(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{StopGrace: 100 * time.Millisecond, TermGrace: bound})
	c := spawn(t, s, spawnspec.Spec{Entry: "ignores-requests"})
	var ready string
	require.NoError(t, c.Recv(testkit.Context(t), &ready))
	require.NoError(t, c.Signal(syscall.SIGSTOP))
	result, err := c.Stop(testkit.Context(t))
	require.NoError(t, err)
	assert.Equal(t, forkspawn.Terminated, result.By)
}

// spawnWithDeafChild spawns a child of the entry stops-a-deaf-child. It returns
// the socket of the child's Spawner, and the grandchild's pid.
func spawnWithDeafChild(
	t *testing.T, s *forkspawn.Spawner,
) (c *forkspawn.Child, socket string, grandchild int) {
	t.Helper()
	c = spawn(t, s, spawnspec.Spec{Entry: "stops-a-deaf-child"})
	var got []any
	require.NoError(t, c.Recv(testkit.Context(t), &got))
	return c, got[0].(string), int(got[1].(uint64))
}
