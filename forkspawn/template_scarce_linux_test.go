//go:build amd64 || arm64

package forkspawn_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func init() {
	forkspawn.RegisterWarmUp("hungry", func() error {
		var all [][]byte
		for range 100 {
			// needs addresses, but no memory before a write
			all = append(all, make([]byte, 100<<20))
		}
		return fmt.Errorf("there were %d", len(all))
	})
	moreEntries["template"] = func(ctx context.Context, p *forkspawn.Parent) error {
		return p.Send(ctx, loaded.pid)
	}
	forkspawn.RegisterWarmUp("full", func() error {
		loaded.pid = os.Getpid()
		size := func() (pages int) {
			statm, _ := os.ReadFile("/proc/self/statm")
			fmt.Sscan(string(statm), &pages)
			return pages
		}
		for last := size(); size()-last < 32<<20/os.Getpagesize(); {
			last = size()
			full = append(full, make([]byte, 1<<20))
		}
		for range 53 {
			full = append(full, make([]byte, 1<<20))
		}
		return nil
	})
}

// full is the result of the warm-up "full". It fills most of the 64 MiB that
// the Go runtime gets from the kernel at once.
var full [][]byte

// limitOf sets a soft limit of another process. The returned function restores
// it.
func limitOf(t testing.TB, pid, resource int, n uint64) (restore func()) {
	t.Helper()
	var old unix.Rlimit
	require.NoError(t, unix.Prlimit(pid, resource, nil, &old))
	require.NoError(t, unix.Prlimit(pid, resource, &unix.Rlimit{Cur: n, Max: old.Max}, nil))
	return func() { unix.Prlimit(pid, resource, &old, nil) }
}

func openFiles(t testing.TB, pid int) int {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(t, err)
	return len(fds)
}

// The limit is lowered in a running template, and in one at its start.
func TestTemplate_OutOfDescriptors(t *testing.T) {
	testkit.Long(t)
	needForks(t)
	t.Run("as it serves", func(t *testing.T) {
		s := forking(t)
		running, first := spawnWarm(t, s)
		refused, died, made := 0, 0, 0
		awaitArmed(t, first.Template)
		open := openFiles(t, first.Template)
		for limit := uint64(3); made < 3; limit++ {
			require.Less(t, limit, uint64(64))
			restore := limitOf(t, first.Template, unix.RLIMIT_NOFILE, limit)
			c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "warm"})
			restore()
			var template *forkspawn.ExitError
			switch {
			case err == nil:
				made++
				_, err := c.Stop(testkit.Context(t))
				require.NoError(t, err)
			case errors.As(err, &template):
				refused++
				names(t, err, syscall.EMFILE,
					"RLIMIT_NOFILE is "+strconv.FormatUint(limit, 10), "ulimit -n")
				assert.False(t, template.Status.Known())
				assert.Equal(t, first.Template, template.PID)
			default: // the child has the same limit
				died++
				t.Log(err)
				assert.ErrorIs(t, err, forkspawn.ErrDied)
				assert.Contains(t, err.Error(), "too many open files")
			}
		}
		t.Logf("%d forks were refused, %d children died", refused, died)
		assert.NotZero(t, refused)
		_, last := spawnWarm(t, s)
		assert.Equal(t, first.Template, last.Template, "it has lived on")
		awaitArmed(t, first.Template)
		assert.Equal(t, open, openFiles(t, first.Template),
			"the descriptors that came with requests are closed")
		_, err := running.Stop(testkit.Context(t))
		require.NoError(t, err)
	})
	t.Run("as it starts", func(t *testing.T) {
		exe, err := os.Executable()
		require.NoError(t, err)
		made := 0
		for limit := 4; made < 2; limit++ {
			require.Less(t, limit, 64)
			s := forking(t, func(cfg *forkspawn.Config) {
				cfg.Command = forkspawn.Command{Path: "sh",
					Args: []string{"-c", `ulimit -n "$1"; exec "$0"`, exe, strconv.Itoa(limit)}}
			})
			if err := s.AwaitTemplate(testkit.Context(t)); err == nil {
				made++
			} else {
				t.Log(limit, err)
				var template *forkspawn.ExitError
				require.ErrorAs(t, err, &template)
				// the second text is the runtime's
				assert.Regexp(t, `too many open files|failed with 24`, err.Error())
				assert.False(t, alive(template.PID))
			}
			require.NoError(t, s.Close())
		}
	})
}

