//go:build unix

package forkspawn_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func init() {
	// keeper has spares of its own, tells their pids and whether the kernel is to end them, and sleeps.
	forkspawn.Register("keeper", func(ctx context.Context, p *forkspawn.Parent) error {
		var bySignal bool
		if err := p.Spec.DecodeArgs(&bySignal); err != nil {
			return err
		}
		s, err := forkspawn.New(forkspawn.Config{Spares: 2, NoParentDeathSignal: !bySignal})
		if err != nil {
			return err
		}
		defer s.Close()
		if err := s.Warm(ctx); err != nil {
			return err
		}
		if err := p.Send(ctx, forkspawn.SparePIDs(s)); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	})
	moreRoles["chatter"] = func(ctx context.Context) error {
		fmt.Fprintln(os.Stderr, "before it has orders")
		_, err := forkspawn.JoinWith(ctx, forkspawn.JoinConfig{Prepare: func(spec *spawnspec.Spec) error {
			fmt.Fprintln(os.Stderr, "with orders for", spec.Name)
			return errors.New("port 80 is taken")
		}})
		return err
	}
	moreRoles["ponders"] = func(ctx context.Context) error { // is never ready
		_, err := forkspawn.JoinWith(ctx, forkspawn.JoinConfig{Prepare: func(spec *spawnspec.Spec) error {
			fmt.Fprintln(os.Stderr, "pondering")
			<-ctx.Done()
			return ctx.Err()
		}})
		return err
	}
	moreRoles["takes turns"] = func(ctx context.Context) error { // waits for its orders until SIGTERM, one such process at a time
		fd, err := syscall.Open(os.Args[1], syscall.O_CREAT|syscall.O_RDWR|syscall.O_CLOEXEC, 0o600) // until it ends
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
		defer stop()
		if err := syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			<-ctx.Done() // is never ready
			return err
		}
		_, err = forkspawn.Join(ctx)
		return err
	}
	moreRoles["impatient"] = func(ctx context.Context) error { // waits for its orders for a moment only
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		_, err := forkspawn.Join(ctx)
		return err
	}
}

// warmed returns a Spawner whose spares wait.
func warmed(t testing.TB, cfg forkspawn.Config) *forkspawn.Spawner {
	t.Helper()
	s := newSpawner(t, cfg)
	require.NoError(t, s.Warm(testContext(t)))
	require.Len(t, forkspawn.SparePIDs(s), cfg.Spares)
	return s
}

func TestSpawnTakesTheNewestSpareAndReplacesIt(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		spawntest.NoLeaks(t)
		s := warmed(t, forkspawn.Config{Listen: listen, Spares: 3})
		assert.Empty(t, s.Children(), "spares are nobody's children yet")
		oldest := forkspawn.SparePIDs(s)[2]
		for i := range 3 {
			require.NoError(t, s.Warm(testContext(t)))
			waiting := forkspawn.SparePIDs(s)
			require.Len(t, waiting, 3)
			assert.Equal(t, oldest, waiting[2])
			c := spawn(t, s, spawnspec.Spec{Name: fmt.Sprint("n", i), Entry: "orders", Vars: map[string]any{"x": "y"}})
			assert.Equal(t, waiting[0], c.PID())
			boot := c.Boot()
			assert.True(t, boot.Spare)
			assert.Zero(t, boot.Launch+boot.Runtime+boot.Init+boot.Connect)
			assert.Equal(t, c, s.Children()[0])
			var got map[string]any
			require.NoError(t, c.Recv(testContext(t), &got))
			assert.Equal(t, fmt.Sprint("n", i), got["name"])
			assert.Equal(t, "exec", got["method"])
			assert.EqualValues(t, 1, got["depth"])
			assert.EqualValues(t, os.Getpid(), got["ppid"])
			assert.Equal(t, map[any]any{"x": "y"}, got["vars"])
			assert.Equal(t, false, got["ticket"])
			assert.Equal(t, fmt.Sprint("n", i), c.Name())
			_, err := c.Stop(testContext(t))
			require.NoError(t, err)
		}
		require.NoError(t, s.Warm(testContext(t)))
		assert.Len(t, forkspawn.SparePIDs(s), 3)
		require.NoError(t, s.Close())
		assert.ErrorIs(t, s.Warm(testContext(t)), forkspawn.ErrClosed)
	})
}

