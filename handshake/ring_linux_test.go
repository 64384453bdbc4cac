package handshake_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
)

// Peers use a ring if both ask for it.
func TestRing_BothPeersAsk(t *testing.T) {
	key := []byte("a key that is long enough")
	for _, asked := range [][2]bool{{false, false}, {true, false}, {false, true}, {true, true}} {
		a, b := testkit.Unix(t)
		dialer := named("dialer", handshake.PeerConfig{Key: key, Ring: asked[0]})
		acceptor := named("acceptor", handshake.PeerConfig{Key: key, Ring: asked[1]})
		d, c := meet(t, a, b, dialer, acceptor)
		require.NoError(t, d.err)
		require.NoError(t, c.err)
		ctx := testkit.Context(t)
		for i := range 3 {
			for _, m := range [][2]*handshake.Peer{{d.peer, c.peer}, {c.peer, d.peer}} {
				require.NoError(t, m[0].Channel.Send(ctx, i))
				var got int
				require.NoError(t, m[1].Channel.Recv(ctx, &got))
				require.Equal(t, i, got)
			}
		}
		require.Equal(t, asked[0] && asked[1], d.peer.Channel.UsesRing())
		require.Equal(t, asked[0] && asked[1], c.peer.Channel.UsesRing())
	}
}
