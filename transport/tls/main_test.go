package tls_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/spawnwire/spawnwire/internal/network"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
	spawntls "github.com/spawnwire/spawnwire/transport/tls"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func tlsAddr(target string) transport.Addr {
	return transport.Addr{Scheme: transport.SchemeTLS, Target: target}
}

func listen(t testing.TB, tr spawntls.Transport) (net.Listener, transport.Addr) {
	t.Helper()
	ln, err := tr.Listen(testkit.Context(t), tlsAddr("127.0.0.1:0"))
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln, transport.AddrOf(ln.Addr())
}

// accepted is an accepted connection.
type accepted struct {
	conn *tls.Conn
	err  error // of its TLS handshake
}

// accept accepts one connection, makes its TLS handshake, and sends the result.
func accept(t testing.TB, ln net.Listener) <-chan accepted {
	ctx, done := testkit.Context(t), make(chan accepted, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			done <- accepted{err: err}
			return
		}
		done <- accepted{conn.(*tls.Conn), network.Secure(ctx, conn)}
	}()
	return done
}

// connect connects one Transport to the listener of another.
func connect(t testing.TB, dialer, listener spawntls.Transport) (near, far *tls.Conn) {
	t.Helper()
	ln, addr := listen(t, listener)
	incoming := accept(t, ln)
	conn, err := dialer.Dial(testkit.Context(t), addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	in := testkit.Receive(t, incoming)
	require.NoError(t, in.err)
	t.Cleanup(func() { in.conn.Close() })
	return conn.(*tls.Conn), in.conn
}

// requireCarries sends a word from one end to the other.
func requireCarries(t testing.TB, from, to net.Conn) {
	t.Helper()
	go from.Write([]byte("word"))
	require.NoError(t, to.SetReadDeadline(time.Now().Add(testkit.Patience)))
	got := make([]byte, 4)
	_, err := io.ReadFull(to, got)
	require.NoError(t, err)
	require.Equal(t, "word", string(got))
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	a.cert = a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}, a.key)
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func (a *authority) sign(
	t testing.TB, template *x509.Certificate, key *ecdsa.PrivateKey,
) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent := a.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), a.key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// config returns the settings of a peer. Its certificate is signed by a, and it wants one
// that is signed by trusted.
func (a *authority) config(t testing.TB, name string, trusted *authority) *tls.Config {
	t.Helper()
	key := newKey(t)
	cert := a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, key)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}},
		RootCAs:      trusted.pool(),
		ClientCAs:    trusted.pool(),
		ClientAuth:   tls.RequireAndVerifyClientCert,
	}
}
