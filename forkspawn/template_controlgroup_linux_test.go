//go:build amd64 || arm64

package forkspawn_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// pids.max of the template's control group grows until a fork succeeds.
func TestTemplate_OutOfProcessesInItsControlGroup(t *testing.T) {
	testkit.Long(t)
	needForks(t)
	alone(t, 0, func(t *testing.T) {
		group := newControlGroup(t, "pids")
		s := forking(t)
		running, first := spawnWarm(t, s)
		group.add(first.Template) // and all its later children
		before := descriptors(t)
		refused, died, made := 0, 0, 0
		for more := 0; made < 2; more++ {
			require.Less(t, more, 60)
			lift := group.limit(group.number("pids.current")+more, "pids.max")
			c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"})
			lift()
			var template *forkspawn.ExitError
			switch {
			case err == nil:
				made++
				answers(t, c)
				_, err := c.Stop(testkit.Context(t))
				require.NoError(t, err)
			case errors.As(err, &template):
				refused++
				names(t, err, syscall.EAGAIN, "pids.max")
				assert.Equal(t, first.Template, template.PID)
			default:
				died++
				t.Log(err)
				assert.ErrorIs(t, err, forkspawn.ErrDied)
			}
			assert.Equal(t, 1, group.processes(), "the template alone")
		}
		t.Logf("%d forks were refused, %d children died", refused, died)
		assert.NotZero(t, refused)
		testkit.Eventually(t, "descriptors are given back", func() bool {
			return slices.Equal(before, descriptors(t))
		})
		_, last := spawnWarm(t, s)
		assert.Equal(t, first.Template, last.Template, "it has lived on")
		result, err := running.Stop(testkit.Context(t))
		require.NoError(t, err)
		assert.Equal(t, forkspawn.Asked, result.By)
	})
}

// The memory limit of the template's control group grows. The kernel refuses
// the fork, or kills the child or the template. Each is an exact error, and
// without the limit the next Spawn succeeds.
func TestTemplate_OutOfMemoryInItsControlGroup(t *testing.T) {
	testkit.Long(t)
	needForks(t)
	alone(t, 0, func(t *testing.T) {
		group := newControlGroup(t, "memory")
		s := forking(t)
		running := spawn(t, s, spawnspec.Spec{Entry: "echo"})
		before := len(descriptors(t))
		outcomes := map[string]int{}
		for limit := 4 << 10; outcomes["made"] < 2; limit *= 2 {
			require.Less(t, limit, 1<<30)
			c, now := spawnWarm(t, s)
			_, err := c.Stop(testkit.Context(t))
			require.NoError(t, err)
			group.add(now.Template)
			lift := group.limit(group.number("memory.usage_in_bytes", "memory.current")+limit,
				"memory.limit_in_bytes", "memory.max")
			c, err = s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "warm"})
			lift()
			var template *forkspawn.ExitError
			var boot *forkspawn.BootError
			switch {
			case err == nil:
				outcomes["made"]++
				_, err := c.Stop(testkit.Context(t))
				require.NoError(t, err)
				group.remove(now.Template)
				continue
			case errors.As(err, &template) && template.Status.Known():
				outcomes["the template was killed"]++
				assert.Equal(t, forkspawn.KilledStatus(syscall.SIGKILL, false), template.Status)
				assert.False(t, alive(template.PID))
			case errors.As(err, &template):
				outcomes["refused"]++
				names(t, err, syscall.ENOMEM, "memory")
				assert.True(t, alive(template.PID))
				group.remove(now.Template)
			case errors.As(err, &boot):
				outcomes["the child died"]++
				assert.ErrorIs(t, err, forkspawn.ErrDied)
				assert.True(t, boot.Status.Known())
				assert.False(t, alive(boot.PID))
				group.remove(now.Template)
			}
			t.Logf("%d KiB: %v", limit>>10, err)
			testkit.Eventually(t, "nothing is left in the group", func() bool {
				return group.processes() == 0
			})
		}
		t.Log(outcomes)
		if swaps, _ := os.ReadFile("/proc/swaps"); strings.Count(string(swaps), "\n") <= 1 {
			assert.Greater(t, len(outcomes), 1, "the limit did bind")
		}
		answers(t, running)
		result, err := running.Stop(testkit.Context(t))
		require.NoError(t, err)
		assert.Equal(t, forkspawn.Asked, result.By)
		works(t, s)
		testkit.Eventually(t, "descriptors are given back", func() bool {
			return len(descriptors(t)) < before
		})
	})
}
