package transport_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	mathrand "math/rand/v2"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ringName is the link whose channels have entered their rings.
const ringName = "a ring"

// link is a way to connect two ends.
type link struct {
	name    string
	connect func(t testing.TB) (a, b net.Conn)
}

// sockets has the links over stream sockets of the kernel.
var sockets = []link{
	{"a Unix socket", testkit.Unix},
	{"TCP", testkit.TCP},
}

func init() {
	if runtime.GOOS != "windows" {
		sockets = append(sockets, link{"a socket pair", socketPair})
	}
}

func socketPair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	a, b, err := unixsock.Pair()
	require.NoError(t, err)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// links returns all links.
func links() []link {
	return append([]link{{"net.Pipe", testkit.Pipe}, {"TLS", tlsLink}}, sockets...)
}

// tlsLink is TLS 1.3 over TCP, after the handshake. The client has tickets to read.
func tlsLink(t testing.TB) (net.Conn, net.Conn) {
	client, server := testkit.TCP(t)
	return encrypted(t, client, server)
}

// tlsUnixLink is TLS over a Unix socket, because full buffers of TCP grow.
func tlsUnixLink(t testing.TB) (net.Conn, net.Conn) {
	client, server := testkit.Unix(t)
	return encrypted(t, client, server)
}

func encrypted(t testing.TB, client, server net.Conn) (net.Conn, net.Conn) {
	t.Helper()
	cert := testkit.Certificate(t, "peer.test")
	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	config := &tls.Config{
		MinVersion:   tls.VersionTLS13,
		ServerName:   "peer.test",
		RootCAs:      roots,
		Certificates: []tls.Certificate{cert},
	}
	a, b := tls.Client(client, config), tls.Server(server, config)
	done := testkit.Background(t, b.Handshake)
	require.NoError(t, a.Handshake())
	require.NoError(t, done())
	return a, b
}

// open makes a channel. The test's cleanup aborts it.
func open(t testing.TB, conn net.Conn, cfg transport.Config) *transport.Channel {
	c := transport.New(conn, cfg)
	t.Cleanup(func() { c.Abort() })
	return c
}

// frames gives access to the single frames of c.
func frames(c *transport.Channel) frame.Channel { return c.Frames(access.Key{}) }

// channels returns two connected channels.
func (l link) channels(t testing.TB) (a, b *transport.Channel) {
	t.Helper()
	x, y := l.connect(t)
	a, b = open(t, x, transport.Config{}), open(t, y, transport.Config{})
	if l.name == ringName {
		enterRings(t, a, b)
	}
	return a, b
}

// enterRings makes both channels use their rings.
func enterRings(t testing.TB, a, b *transport.Channel) {
	t.Helper()
	for _, c := range []*transport.Channel{a, b} {
		frames(c).Share()
		frames(c).UseRing()
	}
	warmRings(t, a, b)
}

func warmRings(t testing.TB, a, b *transport.Channel) {
	t.Helper()
	for range 2 {
		for _, pair := range [][2]*transport.Channel{{a, b}, {b, a}} {
			ctx := testkit.Context(t)
			require.NoError(t, pair[0].SendBytes(ctx, []byte("warm")))
			_, err := pair[1].RecvBytes(ctx, make([]byte, 4))
			require.NoError(t, err)
		}
	}
	require.True(t, a.UsesRing())
	require.True(t, b.UsesRing())
}

// withRawPeer returns a channel and the other end of its connection.
func (l link) withRawPeer(t testing.TB, cfg transport.Config) (*transport.Channel, net.Conn) {
	t.Helper()
	x, y := l.connect(t)
	require.NoError(t, y.SetDeadline(time.Now().Add(testkit.Patience)))
	return open(t, x, cfg), y
}

// frameOf encodes a frame as in docs/PROTOCOL.md.
func frameOf(kind frame.Kind, body ...byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(1+len(body)))
	b = append(b, byte(kind))
	return append(b, body...)
}

// write writes p in the background, as far as the other side reads.
func write(conn net.Conn, p []byte) { go conn.Write(p) }

// readN reads n bytes.
func readN(t testing.TB, conn net.Conn, n int) []byte {
	t.Helper()
	p := make([]byte, n)
	_, err := io.ReadFull(conn, p)
	require.NoError(t, err)
	return p
}

// pattern returns n bytes, which differ from place to place and from seed to seed.
func pattern(seed, n int) []byte {
	p := make([]byte, 0, n+7)
	for rng := mathrand.NewPCG(uint64(seed), 0); len(p) < n; {
		p = binary.LittleEndian.AppendUint64(p, rng.Uint64())
	}
	return p[:n]
}
