// Package tcp carries a [transport.Channel] over TCP: for peers that cannot share a Unix socket, such
// as those that see different file systems, and for several processes that serve one port.
//
//	var tr tcp.Transport                      // this machine only
//	l, err := tr.Listen(ctx, addr)            // tcp://127.0.0.1:0, the kernel chooses the port
//	conn, err := tr.Dial(ctx, transport.AddrOf(l.Addr()))
//
// TCP by itself hides nothing and proves nothing. So a [Transport] keeps to loopback addresses
// unless it is told otherwise. On one machine package uds is the better choice, where it can be had:
// there the kernel says who the peer is, and a directory's mode keeps others out.
package tcp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/libp2p/go-reuseport"

	"github.com/spawnwire/spawnwire/transport"
)

// keepAlive finds a peer whose machine is gone without a word in 15 s + 4 × 5 s = 35 s of silence.
// That is a matter of machines and networks: the end of a process its kernel tells at once.
// See TCP_KEEPIDLE, TCP_KEEPINTVL and TCP_KEEPCNT in tcp(7).
var keepAlive = net.KeepAliveConfig{
	Enable:   true,
	Idle:     15 * time.Second,
	Interval: 5 * time.Second,
	Count:    4,
}

// Transport dials and listens on TCP. The zero value is ready to use and keeps to loopback
// addresses. Its methods may be called concurrently; its fields must not be changed meanwhile.
//
// Connections have no-delay on, so that a small message is not held back to wait for the next (Nagle's
// algorithm, TCP_NODELAY in tcp(7)), and keep-alive: after 15 s of silence a probe every 5 s, and
// after 4 probes without an answer the connection fails.
type Transport struct {
	// ReusePort makes Listen set SO_REUSEPORT (socket(7)), so that several processes listen on
	// one port, each with a queue of its own. All of them must set it, and on Linux all must have the
	// same effective user. Linux spreads connections over them by a hash of both addresses and ports;
	// Darwin lets them share the port but does not spread. Where it does not exist Listen fails with
	// [ErrNoReusePort].
	//
	// With port 0 the kernel chooses a port that nobody has, which others can then share.
	ReusePort bool

	// AllowUnencrypted allows addresses that are not loopback, the wildcards 0.0.0.0 and :: among them.
	// The connection carries no encryption: whoever is on the way reads and changes what is sent.
	// Without it such an address is a [*RemoteError].
	AllowUnencrypted bool
}

var (
	_ transport.Dialer   = Transport{}
	_ transport.Listener = Transport{}
)

// Dial connects to addr; the connection is a [*net.TCPConn].
//
// A host name is resolved once, and if any of its addresses is not loopback that is a [*RemoteError],
// unless AllowUnencrypted is set. The addresses are tried in turn, IPv4 first, each with its share of the
// time until ctx's deadline; the error is that of the first. "localhost" is 127.0.0.1 and then ::1,
// whatever DNS says (RFC 6761, section 6.3).
//
// An address of another scheme, or a malformed one, is a [*transport.AddrError]. What the system
// refuses has the [*net.OpError] in its chain, so that on Unix errors.Is(err, syscall.ECONNREFUSED)
// works.
func (t Transport) Dial(ctx context.Context, addr transport.Addr) (net.Conn, error) {
	targets, err := t.resolve(ctx, addr)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{KeepAliveConfig: keepAlive}
	dialer.SetMultipathTCP(false)
	var firstErr error
	for i, target := range targets {
		conn, err := dialOne(ctx, &dialer, target, len(targets)-i)
		if err == nil {
			return conn, nil
		}
		if firstErr == nil {
			firstErr = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("tcp: %w", firstErr)
}

// dialOne dials one of the addresses, of which so many are left, within its share of the time.
func dialOne(ctx context.Context, dialer *net.Dialer, target netip.AddrPort, left int) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok && left > 1 {
		const least = 2 * time.Second // better to skip the last ones than to give none of them enough
		share := max(time.Until(deadline)/time.Duration(left), least)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, share)
		defer cancel()
	}
	conn, err := dialer.DialContext(ctx, "tcp", target.String())
	if err != nil {
		return nil, err
	}
	setNoDelay(conn.(*net.TCPConn))
	return conn, nil
}

// Listen listens at addr. A host name is resolved once, under the rules of Dial, and its first
// address is used, which for "localhost" is 127.0.0.1. The wildcard :: takes IPv4 in too where the
// system does so; 0.0.0.0 is IPv4 alone.
//
// A port that is taken is, on Unix, syscall.EADDRINUSE, with the [*net.OpError] in the chain, unless
// all who have it set ReusePort. The accepted connections are of type [*net.TCPConn].
func (t Transport) Listen(ctx context.Context, addr transport.Addr) (net.Listener, error) {
	targets, err := t.resolve(ctx, addr)
	if err != nil {
		return nil, err
	}
	config := net.ListenConfig{KeepAliveConfig: keepAlive}
	// Package net would open a multipath TCP socket, which has no use here and whose kernels differ
	// in the options that they take.
	config.SetMultipathTCP(false)
	if t.ReusePort {
		if !canReusePort || !reuseport.Available() {
			return nil, fmt.Errorf("tcp: listen %s: %w", addr, ErrNoReusePort)
		}
		config.Control = reuseport.Control
	}
	network := "tcp"
	if targets[0].Addr().Is4() {
		network = "tcp4" // else package net would make 0.0.0.0 listen on IPv6, too
	}
	l, err := config.Listen(ctx, network, targets[0].String())
	if err != nil {
		return nil, fmt.Errorf("tcp: %w", err)
	}
	return &listener{l.(*net.TCPListener)}, nil
}

// listener is a TCP listener whose connections have no-delay on.
type listener struct{ *net.TCPListener }

func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return conn, nil
}

func (l *listener) AcceptTCP() (*net.TCPConn, error) {
	conn, err := l.TCPListener.AcceptTCP()
	if err != nil {
		return nil, err
	}
	setNoDelay(conn)
	return conn, nil
}

// setNoDelay is explicit though package net has it on by default: small messages that wait for each
// other are what this library is about. It only fails on a connection that is already broken, which
// the first read or write tells; an error here would look like a broken listener.
func setNoDelay(conn *net.TCPConn) { _ = conn.SetNoDelay(true) }

// resolve looks addr's host up once and checks all it finds, so that what is checked is what is
// dialed. There is at least one result.
func (t Transport) resolve(ctx context.Context, addr transport.Addr) ([]netip.AddrPort, error) {
	if addr.Scheme != transport.SchemeTCP {
		return nil, &transport.AddrError{Input: addr.String(), Reason: "not TCP; want tcp://host:port"}
	}
	if _, err := transport.ParseAddr(addr.String()); err != nil {
		return nil, err // an Addr can be made by hand
	}
	host, port, err := splitHostPort(addr.Target)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("tcp: %s: %w", addr, err) // package net listens without a look at it
	}
	ips, err := lookup(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("tcp: %w", err)
	}
	targets := make([]netip.AddrPort, 0, len(ips))
	for _, ip := range ips {
		if !ip.IsLoopback() && !t.AllowUnencrypted {
			return nil, &RemoteError{Addr: addr, IP: ip}
		}
		targets = append(targets, netip.AddrPortFrom(ip, port))
	}
	return targets, nil
}
