package forkspawn_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func init() {
	moreEntries["returns-small"] = returnsSmall
}

// returnsSmall sends each message back, and then its own UsesRing.
func returnsSmall(_ context.Context, parent *forkspawn.Parent) error {
	return returns(parent, (*transport.Channel).UsesRing)
}

// requireRing requires that both use rings after a few messages, or neither.
func requireRing(t testing.TB, c *forkspawn.Child, want bool) {
	t.Helper()
	var child bool
	for i := range 10 {
		_, child = swap(t, c, make([]byte, 100*i))
	}
	require.Equal(t, want, child)
	require.Equal(t, want, c.Channel().UsesRing())
}

func TestRing_EachMethod(t *testing.T) {
	for _, method := range []forkspawn.Method{forkspawn.MethodExec, forkspawn.MethodInProcess,
		forkspawn.MethodForkserver} {
		t.Run(string(method), func(t *testing.T) {
			if method == forkspawn.MethodForkserver {
				if err := forkspawn.CheckForkserver(testkit.Context(t)); err != nil {
					t.Skip(err)
				}
			}
			spawntest.NoLeaks(t)
			s := newSpawner(t, forkspawn.Config{Method: method, Ring: true})
			for range 3 {
				c := spawn(t, s, spawnspec.Spec{Entry: "returns-small"})
				requireRing(t, c, true)
				swap(t, c, make([]byte, 3<<20))
				_, err := c.Stop(testkit.Context(t))
				require.NoError(t, err)
			}
			requireNoneShared(t)
		})
	}
}

// Without the setting, and over TCP and TLS, all goes through the socket.
func TestRing_IsOnRequestAndNeedsAUnixSocket(t *testing.T) {
	for _, ring := range []bool{false, true} {
		networks(t, func(t *testing.T, listen transport.Addr) {
			s := newSpawner(t, forkspawn.Config{Listen: listen, Ring: ring,
				Method: forkspawn.MethodExec})
			c := spawn(t, s, spawnspec.Spec{Entry: "returns-small"})
			requireRing(t, c, ring && listen == transport.Addr{})
		})
	}
}

// The setting is that of the parent, also of the next one.
func TestRing_WithTheNextParent(t *testing.T) {
	ringed := forkspawn.Config{Method: forkspawn.MethodExec, Ring: true}
	s := newSpawner(t, releasable(ringed))
	c := spawn(t, s, spawnspec.Spec{Entry: "returns-small"})
	requireRing(t, c, true)
	h := release(t, c, longLease)
	c = reattach(t, newSpawner(t, releasable(forkspawn.Config{})), h)
	requireRing(t, c, false)
	h = release(t, c, longLease)
	c = reattach(t, newSpawner(t, releasable(ringed)), h)
	requireRing(t, c, true)
	_, err := c.Stop(testkit.Context(t))
	require.NoError(t, err)
}

// If a child is killed at any moment, it leaves no mapping and no descriptor, and the parent
// sees its end.
func TestRing_KilledAtAnyMoment(t *testing.T) {
	killAtAnyMoment(t, forkspawn.Config{Ring: true}, "returns-small", make([]byte, 64))
}

// A channel in a ring cannot become a connection, and goes on.
func TestRing_ConnFailsInARing(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{Method: forkspawn.MethodExec, Ring: true})
	c := spawn(t, s, spawnspec.Spec{Entry: "returns-small"})
	requireRing(t, c, true)
	_, err := c.Conn(testkit.Context(t))
	require.ErrorContains(t, err, "uses a ring")
	_, child := swap(t, c, make([]byte, 1))
	assert.True(t, child)
}
