//go:build unix

package forkspawn_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
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
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func TestSpares_DeadOneIsNeverHandedOut(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		spawntest.NoLeaks(t)
		s := warmed(t, forkspawn.Config{Listen: listen, Spares: 4})
		waiting := forkspawn.SparePIDs(s)
		require.NoError(t, syscall.Kill(waiting[0], syscall.SIGKILL))
		require.NoError(t, syscall.Kill(waiting[1], syscall.SIGSTOP))
		require.NoError(t, syscall.Kill(waiting[2], syscall.SIGTERM))
		testkit.Eventually(t, "one is stopped", func() bool { return allStopped(waiting[1]) })
		testkit.Eventually(t, "two are dead", func() bool {
			return !alive(waiting[0]) && !alive(waiting[2])
		})
		c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
		assert.Equal(t, waiting[3], c.PID())
		// it returns the deaths of the two as errors
		testkit.Eventually(t, "there are four again", func() bool {
			return s.AwaitSpares(testkit.Context(t)) == nil
		})
		assert.NotContains(t, forkspawn.SparePIDs(s), waiting[0])
		require.NoError(t, syscall.Kill(waiting[1], syscall.SIGCONT))
		testkit.Eventually(t, "it runs", func() bool { return spawntest.State(waiting[1]) == "S" })
		others := slices.DeleteFunc(forkspawn.SparePIDs(s), func(pid int) bool {
			return pid == waiting[1]
		})
		require.Len(t, others, 3)
		for _, pid := range others {
			require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
			defer syscall.Kill(pid, syscall.SIGCONT)
		}
		testkit.Eventually(t, "all others are stopped", func() bool {
			return !slices.ContainsFunc(others, func(pid int) bool { return !allStopped(pid) })
		})
		c = spawn(t, s, spawnspec.Spec{Entry: "echo"})
		assert.Equal(t, waiting[1], c.PID())
	})
}

// A spare is killed at about the moment when Spawn takes it. If it has not read
// its spec, Spawn takes another spare. If it has, Spawn returns a BootError.
func TestSpares_DeathAsItIsTaken(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		spawntest.NoLeaks(t)
		s := newSpawner(t, forkspawn.Config{Listen: listen, Spares: 3})
		rounds, spares, fresh, deaths := 20, 0, 0, 0
		if testkit.IsLong() {
			rounds = 250
		}
		for range rounds {
			warm, cancel := context.WithTimeout(testkit.Context(t), 5*time.Millisecond)
			s.AwaitSpares(warm) // its error, such as the death of a waiting spare, does not matter
			cancel()
			waiting := forkspawn.SparePIDs(s)
			killed := make(chan struct{})
			go func() {
				defer close(killed)
				if len(waiting) > 0 {
					for began, pause := time.Now(),
						rand.N(400*time.Microsecond); time.Since(began) < pause; {
					}
					syscall.Kill(waiting[0], syscall.SIGKILL)
				}
			}()
			c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "one", Entry: "echo"})
			<-killed
			var boot *forkspawn.BootError
			switch {
			case errors.As(err, &boot):
				deaths++
				assert.Equal(t, forkspawn.KilledStatus(syscall.SIGKILL, false), boot.Status, "%v",
					err)
				assert.ErrorIs(t, err, forkspawn.ErrDied)
				assert.False(t, alive(boot.PID))
				continue
			case c.Boot().Spare:
				spares++
			default:
				fresh++
			}
			require.NoError(t, err)
			// otherwise it may just have been killed
			if len(waiting) == 0 || c.PID() != waiting[0] {
				require.NoError(t, c.Send(testkit.Context(t), "hello"))
				var got string
				require.NoError(t, c.Recv(testkit.Context(t), &got))
			}
			_, err = c.Kill()
			require.NoError(t, err)
		}
		t.Logf("%d times: %d spares, %d processes of their own, %d deaths with the spec read",
			rounds, spares, fresh, deaths)
		assert.Empty(t, s.Children())
	})
}

