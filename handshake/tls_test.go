package handshake_test

import (
	"context"
	cryptotls "crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/tls"
)

// dialBelow connects to a listener's port without TLS.
func dialBelow(t testing.TB, l *handshake.Listener) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(testkit.Context(t), "tcp", l.Addr().Target)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// clientHello returns the beginning of a TLS record with the beginning of a client
// hello. The parameters are the lengths in their headers.
func clientHello(record, hello int) []byte {
	return []byte{22, 3, 1, byte(record >> 8), byte(record), 1, byte(hello >> 16),
		byte(hello >> 8), byte(hello), 3, 3}
}

func TestTLS_UnauthenticatedClientsDisturbNobody(t *testing.T) {
	book := newLogbook()
	l := listen(t, link{listen: listenTLS},
		handshake.ListenerConfig{HelloTimeout: patience, Logger: book.logger()})
	for range 200 {
		dialBelow(t, l)
		require.NoError(t, writeTo(dialBelow(t, l), clientHello(200, 196))) // and nothing after it
	}
	garbage := map[string][]byte{
		"an HTTP request": []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		"an SSH banner":   []byte("SSH-2.0-OpenSSH_9.6\r\n"),
		"nulls":           make([]byte, 64),
		"a hello with no TLS": helloFrame(t,
			handshake.NewTicket(transport.Addr{}, "x"), helloFields("x")),
		"a record that is too large": append(clientHello(0xffff, 0xfff0),
			make([]byte, 20<<10)...),
		"a client hello of 16 MiB": append(clientHello(16<<10, 0xffffff),
			make([]byte, 16<<10)...),
		"a client hello that is no such":   append(clientHello(200, 196), make([]byte, 200)...),
		"what belongs after the handshake": {23, 3, 3, 0, 1, 0},
	}
	for name, says := range garbage {
		t.Run(name, func(t *testing.T) {
			conn := dialBelow(t, l)
			require.NoError(t, writeTo(conn, says))
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
			_, err := io.Copy(io.Discard, conn) // an alert, perhaps
			require.NotErrorIs(t, err, errTimeout)
			requireJoinsAnother(t, l)
		})
	}
	book.refusals(t, len(garbage))
	require.Equal(t, 400, l.Held().Pending, "the silent ones have their time")
}

func writeTo(conn net.Conn, p []byte) error {
	_, err := conn.Write(p)
	return err
}

func TestTLS_HandshakeIsWithinHelloTimeout(t *testing.T) {
	book := newLogbook()
	l := listen(t, link{listen: listenTLS},
		handshake.ListenerConfig{HelloTimeout: 50 * time.Millisecond, Logger: book.logger()})
	conn := dialBelow(t, l)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	_, err := conn.Read(make([]byte, 1))
	require.NotErrorIs(t, err, errTimeout)
	assert.Contains(t, book.refusals(t, 1)[0], "no hello in time")
}

func TestTLS_HandshakeIsMadeWhereNeeded(t *testing.T) {
	for name, use := range map[string]func(context.Context, net.Conn) error{
		"AcceptPeer": func(ctx context.Context, conn net.Conn) error {
			_, err := handshake.AcceptPeer(ctx, conn, handshake.PeerConfig{Anonymous: true})
			return err
		},
		"AcceptPeer, by its own bound": func(_ context.Context, conn net.Conn) error {
			_, err := handshake.AcceptPeer(context.Background(), conn,
				handshake.PeerConfig{Anonymous: true, Timeout: 10 * time.Millisecond})
			return err
		},
		"Join": func(ctx context.Context, conn net.Conn) error {
			_, err := handshake.Join(ctx, conn,
				handshake.NewTicket(transport.Addr{}, "x"), handshake.JoinConfig{})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			ln := listenTLS(t)
			defer ln.Close()
			silent, err := net.Dial("tcp", transport.AddrOf(ln.Addr()).Target)
			require.NoError(t, err)
			defer silent.Close()
			conn, err := ln.Accept()
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(testkit.Context(t), 10*time.Millisecond)
			defer cancel()
			err = use(ctx, conn)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			requirePhase(t, handshake.PhaseConnect, err)
			_, err = conn.Write(nil)
			require.Error(t, err, "the connection is closed")
		})
	}
}

func TestTLS_PeersWithTheirOwnConfig(t *testing.T) {
	server, client := certificates()
	_, stranger := certificates() // of another authority
	ln, err := tls.Transport{Config: server}.Listen(testkit.Context(t),
		mustAddr(t, "tls://127.0.0.1:0"))
	require.NoError(t, err)
	defer ln.Close()
	meet := func(t *testing.T, config *cryptotls.Config) (accepted, connected error) {
		ctx, done := testkit.Context(t), make(chan error, 1)
		go func() {
			conn, err := ln.Accept()
			if err == nil {
				var peer *handshake.Peer
				if peer, err = handshake.AcceptPeer(ctx, conn,
					handshake.PeerConfig{Anonymous: true}); err == nil {
					err = peer.Channel.Send(ctx, "welcome")
					peer.Close()
				}
			}
			done <- err
		}()
		conn, err := tls.Transport{Config: config}.Dial(ctx, transport.AddrOf(ln.Addr()))
		if err != nil {
			return <-done, err
		}
		peer, err := handshake.ConnectPeer(ctx, conn, handshake.PeerConfig{Anonymous: true})
		if err != nil {
			return <-done, err
		}
		requireReceives(t, peer.Channel, "welcome")
		require.NoError(t, peer.Close())
		return <-done, nil
	}
	accepted, connected := meet(t, client)
	require.NoError(t, accepted)
	require.NoError(t, connected)

	t.Run("a server of another authority", func(t *testing.T) {
		accepted, connected := meet(t, stranger)
		var unknown x509.UnknownAuthorityError
		require.ErrorAs(t, connected, &unknown)
		requirePhase(t, handshake.PhaseConnect, accepted)
		require.ErrorContains(t, accepted, "bad certificate")
	})
	t.Run("a client of another authority", func(t *testing.T) {
		stranger.RootCAs = client.RootCAs
		accepted, connected := meet(t, stranger)
		requirePhase(t, handshake.PhaseConnect, accepted)
		require.ErrorContains(t, accepted, "unknown authority")
		requirePhase(t, handshake.PhaseHello, connected)
		require.ErrorContains(t, connected, "unknown certificate authority")
	})
}

// Children in other languages get the ticket as this text too.
func TestTLS_TicketPinsTheCertificate(t *testing.T) {
	l := listen(t, link{listen: listenTLS}, handshake.ListenerConfig{})
	_, ticket := expect(t, l, nil)
	text := ticket.Encode()
	address := text[strings.LastIndex(text, " ")+1:]
	require.Regexp(t, `^tls://127\.0\.0\.1:[0-9]+#[0-9a-f]{64}$`, address)
	pin, err := hex.DecodeString(address[len(address)-64:])
	require.NoError(t, err)
	assert.Equal(t, fmt.Sprintf("%x", l.Addr().Pin), hex.EncodeToString(pin))
}