func TestAChildThatWasASpareIsAChildLikeAnother(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		spawntest.NoLeaks(t)
		s := warmed(t, forkspawn.Config{Listen: listen, Spares: 1, StopGrace: bound})
		c := spawn(t, s, spawnspec.Spec{Entry: "busy"}) // so the request to stop comes over the control connection
		assert.True(t, c.Boot().Spare)
		result, err := c.Stop(testContext(t))
		require.NoError(t, err)
		assert.Equal(t, forkspawn.EndedAsked, result.By)
		assert.Equal(t, forkspawn.Exited(0), result.Status, c.StderrTail())

		require.NoError(t, s.Warm(testContext(t)))
		c = spawn(t, s, spawnspec.Spec{Entry: "echo"})
		require.True(t, c.Boot().Spare)
		require.NoError(t, c.SendBytes(testContext(t), make([]byte, 1<<20)))
		n, err := c.RecvBytes(testContext(t), make([]byte, 1<<20))
		require.NoError(t, err)
		assert.Equal(t, 1<<20, n)

		require.NoError(t, s.Warm(testContext(t)))
		c = spawn(t, s, spawnspec.Spec{Name: "f", Entry: "fail"})
		require.True(t, c.Boot().Spare)
		var exit *forkspawn.ExitError
		require.ErrorAs(t, c.Recv(testContext(t), new(any)), &exit)
		assert.Equal(t, "f", exit.Name)
		assert.Equal(t, "no luck today", exit.Said)
	})
}

func TestWhatASpareCannotGiveGetsAProcessOfItsOwn(t *testing.T) {
	s := warmed(t, forkspawn.Config{Spares: 1})
	waiting := forkspawn.SparePIDs(s)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	c := spawn(t, s, spawnspec.Spec{Entry: "orders", Dir: dir})
	assert.False(t, c.Boot().Spare)
	var got map[string]any
	require.NoError(t, c.Recv(testContext(t), &got))
	assert.Equal(t, dir, got["dir"])
	c, err = s.SpawnCommand(testContext(t), forkspawn.Command{Args: []string{"x"}}, spawnspec.Spec{Entry: "orders"})
	require.NoError(t, err)
	assert.False(t, c.Boot().Spare)
	require.NoError(t, c.Recv(testContext(t), &got))
	assert.Equal(t, "x", got["args"])
	spawnError(t, testContext(t), s, forkspawn.Command{}, spawnspec.Spec{Name: "bad", Entry: "echo", Args: make(chan int)})
	spawnError(t, testContext(t), s, forkspawn.Command{}, spawnspec.Spec{Name: "no entry"})
	assert.Equal(t, waiting, forkspawn.SparePIDs(s), "the spare is still there")
}

// TestASpareTakesOrdersOfAnySize has orders that a socket takes at once, some that may have to wait, and more than it holds.
func TestASpareTakesOrdersOfAnySize(t *testing.T) {
	s := warmed(t, forkspawn.Config{Spares: 1})
	for _, size := range []int{0, 1 << 10, 2 << 10, 3 << 10, 1 << 20} {
		require.NoError(t, s.Warm(testContext(t)))
		text := strings.Repeat("x", size)
		c := spawn(t, s, spawnspec.Spec{Entry: "orders", Vars: map[string]any{"text": text}})
		assert.True(t, c.Boot().Spare, size)
		var got map[string]any
		require.NoError(t, c.Recv(testContext(t), &got))
		assert.True(t, got["vars"].(map[any]any)["text"] == text, size)
		_, err := c.Stop(testContext(t))
		require.NoError(t, err)
	}
}

func TestADeadSpareIsNeverHandedOut(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		spawntest.NoLeaks(t)
		s := warmed(t, forkspawn.Config{Listen: listen, Spares: 4})
		waiting := forkspawn.SparePIDs(s)
		require.NoError(t, syscall.Kill(waiting[0], syscall.SIGKILL))
		require.NoError(t, syscall.Kill(waiting[1], syscall.SIGSTOP))
		require.NoError(t, syscall.Kill(waiting[2], syscall.SIGTERM))
		eventually(t, "one is stopped", func() bool { return allStopped(waiting[1]) })
		eventually(t, "two are dead", func() bool { return !alive(waiting[0]) && !alive(waiting[2]) })
		c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
		assert.Equal(t, waiting[3], c.PID())
		eventually(t, "there are four again", func() bool { return s.Warm(testContext(t)) == nil }) // an error is the death of the two
		assert.NotContains(t, forkspawn.SparePIDs(s), waiting[0])
		require.NoError(t, syscall.Kill(waiting[1], syscall.SIGCONT))
		eventually(t, "it runs", func() bool { return spawntest.State(waiting[1]) == "S" })
		others := slices.DeleteFunc(forkspawn.SparePIDs(s), func(pid int) bool { return pid == waiting[1] })
		require.Len(t, others, 3)
		for _, pid := range others {
			require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
			defer syscall.Kill(pid, syscall.SIGCONT)
		}
		eventually(t, "all others are stopped", func() bool { return !slices.ContainsFunc(others, func(pid int) bool { return !allStopped(pid) }) })
		c = spawn(t, s, spawnspec.Spec{Entry: "echo"})
		assert.Equal(t, waiting[1], c.PID())
	})
}

