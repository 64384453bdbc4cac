//go:build unix

package forkspawn_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func newGroup(t testing.TB, s *forkspawn.Spawner, cfg forkspawn.GroupConfig) *forkspawn.Group {
	t.Helper()
	g, err := s.NewGroup(testkit.Context(t), cfg)
	require.NoError(t, err)
	return g
}

// waitFor calls Wait, and fails the test if Wait hangs.
func waitFor(t testing.TB, g *forkspawn.Group) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- g.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(bound):
		require.Fail(t, "Wait hangs")
		return nil
	}
}

func TestGroup_OneFailureEndsAll(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	g := newGroup(t, s, forkspawn.GroupConfig{})
	var pids []int
	for range 3 {
		c, err := g.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "waits"})
		require.NoError(t, err)
		pids = append(pids, c.PID())
	}
	_, err := g.Spawn(testkit.Context(t), spawnspec.Spec{Name: "unlucky", Entry: "fails"})
	require.NoError(t, err)
	err = waitFor(t, g)
	var exit *forkspawn.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, "unlucky", exit.Name)
	assert.Equal(t, forkspawn.ExitedStatus(1), exit.Status)
	assert.Equal(t, "no luck today", exit.Said,
		"its own words, of which nobody received the goodbye")
	assert.NotContains(t, err.Error(), "sleep", "what happened to the others is no failure")
	for _, pid := range pids {
		assert.False(t, alive(pid))
	}
	assert.ErrorAs(t, context.Cause(g.Context()), &exit)
}

func TestGroup_WaitReturnsAllFailures(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	g := newGroup(t, s, forkspawn.GroupConfig{})
	mine := errors.New("mine")
	for code := 3; code <= 5; code++ {
		require.NoError(t,
			g.Go(spawnspec.Spec{Name: "exit" + itoa(code), Entry: "exits", Args: code}, nil))
	}
	err := waitFor(t, g)
	for code := 3; code <= 5; code++ {
		// A child that was not started before the first failure has not failed.
		t.Logf("exit%d in it: %v", code, errorNames(err, "exit"+itoa(code)))
	}
	assert.NotEmpty(t, err)

	// If children fail together when all are up, the error has all failures.
	g = newGroup(t, s, forkspawn.GroupConfig{})
	var up sync.WaitGroup
	up.Add(3)
	for i := range 3 {
		require.NoError(t,
			g.Go(spawnspec.Spec{Name: "c" + itoa(i), Entry: "echo"},
				func(context.Context, *forkspawn.Child) error {
					up.Done()
					up.Wait()
					return errors.Join(mine, errors.New("number "+itoa(i)))
				}))
	}
	err = waitFor(t, g)
	assert.ErrorIs(t, err, mine)
	for i := range 3 {
		assert.ErrorContains(t, err, "number "+itoa(i))
	}
}

// errorNames reports whether a joined error has an ExitError with the name.
func errorNames(err error, name string) bool {
	var exit *forkspawn.ExitError
	if errors.As(err, &exit) && exit.Name == name {
		return true
	}
	if list, ok := err.(interface{ Unwrap() []error }); ok {
		return slices.ContainsFunc(list.Unwrap(), func(e error) bool { return errorNames(e, name) })
	}
	return false
}

func TestGroup_SuccessHasNoError(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	g := newGroup(t, s, forkspawn.GroupConfig{})
	c, err := g.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "reports-spec"})
	require.NoError(t, err)
	_, err = c.Wait(testkit.Context(t))
	require.NoError(t, err)
	var got map[string]any
	require.NoError(t, c.Recv(testkit.Context(t), &got),
		"what it sent before it ended is still there")
	require.NoError(t, waitFor(t, g))
	require.NoError(t, waitFor(t, g), "again")
	_, err = g.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"})
	assert.ErrorIs(t, err, forkspawn.ErrGroupDone)
	assert.ErrorIs(t, g.Go(spawnspec.Spec{Entry: "echo"}, nil), forkspawn.ErrGroupDone)
	assert.Empty(t, s.Children(), "everything is given back")
}

func TestGroup_CancelEndsBootsUnderWay(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	why := errors.New("closing time")
	g := newGroup(t, s, forkspawn.GroupConfig{})
	started := make(chan error, 1)
	go func() {
		_, err := g.Spawn(testkit.Context(t), spawnspec.Spec{Name: "mute"},
			forkspawn.WithCommand(roles.Command("never-connects")))
		started <- err
	}()
	g.Cancel(why)
	err := <-started
	var boot *forkspawn.BootError
	require.ErrorAs(t, err, &boot)
	assert.ErrorIs(t, err, forkspawn.ErrGroupDone)
	assert.ErrorIs(t, err, why)
	if boot.PID != 0 {
		assert.False(t, alive(boot.PID))
	}
	_, err = g.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"})
	require.ErrorAs(t, err, &boot)
	assert.ErrorIs(t, err, forkspawn.ErrGroupDone)
	assert.ErrorIs(t, err, why)
	assert.Zero(t, boot.PID)
	assert.ErrorIs(t, waitFor(t, g), why, "nothing failed: the cause")
}

