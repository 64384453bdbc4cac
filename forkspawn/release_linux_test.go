package forkspawn_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func init() {
	moreEntries["keeps-count"] = keepsCount
	moreEntries["forgets-next"] = forgetsNext
}

// forgetsNext is released, does not wait for its next parent, and goes on.
func forgetsNext(_ context.Context, parent *forkspawn.Parent) error {
	ctx, cancel := context.WithCancel(context.Background())
	context.AfterFunc(parent.Context(), func() { time.AfterFunc(50*time.Millisecond, cancel) })
	parent.Next(ctx)
	select {}
}

// With this number keepsCount starts a child of its own.
const withChild = 1000

// keepsCount is a daemon: it adds up the numbers of all its parents.
func keepsCount(_ context.Context, parent *forkspawn.Parent) error {
	var count atomic.Int64
	own := sync.OnceValues(func() (*forkspawn.Spawner, error) {
		return forkspawn.New(releasable(forkspawn.Config{}))
	})
	defer func() {
		if s, err := own(); err == nil {
			s.Close()
		}
	}()
	startChild := func(ctx context.Context) error {
		s, err := own()
		if err != nil {
			return err
		}
		c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "echo"})
		if err == nil {
			_, err = c.Stop(ctx)
		}
		return err
	}
	var talks sync.WaitGroup
	defer talks.Wait()
	for {
		talks.Go(func() {
			for {
				var n int
				if err := parent.Recv(parent.Context(), &n); err != nil {
					return
				}
				if n < 0 {
					parent.Exit(errors.New("a negative number"))
				}
				if n == withChild {
					if err := startChild(parent.Context()); err != nil {
						parent.Exit(err)
					}
				}
				parent.Send(parent.Context(), count.Add(int64(n)))
			}
		})
		next, err := parent.Next(parent.Context())
		if err != nil {
			return err
		}
		parent = next
	}
}

// add sends a number and requires the sum.
func add(t testing.TB, c *forkspawn.Child, n, want int) {
	t.Helper()
	ctx := testkit.Context(t)
	require.NoError(t, c.Send(ctx, n))
	var sum int
	require.NoError(t, c.Recv(ctx, &sum))
	require.Equal(t, want, sum)
}

// releasable makes the children of a Spawner releasable.
func releasable(cfg forkspawn.Config) forkspawn.Config {
	cfg.Command.Releasable = true
	cfg.Stdout, cfg.Stderr = forkspawn.Null(), forkspawn.Inherit()
	return cfg
}

const longLease = 10 * time.Minute

func release(t testing.TB, c *forkspawn.Child, lease time.Duration) forkspawn.Handle {
	t.Helper()
	h, err := c.Release(testkit.Context(t), lease)
	require.NoError(t, err)
	return h
}

func reattach(t testing.TB, s *forkspawn.Spawner, h forkspawn.Handle) *forkspawn.Child {
	t.Helper()
	c, err := s.Reattach(testkit.Context(t), h)
	require.NoError(t, err)
	return c
}

func TestRelease_AnotherSpawnerTakesOver(t *testing.T) {
	spawntest.NoLeaks(t)
	networks(t, func(t *testing.T, listen transport.Addr) {
		first := newSpawner(t, releasable(forkspawn.Config{Listen: listen}))
		c := spawn(t, first, spawnspec.Spec{Entry: "keeps-count", Name: "keeper"})
		add(t, c, withChild, withChild)
		text, err := json.Marshal(release(t, c, longLease))
		require.NoError(t, err)
		pid := c.PID()
		require.NoError(t, first.Close(), "it does not wait for the child, or end it")

		second := newSpawner(t, releasable(forkspawn.Config{Listen: listen}))
		var h forkspawn.Handle
		require.NoError(t, json.Unmarshal(text, &h))
		again := reattach(t, second, h)
		assert.Equal(t, pid, again.PID())
		assert.Equal(t, "keeper", again.Name())
		assert.Equal(t, c.ID(), again.ID())
		assert.Equal(t, 1, again.Spec().Depth)
		add(t, again, withChild, 2*withChild)
		third := newSpawner(t, releasable(forkspawn.Config{}))
		again = reattach(t, third, release(t, again, longLease))
		add(t, again, 3, 2*withChild+3)
		result, err := again.Stop(testkit.Context(t))
		require.NoError(t, err)
		assert.Equal(t, forkspawn.Asked, result.By)
		status, err := c.Wait(testkit.Context(t))
		require.NoError(t, err)
		assert.Equal(t, forkspawn.ExitedStatus(0), status, "the first one still reaps it")
		_, err = third.Reattach(testkit.Context(t), h)
		require.ErrorIs(t, err, fs.ErrNotExist)
		t.Log(err)
	})
}