// The Go runtime ends a process without memory.
func TestTemplate_OutOfMemory(t *testing.T) {
	testkit.Long(t)
	needForks(t)
	dies := func(t *testing.T, err error) {
		t.Helper()
		t.Log(err)
		var template *forkspawn.ExitError
		require.ErrorAs(t, err, &template)
		assert.Equal(t, forkspawn.ExitedStatus(2), template.Status)
		assert.Contains(t, template.Stderr, "fatal error: ")
		assert.Contains(t, template.Stderr, "memory")
		assert.False(t, alive(template.PID))
	}
	t.Run("as it warms up", func(t *testing.T) {
		exe, err := os.Executable()
		require.NoError(t, err)
		s := forking(t, func(cfg *forkspawn.Config) {
			cfg.WarmUp = "hungry"
			cfg.Command = forkspawn.Command{Path: "sh",
				Args: []string{"-c", `ulimit -v 4000000; exec "$0"`, exe}}
		})
		dies(t, s.AwaitTemplate(testkit.Context(t)))
	})
	t.Run("as it serves", func(t *testing.T) {
		s := forking(t, func(cfg *forkspawn.Config) { cfg.WarmUp = "full" })
		running := spawn(t, s, spawnspec.Spec{Entry: "echo"})
		template := func() int {
			var pid int
			require.NoError(t,
				spawn(t, s, spawnspec.Spec{Entry: "template"}).Recv(testkit.Context(t), &pid))
			return pid
		}
		first := template()
		limitOf(t, first, unix.RLIMIT_DATA, 1<<20)
		large := append(os.Environ(), "LARGE="+strings.Repeat("x", 14<<20))
		_, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "warm"},
			forkspawn.WithCommand(forkspawn.Command{Env: large}))
		dies(t, err)
		second := template()
		assert.NotEqual(t, first, second)
		_, err = s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "warm"},
			forkspawn.WithCommand(forkspawn.Command{Env: large}))
		require.NoError(t, err)
		_, err = s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "warm"},
			forkspawn.WithCommand(forkspawn.Command{Env: append(large, large...)}))
		require.NoError(t, err, "each variable is given once")
		for i := range 9 {
			large = append(large, "LARGE"+strconv.Itoa(i)+"="+strings.Repeat("x", 1<<20))
		}
		_, err = s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "warm"},
			forkspawn.WithCommand(forkspawn.Command{Env: large}))
		assert.ErrorIs(t, err, syscall.E2BIG)
		assert.Equal(t, second, template())
		answers(t, running)
		result, err := running.Stop(testkit.Context(t))
		require.NoError(t, err)
		assert.Equal(t, forkspawn.Asked, result.By)
	})
}

// Root has no such limit, so the test runs as another user.
func TestTemplate_OutOfProcesses(t *testing.T) {
	testkit.Long(t)
	needForks(t)
	alone(t, 0, func(t *testing.T) {
		testkit.NeedRoot(t)
		become(t, nobody)
		warm(t, 40)
		s := forking(t)
		_, first := spawnWarm(t, s)
		running := spawn(t, s, spawnspec.Spec{Entry: "echo"})
		refused, died, made := 0, 0, 0
		for more := 0; made < 2; more++ {
			require.Less(t, more, 60)
			n := threads(t, os.Getpid()) + threads(t, running.PID()) + threads(t,
				first.PID) + threads(t, first.Template)
			restore := limitOf(t, first.Template, unix.RLIMIT_NPROC, uint64(n+more))
			c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"})
			restore()
			var template *forkspawn.ExitError
			switch {
			case err == nil:
				made++
				_, err := c.Stop(context.Background())
				require.NoError(t, err)
			case errors.As(err, &template):
				refused++
				names(t, err, syscall.EAGAIN, "RLIMIT_NPROC is "+itoa(n+more), "ulimit -u")
				assert.Equal(t, first.Template, template.PID)
			default:
				died++
				t.Log(err)
				assert.ErrorIs(t, err, forkspawn.ErrDied)
			}
		}
		t.Logf("%d forks were refused, %d children died", refused, died)
		assert.NotZero(t, refused)
		answers(t, running)
		answers(t, running)
		_, last := spawnWarm(t, s)
		assert.Equal(t, first.Template, last.Template)
	})
}