func TestGroup_CancelAtAnyMomentLeavesNobody(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	why := errors.New("at any moment")
	outcomes := map[bool]int{}
	var mu sync.Mutex
	for range 40 {
		g := newGroup(t, s, forkspawn.GroupConfig{})
		var pids []int
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				c, err := g.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "waits"})
				mu.Lock()
				defer mu.Unlock()
				outcomes[err == nil]++
				if err == nil {
					pids = append(pids, c.PID())
				} else {
					assert.ErrorIs(t, err, forkspawn.ErrGroupDone)
				}
			})
		}
		timer := time.AfterFunc(rand.N(8*time.Millisecond), func() { g.Cancel(why) })
		wg.Wait()
		timer.Stop()
		g.Cancel(why)
		assert.ErrorIs(t, waitFor(t, g), why)
		for _, pid := range pids {
			assert.False(t, alive(pid))
		}
	}
	assert.Empty(t, s.Children())
	t.Logf("ready: %d, refused: %d", outcomes[true], outcomes[false])
}

func TestGroup_EndsWithItsContextAndItsSpawner(t *testing.T) {
	s, err := forkspawn.New(forkspawn.Config{Stderr: forkspawn.Null()})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(testkit.Context(t))
	byContext, err := s.NewGroup(ctx, forkspawn.GroupConfig{})
	require.NoError(t, err)
	bySpawner := newGroup(t, s, forkspawn.GroupConfig{})
	for _, g := range []*forkspawn.Group{byContext, bySpawner} {
		require.NoError(t, g.Go(spawnspec.Spec{Entry: "waits"}, nil))
		_, err := g.Spawn(ctx, spawnspec.Spec{Entry: "waits"})
		require.NoError(t, err)
	}
	cancel()
	assert.Equal(t, context.Canceled, waitFor(t, byContext))
	require.NoError(t, s.Close())
	assert.ErrorIs(t, waitFor(t, bySpawner), forkspawn.ErrSpawnerClosed)
}

func TestGroup_WithoutWaitGivesEverythingBack(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	ctx, cancel := context.WithCancel(testkit.Context(t))
	g, err := s.NewGroup(ctx, forkspawn.GroupConfig{})
	require.NoError(t, err)
	c, err := g.Spawn(ctx, spawnspec.Spec{Entry: "reports-spec"})
	require.NoError(t, err)
	<-c.Exited()
	var got map[string]any
	require.NoError(t, c.Recv(ctx, &got), "what it sent before it ended is still there")
	require.Len(t, s.Children(), 1)
	cancel()
	testkit.Eventually(t, "its connections are closed", func() bool {
		return len(s.Children()) == 0
	})
}

func TestGroup_ForgetsStoppedChildren(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	g := newGroup(t, s, forkspawn.GroupConfig{})
	collected := make(chan struct{})
	func() {
		c, err := g.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "waits"})
		require.NoError(t, err)
		_, err = c.Stop(testkit.Context(t))
		require.NoError(t, err)
		runtime.AddCleanup(c, func(done chan struct{}) { close(done) }, collected)
	}()
	testkit.Eventually(t, "nothing holds the child, in a group that lives on", func() bool {
		runtime.GC()
		select {
		case <-collected:
			return true
		default:
			return false
		}
	})
	require.NoError(t, waitFor(t, g))
}

func TestGroup_StopsTheChildWhenRunReturns(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	g := newGroup(t, s, forkspawn.GroupConfig{})
	var pid int
	require.NoError(t,
		g.Go(spawnspec.Spec{Entry: "echo"}, func(ctx context.Context, c *forkspawn.Child) error {
			pid = c.PID()
			if err := c.Send(ctx, "hello"); err != nil {
				return err
			}
			var got string
			return c.Recv(ctx, &got)
		}))
	require.NoError(t, waitFor(t, g))
	assert.False(t, alive(pid))
}

func TestGroup_ItsEndIsNoFailureOfRun(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	why := errors.New("time is up")
	for limit := 50 * time.Millisecond; ; limit *= 2 {
		ctx, cancel := context.WithTimeoutCause(testkit.Context(t), limit, why)
		defer cancel()
		g, err := s.NewGroup(ctx, forkspawn.GroupConfig{})
		ran := false
		if err == nil {
			err = g.Go(spawnspec.Spec{Entry: "waits"},
				func(ctx context.Context, _ *forkspawn.Child) error {
					ran = true
					<-ctx.Done()
					return ctx.Err() // context.DeadlineExceeded
				})
			assert.Equal(t, why, waitFor(t, g))
		}
		if ran {
			break
		}
		t.Log(limit, "was too little for this machine:", err)
		require.Less(t, limit, bound)
	}
}

func TestGroup_StopOnPurposeIsNoFailure(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	for _, kill := range []bool{false, true} {
		g := newGroup(t, s, forkspawn.GroupConfig{})
		require.NoError(t,
			g.Go(spawnspec.Spec{Entry: "waits"},
				func(ctx context.Context, c *forkspawn.Child) error {
					go func() {
						if kill {
							c.Kill()
						} else {
							c.Stop(context.Background())
						}
					}()
					var v any
					return c.Recv(ctx, &v)
				}))
		assert.NoError(t, waitFor(t, g), "kill %t", kill)
	}
}

