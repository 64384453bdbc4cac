// Package tls carries a [transport.Channel] over TLS 1.3 (RFC 8446) and TCP: for peers that are not on this machine.
//
// # Children on other machines
//
// A program whose children run elsewhere imports the package for what it registers, and so does the children's:
//
//	import _ "github.com/spawnwire/spawnwire/transport/tls"
//
// That is all, but for the address in forkspawn.Config.Listen: "tls://192.0.2.7:0". Each listener makes a key and a
// certificate of its own, in memory. The ticket, by which a child learns where its parent is, has the certificate's SHA-256,
// and the child accepts that certificate and no other. The child itself is known by its secret, as everywhere.
//
// Programs that do not import the package do without its cryptography, which costs every process that links it a tenth
// of a millisecond as it starts; see docs/ARCHITECTURE.md.
//
// # Peers
//
// Programs that did not spawn each other bring a [crypto/tls.Config] each, with what they trust:
//
//	network := tls.Transport{Config: config}
//	conn, err := network.Dial(ctx, addr)
//	peer, err := handshake.ConnectPeer(ctx, conn, handshake.PeerConfig{Key: key})
package tls

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/tcp"
)

// Protocol is what both sides must name in the TLS handshake as the protocol that they will speak (ALPN, RFC 7301).
const Protocol = "spawnwire/1"

// DialTimeout bounds the TLS handshake of Dial, beside its context: whoever listens may be silent.
const DialTimeout = 10 * time.Second

// Transport dials and listens on TLS. The zero value makes certificates and pins them; with Config both are the
// caller's matter. Its methods may be called concurrently; its fields must not be changed meanwhile.
//
// The TCP connections below are made as package tcp makes them.
type Transport struct {
	// Config, if not nil, has the certificates of this side and says which of the other are trusted, as for any other
	// use of TLS; a server that wants to know its clients sets ClientAuth. It is not changed. Whatever it says,
	// connections are of TLS 1.3 and speak [Protocol] alone.
	Config *tls.Config

	// ReusePort is as in [tcp.Transport].
	ReusePort bool
}

var _ transport.Network = Transport{}

func init() { transport.Register(transport.SchemeTLS, Transport{}) }

// ErrProtocol says that the other side speaks TLS but does not name [Protocol].
var ErrProtocol = errors.New("the peer does not speak " + Protocol)

// PinError says that whoever listens has another certificate than the address pins: it is not who was meant, or
// somebody stands between. Nothing was said to it.
type PinError struct {
	Addr transport.Addr
	Got  [32]byte // the SHA-256 of its certificate
}

func (e *PinError) Error() string {
	return fmt.Sprintf("the listener has another certificate than the one that is pinned: SHA-256 %x, want %x", e.Got, e.Addr.Pin)
}

// Dial connects to addr and makes the TLS handshake; the connection is a [*tls.Conn].
//
// Without Config addr must have a pin, and is an [*transport.AddrError] otherwise. The pinned certificate is accepted, and
// nothing else of it is looked at: neither its names nor its dates nor who has signed it. Another one is a [*PinError]. With Config
// its rules hold, for ServerName the host of addr where it is empty, and a pin is checked besides.
//
// What TCP refuses is as in [tcp.Transport.Dial]. A connection that is cut in the handshake matches
// [transport.ErrPeerGone].
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
	ctx, cancel := context.WithTimeoutCause(ctx, DialTimeout, errDialTimeout)
	defer cancel()
	conn := tls.Client(raw, config)
	if err := transport.Secure(ctx, conn); err != nil {
		return nil, fmt.Errorf("tls: %s: %w", addr.Target, err)
	}
	return conn, nil
}

var errDialTimeout = fmt.Errorf("no TLS handshake in %v", DialTimeout)

