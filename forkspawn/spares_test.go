//go:build unix

package forkspawn_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// warmed returns a Spawner with ready spares.
func warmed(t testing.TB, cfg forkspawn.Config) *forkspawn.Spawner {
	t.Helper()
	s := newSpawner(t, cfg)
	require.NoError(t, s.AwaitSpares(testkit.Context(t)))
	require.Len(t, forkspawn.SparePIDs(s), cfg.Spares)
	return s
}

func TestSpares_NewestIsTakenAndReplaced(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		spawntest.NoLeaks(t)
		s := warmed(t, forkspawn.Config{Listen: listen, Spares: 3})
		assert.Empty(t, s.Children(), "spares are nobody's children yet")
		oldest := forkspawn.SparePIDs(s)[2]
		for i := range 3 {
			require.NoError(t, s.AwaitSpares(testkit.Context(t)))
			waiting := forkspawn.SparePIDs(s)
			require.Len(t, waiting, 3)
			assert.Equal(t, oldest, waiting[2])
			c := spawn(t, s,
				spawnspec.Spec{Name: fmt.Sprint("n", i), Entry: "reports-spec",
					Args: map[string]any{"x": "y"}})
			assert.Equal(t, waiting[0], c.PID())
			boot := c.Boot()
			assert.True(t, boot.Spare)
			assert.Zero(t, boot.Launch+boot.Runtime+boot.Init+boot.Connect)
			assert.Equal(t, c, s.Children()[0])
			var got map[string]any
			require.NoError(t, c.Recv(testkit.Context(t), &got))
			assert.Equal(t, fmt.Sprint("n", i), got["name"])
			assert.Equal(t, "exec", got["method"])
			assert.EqualValues(t, 1, got["depth"])
			assert.EqualValues(t, os.Getpid(), got["ppid"])
			assert.Equal(t, map[string]any{"x": "y"}, got["spec args"])
			assert.Equal(t, false, got["ticket"])
			assert.Equal(t, fmt.Sprint("n", i), c.Name())
			_, err := c.Stop(testkit.Context(t))
			require.NoError(t, err)
		}
		require.NoError(t, s.AwaitSpares(testkit.Context(t)))
		assert.Len(t, forkspawn.SparePIDs(s), 3)
		require.NoError(t, s.Close())
		assert.ErrorIs(t, s.AwaitSpares(testkit.Context(t)), forkspawn.ErrSpawnerClosed)
	})
}

func TestSpares_ChildIsLikeAnyOther(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		spawntest.NoLeaks(t)
		s := warmed(t, forkspawn.Config{Listen: listen, Spares: 1, StopGrace: bound})
		c := spawn(t, s, spawnspec.Spec{Entry: "computes"}) // only reads the control connection
		assert.True(t, c.Boot().Spare)
		result, err := c.Stop(testkit.Context(t))
		require.NoError(t, err)
		assert.Equal(t, forkspawn.Asked, result.By)
		assert.Equal(t, forkspawn.ExitedStatus(0), result.Status, c.StderrTail())

		require.NoError(t, s.AwaitSpares(testkit.Context(t)))
		c = spawn(t, s, spawnspec.Spec{Entry: "echo"})
		require.True(t, c.Boot().Spare)
		require.NoError(t, c.SendBytes(testkit.Context(t), make([]byte, 1<<20)))
		n, err := c.RecvBytes(testkit.Context(t), make([]byte, 1<<20))
		require.NoError(t, err)
		assert.Equal(t, 1<<20, n)

		require.NoError(t, s.AwaitSpares(testkit.Context(t)))
		c = spawn(t, s, spawnspec.Spec{Name: "f", Entry: "fails"})
		require.True(t, c.Boot().Spare)
		var exit *forkspawn.ExitError
		require.ErrorAs(t, c.Recv(testkit.Context(t), new(any)), &exit)
		assert.Equal(t, "f", exit.Name)
		assert.Equal(t, "no luck today", exit.Said)
	})
}

