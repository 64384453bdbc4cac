package forkspawn_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func TestScarcity_ChildWithoutMemory(t *testing.T) {
	alone(t, 0, func(t *testing.T) {
		s := newSpawner(t, forkspawn.Config{})
		for _, kib := range []int{8 << 10, 50 << 10} {
			_, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "limited", Entry: "echo"},
				forkspawn.WithCommand(limited("-v "+itoa(kib))))
			require.ErrorIs(t, err, forkspawn.ErrDied)
			t.Log(err)
			var boot *forkspawn.BootError
			require.ErrorAs(t, err, &boot)
			assert.False(t, alive(boot.PID))
		}
		works(t, s)
	})
}

// growLimit spawns children under a limit on processes. The limit grows by one
// each time, until two children have started. At first the clone fails, then the
// child's Go runtime. The function set sets the limit. It returns the function
// that lifts it, and the words in the error of the clone.
func growLimit(
	t *testing.T, s *forkspawn.Spawner, set func(more int) (lift func(), words []string),
) {
	t.Helper()
	clones := 0
	for more, made := 0, 0; made < 2; more++ {
		require.Less(t, more, 60)
		lift, words := set(more)
		c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"})
		lift()
		var boot *forkspawn.BootError
		switch {
		case err == nil:
			made++
			t.Logf("%d more are enough", more)
			answers(t, c)
			_, err := c.Stop(testkit.Context(t))
			require.NoError(t, err)
		case errors.Is(err, syscall.EAGAIN):
			clones++
			names(t, err, syscall.EAGAIN, append(words, "pids.max", "/proc/self/exe")...)
			require.ErrorAs(t, err, &boot)
			assert.Equal(t, handshake.PhaseStart, boot.Phase)
			assert.Zero(t, boot.PID)
		default:
			t.Log(more, err)
			require.ErrorAs(t, err, &boot)
			assert.ErrorIs(t, err, forkspawn.ErrDied)
			assert.Regexp(t, `may need to increase max user processes|pthread_create failed|`+
				`ThreadSanitizer`, err.Error())
			assert.False(t, alive(boot.PID))
		}
	}
	assert.NotZero(t, clones, "the limit did bind")
}

func TestScarcity_Processes(t *testing.T) {
	alone(t, 0, func(t *testing.T) {
		testkit.NeedRoot(t)
		become(t, nobody)
		warm(t, 40)
		s := newSpawner(t, forkspawn.Config{})
		before := descriptors(t)
		old := spawn(t, s, spawnspec.Spec{Entry: "echo"})
		toStop := spawn(t, s, spawnspec.Spec{Entry: "echo"})
		var limit unix.Rlimit
		require.NoError(t, unix.Getrlimit(unix.RLIMIT_NPROC, &limit))
		growLimit(t, s, func(more int) (func(), []string) {
			running := threads(t, os.Getpid()) + threads(t, old.PID())
			if more == 0 {
				running += threads(t, toStop.PID())
			}
			require.NoError(t, unix.Setrlimit(unix.RLIMIT_NPROC,
				&unix.Rlimit{Cur: uint64(running + more), Max: limit.Max}))
			return func() {
				if more == 0 {
					answers(t, old)
					result, err := toStop.Stop(testkit.Context(t))
					require.NoError(t, err, "to end a process takes no process")
					assert.Equal(t, forkspawn.Asked, result.By)
				}
				require.NoError(t, unix.Setrlimit(unix.RLIMIT_NPROC, &limit))
			}, []string{"RLIMIT_NPROC is " + itoa(running+more), "ulimit -u"}
		})
		answers(t, old)
		works(t, s)
		_, err := old.Stop(testkit.Context(t))
		require.NoError(t, err)
		awaitDescriptors(t, before)
	})
}

func threads(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir("/proc/" + itoa(pid) + "/task")
	require.NoError(t, err)
	return len(list)
}

