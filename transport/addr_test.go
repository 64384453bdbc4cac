package transport_test

import (
	"encoding"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/transport"
)

var (
	_ net.Addr                 = transport.Addr{}
	_ encoding.TextMarshaler   = transport.Addr{}
	_ encoding.TextUnmarshaler = (*transport.Addr)(nil)
)

func TestAddr_RoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "with space and ü", "x.sock") // absolute on this platform
	for _, c := range []struct {
		name, text string
		want       transport.Addr
		network    string
	}{
		{"a Unix socket's path", "uds://" + path,
			transport.Addr{Scheme: "uds", Target: path}, "unix"},
		{"an abstract name", "uds://@spawnwire-1",
			transport.Addr{Scheme: "uds", Target: "@spawnwire-1"}, "unix"},
		{"an abstract name with slashes", "uds://@a/b",
			transport.Addr{Scheme: "uds", Target: "@a/b"}, "unix"},
		{"a path with the separator in it", "uds://" + path + "://x",
			transport.Addr{Scheme: "uds", Target: path + "://x"}, "unix"},
		{"IPv4", "tcp://127.0.0.1:7000",
			transport.Addr{Scheme: "tcp", Target: "127.0.0.1:7000"}, "tcp"},
		{"IPv6 and a port for the kernel to choose", "tcp://[::1]:0",
			transport.Addr{Scheme: "tcp", Target: "[::1]:0"}, "tcp"},
		{"IPv6 with a zone", "tcp://[fe80::1%eth0]:80",
			transport.Addr{Scheme: "tcp", Target: "[fe80::1%eth0]:80"}, "tcp"},
		{"a host name", "tcp://localhost:7000",
			transport.Addr{Scheme: "tcp", Target: "localhost:7000"}, "tcp"},
		{"a name with dash, underscore and digits", "tcp://My-host_1.example.org:1",
			transport.Addr{Scheme: "tcp", Target: "My-host_1.example.org:1"}, "tcp"},
		{"TLS", "tls://192.0.2.7:7000",
			transport.Addr{Scheme: "tls", Target: "192.0.2.7:7000"}, "tcp"},
		{"TLS with a pin", "tls://[::1]:0#ab" + strings.Repeat("0", 60) + "cd",
			transport.Addr{Scheme: "tls", Target: "[::1]:0", Pin: [32]byte{0xab, 31: 0xcd}}, "tcp"},
		{"the highest port", "tcp://0.0.0.0:65535",
			transport.Addr{Scheme: "tcp", Target: "0.0.0.0:65535"}, "tcp"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := transport.ParseAddr(c.text)
			require.NoError(t, err)
			assert.Equal(t, c.want, a)
			assert.Equal(t, c.text, a.String())
			assert.Equal(t, c.network, a.Network())
			assert.False(t, a.IsZero())

			text, err := a.MarshalText()
			require.NoError(t, err)
			assert.Equal(t, c.text, string(text))
			var back transport.Addr
			require.NoError(t, back.UnmarshalText(text))
			assert.True(t, a == back, "equal addresses are equal values")
		})
	}
}

