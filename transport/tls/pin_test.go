package tls_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/network"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
	spawntls "github.com/spawnwire/spawnwire/transport/tls"
)

func TestPin_AddressIsEnoughToDial(t *testing.T) {
	near, far := connect(t, spawntls.Transport{}, spawntls.Transport{})
	requireCarries(t, near, far)
	requireCarries(t, far, near)
	for name, conn := range map[string]*tls.Conn{"dialed": near, "accepted": far} {
		state := conn.ConnectionState()
		assert.Equal(t, uint16(tls.VersionTLS13), state.Version, name)
		assert.Equal(t, "spawnwire/1", state.NegotiatedProtocol, name)
		assert.IsType(t, &net.TCPConn{}, conn.NetConn(), name)
	}
	cert := near.ConnectionState().PeerCertificates[0]
	assert.Greater(t, cert.NotAfter.Year(), 9000, "a listener may live for years")
}

func TestTransport_IsRegistered(t *testing.T) {
	n, err := network.Registered(transport.Addr{Scheme: transport.SchemeTLS})
	require.NoError(t, err)
	assert.Equal(t, spawntls.Transport{}, n)
	assert.Panics(t, func() { network.Register(transport.SchemeTLS, n) })
}

func TestPin_EachListenerHasItsOwn(t *testing.T) {
	_, first := listen(t, spawntls.Transport{})
	ln, second := listen(t, spawntls.Transport{})
	require.True(t, first.IsPinned() && second.IsPinned())
	require.NotEqual(t, first.Pin, second.Pin)

	incoming := accept(t, ln)
	wrong := second
	wrong.Pin = first.Pin
	_, err := spawntls.Transport{}.Dial(testkit.Context(t), wrong)
	var pin *spawntls.PinError
	require.ErrorAs(t, err, &pin)
	assert.Equal(t, second.Pin, pin.Got)
	assert.ErrorContains(t, err,
		second.Target+": the listener has another certificate than the one that is pinned")
	assert.ErrorContains(t, testkit.Receive(t, incoming).err, "bad certificate",
		"the listener learns why")
}

func TestPin_IsNeededWithoutConfig(t *testing.T) {
	ln, addr := listen(t, spawntls.Transport{})
	addr.Pin = [32]byte{}
	_, err := spawntls.Transport{}.Dial(testkit.Context(t), addr)
	var addrErr *transport.AddrError
	require.ErrorAs(t, err, &addrErr)
	assert.ErrorContains(t, err, "no certificate is pinned")
	require.NoError(t, ln.Close())
	_, err = ln.Accept()
	assert.ErrorIs(t, err, net.ErrClosed)
}

func TestAddr_OtherAddressesAreRefused(t *testing.T) {
	pinned := tlsAddr("127.0.0.1:1")
	pinned.Pin[0] = 1
	for name, addr := range map[string]transport.Addr{
		"zero":            {},
		"plain TCP":       {Scheme: transport.SchemeTCP, Target: "127.0.0.1:0"},
		"no port":         tlsAddr("127.0.0.1"),
		"no host":         tlsAddr(":80"),
		"a pin in target": tlsAddr("127.0.0.1:1#00"),
	} {
		var addrErr *transport.AddrError
		_, err := spawntls.Transport{}.Dial(testkit.Context(t), addr)
		assert.ErrorAs(t, err, &addrErr, name)
		_, err = spawntls.Transport{}.Listen(testkit.Context(t), addr)
		assert.ErrorAs(t, err, &addrErr, name)
	}
	_, err := spawntls.Transport{}.Listen(testkit.Context(t), pinned)
	var addrErr *transport.AddrError
	require.ErrorAs(t, err, &addrErr)
	assert.ErrorContains(t, err, "with a pin an address can be dialed only")
}

// A man in the middle has no key for the pinned certificate. He can show another
// certificate, or the right one without its key.
func TestPin_ManInTheMiddle(t *testing.T) {
	ln, addr := listen(t, spawntls.Transport{})
	other, between := listen(t, spawntls.Transport{})
	go func() { // the proxy: TLS with the victim, TLS with the listener
		conn, err := other.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		up, err := spawntls.Transport{}.Dial(testkit.Context(t), addr)
		if err != nil {
			return
		}
		defer up.Close()
		go io.Copy(conn, up)
		io.Copy(up, conn)
	}()
	incoming := accept(t, ln)
	victims := between
	victims.Pin = addr.Pin
	_, err := spawntls.Transport{}.Dial(testkit.Context(t), victims)
	var pin *spawntls.PinError
	require.ErrorAs(t, err, &pin)
	assert.Equal(t, between.Pin, pin.Got)
	if in := testkit.Receive(t, incoming); in.conn != nil {
		in.conn.Close()
	}

	t.Run("with the listener's certificate and another key", func(t *testing.T) {
		near, _ := connect(t, spawntls.Transport{}, spawntls.Transport{})
		der := near.ConnectionState().PeerCertificates[0].Raw
		stolen := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: newKey(t)}
		ln, addr := listen(t,
			spawntls.Transport{Config: &tls.Config{Certificates: []tls.Certificate{stolen}}})
		incoming := accept(t, ln)
		addr.Pin = sha256.Sum256(der)
		_, err := spawntls.Transport{}.Dial(testkit.Context(t), addr)
		require.Error(t, err)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
		require.Error(t, testkit.Receive(t, incoming).err)
	})
}

func TestDial_EndsWithItsContext(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	addr := tlsAddr(silent.Addr().String())
	addr.Pin[0] = 1
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(testkit.Context(t))
	time.AfterFunc(20*time.Millisecond, func() { cancel(enough) })
	_, err = spawntls.Transport{}.Dial(ctx, addr)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, enough)
}

func TestDial_ConnectionIsCutInTheHandshake(t *testing.T) {
	for name, cut := range map[string]func(*net.TCPConn){
		"closed":    func(c *net.TCPConn) { io.CopyN(io.Discard, c, 100); c.CloseWrite() },
		"reset":     func(c *net.TCPConn) { io.CopyN(io.Discard, c, 100); c.SetLinger(0) },
		"half-said": func(c *net.TCPConn) { c.Write([]byte{22, 3, 3, 1}); c.CloseWrite() },
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer ln.Close()
			go func() {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				cut(conn.(*net.TCPConn))
				conn.Close()
			}()
			addr := tlsAddr(ln.Addr().String())
			addr.Pin[0] = 1
			_, err = spawntls.Transport{}.Dial(testkit.Context(t), addr)
			require.ErrorIs(t, err, transport.ErrPeerGone)
		})
	}
}

func TestReusePort_SharesAPort(t *testing.T) {
	shared := spawntls.Transport{ReusePort: true}
	first, addr := listen(t, shared)
	second, err := shared.Listen(testkit.Context(t), tlsAddr(addr.Target))
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	require.NoError(t, err)
	defer second.Close()
	assert.Equal(t, addr.Target, transport.AddrOf(second.Addr()).Target)
	require.NoError(t, first.Close())
}
