//go:build amd64 || arm64

package forkspawn_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func init() {
	forkspawn.AfterFork(func() error {
		if os.Getenv("AFTER_FORK_DIE") != "" {
			return syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		return nil
	})
	moreEntries["sockets"] = func(ctx context.Context, p *forkspawn.Parent) error {
		var report socketReport
		report.Procs = runtime.GOMAXPROCS(0)
		// Twice, because the control connection gets another number meanwhile, and
		// one look could miss it.
		for range 2 {
			fds, err := filepath.Glob("/proc/self/fd/*")
			if err != nil {
				return err
			}
			for _, fd := range fds {
				if link, err := os.Readlink(fd); err == nil && strings.HasPrefix(link, "socket:") {
					report.Sockets = append(report.Sockets, link)
				}
			}
		}
		if err := p.Send(ctx, report); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
}

type socketReport struct {
	Sockets []string // by inode
	Procs   int
}

func TestForked_HasItsOwnConnectionsOnly(t *testing.T) {
	needForks(t)
	s := forking(t)
	require.NoError(t, s.AwaitTemplate(testkit.Context(t)))
	before := spawntest.TakeSnapshot(t)
	const n = 6
	var reports [n]socketReport
	var children [n]*forkspawn.Child
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "sockets"})
			if assert.NoError(t, err) {
				children[i] = c
				assert.NoError(t, c.Recv(testkit.Context(t), &reports[i]))
				assert.Equal(t, "unix", c.Channel().NetConn().RemoteAddr().Network())
			}
		})
	}
	wg.Wait()
	holders := map[string]int{} // of a socket
	for _, r := range reports {
		assert.Equal(t, runtime.GOMAXPROCS(0), r.Procs)
		seen := map[string]bool{}
		for _, socket := range r.Sockets {
			if !seen[socket] {
				seen[socket] = true
				holders[socket]++
			}
		}
	}
	own := 0
	for socket, k := range holders {
		if k == 1 {
			own++
			continue
		}
		assert.Equal(t, n, k,
			"%s: all have the socket of dead descriptors, and none has another child's", socket)
	}
	assert.Equal(t, 2*n, own)
	for _, c := range children {
		_, err := c.Kill()
		require.NoError(t, err)
		var exit *forkspawn.ExitError
		assert.ErrorAs(t, c.Recv(testkit.Context(t), new(any)), &exit,
			"the end of the connection tells")
	}
	assert.Empty(t, before.Leaks())
}

func TestForked_DiesBeforeItJoins(t *testing.T) {
	needForks(t)
	s := forking(t)
	require.NoError(t, s.AwaitTemplate(testkit.Context(t)))
	before := spawntest.TakeSnapshot(t)
	for range 5 {
		cmd := forkspawn.Command{Env: []string{"AFTER_FORK_DIE=1"}}
		boot := spawnError(t, testkit.Context(t), s, cmd,
			spawnspec.Spec{Name: "early", Entry: "warm"})
		assert.ErrorIs(t, boot, forkspawn.ErrDied)
		assert.Equal(t, handshake.PhaseConnect, boot.Phase)
		assert.Equal(t, forkspawn.KilledStatus(syscall.SIGKILL, false), boot.Status)
	}
	assert.Empty(t, before.Leaks())
}

func TestForked_DialsOverTCP(t *testing.T) {
	needForks(t)
	s := forking(t, func(cfg *forkspawn.Config) {
		cfg.Listen = transport.Addr{Scheme: transport.SchemeTCP, Target: "127.0.0.1:0"}
	})
	c, r := spawnWarm(t, s)
	assert.Equal(t, 1000, r.Table)
	assert.Equal(t, "tcp", c.Channel().NetConn().RemoteAddr().Network())
	result, err := c.Stop(testkit.Context(t))
	require.NoError(t, err)
	assert.Equal(t, forkspawn.Asked, result.By)
}

func TestForked_EnvironmentWithOneChange(t *testing.T) {
	needForks(t)
	t.Setenv("GREETING", "hello")
	s := forking(t)
	for _, greeting := range []string{"hello", "good day", "", "hello"} {
		env := append(os.Environ(), "GREETING="+greeting)
		c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "warm"},
			forkspawn.WithCommand(forkspawn.Command{Env: env}))
		require.NoError(t, err)
		var r warmReport
		require.NoError(t, c.Recv(testkit.Context(t), &r))
		assert.Equal(t, greeting, r.Env)
		assert.Equal(t, len(os.Environ()), r.Vars)
	}
}
