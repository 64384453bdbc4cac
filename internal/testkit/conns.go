package testkit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Pipe returns both ends of a net.Pipe. The test's cleanup closes them.
func Pipe(t testing.TB) (a, b net.Conn) {
	a, b = net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// TCP returns both ends of a TCP connection on the loopback interface. The
// test's cleanup closes them.
func TCP(t testing.TB) (dialed, accepted net.Conn) {
	t.Helper()
	return connect(t, "tcp", "127.0.0.1:0")
}

// Unix returns both ends of a connection over a Unix socket. The test's
// cleanup closes them.
func Unix(t testing.TB) (dialed, accepted net.Conn) {
	t.Helper()
	return connect(t, "unix", filepath.Join(ShortDir(t), "s"))
}

func connect(t testing.TB, network, address string) (dialed, accepted net.Conn) {
	t.Helper()
	ln, err := net.Listen(network, address)
	require.NoError(t, err)
	defer ln.Close()
	dialed, err = net.Dial(network, ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { dialed.Close() })
	accepted, err = ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { accepted.Close() })
	return dialed, accepted
}

// Certificate returns a new self-signed certificate for the given DNS names and
// for 127.0.0.1. It is valid for an hour, for servers and for clients.
// Its Leaf is set.
func Certificate(t testing.TB, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		DNSNames:     names,
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}