func TestSpares_CommandBreaksAndIsRepaired(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		spawntest.NoLeaks(t)
		path, log := program(t), newLines()
		s := warmed(t, forkspawn.Config{Listen: listen, Spares: 2,
			Command: forkspawn.Command{Path: path}, Logger: slog.New(log)})
		require.NoError(t, os.Rename(path, path+".away"))
		for range 2 {
			c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
			assert.True(t, c.Boot().Spare, "those that there are still work")
		}
		err := s.AwaitSpares(testkit.Context(t))
		var boot *forkspawn.BootError
		require.ErrorAs(t, err, &boot)
		assert.ErrorIs(t, err, fs.ErrNotExist)
		assert.Equal(t, "spare", boot.Name)
		boot = spawnError(t, testkit.Context(t), s, forkspawn.Command{Path: path},
			spawnspec.Spec{Name: "exact", Entry: "echo"})
		assert.ErrorIs(t, boot, fs.ErrNotExist)
		testkit.Eventually(t, "it has been logged", func() bool {
			return log.of("forkspawn: spares cannot be had; trying again") > 0
		})
		time.Sleep(300 * time.Millisecond)
		assert.Equal(t, 1, log.of("forkspawn: spares cannot be had; trying again"), "once")

		require.NoError(t, os.Rename(path+".away", path))
		c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
		testkit.Eventually(t, "a start that works ends the pause", func() bool {
			return len(forkspawn.SparePIDs(s)) == 2
		})
		require.NoError(t, c.Send(testkit.Context(t), 1))
	})
}

// lines counts log lines by message.
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

// program makes a copy of the test binary. The test can rename it.
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

func TestSpares_WarmReportsADeath(t *testing.T) {
	spawntest.NoLeaks(t)
	turn := filepath.Join(t.TempDir(), "turn")
	s := newSpawner(t,
		forkspawn.Config{Spares: 2, Command: roles.Command("one-at-a-time", turn),
			BootTimeout: bound, Stderr: forkspawn.Capture(nil)})
	warm := make(chan error, 1)
	go func() { warm <- s.AwaitSpares(testkit.Context(t)) }()
	asked := make(map[int]bool)
	var err error
	testkit.Eventually(t, "Warm sees a death", func() bool {
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
	assert.Equal(t, forkspawn.ExitedStatus(1), exit.Status)
	assert.Contains(t, exit.Stderr, "context canceled")
}

func TestSpares_DeathsHaveAPause(t *testing.T) {
	spawntest.NoLeaks(t)
	began := time.Now()
	var deaths atomic.Int64
	s := newSpawner(t,
		forkspawn.Config{Spares: 1, Command: roles.Command("waits-a-moment"),
			Stderr: forkspawn.Capture(writer(func() {
				deaths.Add(1)
			}))})
	testkit.Eventually(t, "four have died", func() bool { return deaths.Load() >= 4 })
	assert.GreaterOrEqual(t, time.Since(began), 700*time.Millisecond,
		"pauses of 0.1, 0.2 and 0.4 seconds")
	require.NoError(t, s.Close())
}

func TestSpares_CloseEndsThem(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		spawntest.NoLeaks(t)
		t.Run("that wait", func(t *testing.T) {
			log := newLines()
			s := warmed(t, forkspawn.Config{Listen: listen, Spares: 3,
				StopGrace: bound, Logger: slog.New(log)})
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
			s := warmed(t, forkspawn.Config{Listen: listen, Spares: 1,
				StopGrace: 50 * time.Millisecond, TermGrace: bound})
			require.NoError(t, syscall.Kill(forkspawn.SparePIDs(s)[0], syscall.SIGSTOP))
			require.NoError(t, s.Close())
		})
		t.Run("faster when it is hastened", func(t *testing.T) {
			s := warmed(t, forkspawn.Config{Listen: listen, Spares: 1,
				StopGrace: bound, TermGrace: bound})
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

func TestSpares_EndWithTheirParent(t *testing.T) {
	spawntest.NoLeaks(t)
	for how, bySignal := range map[string]bool{"by the kernel's signal": true,
		"by their connection's end": false} {
		t.Run(how, func(t *testing.T) {
			s := newSpawner(t, forkspawn.Config{})
			c := spawn(t, s, spawnspec.Spec{Entry: "keeps-spares", Args: bySignal})
			var spares []int
			require.NoError(t, c.Recv(testkit.Context(t), &spares))
			require.Len(t, spares, 2)
			require.NoError(t, c.Signal(syscall.SIGKILL))
			for _, pid := range spares {
				testkit.Eventually(t, "the process is gone", func() bool {
					return spawntest.State(pid) == ""
				})
			}
		})
	}
}
