package forkspawn_test

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/netns"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
	_ "github.com/spawnwire/spawnwire/transport/tls"
)

// spawnOn starts echo on another machine.
func spawnOn(t *testing.T, m *netns.Machine, deadAfter time.Duration) *forkspawn.Child {
	t.Helper()
	s := newSpawner(t, forkspawn.Config{
		Method: forkspawn.MethodExec,
		Listen: transport.Addr{Scheme: transport.SchemeTLS, Target: m.Here + ":0"},
		Command: forkspawn.Command{Path: "ip",
			Args: []string{"netns", "exec", m.Name, testkit.Self(t)}},
	})
	child, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo", DeadAfter: deadAfter})
	require.NoError(t, err)
	return child
}

func TestMachine_DeathEndsTheChildThere(t *testing.T) {
	t.Parallel()
	m := netns.New(t)
	child := spawnOn(t, m, 0)
	m.Cut(t)
	var reply string
	err := child.Recv(testkit.Context(t), &reply)
	assert.ErrorIs(t, err, transport.ErrPeerGone)
	var ended *forkspawn.ExitError // the child was the first to find the cut, and has ended
	if !errors.As(err, &ended) {
		assert.ErrorIs(t, err, syscall.ETIMEDOUT)
	}
	status, err := child.Wait(testkit.Context(t))
	require.NoError(t, err)
	assert.Contains(t, []int{1, 125}, status.Code(),
		"the entry has returned ErrParentGone, or had not time enough to return")
}

func TestMachine_DeadAfterHoldsOnBothSides(t *testing.T) {
	t.Parallel()
	m := netns.New(t)
	child := spawnOn(t, m, testkit.Patience)
	m.Cut(t)
	require.NoError(t, child.Send(testkit.Context(t), "hello"))
	time.Sleep(2 * transport.DefaultDeadAfter)
	m.Heal(t)
	var reply string
	require.NoError(t, child.Recv(testkit.Context(t), &reply))
	assert.Equal(t, "hello", reply)
	_, err := child.Stop(testkit.Context(t))
	assert.NoError(t, err)
}
