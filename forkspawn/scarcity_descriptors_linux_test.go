package forkspawn_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func TestScarcity_DescriptorsInNew(t *testing.T) {
	alone(t, 0, func(t *testing.T) {
		warm(t, 1)
		networks(t, func(t *testing.T, listen transport.Addr) {
			before := descriptors(t)
			made := 0
			for free := 0; made < 3; free++ {
				require.Less(t, free, 20)
				fed := starve(t, free)
				s, err := forkspawn.New(forkspawn.Config{Listen: listen, Subreaper: true})
				if err != nil {
					names(t, err, syscall.EMFILE, "too many open files",
						"RLIMIT_NOFILE is 128", "ulimit -n")
					left, err := filepath.Glob(os.TempDir() + "/*")
					require.NoError(t, err)
					assert.Empty(t, left, "a directory is left, with %d descriptors", free)
					fed()
				} else {
					made++
					starved := starve(t, 0)
					assert.NoError(t, s.Close(), "that needs no descriptor")
					starved()
					fed()
				}
				awaitDescriptors(t, before)
			}
		})
	})
}

func TestScarcity_DescriptorsInSpawn(t *testing.T) {
	t.Parallel() // it waits for another process
	alone(t, 0, func(t *testing.T) {
		warm(t, 1)
		for name, cfg := range map[string]forkspawn.Config{
			"both captured": {Stdout: forkspawn.Capture(nil),
				Stderr: forkspawn.Capture(io.Discard)},
			"null device": {Stdout: forkspawn.Null(), Stderr: forkspawn.Null()},
			"own": {Stdin: forkspawn.Inherit(), Stdout: forkspawn.Inherit(),
				Stderr: forkspawn.Inherit()},
		} {
			t.Run(name, func(t *testing.T) {
				networks(t, func(t *testing.T, listen transport.Addr) {
					if name != "both captured" || !listen.IsZero() {
						testkit.Long(t)
					}
					cfg.Listen = listen
					s := newSpawner(t, cfg)
					require.NoError(t, s.AwaitTemplate(testkit.Context(t)),
						"its template, where there is one")
					before := descriptors(t)
					made := 0
					for free := 0; made < 3; free++ {
						require.Less(t, free, 20)
						// Goroutines close some descriptors after Spawn has returned.
						awaitDescriptors(t, before)
						fed := starve(t, free)
						c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"})
						if err != nil {
							var boot *forkspawn.BootError
							require.ErrorAs(t, err, &boot)
							names(t, err, syscall.EMFILE,
								"too many open files", "RLIMIT_NOFILE is 128")
							if boot.PID != 0 {
								assert.Equal(t, handshake.PhaseConnect, boot.Phase)
								assert.False(t, alive(boot.PID))
							}
						} else {
							made++
							t.Logf("%d descriptors are enough", free)
							starved := starve(t, 0)
							answers(t, c)
							result, err := c.Stop(testkit.Context(t))
							require.NoError(t, err)
							assert.Equal(t, forkspawn.Asked, result.By,
								"also without a control connection")
							starved()
						}
						fed()
						awaitDescriptors(t, before)
						works(t, s)
					}
				})
			})
		}
	})
}

// A process has left the child's group. The subreaper ends it, although this
// process has no descriptors except those of the ended child.
func TestScarcity_SubreaperWithoutDescriptors(t *testing.T) {
	t.Parallel()
	alone(t, 0, func(t *testing.T) {
		warm(t, 1)
		before := descriptors(t)
		s, err := forkspawn.New(forkspawn.Config{Subreaper: true})
		require.NoError(t, err)
		cmd := sh(`setsid sleep 60 & echo $! >&2; exec /proc/$PPID/exe`)
		for range 2 {
			c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"},
				forkspawn.WithCommand(cmd))
			require.NoError(t, err)
			var stray int
			testkit.Eventually(t, "the stray's number", func() bool {
				_, err := fmt.Sscan(c.StderrTail(), &stray)
				return err == nil
			})
			// A process that leads a session has left the group.
			testkit.Eventually(t, "the stray is one", func() bool {
				sid, err := unix.Getsid(stray)
				return err == nil && sid == stray
			})
			fed := starve(t, 0)
			_, err = c.Stop(testkit.Context(t))
			require.NoError(t, err)
			testkit.Eventually(t, "the stray is gone", func() bool { return !alive(stray) })
			fed()
			works(t, s)
		}
		require.NoError(t, s.Close())
		awaitDescriptors(t, before)
	})
}