// A clone fails with ENOMEM when there is no memory. It also does in a pid
// namespace whose first process has ended.
func TestScarcity_MemoryAtTheClone(t *testing.T) {
	alone(t, syscall.CLONE_NEWPID, func(t *testing.T) {
		warm(t, 4)
		own, err := os.Open("/proc/self/ns/pid")
		require.NoError(t, err)
		defer own.Close()
		scarce := true
		s := newSpawner(t,
			forkspawn.Config{NoParentDeathSignal: true,
				Start: func(ctx context.Context,
					attr forkspawn.ProcessAttr) (forkspawn.Process, error) {
					if scarce {
						if err := unix.Unshare(unix.CLONE_NEWPID); err != nil {
							return nil, err
						}
						defer func() {
							assert.NoError(t, unix.Setns(int(own.Fd()), unix.CLONE_NEWPID))
						}()
						first, err := forkspawn.StartProcess(
							forkspawn.ProcessAttr{Command: forkspawn.Command{Path: "true"}})
						if err != nil {
							return nil, err
						}
						first.Wait()
					}
					p, err := forkspawn.StartProcess(attr)
					if err != nil {
						return nil, err
					}
					return p, nil
				}})
		before := descriptors(t)
		_, err = s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "memory", Entry: "echo"})
		names(t, err, syscall.ENOMEM, "cannot allocate memory", "pid namespace")
		awaitDescriptors(t, before)
		scarce = false
		works(t, s)
	})
}

// The first process of a container gets all orphans as children. The library
// waits only for its own children, and returns their statuses, while the orphans
// become zombies.
func TestScarcity_FirstProcessOfAContainer(t *testing.T) {
	t.Parallel()
	alone(t, syscall.CLONE_NEWNS|syscall.CLONE_NEWPID, func(t *testing.T) {
		require.Equal(t, 1, os.Getpid())
		require.NoError(t, syscall.Mount("proc", "/proc", "proc", 0, ""))
		networks(t, func(t *testing.T, listen transport.Addr) {
			s := newSpawner(t, forkspawn.Config{Listen: listen})
			works(t, s)
			var wg sync.WaitGroup
			for i := range 12 {
				wg.Go(func() {
					// One orphan has a session of its own and gets no signal. The other is in
					// the child's group.
					cmd := sh(`(setsid sleep 0.01 &); (sleep 60 &); exec /proc/$PPID/exe`)
					c, err := s.Spawn(testkit.Context(t),
						spawnspec.Spec{Name: "leaver", Entry: "exits", Args: i},
						forkspawn.WithCommand(cmd))
					var boot *forkspawn.BootError
					if errors.As(err, &boot) { // it had ended before Spawn returned
						assert.Equal(t, forkspawn.ExitedStatus(i), boot.Status, boot)
						return
					}
					status, err := c.Wait(testkit.Context(t))
					assert.NoError(t, err)
					assert.Equal(t, forkspawn.ExitedStatus(i), status)
					_, err = c.Stop(testkit.Context(t))
					assert.NoError(t, err)
				})
			}
			wg.Wait()
			left, err := os.MkdirTemp("", "") // a killed Spawner leaves its directory here
			require.NoError(t, err)
			defer os.RemoveAll(left)
			env := append(os.Environ(), "TMPDIR="+left)
			c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "spawns-echo"},
				forkspawn.WithCommand(forkspawn.Command{Env: env}))
			require.NoError(t, err)
			var grandchild int
			require.NoError(t, c.Recv(testkit.Context(t), &grandchild))
			_, err = c.Kill()
			require.NoError(t, err)
			testkit.Eventually(t, "the orphan has ended", func() bool {
				return !running(grandchild)
			})
			works(t, s)
			require.NoError(t, s.Close())

			// All orphans are zombies now, because no code has waited for them.
			orphans := 0
			for {
				pid, err := syscall.Wait4(-1, nil, 0, nil)
				if err == syscall.EINTR {
					continue
				}
				if err != nil {
					require.ErrorIs(t, err, syscall.ECHILD)
					break
				}
				require.NotZero(t, pid)
				orphans++
			}
			assert.Equal(t, 25, orphans, "two orphans each, and a grandchild")
			names, err := os.ReadDir("/proc")
			require.NoError(t, err)
			for _, n := range names {
				assert.False(t, n.Name() != "1" && strings.Trim(n.Name(), "0123456789") == "",
					"process %s is left", n.Name())
			}
		})
	})
}

func TestScarcity_ProcessesInAControlGroup(t *testing.T) {
	alone(t, 0, func(t *testing.T) {
		group := newControlGroup(t, "pids")
		warm(t, 40)
		s := newSpawner(t, forkspawn.Config{})
		before := descriptors(t)
		old := spawn(t, s, spawnspec.Spec{Entry: "echo"})
		group.add(os.Getpid())
		defer group.remove(os.Getpid())
		growLimit(t, s, func(more int) (func(), []string) {
			return group.limit(group.number("pids.current")+more, "pids.max"), nil
		})
		answers(t, old)
		works(t, s)
		_, err := old.Stop(testkit.Context(t))
		require.NoError(t, err)
		awaitDescriptors(t, before)
	})
}