// A spare is killed at about the moment at which it is taken. If it has not read its orders then, Spawn takes another; if it
// has, the error says so.
func TestASpareDiesAsItIsTaken(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		spawntest.NoLeaks(t)
		s := newSpawner(t, forkspawn.Config{Listen: listen, Spares: 3})
		rounds, spares, fresh, deaths := 250, 0, 0, 0
		for range rounds {
			warm, cancel := context.WithTimeout(testContext(t), 5*time.Millisecond)
			s.Warm(warm) // or not: a death as it waits is its error
			cancel()
			waiting := forkspawn.SparePIDs(s)
			killed := make(chan struct{})
			go func() {
				defer close(killed)
				if len(waiting) > 0 {
					for began, pause := time.Now(), rand.N(400*time.Microsecond); time.Since(began) < pause; {
					}
					syscall.Kill(waiting[0], syscall.SIGKILL)
				}
			}()
			c, err := s.Spawn(testContext(t), spawnspec.Spec{Name: "one", Entry: "echo"})
			<-killed
			var boot *forkspawn.BootError
			switch {
			case errors.As(err, &boot):
				deaths++
				assert.Equal(t, forkspawn.Killed(syscall.SIGKILL, false), boot.Status, "%v", err)
				assert.ErrorIs(t, err, forkspawn.ErrDied)
				assert.False(t, alive(boot.PID))
				continue
			case c.Boot().Spare:
				spares++
			default:
				fresh++
			}
			require.NoError(t, err)
			if len(waiting) == 0 || c.PID() != waiting[0] { // else it may have been killed just after
				require.NoError(t, c.Send(testContext(t), "hello"))
				var got string
				require.NoError(t, c.Recv(testContext(t), &got))
			}
			_, err = c.Kill()
			require.NoError(t, err)
		}
		t.Logf("%d times: %d spares, %d processes of their own, %d deaths with their orders read", rounds, spares, fresh, deaths)
		assert.Empty(t, s.Children())
	})
}

func TestMoreSpawnsAtOnceThanThereAreSpares(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		spawntest.NoLeaks(t)
		const k, n = 3, 12
		s := warmed(t, forkspawn.Config{Listen: listen, Spares: k})
		var wg sync.WaitGroup
		var mu sync.Mutex
		pids, spares := make(map[int]bool), 0
		for range n {
			wg.Go(func() {
				c, err := s.Spawn(testContext(t), spawnspec.Spec{Entry: "echo"})
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
		require.NoError(t, s.Warm(testContext(t)))
	})
}

func TestSpawnOfASpareThatIsGivenUp(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		spawntest.NoLeaks(t)
		var pondering atomic.Value // of func(): what is done when a child ponders
		pondering.Store(func() {})
		s := warmed(t, forkspawn.Config{
			Listen: listen, Spares: 1, Command: role("ponders"), BootTimeout: bound,
			Stderr: forkspawn.Capture(writer(func() { pondering.Load().(func())() })),
		})
		waiting := forkspawn.SparePIDs(s)
		ctx, cancel := context.WithCancelCause(testContext(t))
		why := errors.New("changed my mind")
		cancel(why)
		boot := spawnError(t, ctx, s, role("ponders"), spawnspec.Spec{Name: "never"})
		assert.Equal(t, handshake.PhaseStart, boot.Phase)
		assert.Equal(t, waiting, forkspawn.SparePIDs(s), "a Spawn that does not begin takes none")

		ctx, cancel = context.WithCancelCause(testContext(t))
		pondering.Store(func() { cancel(why) })
		boot = spawnError(t, ctx, s, role("ponders"), spawnspec.Spec{Name: "later"})
		assert.Equal(t, waiting[0], boot.PID)
		assert.Equal(t, handshake.PhaseSpec, boot.Phase)
		assert.ErrorIs(t, boot, why)
		assert.ErrorIs(t, boot, context.Canceled)
		assert.False(t, boot.Status.Known(), "it did not end by itself")
		require.NoError(t, s.Warm(testContext(t)), "it is replaced")

		closing := make(chan error, 1)
		pondering.Store(sync.OnceFunc(func() { go func() { closing <- s.Close() }() }))
		boot = spawnError(t, testContext(t), s, role("ponders"), spawnspec.Spec{Name: "closed"})
		assert.ErrorIs(t, boot, forkspawn.ErrClosed)
		require.NoError(t, <-closing)
	})
}