// A child without a descriptor for its control connection opens the connection
// as soon as it has a descriptor.
func TestScarcity_ControlConnectionComesLater(t *testing.T) {
	alone(t, 0, func(t *testing.T) {
		s := newSpawner(t, forkspawn.Config{StopGrace: bound})
		before := connections(t)
		for free := 0; ; free++ {
			require.Less(t, free, 20)
			cmd := forkspawn.Command{Env: append(os.Environ(), roles.StarveEnv+"="+itoa(free))}
			c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "starts-starved"},
				forkspawn.WithCommand(cmd))
			if err != nil {
				t.Log(free, err)
				continue
			}
			t.Logf("%d descriptors are enough to be ready", free)
			testkit.Eventually(t, "only one connection is left", func() bool {
				return connections(t) == before+1
			})
			require.NoError(t, c.Send(testkit.Context(t), "there are more now"))
			testkit.Eventually(t, "the second connection is there", func() bool {
				return connections(t) == before+2
			})
			result, err := c.Stop(testkit.Context(t))
			require.NoError(t, err)
			assert.Equal(t, forkspawn.Asked, result.By)
			return
		}
	})
}

// The child has connected, and the parent cannot accept the connection until
// there are descriptors again.
func TestScarcity_ChildIsAcceptedLater(t *testing.T) {
	if portable {
		t.Skip("syscall.ForkExec needs more descriptors than accept")
	}
	alone(t, 0, func(t *testing.T) {
		warm(t, 1)
		networks(t, func(t *testing.T, listen transport.Addr) {
			failed := make(lineOf, 1)
			s := newSpawner(t, forkspawn.Config{Listen: listen, Logger: slog.New(failed),
				Stdin: forkspawn.Inherit(), Stdout: forkspawn.Inherit(),
				Stderr: forkspawn.Inherit()})
			fed := starve(t, 1) // one for the pidfd
			child := make(chan *forkspawn.Child, 1)
			go func() {
				c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"})
				assert.NoError(t, err)
				child <- c
			}()
			line := <-failed
			assert.Contains(t, line, "accept failed")
			assert.Contains(t, line, "too many open files")
			fed()
			c := <-child
			require.NotNil(t, c)
			answers(t, c)
			works(t, s)
		})
	})
}

// lineOf is a log handler that sends the first warning to the channel.
type lineOf chan string

func (lineOf) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

func (l lineOf) WithAttrs([]slog.Attr) slog.Handler { return l }

func (l lineOf) WithGroup(string) slog.Handler { return l }

func (l lineOf) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	select {
	case l <- line:
	default:
	}
	return nil
}

// Many concurrent calls of Spawn compete for descriptors. Each returns a child
// or an exact error, and none times out.
func TestScarcity_MassStartWithTooFewDescriptors(t *testing.T) {
	alone(t, 0, func(t *testing.T) {
		warm(t, 1)
		s := newSpawner(t, forkspawn.Config{})
		require.NoError(t, s.AwaitTemplate(testkit.Context(t)), "its template, where there is one")
		before := descriptors(t)
		fed := starve(t, 40)
		var mu sync.Mutex
		made := 0
		var wg sync.WaitGroup
		for range 40 {
			wg.Go(func() {
				_, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					made++
					return
				}
				assert.ErrorIs(t, err, syscall.EMFILE)
				assert.NotErrorIs(t, err, forkspawn.ErrBootTimeout)
			})
		}
		wg.Wait()
		t.Logf("%d of 40 children with 40 descriptors", made)
		assert.Len(t, s.Children(), made)
		for _, c := range s.Children() {
			_, err := c.Stop(testkit.Context(t))
			assert.NoError(t, err)
		}
		fed()
		works(t, s)
		awaitDescriptors(t, before)
	})
}

func TestScarcity_ChildWithTooFewDescriptors(t *testing.T) {
	alone(t, 0, func(t *testing.T) {
		s := newSpawner(t, forkspawn.Config{})
		made := 0
		for n := 4; made < 3; n++ {
			require.Less(t, n, 40)
			c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "limited", Entry: "echo"},
				forkspawn.WithCommand(limited("-n "+itoa(n))))
			if err == nil {
				made++
				t.Logf("%d descriptors are enough", n)
				answers(t, c)
				result, err := c.Stop(testkit.Context(t))
				require.NoError(t, err)
				assert.Equal(t, forkspawn.Asked, result.By, "also without a control connection")
				assert.True(t, result.Status.Success(), result)
				continue
			}
			var boot *forkspawn.BootError
			require.ErrorAs(t, err, &boot)
			t.Log(n, err)
			assert.ErrorIs(t, err, forkspawn.ErrDied)
			assert.True(t, boot.Status.Known())
			assert.Regexp(t,
				regexp.MustCompile(
					`too many open files|Too many open files|failed with 24|Error 24|errno=24`),
				err.Error())
			assert.False(t, alive(boot.PID))
		}
		works(t, s)
	})
}

// limited is a command that starts this program under a limit of the shell.
func limited(ulimit string) forkspawn.Command {
	return sh("ulimit " + ulimit + ` && exec /proc/$PPID/exe`)
}
