package forkspawn_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func init() {
	moreEntries["returns-large"] = returnsLarge
}

// returnsLarge sends each message back to its parent, and then whether it shares memory.
func returnsLarge(_ context.Context, parent *forkspawn.Parent) error {
	return returns(parent, (*transport.Channel).SharesMemory)
}

func returns(parent *forkspawn.Parent, shares func(*transport.Channel) bool) error {
	var talks sync.WaitGroup
	defer talks.Wait()
	for {
		talks.Go(func() { returnAll(parent, shares) })
		next, err := parent.Next(parent.Context())
		if err != nil {
			return err
		}
		parent = next
	}
}

func returnAll(parent *forkspawn.Parent, shares func(*transport.Channel) bool) error {
	ctx := parent.Context()
	for {
		p, err := parent.Channel().RecvBorrowed(ctx)
		if err != nil {
			return err
		}
		if err := parent.SendBytes(ctx, p); err != nil {
			return err
		}
		if err := parent.Send(ctx, shares(parent.Channel())); err != nil {
			return err
		}
	}
}

// swap sends p. Then it returns whether parent and child share memory.
func swap(t testing.TB, c *forkspawn.Child, p []byte) (parent, child bool) {
	t.Helper()
	ctx := testkit.Context(t)
	sent := testkit.Background(t, func() error { return c.SendBytes(ctx, p) })
	got, err := c.Channel().RecvBorrowed(ctx)
	require.NoError(t, err)
	require.True(t, bytes.Equal(p, got))
	require.NoError(t, sent())
	require.NoError(t, c.Recv(ctx, &child))
	return c.Channel().SharesMemory(), child
}

// requireSharing requires that large messages travel through shared memory from the second
// one on.
func requireSharing(t testing.TB, c *forkspawn.Child) {
	t.Helper()
	small, large := make([]byte, 1000), bytes.Repeat([]byte("0123456789"), 30_000)
	parent, child := swap(t, c, small)
	require.False(t, parent || child, "small messages need none")
	swap(t, c, large)
	for range 5 {
		parent, child = swap(t, c, large)
		require.True(t, parent && child)
	}
	swap(t, c, small)
}

func TestShared_EachMethod(t *testing.T) {
	for _, method := range []forkspawn.Method{forkspawn.MethodExec, forkspawn.MethodInProcess,
		forkspawn.MethodForkserver} {
		for _, spares := range []int{0, 1} {
			t.Run(string(method), func(t *testing.T) {
				if method == forkspawn.MethodForkserver {
					if err := forkspawn.CheckForkserver(testkit.Context(t)); err != nil {
						t.Skip(err)
					}
				}
				if method == forkspawn.MethodInProcess && spares > 0 {
					return
				}
				spawntest.NoLeaks(t)
				s := newSpawner(t, forkspawn.Config{Method: method, Spares: spares})
				for range 3 {
					c := spawn(t, s, spawnspec.Spec{Entry: "returns-large"})
					requireSharing(t, c)
					_, err := c.Stop(testkit.Context(t))
					require.NoError(t, err)
				}
				requireNoneShared(t)
			})
		}
	}
}

// Over TCP and TLS all goes through the socket.
func TestShared_NeedsAUnixSocket(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		s := newSpawner(t, forkspawn.Config{Listen: listen, Method: forkspawn.MethodExec})
		c := spawn(t, s, spawnspec.Spec{Entry: "returns-large"})
		swap(t, c, make([]byte, 1<<20))
		parent, child := swap(t, c, make([]byte, 1<<20))
		assert.Equal(t, listen == transport.Addr{}, parent)
		assert.Equal(t, listen == transport.Addr{}, child)
	})
}

// The next parent of a released child shares memory of its own with it.
func TestShared_WithTheNextParent(t *testing.T) {
	s := newSpawner(t, releasable(forkspawn.Config{Method: forkspawn.MethodExec}))
	c := spawn(t, s, spawnspec.Spec{Entry: "returns-large"})
	requireSharing(t, c)
	h := release(t, c, longLease)
	c = reattach(t, newSpawner(t, releasable(forkspawn.Config{})), h)
	requireSharing(t, c)
	_, err := c.Stop(testkit.Context(t))
	require.NoError(t, err)
}

// If a child is killed at any moment, it leaves no mapping and no descriptor, and the parent
// sees its end.
func TestShared_KilledAtAnyMoment(t *testing.T) {
	killAtAnyMoment(t, forkspawn.Config{}, "returns-large",
		bytes.Repeat([]byte("0123456789"), 30_000))
}

