package link

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

func TestTCPPeer_KnowsTheConnectionsOfThisMachine(t *testing.T) {
	near, far := testkit.TCP(t)
	addr := func(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }
	assert.Equal(t, Alive, TCPPeer(addr(near.LocalAddr()), addr(near.RemoteAddr())))
	assert.Equal(t, Alive, TCPPeer(addr(far.LocalAddr()), addr(far.RemoteAddr())))
	assert.Equal(t, Unknown, TCPPeer(addr(near.LocalAddr()), addr(near.LocalAddr())))
	assert.Equal(t, Unknown, TCPPeer(netip.AddrPort{}, netip.AddrPort{}))
}

// The lines are from /proc/net/tcp and /proc/net/tcp6 of an x86-64 machine.
func TestTCPPeer_ReadsTheTable(t *testing.T) {
	const v6 = "   2: 0000000000000000FFFF00000100007F:0016 " +
		"0000000000000000FFFF00000200007F:0002 01 00000010:00000000 01:00000014 00000003     0        0 1 2 0 20 4 0 10 -1\n"
	table := filepath.Join(t.TempDir(), "tcp")
	testkit.WriteFile(t, table, "  sl  local_address rem_address   st tx_queue rx_queue\n"+
		"   1: 0100007F:1F90 0200007F:0001 01 00000000:00000000 00:00000000 00000000     0  0 1\n"+
		"   1: 0100007F:1F90 0200007F:0002 01 00000010:00000000 01:00000014 00000001     0  0 1\n"+
		"   1: 0100007F:1F90 0200007F:0003 01 00000010:00000000 01:00000014 00000002     0  0 1\n"+
		"   1: 0100007F:1F90 0200007F:0004 01 00000000:00000000 01:00000014 00000002     0  0 1\n"+
		"   1: 0100007F:1F90 0200007F:0006 01 00000010:00000000 04:00000014 00000000     0  2 1\n"+
		"   1: 0100007F:1F90 0200007F:0007 01 00000010:00000000 04:00000014 00000000     0  1 1\n"+
		v6)
	for port, want := range map[uint16]Verdict{1: Alive, 2: Alive, 3: Dead, 4: Alive, 5: Unknown,
		6: Dead, 7: Alive} {
		local := netip.MustParseAddrPort("127.0.0.1:8080")
		remote := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), port)
		assert.Equal(t, want, peerIn(table, local, remote), "port %d", port)
	}
	assert.Equal(t, Dead, peerIn(table, netip.MustParseAddrPort("127.0.0.1:22"),
		netip.MustParseAddrPort("127.0.0.2:2")))
	require.NoError(t, os.Remove(table))
	assert.Equal(t, Unknown, peerIn(table, netip.MustParseAddrPort("127.0.0.1:22"),
		netip.MustParseAddrPort("127.0.0.2:2")))
}