func TestAddr_BadTextIsExplained(t *testing.T) {
	for _, c := range []struct{ name, text, reason string }{
		{"empty", "", "empty; want uds:///path, uds://@name, tcp://host:port or tls://host:port"},
		{"a bare path", "/run/x.sock", `no "://"`},
		{"host and port alone", "127.0.0.1:7000", `no "://"`},
		{"one slash", "tcp:/127.0.0.1:7000", `no "://"`},
		{"no scheme", "://127.0.0.1:7000", `unknown scheme ""`},
		{"an unknown scheme", "udp://127.0.0.1:7000", `unknown scheme "udp"; want uds, tcp or tls`},
		{"a scheme in capitals", "TCP://127.0.0.1:7000", `unknown scheme "TCP"`},
		{"another name for uds", "unix:///run/x.sock", `unknown scheme "unix"`},

		{"no path", "uds://", "no path after uds://"},
		{"a relative path", "uds://run/x.sock",
			`the path "run/x.sock" is not absolute; write uds:///dir/name`},
		{"a path from the current directory", "uds://./x.sock", "is not absolute"},
		{"an abstract name of nothing", "uds://@",
			`an abstract name needs at least one character after "@"`},
		{"NUL in a path", "uds:///run/x\x00y", "it has a NUL byte"},
		{"NUL in an abstract name", "uds://@x\x00", "NUL byte"},

		{"nothing after tcp", "tcp://", `"" is not host:port`},
		{"no port", "tcp://127.0.0.1", `"127.0.0.1" is not host:port; write tcp://127.0.0.1:7000`},
		{"an empty port", "tcp://127.0.0.1:", `port "" is not a number from 0 to 65535`},
		{"a port by name", "tcp://127.0.0.1:http", `port "http" is not a number`},
		{"a port that is too high", "tcp://127.0.0.1:65536",
			`port "65536" is not a number from 0 to 65535`},
		{"a negative port", "tcp://127.0.0.1:-1", `port "-1" is not a number`},
		{"a port with a plus", "tcp://127.0.0.1:+80", `port "+80" is not a number`},
		{"a port with a leading zero", "tcp://127.0.0.1:080", `port "080" is not a number`},
		{"a path after the port", "tcp://127.0.0.1:80/x", `port "80/x" is not a number`},
		{"no host", "tcp://:7000",
			"no host before the port; write tcp://127.0.0.1:7000 for this machine only"},
		{"IPv6 without brackets", "tcp://::1:7000", `"::1:7000" is not host:port`},
		{"IPv6 that is none", "tcp://[::g]:7000", `host "::g" is not an IPv6 address`},
		{"IPv4 in brackets", "tcp://[127.0.0.1]:80", `host "127.0.0.1" is not an IPv6 address`},
		{"a name in brackets", "tcp://[localhost]:80", `host "localhost" is not an IPv6 address`},
		{"an empty zone", "tcp://[::1%]:80", `host "::1%" is not an IPv6 address`},
		{"a zone with a slash", "tcp://[::1%a/b]:80", "is not an IPv6 address"},
		{"a zone with a percent sign", "tcp://[::1%x%y]:80", "is not an IPv6 address"},
		{"a zone with a control character", "tcp://[::1%a\x01]:80", "is not an IPv6 address"},
		{"a bracket left open", "tcp://[::1:7000", "is not host:port"},
		{"a space in the host", "tcp://local host:7000", `host "local host" has the character ' '`},
		{"a user before the host", "tcp://me@host:7000", `has the character '@'`},
		{"a host in other letters", "tcp://bücher:7000", `host "bücher" has the character 'ü'`},

		{"TLS without a port", "tls://127.0.0.1",
			`"127.0.0.1" is not host:port; write tls://127.0.0.1:7000 or tls://[::1]:7000`},
		{"TLS without a host", "tls://:1", "no host before the port; write tls://127.0.0.1:1"},
		{"an empty pin", "tls://127.0.0.1:1#", `"" after "#" is not 64 hexadecimal digits`},
		{"a pin that is too short", "tls://127.0.0.1:1#" + strings.Repeat("a", 62),
			`is not 64 hexadecimal digits`},
		{"a pin that is a digit short", "tls://127.0.0.1:1#" + strings.Repeat("a", 63),
			`is not 64 hexadecimal digits`},
		{"a pin that is too long", "tls://127.0.0.1:1#" + strings.Repeat("a", 66),
			`is not 64 hexadecimal digits`},
		{"a pin that is no number", "tls://127.0.0.1:1#" + strings.Repeat("x", 64),
			`is not 64 hexadecimal digits`},
		{"two pins", "tls://127.0.0.1:1#" + strings.Repeat("a", 64) + "#" + strings.Repeat("a", 64),
			`is not 64 hexadecimal digits`},
		{"a pin of zeros", "tls://127.0.0.1:1#" + strings.Repeat("0", 64), "are all 0"},
		{"a pin before the port",
			"tls://127.0.0.1#" + strings.Repeat("a", 64) + ":1", "is not host:port"},
		{"a pin without TLS", "tcp://127.0.0.1:1#" + strings.Repeat("a", 64), "is not a number"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := transport.ParseAddr(c.text)
			require.Error(t, err)
			assert.True(t, a.IsZero())
			var addrErr *transport.AddrError
			require.ErrorAs(t, err, &addrErr)
			assert.Equal(t, c.text, addrErr.Input)
			assert.Contains(t, addrErr.Reason, c.reason)
			assert.Contains(t, err.Error(), "transport: address ")
			assert.Contains(t, err.Error(), addrErr.Reason)

			was := transport.Addr{Scheme: transport.SchemeTCP, Target: "localhost:1"}
			if kept := was; c.text != "" { // empty text is the zero Addr
				require.ErrorAs(t, kept.UnmarshalText([]byte(c.text)), &addrErr)
				assert.Equal(t, was, kept, "a failed decode changes nothing")
			}
		})
	}
}

func TestAddr_PinInEitherCase(t *testing.T) {
	a, err := transport.ParseAddr("tls://127.0.0.1:1#" + strings.Repeat("aB", 32))
	require.NoError(t, err)
	assert.Equal(t, "tls://127.0.0.1:1#"+strings.Repeat("ab", 32), a.String())
	assert.True(t, a.IsPinned())
	assert.False(t, transport.Addr{Scheme: "tls", Target: "127.0.0.1:1"}.IsPinned())
}

