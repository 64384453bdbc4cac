// Package tls carries a [transport.Channel] over TLS 1.3 (RFC 8446) and TCP, for peers on
// other machines.
//
// # Children on other machines
//
// A program with children on other machines imports the package, and so do the children:
//
//	import _ "github.com/spawnwire/spawnwire/transport/tls"
//
// Then forkspawn.Config.Listen can be "tls://192.0.2.7:0". Each listener makes a key and a
// certificate in memory. A child's ticket has the SHA-256 of the certificate, and the child
// accepts no other certificate. The child itself proves its identity with its secret.
//
// A program that does not import the package does not link its cryptography.
//
// # Peers
//
// Programs that did not spawn each other use their own [crypto/tls.Config]:
//
//	network := tls.Transport{Config: config}
//	conn, err := network.Dial(ctx, addr)
//	peer, err := handshake.ConnectPeer(ctx, conn, handshake.PeerConfig{Key: key})
package tls

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/internal/network"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/tcp"
)

// protocol is the protocol that both sides must name in the TLS handshake (ALPN, RFC 7301).
const protocol = "spawnwire/1"

// dialTimeout bounds the TLS handshake of Dial, because the listener may be silent.
const dialTimeout = 10 * time.Second

var errDialTimeout = fmt.Errorf("no TLS handshake in %v", dialTimeout)

// Transport dials and listens on TLS 1.3 with the ALPN protocol "spawnwire/1". The zero
// value makes certificates for its listeners and dials pinned addresses. The methods may be
// called concurrently.
//
// The TCP connections are like those of package tcp.
type Transport struct {
	// Config, if not nil, has the certificates of this side, and the rules for those of
	// the other. To authenticate its clients a server sets ClientAuth. Transport does not
	// change it, and overrides its versions and protocols.
	Config *tls.Config

	// ReusePort is that of [tcp.Transport].
	ReusePort bool
}

var _ transport.Network = Transport{}

func init() { network.Register(transport.SchemeTLS, Transport{}) }

// PinError reports that the listener has another certificate than the address pins. It is
// another listener, or somebody intercepts the connection. Nothing was sent.
type PinError struct {
	Got [32]byte // the SHA-256 of its certificate
	pin [32]byte
}

func (e *PinError) Error() string {
	return fmt.Sprintf(
		"the listener has another certificate than the one that is pinned: SHA-256 %x, want %x",
		e.Got, e.pin)
}

// Dial connects to addr and makes the TLS handshake. The handshake takes at most 10 seconds.
// The connection is a [*tls.Conn].
//
// Without Config addr must have a pin; otherwise the error is an [*transport.AddrError]. Dial
// accepts the pinned certificate, whatever its names, dates and issuer are. Another one gives
// a [*PinError]. With Config its rules hold, and a pin is checked too. If its ServerName is
// empty, it is the host of addr.
//
// The other errors are those of [tcp.Transport.Dial]. If the connection is cut during the
// handshake, the error matches [transport.ErrPeerGone]. If the other side speaks another
// protocol, it may match [transport.ErrProtocol].
func (t Transport) Dial(ctx context.Context, addr transport.Addr) (net.Conn, error) {
	target, err := below(addr)
	if err != nil {
		return nil, err
	}
	config, err := t.client(addr)
	if err != nil {
		return nil, err
	}
	raw, err := t.tcp().Dial(ctx, target)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, errDialTimeout)
	defer cancel()
	conn := tls.Client(raw, config)
	if err := network.Secure(ctx, conn); err != nil {
		return nil, fmt.Errorf("tls: %s: %w", addr.Target, err)
	}
	return conn, nil
}

// Listen listens at addr, which must have no pin. The listener's Addr is a [transport.Addr]
// with the port that the kernel chose. Without Config it also has the pin of the listener's
// certificate.
//
// The listener accepts [*tls.Conn]s without their TLS handshake, so a slow client does not
// hold up others. Package handshake makes it, within its timeouts. Other callers must call
// [tls.Conn.HandshakeContext] before [transport.New]. The listener also has the methods
// SetDeadline and SyscallConn of [net.TCPListener].
func (t Transport) Listen(ctx context.Context, addr transport.Addr) (net.Listener, error) {
	target, err := below(addr)
	if err != nil {
		return nil, err
	}
	if addr.IsPinned() {
		return nil, &transport.AddrError{Input: addr.String(),
			Reason: `with a pin an address can be dialed only; leave out "#" and what follows`}
	}
	config, pin, err := t.server()
	if err != nil {
		return nil, err
	}
	ln, err := t.tcp().Listen(ctx, target)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	at := transport.AddrOf(ln.Addr())
	at.Scheme, at.Pin = transport.SchemeTLS, pin
	return &listener{ln.(socket), config, at}, nil
}

