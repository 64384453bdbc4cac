package forkspawn_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// spawnDaemons spawns a child of the entry leaves-daemon. It returns the
// daemon's pid, too.
func spawnDaemons(t *testing.T, s *forkspawn.Spawner, exit bool) (*forkspawn.Child, int) {
	t.Helper()
	pidFile := filepath.Join(t.TempDir(), "pid")
	c := spawn(t, s,
		spawnspec.Spec{Entry: "leaves-daemon",
			Args: roles.LeavesDaemon{PIDFile: pidFile, Exit: exit}})
	var left string
	require.NoError(t, c.Recv(testkit.Context(t), &left))
	b, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	require.NoError(t, err)
	return c, pid
}

func TestSubreaper_EndsWhatHasLeftTheGroup(t *testing.T) {
	spawntest.NoLeaks(t)
	for how, end := range map[string]func(c *forkspawn.Child){
		"asked":      func(c *forkspawn.Child) { c.Stop(context.Background()) },
		"killed":     func(c *forkspawn.Child) { c.Kill() },
		"by itself":  func(c *forkspawn.Child) { c.Wait(context.Background()) },
		"with Close": nil,
	} {
		t.Run(how, func(t *testing.T) {
			s := newSpawner(t, forkspawn.Config{Subreaper: true})
			c, daemon := spawnDaemons(t, s, how == "by itself")
			if end != nil {
				end(c)
			} else {
				require.NoError(t, s.Close())
			}
			assert.Empty(t, spawntest.State(daemon),
				"neither alive nor a zombie, as soon as the child's end is known")
		})
	}
}

// The option is needed: without it the daemon lives on.
func TestSubreaper_WithoutItADaemonLivesOn(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	c, daemon := spawnDaemons(t, s, false)
	_, err := c.Stop(testkit.Context(t))
	require.NoError(t, err)
	assert.True(t, running(daemon))
	require.NoError(t, syscall.Kill(daemon, syscall.SIGKILL))
	spawntest.AwaitGone(t, daemon)
}

func TestSubreaper_TakesNobodyElsesStatus(t *testing.T) {
	spawntest.NoLeaks(t)
	s := newSpawner(t, forkspawn.Config{Subreaper: true})
	other := newSpawner(t, forkspawn.Config{Subreaper: true})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				err := exec.Command("sh", "-c", "exit 7").Run()
				var exit *exec.ExitError
				if assert.ErrorAs(t, err, &exit) {
					assert.Equal(t, 7, exit.ExitCode())
				}
			}
		})
	}
	for _, s := range []*forkspawn.Spawner{s, other} {
		wg.Go(func() {
			for range 20 {
				c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "exits", Args: 5})
				if assert.NoError(t, err) {
					status, err := c.Wait(testkit.Context(t))
					assert.NoError(t, err)
					assert.Equal(t, forkspawn.ExitedStatus(5), status)
					c.Stop(context.Background())
				}
			}
		})
	}
	wg.Wait()
}