// ownTempDir gives the test a directory for sockets. A killed process leaves its own.
func ownTempDir(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("", "r")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("XDG_RUNTIME_DIR", dir)
}

func TestRelease_LeaseEndsTheChild(t *testing.T) {
	spawntest.NoLeaks(t)
	ownTempDir(t)
	for _, stopped := range []bool{false, true} {
		s := newSpawner(t, releasable(forkspawn.Config{}))
		c := spawn(t, s, spawnspec.Spec{Entry: "keeps-count"})
		h := release(t, c, 100*time.Millisecond)
		if stopped {
			require.NoError(t, syscall.Kill(c.PID(), syscall.SIGSTOP))
		}
		status, err := c.Wait(testkit.Context(t))
		require.NoError(t, err)
		if stopped { // the kernel ends it
			assert.Equal(t, forkspawn.KilledStatus(syscall.SIGKILL, false), status)
		} else {
			assert.Contains(t, []int{1, 125}, status.Code())
		}
		_, err = s.Reattach(testkit.Context(t), h)
		require.True(t, errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED), err)
	}
}

func TestRelease_LeaseEndsAChildThatDoesNotWait(t *testing.T) {
	spawntest.NoLeaks(t)
	ownTempDir(t)
	s := newSpawner(t, releasable(forkspawn.Config{}))
	c := spawn(t, s, spawnspec.Spec{Entry: "forgets-next"})
	release(t, c, 200*time.Millisecond)
	status, err := c.Wait(testkit.Context(t))
	require.NoError(t, err)
	assert.Equal(t, forkspawn.ExitedStatus(125), status)
}

func TestRelease_ErrorNamesTheReason(t *testing.T) {
	fine := releasable(forkspawn.Config{})
	for name, change := range map[string]func(*forkspawn.Config, *[]forkspawn.Option){
		"Stderr is captured": func(c *forkspawn.Config, _ *[]forkspawn.Option) {
			c.Stderr = forkspawn.Stream{}
		},
		"Stdout needs": func(c *forkspawn.Config, _ *[]forkspawn.Option) {
			c.Stdout = forkspawn.Pipe()
		},
		"Stdin needs": func(_ *forkspawn.Config, o *[]forkspawn.Option) {
			*o = append(*o, forkspawn.WithStdin(forkspawn.Pipe()))
		},
		"Config.Subreaper": func(c *forkspawn.Config, _ *[]forkspawn.Option) {
			c.Subreaper = true
		},
		"AllowOtherUsers": func(c *forkspawn.Config, _ *[]forkspawn.Option) {
			c.AllowOtherUsers = true
		},
		"Config.Start": func(c *forkspawn.Config, _ *[]forkspawn.Option) {
			c.Start = func(context.Context, forkspawn.ProcessAttr) (forkspawn.Process, error) {
				return nil, errors.ErrUnsupported
			}
		},
		"an entry in this process": func(c *forkspawn.Config, _ *[]forkspawn.Option) {
			c.Method = forkspawn.MethodInProcess
		},
		"without the protocol": func(_ *forkspawn.Config, o *[]forkspawn.Option) {
			*o = append(*o, forkspawn.WithProgram(
				forkspawn.Command{Path: "sleep", Args: []string{"9"}, Releasable: true}))
		},
		"Launcher": func(_ *forkspawn.Config, o *[]forkspawn.Option) {
			*o = append(*o, forkspawn.WithCommand(
				forkspawn.Command{Launcher: noLauncher{}, Releasable: true}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, opts := fine, []forkspawn.Option(nil)
			change(&cfg, &opts)
			s, err := forkspawn.New(cfg)
			require.NoError(t, err)
			defer s.Close()
			_, err = s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "keeps-count"}, opts...)
			var bad *forkspawn.ConfigError
			require.ErrorAs(t, err, &bad)
			assert.Equal(t, "Command.Releasable", bad.Field)
			assert.ErrorContains(t, err, name)
		})
	}
	s := newSpawner(t, forkspawn.Config{})
	c := spawn(t, s, spawnspec.Spec{Entry: "keeps-count"})
	_, err := c.Release(testkit.Context(t), longLease)
	require.ErrorContains(t, err, "without Command.Releasable")
	result, err := c.Stop(testkit.Context(t))
	require.NoError(t, err)
	assert.Equal(t, forkspawn.Asked, result.By, "Next returns there, too")

	for _, text := range []string{"", "1", "2 a b", "1 ! 1 id", "1 aaaa 1 id aa uds:///x"} {
		assert.Error(t, new(forkspawn.Handle).UnmarshalText([]byte(text)), text)
	}
	_, err = s.Reattach(testkit.Context(t), forkspawn.Handle{})
	assert.ErrorContains(t, err, "handle")
}

