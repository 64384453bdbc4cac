//go:build unix

package peers_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"math/big"
	"net"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// tlsListener completes the TLS handshake in Accept, and ignores connections with
// a failed handshake.
type tlsListener struct {
	net.Listener
	cfg *tls.Config
}

func (l tlsListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		secured := tls.Server(conn, l.cfg)
		if secured.Handshake() == nil {
			return secured, nil
		}
		conn.Close()
	}
}

// selfSigned returns a certificate and its fingerprint. The certificate has no
// name and is never valid.
func selfSigned(t testing.TB) (cert tls.Certificate, pin string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	sum := sha256.Sum256(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, hex.EncodeToString(sum[:])
}

// bare is a parent without a Spawner, for frames that no Spawner sends.
type bare struct {
	l      *handshake.Listener
	x      *handshake.Expected
	ticket string
}

func newBare(t testing.TB, ln net.Listener, spec []byte) *bare {
	t.Helper()
	b := new(bare)
	var err error
	b.l, err = handshake.Listen(ln, handshake.ListenerConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { b.l.Close() })
	b.x, err = b.l.Expect(handshake.Expectation{Spec: spec})
	require.NoError(t, err)
	t.Cleanup(b.x.Cancel)
	b.ticket = handshake.TicketEnv + "=" + b.x.Ticket().Encode()
	return b
}

func echoSpec(t testing.TB) []byte {
	t.Helper()
	spec, err := spawnspec.Marshal(&spawnspec.Spec{Name: "bare", Entry: "echo", Method: "exec",
		Depth: 1})
	require.NoError(t, err)
	return spec
}

var loopback = transport.Addr{Scheme: transport.SchemeTCP, Target: "127.0.0.1:0"}

func TestChild_OverTLS(t *testing.T) {
	spawntest.NoLeaks(t)
	cert, pin := selfSigned(t)
	_, otherPin := selfSigned(t)
	for _, test := range []struct {
		name, pin string
		cfg       *tls.Config
		refused   string // text in the error of a child, if it refuses the parent
	}{
		{"the pinned certificate", "#" + strings.ToUpper(pin),
			&tls.Config{NextProtos: []string{"spawnwire/1"}}, ""},
		{"another certificate", "#" + otherPin, &tls.Config{NextProtos: []string{"spawnwire/1"}},
			"certificate"},
		{"no pin", "", &tls.Config{NextProtos: []string{"spawnwire/1"}}, "tls://host:port#"},
		{"another protocol", "#" + pin, &tls.Config{}, "protocol"},
		{"an older version", "#" + pin,
			&tls.Config{NextProtos: []string{"spawnwire/1"}, MaxVersion: tls.VersionTLS12},
			"cannot join"},
	} {
		t.Run(test.name, func(t *testing.T) {
			inEach(t, func(t *testing.T, l language) {
				test.cfg.Certificates = []tls.Certificate{cert}
				ln := tlsListener{listen(t, loopback), test.cfg}
				b := newBare(t, ln, echoSpec(t))
				ticket := strings.Replace(b.ticket, transport.AddrOf(ln.Addr()).String(),
					"tls://"+ln.Addr().String()+test.pin, 1)
				p := l.start(t, []string{ticket}, l.child)
				if test.refused != "" {
					assert.Equal(t, 1, p.end(t))
					assert.Contains(t, p.stderr.String(), test.refused)
					assert.Equal(t, handshake.PhaseConnect, b.x.Phase(),
						"the child has sent nothing")
					return
				}
				peer, err := b.x.WaitForPeer(t.Context())
				require.NoError(t, err, p.stderr)
				defer peer.Abort()
				sent := strings.Repeat("long ", 200_000)
				var got string
				require.NoError(t, peer.Channel.Send(t.Context(), sent))
				require.NoError(t, peer.Channel.Recv(t.Context(), &got))
				assert.Equal(t, sent, got)
				require.NoError(t, peer.Cancel(t.Context(), handshake.Cancel{}))
				var bye *transport.GoodbyeError
				require.ErrorAs(t, peer.Channel.Recv(t.Context(), &got), &bye)
				assert.Equal(t, 0, bye.Status)
				assert.Equal(t, 0, p.end(t), p.stderr)
			})
		})
	}
}

func TestChild_RefusesBadSpec(t *testing.T) {
	spawntest.NoLeaks(t)
	spec, err := cbor.Marshal(map[string]any{"v": 2})
	require.NoError(t, err)
	inEach(t, func(t *testing.T, l language) {
		b := newBare(t, listen(t, loopback), spec)
		p := l.start(t, []string{b.ticket}, l.child)
		ctx, cancel := context.WithTimeout(t.Context(), bound)
		defer cancel()
		_, err := b.x.WaitForPeer(ctx)
		require.ErrorIs(t, err, handshake.ErrBadSpec)
		assert.ErrorContains(t, err, "the field v is missing or wrong")
		assert.Equal(t, 1, p.end(t))
	})
}

func TestChild_WithoutTicket(t *testing.T) {
	inEach(t, func(t *testing.T, l language) {
		p := l.start(t, nil, l.child)
		assert.Equal(t, 1, p.end(t))
		assert.Contains(t, p.stderr.String(), "TICKET")
	})
}