// killAtAnyMoment kills children of an entry of returns, which get the message again and
// again. In a long test they are 10,000, as far as its time goes.
func killAtAnyMoment(t *testing.T, cfg forkspawn.Config, entry string, message []byte) {
	kills := 20
	if testkit.IsLong() {
		kills = 10_000
	}
	spawntest.NoLeaks(t)
	cfg.Method, cfg.Spares = forkspawn.MethodExec, 2
	s := newSpawner(t, cfg)
	until := time.Now().Add(20 * time.Second)
	n := 0
	for ; n < kills && time.Now().Before(until); n++ {
		ctx := testkit.Context(t)
		c := spawn(t, s, spawnspec.Spec{Entry: entry})
		killed := make(chan struct{})
		time.AfterFunc(rand.N(5*time.Millisecond), func() { c.Kill(); close(killed) })
		sent := testkit.Background(t, func() error {
			for {
				if err := c.SendBytes(ctx, message); err != nil {
					return err
				}
			}
		})
		for received := 0; ; received++ {
			p, err := c.Channel().RecvBorrowed(ctx)
			if err != nil {
				requireGone(t, err)
				break
			}
			require.True(t, bytes.Equal(message, p))
			if err := c.Recv(ctx, new(bool)); err != nil {
				requireGone(t, err)
				break
			}
		}
		requireGone(t, sent())
		<-killed
		c.Wait(ctx)
	}
	t.Logf("%d children were killed", n)
	requireNoneShared(t)
}

// requireGone requires an error for the death of a child. The Spawner closes the channel
// then.
func requireGone(t testing.TB, err error) {
	t.Helper()
	if !errors.Is(err, transport.ErrChannelClosed) && !errors.As(err, new(*forkspawn.ExitError)) {
		require.ErrorIs(t, err, transport.ErrPeerGone)
	}
}

// requireNoneShared waits until this process has no memory of a channel any more. A lent
// message stays until nobody uses the channel.
func requireNoneShared(t testing.TB) {
	t.Helper()
	testkit.Eventually(t, "no mapping", func() bool {
		runtime.GC()
		return !strings.Contains(testkit.ReadFile(t, "/proc/self/maps"), "/memfd:spawnwire")
	})
}

// warmPeers are the ends of channels that the warm-up "shares memory" has made: the second
// two use a ring.
var warmPeers [4]*handshake.Peer

func init() {
	forkspawn.RegisterWarmUp("shares memory", shareInWarmUp)
	moreEntries["uses-shared-memory-of-the-template"] = useWarmPeers
}

func shareInWarmUp() error {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	cfg := handshake.PeerConfig{Key: []byte("a key of the warm-up, long enough")}
	if err := shareBetween(ctx, cfg, warmPeers[:2]); err != nil {
		return err
	}
	cfg.Ring = true
	return shareBetween(ctx, cfg, warmPeers[2:])
}

func shareBetween(ctx context.Context, cfg handshake.PeerConfig, peers []*handshake.Peer) error {
	a, b, err := unixsock.Pair()
	if err != nil {
		return err
	}
	accepted := make(chan error, 1)
	go func() {
		var err error
		peers[1], err = handshake.AcceptPeer(ctx, b, cfg)
		accepted <- err
	}()
	if peers[0], err = handshake.ConnectPeer(ctx, a, cfg); err != nil {
		return err
	}
	if err := <-accepted; err != nil {
		return err
	}
	for !peers[0].Channel.SharesMemory() || peers[0].Channel.UsesRing() != cfg.Ring {
		sent := make(chan error, 1)
		go func() { sent <- peers[0].Channel.SendBytes(ctx, make([]byte, 1<<20)) }()
		if _, err := peers[1].Channel.RecvBorrowed(ctx); err != nil {
			return err
		}
		if err := <-sent; err != nil {
			return err
		}
	}
	return nil
}

// useWarmPeers sends its parent the errors of the calls.
func useWarmPeers(ctx context.Context, parent *forkspawn.Parent) error {
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var failed []bool
	for _, p := range warmPeers {
		_, err := p.Channel.RecvBorrowed(short)
		failed = append(failed, err != nil, p.Channel.SendBytes(short, make([]byte, 1<<20)) != nil,
			p.Channel.SharesMemory())
		p.Abort()
	}
	return parent.Send(ctx, failed)
}

// A forked child has no memory of its template's channels, and its use is an error.
func TestShared_ForkedChildHasNoneOfItsTemplate(t *testing.T) {
	needForks(t)
	s := newSpawner(t,
		forkspawn.Config{Method: forkspawn.MethodForkserver, WarmUp: "shares memory"})
	c := spawn(t, s, spawnspec.Spec{Entry: "uses-shared-memory-of-the-template"})
	var failed []bool
	require.NoError(t, c.Recv(testkit.Context(t), &failed))
	assert.Equal(t, slices.Repeat([]bool{true, true, false}, 4), failed)
}