// Listen listens at addr, which has no pin; the Addr of the result is a [transport.Addr] with the port that the kernel chose
// and, without Config, with the pin of the key and certificate that were made for this listener.
//
// Accept returns [*tls.Conn]s whose handshake is still to be made, so that who is slow holds nobody up. The functions of package
// handshake make it, bounded by their time-outs; others call [transport.Secure].
func (t Transport) Listen(ctx context.Context, addr transport.Addr) (net.Listener, error) {
	target, err := below(addr)
	if err != nil {
		return nil, err
	}
	if addr.IsPinned() {
		return nil, &transport.AddrError{Input: addr.String(), Reason: `with a pin an address can be dialed only; leave out "#" and what follows`}
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

// socket is what a listener of package tcp is. Who accepts wants more than a net.Listener: see handshake.
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
	return tcp.Transport{ReusePort: t.ReusePort, AllowUnencrypted: true} // as it is encrypted
}

// below returns the address of the TCP connection that carries TLS.
func below(addr transport.Addr) (transport.Addr, error) {
	if addr.Scheme != transport.SchemeTLS {
		return transport.Addr{}, &transport.AddrError{Input: addr.String(), Reason: "not TLS; want tls://host:port"}
	}
	if _, err := transport.ParseAddr(addr.String()); err != nil {
		return transport.Addr{}, err // an Addr can be made by hand
	}
	return transport.Addr{Scheme: transport.SchemeTCP, Target: addr.Target}, nil
}

// client returns the settings with which addr is dialed.
func (t Transport) client(addr transport.Addr) (*tls.Config, error) {
	var config *tls.Config
	switch {
	case t.Config != nil:
		config = t.Config.Clone()
		if config.ServerName == "" {
			config.ServerName, _, _ = net.SplitHostPort(addr.Target)
		}
	case addr.IsPinned():
		config = &tls.Config{InsecureSkipVerify: true} // VerifyConnection, below, looks at the pin instead
	default:
		return nil, &transport.AddrError{Input: addr.String(), Reason: "no certificate is pinned; want tls://host:port#, with the SHA-256 of the listener's certificate in hexadecimal after it"}
	}
	return insist(config, func(state tls.ConnectionState) error {
		if !addr.IsPinned() {
			return nil
		}
		if got := sha256.Sum256(state.PeerCertificates[0].Raw); got != addr.Pin {
			return &PinError{addr, got}
		}
		return nil
	})
}

// server returns the settings with which connections are accepted, and the pin of a certificate that was made for them.
func (t Transport) server() (config *tls.Config, pin [32]byte, err error) {
	if t.Config == nil {
		cert, err := selfSigned()
		if err != nil {
			return nil, pin, fmt.Errorf("tls: make a certificate: %w", err)
		}
		pin = sha256.Sum256(cert.Certificate[0])
		// A child connects twice and brings no certificate, so there is nothing that resumption would save.
		config = &tls.Config{Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true}
	} else {
		config = t.Config.Clone()
		if len(config.Certificates) == 0 && config.GetCertificate == nil && config.GetConfigForClient == nil {
			return nil, pin, errors.New("tls: Transport.Config: to listen, one of Certificates, GetCertificate and GetConfigForClient must be set")
		}
	}
	config, err = insist(config, func(tls.ConnectionState) error { return nil })
	return config, pin, err
}

// insist makes of config, which it changes, one that has TLS 1.3 and Protocol alone, and checks that each connection has.
func insist(config *tls.Config, verify func(tls.ConnectionState) error) (*tls.Config, error) {
	if config.MaxVersion != 0 && config.MaxVersion < tls.VersionTLS13 {
		return nil, fmt.Errorf("tls: Transport.Config.MaxVersion: %s; this protocol needs TLS 1.3", tls.VersionName(config.MaxVersion))
	}
	config.MinVersion = tls.VersionTLS13
	config.NextProtos = []string{Protocol}
	callers := config.VerifyConnection
	config.VerifyConnection = func(state tls.ConnectionState) error {
		// Without a word of the other side on it the handshake would go on.
		if state.NegotiatedProtocol != Protocol {
			return ErrProtocol
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
