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
	"github.com/spawnwire/spawnwire/spawnspec"
)

func newGroup(t testing.TB, s *forkspawn.Spawner, cfg forkspawn.GroupConfig) *forkspawn.Group {
	t.Helper()
	g, err := s.NewGroup(testContext(t), cfg)
	require.NoError(t, err)
	return g
}

// waitFor returns what Wait returns, which a hang would keep.
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

func TestGroupEndsAllWhenOneFails(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	g := newGroup(t, s, forkspawn.GroupConfig{})
	var pids []int
	for range 3 {
		c, err := g.Spawn(testContext(t), spawnspec.Spec{Entry: "sleep"})
		require.NoError(t, err)
		pids = append(pids, c.PID())
	}
	_, err := g.Spawn(testContext(t), spawnspec.Spec{Name: "unlucky", Entry: "fail"})
	require.NoError(t, err)
	err = waitFor(t, g)
	var exit *forkspawn.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, "unlucky", exit.Name)
	assert.Equal(t, forkspawn.Exited(1), exit.Status)
	assert.Equal(t, "no luck today", exit.Said, "its own words, of which nobody received the goodbye")
	assert.NotContains(t, err.Error(), "sleep", "what happened to the others is no failure")
	for _, pid := range pids {
		assert.False(t, alive(pid))
	}
	assert.ErrorAs(t, context.Cause(g.Context()), &exit)
}