// A child that does not call Next stays a child.
func TestRelease_NeedsTheChild(t *testing.T) {
	spawntest.NoLeaks(t)
	s := newSpawner(t, releasable(forkspawn.Config{}))
	c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
	_, err := c.Release(testkit.Context(t), 0)
	require.ErrorContains(t, err, "lease")
	ctx, cancel := context.WithTimeout(testkit.Context(t), 100*time.Millisecond)
	defer cancel()
	_, err = c.Release(ctx, longLease)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "Parent.Next")
	require.NoError(t, c.Send(testkit.Context(t), "hello"))
	var got string
	require.NoError(t, c.Recv(testkit.Context(t), &got))
	assert.Equal(t, "hello", got)
}

func TestRelease_StopAndKillEndIt(t *testing.T) {
	spawntest.NoLeaks(t)
	s := newSpawner(t, releasable(forkspawn.Config{}))
	for _, kill := range []bool{false, true} {
		c := spawn(t, s, spawnspec.Spec{Entry: "echo"}) // it does not call Next
		released := testkit.Background(t, func() error {
			_, err := c.Release(testkit.Context(t), longLease)
			return err
		})
		time.Sleep(20 * time.Millisecond) // either order is right
		if kill {
			result, err := c.Kill()
			require.NoError(t, err)
			assert.Equal(t, forkspawn.Killed, result.By)
		} else {
			result, err := c.Stop(testkit.Context(t))
			require.NoError(t, err)
			assert.Equal(t, forkspawn.Asked, result.By)
		}
		require.Error(t, released())
	}
}

// Releases race with kills: either there is a Handle and the child lives, or there is an
// error and it is dead.
func TestRelease_RacesWithKill(t *testing.T) {
	spawntest.NoLeaks(t)
	ownTempDir(t)
	s := newSpawner(t, releasable(forkspawn.Config{}))
	for i := range 40 {
		c := spawn(t, s, spawnspec.Spec{Entry: "keeps-count"})
		killed := testkit.Background(t, func() error {
			time.Sleep(time.Duration(i) * 60 * time.Microsecond)
			_, err := c.Kill()
			return err
		})
		h, err := c.Release(testkit.Context(t), longLease)
		require.NoError(t, killed())
		if err == nil {
			add(t, reattach(t, s, h), 1, 1)
			continue
		}
		status, err := c.Wait(testkit.Context(t))
		require.NoError(t, err)
		assert.Equal(t, syscall.SIGKILL, status.Signal())
	}
}

func TestRelease_MethodsReturnErrReleased(t *testing.T) {
	spawntest.NoLeaks(t)
	released := make(chan forkspawn.ChildEvent, 1)
	s := newSpawner(t, releasable(forkspawn.Config{Trace: &forkspawn.Trace{
		Released: func(e forkspawn.ChildEvent) { released <- e },
		Exited: func(e forkspawn.ChildEvent, _ forkspawn.ExitStatus) {
			t.Errorf("the end of %d is reported", e.PID)
		},
	}}))
	c := spawn(t, s, spawnspec.Spec{Entry: "keeps-count"})
	received := testkit.Background(t, func() error { return c.Recv(testkit.Context(t), new(int)) })
	h := release(t, c, longLease)
	assert.Equal(t, c.PID(), (<-released).PID)
	ctx := testkit.Context(t)
	assert.ErrorIs(t, received(), forkspawn.ErrReleased)
	assert.ErrorIs(t, c.Send(ctx, 1), forkspawn.ErrReleased)
	assert.ErrorIs(t, c.Signal(syscall.SIGTERM), forkspawn.ErrReleased)
	assert.ErrorIs(t, c.RequestStop(ctx, "stop"), forkspawn.ErrReleased)
	_, err := c.Release(ctx, longLease)
	assert.ErrorIs(t, err, forkspawn.ErrReleased)
	_, err = c.Stop(ctx)
	assert.NoError(t, err)
	_, err = c.Kill()
	assert.NoError(t, err)
	assert.Empty(t, s.Children())
	assert.True(t, running(c.PID()))
	second := newSpawner(t, releasable(forkspawn.Config{}))
	again := reattach(t, second, h)
	add(t, again, 1, 1)
	again.Kill()
	_, err = c.Wait(ctx)
	require.NoError(t, err)
}

