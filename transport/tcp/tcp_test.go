package tcp

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

func TestTransport_RoundTrip(t *testing.T) {
	var tr Transport
	l := mustListen(t, tr, "127.0.0.1:0")
	dialed, accepted := connect(t, tr, l, transport.AddrOf(l.Addr()))
	assert.IsType(t, &net.TCPConn{}, dialed)
	assert.IsType(t, &net.TCPConn{}, accepted)
	_, err := dialed.Write([]byte("hi"))
	require.NoError(t, err)
	buf := make([]byte, 2)
	_, err = accepted.Read(buf)
	require.NoError(t, err)
	assert.Equal(t, "hi", string(buf))
}

func TestTransport_IPv6Loopback(t *testing.T) {
	if l, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		t.Skip("no IPv6 here:", err)
	} else {
		l.Close()
	}
	var tr Transport
	l := mustListen(t, tr, "[::1]:0")
	addr := transport.AddrOf(l.Addr())
	connect(t, tr, l, addr)

	// "localhost" has two addresses, and Dial finds the second one.
	connect(t, tr, l, tcpAddr("localhost:"+portOf(t, l)))
}

func TestAddr_OtherAddressesAreRefused(t *testing.T) {
	for name, addr := range map[string]transport.Addr{
		"zero":             {},
		"another scheme":   {Scheme: transport.SchemeUDS, Target: "/tmp/s"},
		"no port":          tcpAddr("127.0.0.1"),
		"port by its name": tcpAddr("127.0.0.1:http"),
		"no host":          tcpAddr(":80"),
	} {
		t.Run(name, func(t *testing.T) {
			var addrErr *transport.AddrError
			conn, err := Transport{}.Dial(testkit.Context(t), addr)
			assert.ErrorAs(t, err, &addrErr)
			assert.True(t, conn == nil)
			l, err := Transport{}.Listen(testkit.Context(t), addr)
			assert.ErrorAs(t, err, &addrErr)
			assert.True(t, l == nil)
		})
	}
}

func TestAddr_RemoteAddressesAreRefused(t *testing.T) {
	for _, host := range []string{
		"0.0.0.0", "[::]", "[::ffff:0.0.0.0]", // wildcards
		// for documentation, RFC 5737 and RFC 3849
		"192.0.2.1", "[2001:db8::1]", "[::ffff:192.0.2.1]", "[fe80::1%1]",
	} {
		t.Run(host, func(t *testing.T) {
			addr := tcpAddr(host + ":0")
			_, err := Transport{}.Listen(testkit.Context(t), addr)
			checkRemoteError(t, err, addr)
			_, err = Transport{}.Dial(testkit.Context(t), addr)
			checkRemoteError(t, err, addr)
		})
	}
}

func checkRemoteError(t *testing.T, err error, addr transport.Addr) {
	t.Helper()
	var remote *RemoteError
	if assert.ErrorAs(t, err, &remote) {
		assert.False(t, remote.IP.IsLoopback())
		assert.ErrorContains(t, err, addr.String())
		assert.ErrorContains(t, err, "set Transport.AllowUnencrypted")
	}
}

func TestAddr_FormsOfLoopback(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "localhost", "LocalHost",
		"localhost.", "[::ffff:127.0.0.1]"} {
		t.Run(host, func(t *testing.T) {
			var tr Transport
			l := mustListen(t, tr, host+":0")
			ip := l.Addr().(*net.TCPAddr).IP
			assert.Equal(t, "127.0.0.1", ip.String())
			connect(t, tr, l, tcpAddr(host+":"+portOf(t, l)))
		})
	}
}

func TestHostName_AddressesAreSorted(t *testing.T) {
	parse := func(texts ...string) (ips []netip.Addr) {
		for _, s := range texts {
			ips = append(ips, netip.MustParseAddr(s))
		}
		return ips
	}
	got, err := arrange("h", parse("::1", "::ffff:127.0.0.2", "2001:db8::1", "127.0.0.1"))
	require.NoError(t, err)
	assert.Equal(t, parse("127.0.0.2", "127.0.0.1", "::1", "2001:db8::1"), got)

	_, err = arrange("h", nil)
	var dnsErr *net.DNSError
	assert.ErrorAs(t, err, &dnsErr)
}

func TestAddr_WildcardsCanBeAllowed(t *testing.T) {
	tr := Transport{AllowUnencrypted: true}
	l := mustListen(t, tr, "0.0.0.0:0")
	addr := l.Addr().(*net.TCPAddr)
	assert.Equal(t, "0.0.0.0", addr.IP.String())
	connect(t, tr, l,
		tcpAddr(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(addr.Port)).String()))
}

func TestDial_NobodyListens(t *testing.T) {
	l := mustListen(t, Transport{}, "127.0.0.1:0")
	require.NoError(t, l.Close())
	_, err := Transport{}.Dial(testkit.Context(t), transport.AddrOf(l.Addr()))
	var opErr *net.OpError
	require.ErrorAs(t, err, &opErr)
	assert.ErrorContains(t, err, "tcp: dial tcp 127.0.0.1:")
	_, err = l.Accept()
	assert.ErrorIs(t, err, net.ErrClosed)
}

func TestContext_HasEnded(t *testing.T) {
	l := mustListen(t, Transport{}, "127.0.0.1:0")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := Transport{}.Dial(ctx, transport.AddrOf(l.Addr()))
	assert.ErrorIs(t, err, context.Canceled)
	_, err = Transport{}.Listen(ctx, tcpAddr("127.0.0.1:0"))
	assert.ErrorIs(t, err, context.Canceled)
}