func TestGroup_SpawnAfterTheSpawnersEndIsNoFailure(t *testing.T) {
	for range 50 {
		s, err := forkspawn.New(forkspawn.Config{Stderr: forkspawn.Null()})
		require.NoError(t, err)
		g := newGroup(t, s, forkspawn.GroupConfig{})
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		for {
			if _, err = g.Spawn(testkit.Context(t), spawnspec.Spec{Name: "late"}); errors.Is(err,
				forkspawn.ErrSpawnerClosed) {
				break
			}
			runtime.Gosched()
			if err != nil { // the spec has no entry, so this one fails, and ends its group
				g = newGroup(t, s, forkspawn.GroupConfig{})
			}
		}
		assert.Equal(t, forkspawn.ErrSpawnerClosed, waitFor(t, g))
		require.NoError(t, <-closed)
	}
}

func TestGroup_RunThatDoesNotReturnHasFailed(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	g := newGroup(t, s, forkspawn.GroupConfig{})
	var pid int
	require.NoError(t,
		g.Go(spawnspec.Spec{Entry: "waits"}, func(_ context.Context, c *forkspawn.Child) error {
			pid = c.PID()
			runtime.Goexit() // as testing.T.FailNow does
			return nil
		}))
	assert.ErrorContains(t, waitFor(t, g), "Goexit")
	assert.False(t, alive(pid), "Wait waits for its child all the same")
}

func TestGroup_RunLearnsOfItsChildsEnd(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	g := newGroup(t, s, forkspawn.GroupConfig{})
	require.NoError(t,
		g.Go(spawnspec.Spec{Entry: "exits", Args: 6},
			func(ctx context.Context, _ *forkspawn.Child) error {
				<-ctx.Done() // it does not wait for the child
				return ctx.Err()
			}))
	var exit *forkspawn.ExitError
	require.ErrorAs(t, waitFor(t, g), &exit)
	assert.Equal(t, forkspawn.ExitedStatus(6), exit.Status)
}

func TestGroup_UsesForceSideBySide(t *testing.T) {
	const grace = time.Second
	s := newSpawner(t, forkspawn.Config{StopGrace: grace, TermGrace: grace})
	g := newGroup(t, s, forkspawn.GroupConfig{})
	for range 6 {
		c, err := g.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "ignores-requests", Args: true})
		require.NoError(t, err)
		var ready string
		require.NoError(t, c.Recv(testkit.Context(t), &ready))
	}
	began := time.Now()
	why := errors.New("enough")
	g.Cancel(why)
	err := waitFor(t, g)
	assert.Equal(t, why, err, "a child that has to be killed because the group ends has not failed")
	assert.Less(t, time.Since(began), 6*2*grace,
		"not one after the other, which is six times as long")
}

func TestGroup_KillCutsItsStopShort(t *testing.T) {
	asked := make(chan struct{}, 1)
	s := newSpawner(t, forkspawn.Config{StopGrace: time.Hour, Trace: &forkspawn.Trace{
		Asked: func(forkspawn.ChildEvent, time.Duration) { asked <- struct{}{} },
	}})
	g := newGroup(t, s, forkspawn.GroupConfig{})
	c, err := g.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "ignores-requests"})
	require.NoError(t, err)
	why := errors.New("enough")
	g.Cancel(why)
	<-asked
	result, err := c.Kill()
	require.NoError(t, err)
	assert.Equal(t, forkspawn.Killed, result.By)
	assert.Equal(t, why, waitFor(t, g), "the force of this side is no failure of the child's")
}

func TestGroup_ShutdownCutsItsStopShort(t *testing.T) {
	asked := make(chan struct{}, 1)
	s, err := forkspawn.New(forkspawn.Config{StopGrace: time.Hour, Stderr: forkspawn.Null(),
		Trace: &forkspawn.Trace{
			Asked: func(forkspawn.ChildEvent, time.Duration) { asked <- struct{}{} },
		}})
	require.NoError(t, err)
	g := newGroup(t, s, forkspawn.GroupConfig{})
	_, err = g.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "ignores-requests"})
	require.NoError(t, err)
	why := errors.New("enough")
	g.Cancel(why)
	<-asked // the group has called Stop, with a context that does not end
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	closed := make(chan error, 1)
	go func() { closed <- s.Shutdown(ctx) }()
	select {
	case err := <-closed:
		require.NoError(t, err)
	case <-time.After(bound):
		require.Fail(t, "Shutdown waits for the grace")
	}
	assert.Equal(t, why, waitFor(t, g))
}

func TestGroup_ConfigNamesItsBadField(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	for field, cfg := range map[string]forkspawn.GroupConfig{
		"Restart":  {Restart: 9},
		"MinPause": {MinPause: -1},
		"MaxPause": {MinPause: 2, MaxPause: 1},
		"Window":   {Window: -1},
	} {
		_, err := s.NewGroup(context.Background(), cfg)
		var c *forkspawn.ConfigError
		require.ErrorAs(t, err, &c)
		assert.Equal(t, field, c.Field)
	}
}