// socket is the listener of package tcp.
type socket interface {
	net.Listener
	syscall.Conn
	SetDeadline(time.Time) error
}

type listener struct {
	socket
	config *tls.Config
	addr   transport.Addr
}

func (l *listener) Addr() net.Addr { return l.addr }

func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.socket.Accept()
	if err != nil {
		return nil, err
	}
	return tls.Server(conn, l.config), nil
}

func (t Transport) tcp() tcp.Transport {
	return tcp.Transport{ReusePort: t.ReusePort, AllowUnencrypted: true} // because TLS encrypts
}

// below returns the address of the TCP connection that carries TLS.
func below(addr transport.Addr) (transport.Addr, error) {
	if addr.Scheme != transport.SchemeTLS {
		return transport.Addr{},
			&transport.AddrError{Input: addr.String(), Reason: "not TLS; want tls://host:port"}
	}
	if _, err := transport.ParseAddr(addr.String()); err != nil {
		return transport.Addr{}, err // the caller may have made addr by hand
	}
	return transport.Addr{Scheme: transport.SchemeTCP, Target: addr.Target}, nil
}

// client returns the settings for dialing addr.
func (t Transport) client(addr transport.Addr) (*tls.Config, error) {
	var config *tls.Config
	switch {
	case t.Config != nil:
		config = t.Config.Clone()
		if config.ServerName == "" {
			config.ServerName, _, _ = net.SplitHostPort(addr.Target)
		}
	case addr.IsPinned():
		config = &tls.Config{InsecureSkipVerify: true} // the function below checks the pin
	default:
		return nil, &transport.AddrError{Input: addr.String(),
			Reason: "no certificate is pinned; want tls://host:port#, with the SHA-256 of the listener's certificate in hexadecimal after it"}
	}
	return insist(config, func(state tls.ConnectionState) error {
		if !addr.IsPinned() {
			return nil
		}
		if got := sha256.Sum256(state.PeerCertificates[0].Raw); got != addr.Pin {
			return &PinError{Got: got, pin: addr.Pin}
		}
		return nil
	})
}

// server returns the settings for a listener. If it makes a certificate, it also returns
// the certificate's pin.
func (t Transport) server() (config *tls.Config, pin [32]byte, err error) {
	if t.Config == nil {
		cert, err := selfSigned()
		if err != nil {
			return nil, pin, fmt.Errorf("tls: make a certificate: %w", err)
		}
		pin = sha256.Sum256(cert.Certificate[0])
		// A child connects twice and has no certificate, so resumption would save nothing.
		config = &tls.Config{Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true}
	} else {
		config = t.Config.Clone()
		if len(config.Certificates) == 0 && config.GetCertificate == nil &&
			config.GetConfigForClient == nil {
			return nil, pin,
				errors.New("tls: Transport.Config: to listen, one of Certificates, GetCertificate and GetConfigForClient must be set")
		}
	}
	config, err = insist(config, func(tls.ConnectionState) error { return nil })
	return config, pin, err
}

// insist changes config so that it allows only TLS 1.3 and protocol, and calls verify for
// each connection.
func insist(config *tls.Config, verify func(tls.ConnectionState) error) (*tls.Config, error) {
	if config.MaxVersion != 0 && config.MaxVersion < tls.VersionTLS13 {
		return nil, fmt.Errorf("tls: Transport.Config.MaxVersion: %s; this protocol needs TLS 1.3",
			tls.VersionName(config.MaxVersion))
	}
	config.MinVersion = tls.VersionTLS13
	config.NextProtos = []string{protocol}
	callers := config.VerifyConnection
	config.VerifyConnection = func(state tls.ConnectionState) error {
		// If the other side names no protocol at all, crypto/tls goes on.
		if state.NegotiatedProtocol != protocol {
			return fmt.Errorf("%w: the peer does not speak %s", transport.ErrProtocol, protocol)
		}
		if err := verify(state); err != nil {
			return err
		}
		if callers != nil {
			return callers(state)
		}
		return nil
	}
	if get := config.GetConfigForClient; get != nil {
		config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			other, err := get(hello)
			if err != nil || other == nil {
				return nil, err
			}
			return insist(other.Clone(), verify)
		}
	}
	return config, nil
}

// selfSigned makes a key and a certificate. Only the certificate's hash makes it
// trustworthy, so it has no end: a listener may live for years.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader) // every TLS library supports it
	if err != nil {
		return tls.Certificate{}, err
	}
	var serial [16]byte
	rand.Read(serial[:])
	serial[0] &= 0x7f // at most 20 bytes and positive: RFC 5280, section 4.1.2.2
	name := pkix.Name{CommonName: "spawnwire"}
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial[:]),
		Subject:      name,
		NotBefore:    time.Unix(0, 0),
		// "no end": RFC 5280, section 4.1.2.5
		NotAfter:              time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