// writer calls a function when something is written.
type writer func()

func (w writer) Write(p []byte) (int, error) {
	w()
	return len(p), nil
}

func TestBootTimeoutOfASpareBeginsWithSpawn(t *testing.T) {
	const limit = 5 * time.Second // in which the spare itself must start
	s := warmed(t, forkspawn.Config{Spares: 1, Command: role("ponders"), BootTimeout: limit})
	time.Sleep(100 * time.Millisecond)
	boot := spawnError(t, testContext(t), s, role("ponders"), spawnspec.Spec{Name: "slow"})
	assert.ErrorIs(t, boot, forkspawn.ErrBootTimeout)
	assert.GreaterOrEqual(t, boot.Elapsed, limit)
	assert.Contains(t, boot.Stderr, "pondering")
}

func TestBootErrorsOfSparesAreExact(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		spawntest.NoLeaks(t)
		s := warmed(t, forkspawn.Config{Listen: listen, Spares: 2, Command: role("chatter")})
		waiting := forkspawn.SparePIDs(s)
		boot := spawnError(t, testContext(t), s, role("chatter"), spawnspec.Spec{Name: "case"})
		assert.Equal(t, waiting[0], boot.PID)
		assert.Equal(t, handshake.PhaseReady, boot.Phase)
		assert.Equal(t, forkspawn.Exited(1), boot.Status)
		assert.Regexp(t, `^forkspawn: spawn "case" \(pid \d+\): ready: the peer gave up: port 80 is taken: exit status 1; after \S+ `+
			`\(start \S+, spec \S+\); stderr: "role chatter: forkspawn: join: ready: port 80 is taken"$`, boot.Error())
		assert.Contains(t, boot.Stderr, "before it has orders\nwith orders for case\n", "what it wrote as it waited is its own too")
		sum := time.Duration(0)
		for _, p := range boot.Phases {
			sum += p.Duration
		}
		assert.Equal(t, boot.Elapsed, sum)

		entries := warmed(t, forkspawn.Config{Listen: listen, Spares: 1})
		boot = spawnError(t, testContext(t), entries, forkspawn.Command{}, spawnspec.Spec{Name: "case", Entry: "nonesuch"})
		assert.ErrorIs(t, boot, handshake.ErrUnknownEntry)
		assert.Equal(t, handshake.PhaseSpec, boot.Phase)
	})
}

func TestASpecThatNoFrameHoldsIsToldAsEver(t *testing.T) {
	s := warmed(t, forkspawn.Config{Spares: 2, Limit: 1 << 16})
	boot := spawnError(t, testContext(t), s, forkspawn.Command{}, spawnspec.Spec{Name: "big", Entry: "echo", Args: make([]byte, 1<<17)})
	var size *transport.SizeError
	assert.ErrorAs(t, boot, &size)
	assert.Equal(t, handshake.PhaseSpec, boot.Phase)
}

// lines counts what a logger is told, by message.
type lines struct {
	slog.Handler
	mu    sync.Mutex
	count map[string]int
}

func newLines() *lines {
	return &lines{Handler: slog.NewTextHandler(io.Discard, nil), count: make(map[string]int)}
}

func (l *lines) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count[r.Message]++
	return nil
}

func (l *lines) of(message string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count[message]
}

// program makes a copy of the test binary that a test can take away.
func program(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "program")
	if os.Link(exe, path) != nil {
		b, err := os.ReadFile(exe)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, b, 0o755))
	}
	return path
}