func TestSpares_OtherNeedsGetANewProcess(t *testing.T) {
	s := warmed(t, forkspawn.Config{Spares: 1})
	waiting := forkspawn.SparePIDs(s)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	c := spawn(t, s, spawnspec.Spec{Entry: "reports-spec", Dir: dir})
	assert.False(t, c.Boot().Spare)
	var got map[string]any
	require.NoError(t, c.Recv(testkit.Context(t), &got))
	assert.Equal(t, dir, got["dir"])
	c, err = s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "reports-spec"},
		forkspawn.WithCommand(forkspawn.Command{Args: []string{"x"}}))
	require.NoError(t, err)
	assert.False(t, c.Boot().Spare)
	require.NoError(t, c.Recv(testkit.Context(t), &got))
	assert.Equal(t, "x", got["args"])
	spawnError(t, testkit.Context(t), s, forkspawn.Command{},
		spawnspec.Spec{Name: "bad", Entry: "echo", Args: make(chan int)})
	spawnError(t, testkit.Context(t), s, forkspawn.Command{}, spawnspec.Spec{Name: "no entry"})
	assert.Equal(t, waiting, forkspawn.SparePIDs(s), "the spare is still there")
}

// Small specs fit into the socket's buffer at once. Larger ones may have to wait.
// The last is larger than the buffer.
func TestSpares_TakeASpecOfAnySize(t *testing.T) {
	s := warmed(t, forkspawn.Config{Spares: 1})
	for _, size := range []int{0, 1 << 10, 2 << 10, 3 << 10, 1 << 20} {
		require.NoError(t, s.AwaitSpares(testkit.Context(t)))
		text := strings.Repeat("x", size)
		c := spawn(t, s, spawnspec.Spec{Entry: "reports-spec", Args: map[string]any{"text": text}})
		assert.True(t, c.Boot().Spare, size)
		var got map[string]any
		require.NoError(t, c.Recv(testkit.Context(t), &got))
		assert.True(t, got["spec args"].(map[string]any)["text"] == text, size)
		_, err := c.Stop(testkit.Context(t))
		require.NoError(t, err)
	}
}

func TestSpares_MoreSpawnsThanSpares(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		spawntest.NoLeaks(t)
		const k, n = 3, 12
		s := warmed(t, forkspawn.Config{Listen: listen, Spares: k})
		var wg sync.WaitGroup
		var mu sync.Mutex
		pids, spares := make(map[int]bool), 0
		for range n {
			wg.Go(func() {
				c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"})
				if assert.NoError(t, err) {
					mu.Lock()
					defer mu.Unlock()
					pids[c.PID()] = true
					if c.Boot().Spare {
						spares++
					}
				}
			})
		}
		wg.Wait()
		assert.Len(t, pids, n, "each has a process of its own")
		assert.GreaterOrEqual(t, spares, k)
		assert.Len(t, s.Children(), n)
		require.NoError(t, s.AwaitSpares(testkit.Context(t)))
	})
}