func TestAddr_ZeroIsEmptyText(t *testing.T) {
	var zero transport.Addr
	assert.True(t, zero.IsZero())
	assert.Empty(t, zero.String())
	assert.Empty(t, zero.Network())
	text, err := zero.MarshalText()
	require.NoError(t, err)
	assert.Empty(t, text)
	a := transport.Addr{Scheme: transport.SchemeTCP, Target: "localhost:1"}
	require.NoError(t, a.UnmarshalText(text))
	assert.True(t, a.IsZero())
}

func TestAddr_MalformedHasNoText(t *testing.T) {
	for _, a := range []transport.Addr{
		{Scheme: "tcp"},
		{Target: "127.0.0.1:1"},
		{Scheme: "tcp", Target: "127.0.0.1"},
		{Scheme: "udp", Target: "127.0.0.1:1"},
		{Scheme: "uds", Target: "x.sock"},
		{Scheme: "tcp", Target: "127.0.0.1:1", Pin: [32]byte{1}},
		{Scheme: "uds", Target: "@x", Pin: [32]byte{1}},
		{Scheme: "tls", Target: "127.0.0.1:1#" + strings.Repeat("a", 64)},
		{Scheme: "uds://@a", Target: "b"}, // would be read back as another address
	} {
		_, err := a.MarshalText()
		var addrErr *transport.AddrError
		assert.ErrorAs(t, err, &addrErr, "%#v", a)
	}
	assert.Empty(t, transport.Addr{Scheme: "udp", Target: "127.0.0.1:1"}.Network())
}

func TestAddrOf_AddressOrZero(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sock")
	for _, c := range []struct {
		name string
		addr net.Addr
		want string
	}{
		{"an Addr", transport.Addr{Scheme: "tcp", Target: "localhost:7000"},
			"tcp://localhost:7000"},
		{"a Unix socket's path", &net.UnixAddr{Name: path, Net: "unix"}, "uds://" + path},
		{"an abstract name", &net.UnixAddr{Name: "@x", Net: "unix"}, "uds://@x"},
		{"IPv4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7000}, "tcp://127.0.0.1:7000"},
		{"IPv6", &net.TCPAddr{IP: net.IPv6loopback, Port: 7000}, "tcp://[::1]:7000"},
		{"IPv6 with a zone", &net.TCPAddr{IP: net.ParseIP("fe80::1"), Port: 1, Zone: "eth0"},
			"tcp://[fe80::1%eth0]:1"},

		{"no address", nil, ""},
		{"a nil Unix address", (*net.UnixAddr)(nil), ""},
		{"a nil TCP address", (*net.TCPAddr)(nil), ""},
		{"an unnamed Unix socket", &net.UnixAddr{Net: "unix"}, ""},
		{"an unnamed Unix socket as Linux shows it", &net.UnixAddr{Name: "@", Net: "unix"}, ""},
		{"a relative path", &net.UnixAddr{Name: "x.sock", Net: "unix"}, ""},
		{"a datagram socket", &net.UnixAddr{Name: path, Net: "unixgram"}, ""},
		{"a TCP address without a host", &net.TCPAddr{Port: 7000}, ""},
		{"UDP", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7000}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := transport.AddrOf(c.addr)
			assert.Equal(t, c.want, a.String())
			if !a.IsZero() {
				back, err := transport.ParseAddr(a.String())
				require.NoError(t, err)
				assert.Equal(t, a, back)
			}
		})
	}
}

func TestAddrOf_ListenerCanBeDialed(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			where := "127.0.0.1:0"
			if network == "unix" {
				where = filepath.Join(t.TempDir(), "x.sock")
			}
			ln, err := net.Listen(network, where)
			require.NoError(t, err)
			defer ln.Close()

			a, err := transport.ParseAddr(transport.AddrOf(ln.Addr()).String())
			require.NoError(t, err)
			conn, err := net.Dial(a.Network(), a.Target)
			require.NoError(t, err)
			defer conn.Close()
			peer, err := ln.Accept()
			require.NoError(t, err)
			defer peer.Close()

			assert.Equal(t, a, transport.AddrOf(conn.RemoteAddr()))
			if network == "unix" {
				assert.True(t, transport.AddrOf(peer.RemoteAddr()).IsZero(),
					"who dials has no address of its own")
			} else {
				assert.Equal(t, transport.AddrOf(conn.LocalAddr()),
					transport.AddrOf(peer.RemoteAddr()))
			}
		})
	}
}