func TestSparesOfACommandThatBreaksAndIsRepaired(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		spawntest.NoLeaks(t)
		path, log := program(t), newLines()
		s := warmed(t, forkspawn.Config{Listen: listen, Spares: 2, Command: forkspawn.Command{Path: path}, Logger: slog.New(log)})
		require.NoError(t, os.Rename(path, path+".away"))
		for range 2 {
			c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
			assert.True(t, c.Boot().Spare, "those that there are still work")
		}
		err := s.Warm(testContext(t))
		var boot *forkspawn.BootError
		require.ErrorAs(t, err, &boot)
		assert.ErrorIs(t, err, fs.ErrNotExist)
		assert.Equal(t, "spare", boot.Name)
		boot = spawnError(t, testContext(t), s, forkspawn.Command{Path: path}, spawnspec.Spec{Name: "exact", Entry: "echo"})
		assert.ErrorIs(t, boot, fs.ErrNotExist)
		eventually(t, "it has been logged", func() bool { return log.of("forkspawn: spares cannot be had; trying again") > 0 })
		time.Sleep(300 * time.Millisecond)
		assert.Equal(t, 1, log.of("forkspawn: spares cannot be had; trying again"), "once")

		require.NoError(t, os.Rename(path+".away", path))
		c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
		eventually(t, "a start that works ends the pause", func() bool { return len(forkspawn.SparePIDs(s)) == 2 })
		require.NoError(t, c.Send(testContext(t), 1))
	})
}

func TestWarmTellsOfASpareThatDiesAsItWaits(t *testing.T) {
	spawntest.NoLeaks(t)
	turn := filepath.Join(t.TempDir(), "turn")
	s := newSpawner(t, forkspawn.Config{Spares: 2, Command: role("takes turns", turn), BootTimeout: bound, Stderr: forkspawn.Capture(nil)})
	warm := make(chan error, 1)
	go func() { warm <- s.Warm(testContext(t)) }()
	asked := make(map[int]bool)
	var err error
	eventually(t, "Warm sees a death", func() bool {
		for _, pid := range forkspawn.SparePIDs(s) {
			if !asked[pid] {
				asked[pid] = true
				assert.NoError(t, syscall.Kill(pid, syscall.SIGTERM))
			}
		}
		select {
		case err = <-warm:
			return true
		default:
			return false
		}
	})
	var exit *forkspawn.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, "spare", exit.Name)
	assert.Equal(t, forkspawn.Exited(1), exit.Status)
	assert.Contains(t, exit.Stderr, "context canceled")
}

func TestSparesThatDieAsTheyWaitAreNotStartedInAHotLoop(t *testing.T) {
	spawntest.NoLeaks(t)
	began := time.Now()
	var deaths atomic.Int64
	s := newSpawner(t, forkspawn.Config{Spares: 1, Command: role("impatient"), Stderr: forkspawn.Capture(writer(func() { deaths.Add(1) }))})
	eventually(t, "four have died", func() bool { return deaths.Load() >= 4 })
	assert.GreaterOrEqual(t, time.Since(began), 700*time.Millisecond, "pauses of 0.1, 0.2 and 0.4 seconds")
	require.NoError(t, s.Close())
}

func TestCloseEndsSpares(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		spawntest.NoLeaks(t)
		t.Run("that wait", func(t *testing.T) {
			log := newLines()
			s := warmed(t, forkspawn.Config{Listen: listen, Spares: 3, StopGrace: bound, Logger: slog.New(log)})
			waiting := forkspawn.SparePIDs(s)
			require.NoError(t, s.Close())
			for _, pid := range waiting {
				assert.False(t, alive(pid))
			}
			assert.Zero(t, log.of("forkspawn: signal sent"), "it takes no force")
		})
		t.Run("at any moment of their start", func(t *testing.T) {
			for range 20 {
				s := newSpawner(t, forkspawn.Config{Listen: listen, Spares: 4, StopGrace: bound})
				time.Sleep(rand.N(10 * time.Millisecond))
				require.NoError(t, s.Close())
			}
		})
		t.Run("that are stopped", func(t *testing.T) {
			s := warmed(t, forkspawn.Config{Listen: listen, Spares: 1, StopGrace: 50 * time.Millisecond, TermGrace: bound})
			require.NoError(t, syscall.Kill(forkspawn.SparePIDs(s)[0], syscall.SIGSTOP))
			require.NoError(t, s.Close())
		})
		t.Run("faster when it is hastened", func(t *testing.T) {
			s := warmed(t, forkspawn.Config{Listen: listen, Spares: 1, StopGrace: bound, TermGrace: bound})
			require.NoError(t, syscall.Kill(forkspawn.SparePIDs(s)[0], syscall.SIGSTOP))
			closed := make(chan error, 1)
			go func() { closed <- s.Close() }()
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			defer cancel()
			require.NoError(t, s.Shutdown(ctx))
			require.NoError(t, <-closed)
		})
	})
}