func TestSpares_CancelledSpawn(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		spawntest.NoLeaks(t)
		var preparing atomic.Value // a func(), called when a child has its spec
		preparing.Store(func() {})
		s := warmed(t, forkspawn.Config{
			Listen: listen, Spares: 1, Command: roles.Command("never-ready"), BootTimeout: bound,
			Stderr: forkspawn.Capture(writer(func() { preparing.Load().(func())() })),
		})
		waiting := forkspawn.SparePIDs(s)
		ctx, cancel := context.WithCancelCause(testkit.Context(t))
		why := errors.New("changed my mind")
		cancel(why)
		boot := spawnError(t, ctx, s, roles.Command("never-ready"), spawnspec.Spec{Name: "never"})
		assert.Equal(t, handshake.PhaseStart, boot.Phase)
		assert.Equal(t, waiting, forkspawn.SparePIDs(s), "a Spawn that does not begin takes none")

		ctx, cancel = context.WithCancelCause(testkit.Context(t))
		preparing.Store(func() { cancel(why) })
		boot = spawnError(t, ctx, s, roles.Command("never-ready"), spawnspec.Spec{Name: "later"})
		assert.Equal(t, waiting[0], boot.PID)
		assert.Equal(t, handshake.PhaseSpec, boot.Phase)
		assert.ErrorIs(t, boot, why)
		assert.ErrorIs(t, boot, context.Canceled)
		assert.False(t, boot.Status.Known(), "it did not end by itself")
		require.NoError(t, s.AwaitSpares(testkit.Context(t)), "it is replaced")

		closing := make(chan error, 1)
		preparing.Store(sync.OnceFunc(func() { go func() { closing <- s.Close() }() }))
		boot = spawnError(t, testkit.Context(t), s, roles.Command("never-ready"),
			spawnspec.Spec{Name: "closed"})
		assert.ErrorIs(t, boot, forkspawn.ErrSpawnerClosed)
		require.NoError(t, <-closing)
	})
}

// writer calls itself in Write.
type writer func()

func (w writer) Write(p []byte) (int, error) {
	w()
	return len(p), nil
}

func TestSpares_BootTimeoutBeginsWithSpawn(t *testing.T) {
	for limit := 500 * time.Millisecond; ; limit *= 2 {
		s := newSpawner(t,
			forkspawn.Config{Spares: 1, Command: roles.Command("never-ready"), BootTimeout: limit})
		if err := s.AwaitSpares(testkit.Context(t)); err != nil {
			require.ErrorIs(t, err, forkspawn.ErrBootTimeout)
			require.Less(t, limit, bound)
			continue // the limit is too short for the spare itself
		}
		time.Sleep(limit / 5) // a wait that is not part of the boot
		boot := spawnError(t, testkit.Context(t), s, roles.Command("never-ready"),
			spawnspec.Spec{Name: "slow"})
		assert.ErrorIs(t, boot, forkspawn.ErrBootTimeout)
		assert.GreaterOrEqual(t, boot.Elapsed, limit)
		assert.Contains(t, boot.Stderr, "preparing")
		return
	}
}

func TestSpares_BootErrorsAreExact(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		spawntest.NoLeaks(t)
		s := warmed(t, forkspawn.Config{Listen: listen, Spares: 2,
			Command: roles.Command("writes-and-fails-prepare")})
		waiting := forkspawn.SparePIDs(s)
		boot := spawnError(t, testkit.Context(t), s, roles.Command("writes-and-fails-prepare"),
			spawnspec.Spec{Name: "case"})
		assert.Equal(t, waiting[0], boot.PID)
		assert.Equal(t, handshake.PhaseReady, boot.Phase)
		assert.Equal(t, forkspawn.ExitedStatus(1), boot.Status)
		assert.Regexp(t,
			`^forkspawn: spawn "case" \(pid \d+\): ready: the peer gave up: port 80 is taken: exit status 1; after \S+ `+
				`\(start \S+, spec \S+\); stderr: "case: port 80 is taken"$`, boot.Error())
		assert.Contains(t, boot.Stderr, "before the spec\nwith the spec of case\n",
			"what it wrote as it waited is its own too")
		sum := time.Duration(0)
		for _, d := range boot.Phases {
			sum += d
		}
		assert.Equal(t, boot.Elapsed, sum)

		entries := warmed(t, forkspawn.Config{Listen: listen, Spares: 1})
		boot = spawnError(t, testkit.Context(t), entries, forkspawn.Command{},
			spawnspec.Spec{Name: "case", Entry: "nonesuch"})
		assert.ErrorIs(t, boot, handshake.ErrUnknownEntry)
		assert.Equal(t, handshake.PhaseSpec, boot.Phase)
	})
}

