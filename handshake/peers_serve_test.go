package handshake_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

// servePeers starts an echo server. stop checks its end.
func servePeers(
	t *testing.T, ln net.Listener, cfg handshake.PeerConfig,
) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- handshake.ServePeers(ctx, ln, cfg, func(ctx context.Context, p *handshake.Peer) {
			var v string
			for p.Channel.Recv(ctx, &v) == nil && p.Channel.Send(ctx, v) == nil {
			}
		})
	}()
	return sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-served:
			return err
		case <-time.After(patience):
			return assert.AnError
		}
	})
}

func connect(t *testing.T, addr transport.Addr) *handshake.Peer {
	t.Helper()
	p, err := handshake.ConnectPeer(testkit.Context(t), dial(t, addr),
		handshake.PeerConfig{Key: sharedKey})
	require.NoError(t, err)
	t.Cleanup(func() { p.Abort() })
	return p
}

func TestServe_PeersAreServedAtOnce(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		ln := n.listen(t)
		addr := transport.AddrOf(ln.Addr())
		stop := servePeers(t, ln, handshake.PeerConfig{Key: sharedKey})
		var peers []*handshake.Peer
		for range 10 {
			peers = append(peers, connect(t, addr))
		}
		for _, p := range peers {
			var v string
			require.NoError(t, p.Channel.Send(testkit.Context(t), "hello"))
			require.NoError(t, p.Channel.Recv(testkit.Context(t), &v))
			assert.Equal(t, "hello", v)
		}
		require.ErrorIs(t, stop(), context.Canceled)
		for _, p := range peers { // each gets a goodbye
			require.ErrorAs(t, p.Channel.Recv(testkit.Context(t), new(string)),
				new(*transport.GoodbyeError))
		}
	})
}

// Silent clients, and clients without a key, keep nobody out.
func TestServe_StrangersKeepNobodyOut(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		ln := n.listen(t)
		addr := transport.AddrOf(ln.Addr())
		book := newLogbook()
		stop := servePeers(t, ln, handshake.PeerConfig{Key: sharedKey, MaxPending: 4,
			Logger: book.logger()})
		for range 20 {
			dial(t, addr)
		}
		_, err := handshake.ConnectPeer(testkit.Context(t), dial(t, addr),
			handshake.PeerConfig{Key: []byte("another key, long enough")})
		require.ErrorIs(t, err, handshake.ErrBadMAC)
		p := connect(t, addr)
		var v string
		require.NoError(t, p.Channel.Send(testkit.Context(t), "hello"))
		require.NoError(t, p.Channel.Recv(testkit.Context(t), &v))
		var causes []string
		for _, e := range book.with(t, 2, saysRefused) {
			causes = append(causes, e.attrs["cause"])
		}
		assert.ElementsMatch(t, []string{"crowded out", "wrong secret"}, causes)
		require.ErrorIs(t, stop(), context.Canceled)
	})
}

func TestServe_EndsWithItsListener(t *testing.T) {
	ln := networks[0].listen(t)
	served := make(chan error, 1)
	go func() {
		served <- handshake.ServePeers(t.Context(), ln, handshake.PeerConfig{Key: sharedKey},
			func(context.Context, *handshake.Peer) {})
	}()
	require.NoError(t, ln.Close())
	select {
	case err := <-served:
		assert.ErrorIs(t, err, net.ErrClosed)
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
}