func TestSparesEndWithTheirParent(t *testing.T) {
	spawntest.NoLeaks(t)
	for how, bySignal := range map[string]bool{"by the kernel's signal": true, "by their connection's end": false} {
		t.Run(how, func(t *testing.T) {
			s := newSpawner(t, forkspawn.Config{})
			c := spawn(t, s, spawnspec.Spec{Entry: "keeper", Args: bySignal})
			var spares []int
			require.NoError(t, c.Recv(testContext(t), &spares))
			require.Len(t, spares, 2)
			require.NoError(t, c.Signal(syscall.SIGKILL))
			for _, pid := range spares {
				eventually(t, "it is gone", func() bool { return spawntest.State(pid) == "" })
			}
		})
	}
}

func TestTraceOfAChildThatWasASpare(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		var d diary
		s := warmed(t, forkspawn.Config{Listen: listen, Spares: 1, Trace: d.trace(), StopGrace: bound})
		lines, _ := d.read()
		require.Empty(t, lines, "a spare is nobody's")
		before := time.Now()
		c := spawn(t, s, spawnspec.Spec{Name: "one", Entry: "sleep"})
		_, err := c.Stop(testContext(t))
		require.NoError(t, err)
		lines, exited := d.read()
		assert.True(t, exited)
		assert.Equal(t, []string{"started", "phase spec", "phase ready", "ready", "asked", "stopped: ended as asked, error <nil>"}, lines)
		for _, e := range d.events {
			assert.Equal(t, forkspawn.ChildEvent{Name: "one", ID: c.ID(), PID: c.PID(), At: e.At}, e)
			assert.False(t, e.At.Before(before))
		}
		assert.True(t, slices.IsSortedFunc(d.events, func(a, b forkspawn.ChildEvent) int { return a.At.Compare(b.At) }))

		d = diary{}
		require.NoError(t, s.Warm(testContext(t)))
		spawnError(t, testContext(t), s, forkspawn.Command{}, spawnspec.Spec{Name: "two", Entry: "nonesuch"})
		lines, exited = d.read()
		assert.True(t, exited)
		assert.Equal(t, []string{"started", "phase spec", "boot failed in spec"}, lines)

		d = diary{}
		require.NoError(t, s.Warm(testContext(t)))
		require.NoError(t, s.Close())
		lines, exited = d.read()
		assert.False(t, exited)
		assert.Empty(t, lines, "of a spare that nobody took, nothing is told")
	})
}

func TestGroupsTakeSparesToo(t *testing.T) {
	spawntest.NoLeaks(t)
	s := warmed(t, forkspawn.Config{Spares: 2})
	g, err := s.NewGroup(testContext(t), forkspawn.GroupConfig{Restart: forkspawn.RestartPolicy{When: forkspawn.RestartOnFailure, MinPause: time.Millisecond}})
	require.NoError(t, err)
	lives := 0
	require.NoError(t, g.Go(spawnspec.Spec{Entry: "sleep"}, func(ctx context.Context, c *forkspawn.Child) error {
		assert.True(t, c.Boot().Spare)
		if lives++; lives == 3 {
			return nil
		}
		if err := s.Warm(ctx); err != nil {
			return err
		}
		return errors.New("again")
	}))
	require.NoError(t, g.Wait())
	assert.Equal(t, 3, lives)
}

func TestSparesWithASubreaper(t *testing.T) {
	spawntest.NoLeaks(t)
	s, err := forkspawn.New(forkspawn.Config{Spares: 1, Subreaper: true})
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	require.NoError(t, err)
	require.NoError(t, s.Warm(testContext(t)))
	c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
	assert.True(t, c.Boot().Spare)
	require.NoError(t, s.Close())
}

func TestConfigOfSparesIsChecked(t *testing.T) {
	for _, cfg := range []forkspawn.Config{{Spares: -1}, {Spares: 1, Method: forkspawn.MethodInProcess}} {
		_, err := forkspawn.New(cfg)
		var wrong *forkspawn.ConfigError
		require.ErrorAs(t, err, &wrong)
		assert.Equal(t, "Spares", wrong.Field)
	}
	require.NoError(t, local(t, forkspawn.Config{}).Warm(testContext(t)), "no spares are soon there")
}