func TestSpares_SpecThatNoFrameHolds(t *testing.T) {
	s := warmed(t, forkspawn.Config{Spares: 2, MaxFrameSize: 1 << 16})
	boot := spawnError(t, testkit.Context(t), s, forkspawn.Command{},
		spawnspec.Spec{Name: "big", Entry: "echo", Args: make([]byte, 1<<17)})
	var size *transport.SizeError
	assert.ErrorAs(t, boot, &size)
	assert.Equal(t, handshake.PhaseSpec, boot.Phase)
}

func TestSpares_Trace(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		var d diary
		s := warmed(t, forkspawn.Config{Listen: listen, Spares: 1,
			Trace: d.trace(), StopGrace: bound})
		lines, _ := d.read()
		require.Empty(t, lines, "a spare is nobody's")
		before := time.Now()
		c := spawn(t, s, spawnspec.Spec{Name: "one", Entry: "waits"})
		_, err := c.Stop(testkit.Context(t))
		require.NoError(t, err)
		lines, exited := d.read()
		assert.True(t, exited)
		assert.Equal(t, []string{"started", "phase spec", "phase ready", "ready", "asked",
			"stopped: ended as asked, error <nil>"}, lines)
		for _, e := range d.events {
			assert.Equal(t, forkspawn.ChildEvent{
				Name: "one", ID: c.ID(), PID: c.PID(), At: e.At, Context: e.Context}, e)
			assert.False(t, e.At.Before(before))
		}
		assert.True(t, slices.IsSortedFunc(d.events, func(a, b forkspawn.ChildEvent) int {
			return a.At.Compare(b.At)
		}))

		d = diary{}
		require.NoError(t, s.AwaitSpares(testkit.Context(t)))
		spawnError(t, testkit.Context(t), s, forkspawn.Command{},
			spawnspec.Spec{Name: "two", Entry: "nonesuch"})
		lines, exited = d.read()
		assert.True(t, exited)
		assert.Equal(t, []string{"started", "phase spec", "boot failed in spec"}, lines)

		d = diary{}
		require.NoError(t, s.AwaitSpares(testkit.Context(t)))
		require.NoError(t, s.Close())
		lines, exited = d.read()
		assert.False(t, exited)
		assert.Empty(t, lines, "a spare that nobody took has no events")
	})
}

func TestSpares_GroupsTakeThem(t *testing.T) {
	spawntest.NoLeaks(t)
	s := warmed(t, forkspawn.Config{Spares: 2})
	g, err := s.NewGroup(testkit.Context(t),
		forkspawn.GroupConfig{Restart: forkspawn.RestartOnFailure, MinPause: time.Millisecond})
	require.NoError(t, err)
	lives := 0
	require.NoError(t,
		g.Go(spawnspec.Spec{Entry: "waits"}, func(ctx context.Context, c *forkspawn.Child) error {
			assert.True(t, c.Boot().Spare)
			if lives++; lives == 3 {
				return nil
			}
			if err := s.AwaitSpares(ctx); err != nil {
				return err
			}
			return errors.New("again")
		}))
	require.NoError(t, g.Wait())
	assert.Equal(t, 3, lives)
}

func TestSpares_Subreaper(t *testing.T) {
	spawntest.NoLeaks(t)
	s, err := forkspawn.New(forkspawn.Config{Spares: 1, Subreaper: true})
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	require.NoError(t, err)
	require.NoError(t, s.AwaitSpares(testkit.Context(t)))
	c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
	assert.True(t, c.Boot().Spare)
	require.NoError(t, s.Close())
}

func TestSpares_ConfigIsChecked(t *testing.T) {
	for _, cfg := range []forkspawn.Config{{Spares: -1},
		{Spares: 1, Method: forkspawn.MethodInProcess}} {
		_, err := forkspawn.New(cfg)
		var wrong *forkspawn.ConfigError
		require.ErrorAs(t, err, &wrong)
		assert.Equal(t, "Spares", wrong.Field)
	}
	require.NoError(t, local(t, forkspawn.Config{}).AwaitSpares(testkit.Context(t)),
		"no spares are soon there")
}