func TestGroupWaitReturnsAllFailures(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	g := newGroup(t, s, forkspawn.GroupConfig{})
	mine := errors.New("mine")
	for code := 3; code <= 5; code++ {
		require.NoError(t, g.Go(spawnspec.Spec{Name: "exit" + itoa(code), Entry: "exit", Args: code}, nil))
	}
	err := waitFor(t, g)
	for code := 3; code <= 5; code++ {
		// One that was not started yet when the first failed has not failed.
		t.Logf("exit%d in it: %v", code, errorNames(err, "exit"+itoa(code)))
	}
	assert.NotEmpty(t, err)

	// Of those that are up and then fail together, all are told.
	g = newGroup(t, s, forkspawn.GroupConfig{})
	var up sync.WaitGroup
	up.Add(3)
	for i := range 3 {
		require.NoError(t, g.Go(spawnspec.Spec{Name: "c" + itoa(i), Entry: "echo"}, func(context.Context, *forkspawn.Child) error {
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

// errorNames tells whether a joined error has an ExitError or a BootError of the name.
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

func TestGroupOfChildrenThatEndWellHasNoError(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	g := newGroup(t, s, forkspawn.GroupConfig{})
	c, err := g.Spawn(testContext(t), spawnspec.Spec{Entry: "orders"})
	require.NoError(t, err)
	_, err = c.Wait(testContext(t))
	require.NoError(t, err)
	var got map[string]any
	require.NoError(t, c.Recv(testContext(t), &got), "what it sent before it ended is still there")
	require.NoError(t, waitFor(t, g))
	require.NoError(t, waitFor(t, g), "again")
	_, err = g.Spawn(testContext(t), spawnspec.Spec{Entry: "echo"})
	assert.ErrorIs(t, err, forkspawn.ErrGroupDone)
	assert.ErrorIs(t, g.Go(spawnspec.Spec{Entry: "echo"}, nil), forkspawn.ErrGroupDone)
	assert.Empty(t, s.Children(), "everything is given back")
}

func TestCancelledGroupRefusesAndEndsBootsUnderWay(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	why := errors.New("closing time")
	g := newGroup(t, s, forkspawn.GroupConfig{})
	started := make(chan error, 1)
	go func() {
		_, err := g.SpawnCommand(testContext(t), role("mute"), spawnspec.Spec{Name: "mute"})
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
	_, err = g.Spawn(testContext(t), spawnspec.Spec{Entry: "echo"})
	require.ErrorAs(t, err, &boot)
	assert.ErrorIs(t, err, forkspawn.ErrGroupDone)
	assert.ErrorIs(t, err, why)
	assert.Zero(t, boot.PID)
	assert.ErrorIs(t, waitFor(t, g), why, "nothing failed: the cause")
}

func TestGroupCancelledAtAnyMomentLeavesNobody(t *testing.T) {
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
				c, err := g.Spawn(testContext(t), spawnspec.Spec{Entry: "sleep"})
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

func TestGroupEndsWithItsContextAndItsSpawner(t *testing.T) {
	s, err := forkspawn.New(forkspawn.Config{Stderr: forkspawn.Null()})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(testContext(t))
	byContext, err := s.NewGroup(ctx, forkspawn.GroupConfig{})
	require.NoError(t, err)
	bySpawner := newGroup(t, s, forkspawn.GroupConfig{})
	for _, g := range []*forkspawn.Group{byContext, bySpawner} {
		require.NoError(t, g.Go(spawnspec.Spec{Entry: "sleep"}, nil))
		_, err := g.Spawn(ctx, spawnspec.Spec{Entry: "sleep"})
		require.NoError(t, err)
	}
	cancel()
	assert.Equal(t, context.Canceled, waitFor(t, byContext))
	require.NoError(t, s.Close())
	assert.ErrorIs(t, waitFor(t, bySpawner), forkspawn.ErrClosed)
}

func TestGroupThatNobodyWaitsForGivesEverythingBack(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	ctx, cancel := context.WithCancel(testContext(t))
	g, err := s.NewGroup(ctx, forkspawn.GroupConfig{})
	require.NoError(t, err)
	c, err := g.Spawn(ctx, spawnspec.Spec{Entry: "orders"})
	require.NoError(t, err)
	<-c.Exited()
	var got map[string]any
	require.NoError(t, c.Recv(ctx, &got), "what it sent before it ended is still there")
	require.Len(t, s.Children(), 1)
	cancel()
	eventually(t, "its connections are closed", func() bool { return len(s.Children()) == 0 })
}

func TestGroupForgetsChildrenThatWereStopped(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	g := newGroup(t, s, forkspawn.GroupConfig{})
	collected := make(chan struct{})
	func() {
		c, err := g.Spawn(testContext(t), spawnspec.Spec{Entry: "sleep"})
		require.NoError(t, err)
		_, err = c.Stop(testContext(t))
		require.NoError(t, err)
		runtime.AddCleanup(c, func(done chan struct{}) { close(done) }, collected)
	}()
	eventually(t, "nothing holds the child, in a group that lives on", func() bool {
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

func TestGroupStopsAChildWhoseRunReturns(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	g := newGroup(t, s, forkspawn.GroupConfig{})
	var pid int
	require.NoError(t, g.Go(spawnspec.Spec{Entry: "echo"}, func(ctx context.Context, c *forkspawn.Child) error {
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

func TestWhatEndsARunFunctionWithItsGroupIsNoFailure(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	why := errors.New("time is up")
	for limit := 50 * time.Millisecond; ; limit *= 2 {
		ctx, cancel := context.WithTimeoutCause(testContext(t), limit, why)
		defer cancel()
		g, err := s.NewGroup(ctx, forkspawn.GroupConfig{})
		ran := false
		if err == nil {
			err = g.Go(spawnspec.Spec{Entry: "sleep"}, func(ctx context.Context, _ *forkspawn.Child) error {
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

func TestChildThatIsStoppedOnPurposeHasNotFailed(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	for _, kill := range []bool{false, true} {
		g := newGroup(t, s, forkspawn.GroupConfig{})
		require.NoError(t, g.Go(spawnspec.Spec{Entry: "sleep"}, func(ctx context.Context, c *forkspawn.Child) error {
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

func TestSpawnAfterTheSpawnersEndIsNoFailureOfTheGroup(t *testing.T) {
	for range 50 {
		s, err := forkspawn.New(forkspawn.Config{Stderr: forkspawn.Null()})
		require.NoError(t, err)
		g := newGroup(t, s, forkspawn.GroupConfig{})
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		for {
			if _, err = g.Spawn(testContext(t), spawnspec.Spec{Name: "late"}); errors.Is(err, forkspawn.ErrClosed) {
				break
			}
			runtime.Gosched()
			if err != nil { // an empty entry, which is one
				g = newGroup(t, s, forkspawn.GroupConfig{})
			}
		}
		assert.Equal(t, forkspawn.ErrClosed, waitFor(t, g))
		require.NoError(t, <-closed)
	}
}

func TestRunFunctionThatDoesNotReturnHasFailed(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	g := newGroup(t, s, forkspawn.GroupConfig{})
	var pid int
	require.NoError(t, g.Go(spawnspec.Spec{Entry: "sleep"}, func(_ context.Context, c *forkspawn.Child) error {
		pid = c.PID()
		runtime.Goexit() // as testing.T.FailNow does
		return nil
	}))
	assert.ErrorContains(t, waitFor(t, g), "Goexit")
	assert.False(t, alive(pid), "Wait waits for its child all the same")
}

func TestRunLearnsOfItsChildsEnd(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	g := newGroup(t, s, forkspawn.GroupConfig{})
	require.NoError(t, g.Go(spawnspec.Spec{Entry: "exit", Args: 6}, func(ctx context.Context, _ *forkspawn.Child) error {
		<-ctx.Done() // it waits for something else than its child
		return ctx.Err()
	}))
	var exit *forkspawn.ExitError
	require.ErrorAs(t, waitFor(t, g), &exit)
	assert.Equal(t, forkspawn.Exited(6), exit.Status)
}

func TestGroupUsesForceSideBySide(t *testing.T) {
	const grace = time.Second
	s := newSpawner(t, forkspawn.Config{StopGrace: grace, TermGrace: grace})
	g := newGroup(t, s, forkspawn.GroupConfig{})
	for range 6 {
		c, err := g.Spawn(testContext(t), spawnspec.Spec{Entry: "deaf", Args: true})
		require.NoError(t, err)
		var ready string
		require.NoError(t, c.Recv(testContext(t), &ready))
	}
	began := time.Now()
	why := errors.New("enough")
	g.Cancel(why)
	err := waitFor(t, g)
	assert.Equal(t, why, err, "a child that has to be killed because the group ends has not failed")
	assert.Less(t, time.Since(began), 6*2*grace, "not one after the other, which is six times as long")
}

func TestKillCutsTheStopOfAGroupShort(t *testing.T) {
	asked := make(chan struct{}, 1)
	s := newSpawner(t, forkspawn.Config{StopGrace: time.Hour, Trace: &forkspawn.Trace{
		Asked: func(forkspawn.ChildEvent, time.Duration) { asked <- struct{}{} },
	}})
	g := newGroup(t, s, forkspawn.GroupConfig{})
	c, err := g.Spawn(testContext(t), spawnspec.Spec{Entry: "deaf"})
	require.NoError(t, err)
	why := errors.New("enough")
	g.Cancel(why)
	<-asked
	result, err := c.Kill()
	require.NoError(t, err)
	assert.Equal(t, forkspawn.EndedKilled, result.By)
	assert.Equal(t, why, waitFor(t, g), "the force of this side is no failure of the child's")
}

func TestShutdownCutsTheStopOfAGroupShort(t *testing.T) {
	asked := make(chan struct{}, 1)
	s, err := forkspawn.New(forkspawn.Config{StopGrace: time.Hour, Stderr: forkspawn.Null(), Trace: &forkspawn.Trace{
		Asked: func(forkspawn.ChildEvent, time.Duration) { asked <- struct{}{} },
	}})
	require.NoError(t, err)
	g := newGroup(t, s, forkspawn.GroupConfig{})
	_, err = g.Spawn(testContext(t), spawnspec.Spec{Entry: "deaf"})
	require.NoError(t, err)
	why := errors.New("enough")
	g.Cancel(why)
	<-asked // the group's Stop runs, whose context does not end
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

// recorder collects the events of restarts.
type recorder struct {
	mu       sync.Mutex
	restarts []forkspawn.RestartInfo
	starts   int
}

func (r *recorder) trace() *forkspawn.Trace {
	return &forkspawn.Trace{
		Started: func(forkspawn.ChildEvent) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.starts++
		},
		Restarting: func(_ forkspawn.ChildEvent, i forkspawn.RestartInfo) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.restarts = append(r.restarts, i)
		},
	}
}

func TestChildThatCrashesAtEveryBootEndsInAClearError(t *testing.T) {
	var r recorder
	s := newSpawner(t, forkspawn.Config{Trace: r.trace()})
	g := newGroup(t, s, forkspawn.GroupConfig{Restart: forkspawn.RestartPolicy{
		When: forkspawn.RestartOnFailure, Limit: 3, MinPause: time.Millisecond, MaxPause: 3 * time.Millisecond,
	}})
	require.NoError(t, g.GoCommand(role("exit3"), spawnspec.Spec{Name: "crasher"}, nil))
	err := waitFor(t, g)
	var often *forkspawn.RestartError
	require.ErrorAs(t, err, &often)
	assert.Equal(t, "crasher", often.Name)
	assert.Equal(t, 3, often.Restarts)
	var boot *forkspawn.BootError
	require.ErrorAs(t, err, &boot, "the last failure is in it")
	assert.Equal(t, forkspawn.Exited(3), boot.Status)
	assert.ErrorContains(t, err, "cannot open the moon")

	require.Len(t, r.restarts, 3)
	assert.Equal(t, 4, r.starts)
	for i, info := range r.restarts {
		assert.Equal(t, i+1, info.Restarts)
		assert.ErrorIs(t, info.Cause, forkspawn.ErrDied, "the reason of each")
	}
	assert.Equal(t, []time.Duration{time.Millisecond, 2 * time.Millisecond, 3 * time.Millisecond},
		[]time.Duration{r.restarts[0].Pause, r.restarts[1].Pause, r.restarts[2].Pause}, "a back-off")
}

func TestRestartOnFailureStopsAtSuccess(t *testing.T) {
	var r recorder
	s := newSpawner(t, forkspawn.Config{Trace: r.trace()})
	g := newGroup(t, s, forkspawn.GroupConfig{Restart: forkspawn.RestartPolicy{When: forkspawn.RestartOnFailure, MinPause: 1}})
	lives := 0
	mine := errors.New("not yet")
	require.NoError(t, g.Go(spawnspec.Spec{Entry: "echo"}, func(context.Context, *forkspawn.Child) error {
		if lives++; lives < 3 {
			return mine
		}
		return nil
	}))
	require.NoError(t, waitFor(t, g))
	assert.Equal(t, 3, lives)
	require.Len(t, r.restarts, 2)
	assert.ErrorIs(t, r.restarts[1].Cause, mine)
}

func TestRestartAlwaysGoesOnUntilTheGroupEnds(t *testing.T) {
	var r recorder
	s := newSpawner(t, forkspawn.Config{Trace: r.trace()})
	g := newGroup(t, s, forkspawn.GroupConfig{Restart: forkspawn.RestartPolicy{When: forkspawn.RestartAlways, MinPause: 1, MaxPause: 1, Limit: -1}})
	why := errors.New("ten are enough")
	lives := 0
	require.NoError(t, g.Go(spawnspec.Spec{Entry: "exit", Args: 0}, func(ctx context.Context, _ *forkspawn.Child) error {
		if lives++; lives == 10 {
			g.Cancel(why)
		}
		<-ctx.Done()
		return nil
	}))
	assert.ErrorIs(t, waitFor(t, g), why)
	assert.Equal(t, 10, lives)
	for _, info := range r.restarts {
		assert.NoError(t, info.Cause, "it ended well")
	}
}

func TestRestartNeverIsTheDefault(t *testing.T) {
	var r recorder
	s := newSpawner(t, forkspawn.Config{Trace: r.trace()})
	g := newGroup(t, s, forkspawn.GroupConfig{})
	require.NoError(t, g.Go(spawnspec.Spec{Entry: "panic"}, nil))
	assert.ErrorContains(t, waitFor(t, g), "at the disco")
	assert.Equal(t, 1, r.starts)
	assert.Empty(t, r.restarts)
}

func TestGroupConfigNamesItsBadField(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	for field, policy := range map[string]forkspawn.RestartPolicy{
		"Restart.When":     {When: 9},
		"Restart.MinPause": {MinPause: -1},
		"Restart.MaxPause": {MinPause: 2, MaxPause: 1},
		"Restart.Window":   {Window: -1},
	} {
		_, err := s.NewGroup(context.Background(), forkspawn.GroupConfig{Restart: policy})
		var c *forkspawn.ConfigError
		require.ErrorAs(t, err, &c)
		assert.Equal(t, field, c.Field)
	}
}
