//go:build unix

package forkspawn_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func TestDeath_RecvReturnsTheStatus(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		s := newSpawner(t, forkspawn.Config{Listen: listen})
		for entry, status := range map[string]forkspawn.ExitStatus{
			"exits": forkspawn.ExitedStatus(5), "fails": forkspawn.ExitedStatus(1),
			"panics": forkspawn.ExitedStatus(2),
		} {
			c := spawn(t, s, spawnspec.Spec{Entry: entry, Args: 5})
			var v any
			err := c.Recv(testkit.Context(t), &v)
			var exit *forkspawn.ExitError
			require.ErrorAs(t, err, &exit)
			assert.Equal(t, status, exit.Status)
			t.Log(err)
			switch entry {
			case "fails":
				assert.Contains(t, exit.Stderr, "no luck today")
				var bye *transport.GoodbyeError
				require.ErrorAs(t, err, &bye)
				assert.Equal(t, "no luck today", bye.Reason)
			case "panics":
				assert.Contains(t, exit.Error(), "panic: at the disco")
				assert.ErrorIs(t, err, transport.ErrPeerGone)
			}
			result, err := c.Stop(testkit.Context(t))
			require.NoError(t, err)
			assert.Equal(t, forkspawn.AlreadyEnded, result.By)
		}
	})
}

func TestDeath_CutChannelIsNone(t *testing.T) {
	t.Parallel()
	s := newSpawner(t, forkspawn.Config{StopGrace: 10 * time.Millisecond, TermGrace: bound})
	c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "cutter"},
		forkspawn.WithCommand(roles.Command("closes-after-ready")))
	require.NoError(t, err)
	var v any
	err = c.Recv(testkit.Context(t), &v)
	assert.ErrorIs(t, err, transport.ErrPeerGone)
	var exit *forkspawn.ExitError
	assert.False(t, errors.As(err, &exit))
	result, err := c.Stop(testkit.Context(t))
	require.NoError(t, err)
	assert.Equal(t, forkspawn.Terminated, result.By)
}

func TestDeath_StolenStatusIsUnknown(t *testing.T) {
	// Other code in the program waits for the child first. Then the status is
	// unknown, never 0.
	s := newSpawner(t, forkspawn.Config{Start: thief{}.Start})
	_, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "stolen"},
		forkspawn.WithCommand(forkspawn.Command{Path: "true"}))
	var boot *forkspawn.BootError
	require.ErrorAs(t, err, &boot)
	assert.False(t, boot.Status.Known())
	assert.False(t, boot.Status.Success())
}

// thief starts processes and waits for them before the library can.
type thief struct{}

func (thief) Start(_ context.Context, attr forkspawn.ProcessAttr) (forkspawn.Process, error) {
	p, err := forkspawn.StartProcess(attr)
	if err != nil {
		return nil, err
	}
	for {
		if _, err := syscall.Wait4(p.PID(), nil, 0, nil); err != syscall.EINTR {
			return p, nil
		}
	}
}

// Spawn reports a death within 50 ms. The log has the figure: the best of
// several runs is the time that the library takes. The bound only finds hangs.
func TestDeath_IsReportedAtOnce(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		s := newSpawner(t, forkspawn.Config{Listen: listen})
		best := time.Hour
		for range 20 {
			died := filepath.Join(t.TempDir(), "died")
			// Before it exits, the shell records the time by making a file.
			boot := spawnError(t, testkit.Context(t), s,
				sh("echo last words >&2; : >'"+died+"'; exit 3"), spawnspec.Spec{Name: "sh"})
			now := time.Now()
			st, err := os.Stat(died)
			require.NoError(t, err)
			best = min(best, now.Sub(st.ModTime()))
			assert.Equal(t, forkspawn.ExitedStatus(3), boot.Status)
			assert.Contains(t, boot.Error(), "last words")
		}
		assert.Less(t, best, bound)
		t.Logf("a death was reported after %v", best)
	})
}
