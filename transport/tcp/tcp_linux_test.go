package tcp

import (
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

func TestSocket_KeepAliveIdle(t *testing.T) {
	l := mustListen(t, Transport{}, "127.0.0.1:0")
	dialed, accepted := connect(t, Transport{}, l, transport.AddrOf(l.Addr()))
	assert.Equal(t, 15, sockopt(t, dialed.(*net.TCPConn), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE))
	assert.Equal(t, 15, sockopt(t, accepted.(*net.TCPConn), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE))
	assert.Equal(t, unix.IPPROTO_TCP,
		sockopt(t, accepted.(*net.TCPConn), unix.SOL_SOCKET, unix.SO_PROTOCOL), "not multipath TCP")
}

// Only Linux has all of 127.0.0.0/8.
func TestDial_TriesAllAddresses(t *testing.T) {
	useDNS(t, func(int) []string { return []string{"127.0.0.3", "127.0.0.1"} })
	l := mustListen(t, Transport{}, "127.0.0.1:0")
	port := portOf(t, l)
	connect(t, Transport{}, l, tcpAddr("peer.test:"+port))

	require.NoError(t, l.Close())
	_, err := Transport{}.Dial(testkit.Context(t), tcpAddr("peer.test:"+port))
	var opErr *net.OpError
	if assert.ErrorAs(t, err, &opErr) {
		assert.Equal(t, "127.0.0.3:"+port, opErr.Addr.String(), "the error is that of the first")
	}
}