func TestRelease_LeavesItsGroupWithoutARestart(t *testing.T) {
	spawntest.NoLeaks(t)
	s := newSpawner(t, releasable(forkspawn.Config{}))
	g, err := s.NewGroup(testkit.Context(t),
		forkspawn.GroupConfig{Restart: forkspawn.RestartAlways, Liveness: bound})
	require.NoError(t, err)
	handles := make(chan forkspawn.Handle, 2)
	require.NoError(t, g.Go(spawnspec.Spec{Entry: "keeps-count"},
		func(ctx context.Context, c *forkspawn.Child) error {
			h, err := c.Release(ctx, longLease)
			handles <- h
			return err
		}))
	c, err := g.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "keeps-count"})
	require.NoError(t, err)
	handles <- release(t, c, longLease)
	require.NoError(t, g.Wait())
	for range 2 {
		add(t, reattach(t, s, <-handles), 1, 1)
	}
}

func TestRelease_SparesAndForkedChildren(t *testing.T) {
	spawntest.NoLeaks(t)
	methods := []forkspawn.Method{forkspawn.MethodExec}
	if testkit.CanFork && !cgoEnabled {
		methods = append(methods, forkspawn.MethodForkserver)
	}
	for _, method := range methods {
		for _, spares := range []int{0, 1} {
			s := newSpawner(t, releasable(forkspawn.Config{Method: method, Spares: spares}))
			require.NoError(t, s.AwaitSpares(testkit.Context(t)))
			c := spawn(t, s, spawnspec.Spec{Entry: "keeps-count"})
			assert.Equal(t, spares > 0, c.Boot().Spare)
			assert.Equal(t, string(method), c.Spec().Method)
			next := newSpawner(t, releasable(forkspawn.Config{}))
			h := release(t, c, longLease)
			require.NoError(t, s.Close())
			add(t, reattach(t, next, h), 1, 1)
		}
	}
}

// A killed parent takes its child with it, even if the child is stopped.
func TestRelease_KernelEndsTheChildOfADeadParent(t *testing.T) {
	spawntest.NoLeaks(t)
	ownTempDir(t)
	hosts := newSpawner(t, forkspawn.Config{Method: forkspawn.MethodExec})
	text, _, pid := killedAt(t, hosts, "", 0)
	for _, text := range []string{text, ""} {
		ctx := testkit.Context(t)
		host, err := hosts.Spawn(ctx, spawnspec.Spec{Entry: "hosts-count", Args: text})
		require.NoError(t, err)
		var started int
		require.NoError(t, host.Recv(ctx, &started))
		if text != "" {
			require.NoError(t, host.Send(ctx, "begin"))
			require.NoError(t, host.Recv(ctx, new(string)))
			started = pid
		}
		require.NoError(t, syscall.Kill(started, syscall.SIGSTOP))
		_, err = host.Kill()
		require.NoError(t, err)
		testkit.Eventually(t, "it ends", func() bool { return !running(started) })
	}
}

// kernelIs reports whether the kernel has this version or a newer one.
func kernelIs(t *testing.T, major, minor int) bool {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	require.NoError(t, err)
	var a, b int
	fmt.Sscanf(string(text), "%d.%d", &a, &b)
	return a > major || a == major && b >= minor
}

// The status of a child that was taken over is that of its end.
func TestRelease_ExitStatusAfterATakeover(t *testing.T) {
	spawntest.NoLeaks(t)
	ownTempDir(t) // a child can be killed before it has removed its directory
	s := newSpawner(t, releasable(forkspawn.Config{}))
	for _, crash := range []bool{false, true} {
		c := spawn(t, s, spawnspec.Spec{Entry: "keeps-count"})
		again := reattach(t, s, release(t, c, longLease))
		ctx := testkit.Context(t)
		want := forkspawn.ExitedStatus(1)
		if crash {
			want = forkspawn.KilledStatus(syscall.SIGKILL, false)
			require.NoError(t, again.Signal(syscall.SIGKILL))
		} else {
			require.NoError(t, again.Send(ctx, -1))
		}
		status, err := c.Wait(ctx)
		require.NoError(t, err)
		assert.Equal(t, want, status, "the first parent reaps it")
		var exit *forkspawn.ExitError
		require.ErrorAs(t, again.Recv(ctx, new(int)), &exit)
		if kernelIs(t, 6, 15) {
			assert.Equal(t, want, exit.Status)
		} else {
			assert.False(t, exit.Status.Known())
		}
		if !crash {
			assert.Equal(t, "a negative number", exit.Said)
		}
	}
}
