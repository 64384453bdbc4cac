package transport_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/spawnwire/spawnwire/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what should take moments before it calls it a hang.
const patience = 30 * time.Second

// link is one way to connect two ends.
type link struct {
	name    string
	connect func(t testing.TB) (a, b net.Conn)
}

// sockets are the links whose both ends are the kernel's stream sockets. An init adds the socketpair.
var sockets = []link{
	{"a Unix socket", unixLink},
	{"TCP", tcpLink},
}

// links are all of them.
func links() []link {
	return append([]link{{"net.Pipe", pipeLink}, {"TLS", tlsLink}}, sockets...)
}

func unixLink(t testing.TB) (net.Conn, net.Conn) {
	dir, err := os.MkdirTemp("", "link") // not t.TempDir: a test's name is longer than a socket's path may be
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dialled(t, "unix", filepath.Join(dir, "s"))
}

func tcpLink(t testing.TB) (net.Conn, net.Conn) { return dialled(t, "tcp", "127.0.0.1:0") }

func dialled(t testing.TB, network, address string) (net.Conn, net.Conn) {
	t.Helper()
	ln, err := net.Listen(network, address)
	require.NoError(t, err)
	defer ln.Close()
	a, err := net.Dial(network, ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { a.Close() })
	b, err := ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	return a, b
}

func pipeLink(t testing.TB) (net.Conn, net.Conn) {
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// tlsLink is TLS 1.3 over TCP. Its handshake is over; the client has tickets to read.
func tlsLink(t testing.TB) (net.Conn, net.Conn) {
	client, server := tcpLink(t)
	return encrypted(t, client, server)
}

// tlsUnixLink is TLS over a Unix socket, whose buffers do not grow when they are full.
func tlsUnixLink(t testing.TB) (net.Conn, net.Conn) {
	client, server := unixLink(t)
	return encrypted(t, client, server)
}

func encrypted(t testing.TB, client, server net.Conn) (net.Conn, net.Conn) {
	t.Helper()
	conf := tlsConfig()
	a, b := tls.Client(client, conf), tls.Server(server, conf)
	done := make(chan error, 1)
	go func() { done <- b.Handshake() }()
	require.NoError(t, a.Handshake())
	require.NoError(t, <-done)
	return a, b
}

var tlsConfig = sync.OnceValue(func() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     time.Now().Add(time.Hour),
		DNSNames:     []string{"peer.test"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		ServerName:   "peer.test",
		RootCAs:      roots,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}
})

// open makes a channel that the test's end aborts.
func open(t testing.TB, conn net.Conn, cfg transport.Config) *transport.Channel {
	c := transport.New(conn, cfg)
	t.Cleanup(func() { c.Abort() })
	return c
}

// channels connects two channels.
func (l link) channels(t testing.TB) (a, b *transport.Channel) {
	t.Helper()
	x, y := l.connect(t)
	return open(t, x, transport.Config{}), open(t, y, transport.Config{})
}

// withRawPeer connects a channel to a peer that the test plays itself.
func (l link) withRawPeer(t testing.TB, cfg transport.Config) (*transport.Channel, net.Conn) {
	t.Helper()
	x, y := l.connect(t)
	require.NoError(t, y.SetDeadline(time.Now().Add(patience)))
	return open(t, x, cfg), y
}

// soon is a context for what should take moments.
func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// background runs f and returns a function that waits for its result.
func background[T any](t testing.TB, f func() T) (result func() T) {
	done := make(chan T, 1)
	go func() { done <- f() }()
	return func() T {
		t.Helper()
		select {
		case r := <-done:
			return r
		case <-time.After(patience):
			require.FailNow(t, "still waiting", "after %v", patience)
			panic("unreachable")
		}
	}
}

// frame builds a frame as docs/PROTOCOL.md has it.
func frame(kind transport.Kind, body ...byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(1+len(body)))
	b = append(b, byte(kind))
	return append(b, body...)
}

// write gives bytes to the other side in the background, as much as the connection takes.
func write(conn net.Conn, p []byte) { go conn.Write(p) }

// readN reads exactly n bytes that the channel under test wrote.
func readN(t testing.TB, conn net.Conn, n int) []byte {
	t.Helper()
	p := make([]byte, n)
	_, err := io.ReadFull(conn, p)
	require.NoError(t, err)
	return p
}

// pattern is n bytes that are different at each place and for each seed.
func pattern(seed, n int) []byte {
	p := make([]byte, 0, n+7)
	for rng := mathrand.NewPCG(uint64(seed), 0); len(p) < n; {
		p = binary.LittleEndian.AppendUint64(p, rng.Uint64())
	}
	return p[:n]
}
