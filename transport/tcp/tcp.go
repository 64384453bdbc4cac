// Package tcp carries a [transport.Channel] over TCP. It is for peers that cannot share
// a Unix socket, such as those with different file systems, and for several processes
// that serve one port.
//
//	var tr tcp.Transport                      // this machine only
//	l, err := tr.Listen(ctx, addr)            // tcp://127.0.0.1:0, the kernel chooses the port
//	conn, err := tr.Dial(ctx, transport.AddrOf(l.Addr()))
//
// TCP has no encryption and no authentication. So a [Transport] uses loopback addresses
// only, unless AllowUnencrypted is set. On one machine package uds is the better choice,
// because the kernel gives the credentials of the peer, and a directory's mode keeps
// others out.
package tcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/libp2p/go-reuseport"

	"github.com/spawnwire/spawnwire/transport"
)

// keepAlive finds out in 15 s + 4 × 5 s = 35 s that the peer's machine is gone. The end
// of a process is reported immediately, by its kernel. See TCP_KEEPIDLE, TCP_KEEPINTVL
// and TCP_KEEPCNT in tcp(7).
var keepAlive = net.KeepAliveConfig{
	Enable:   true,
	Idle:     15 * time.Second,
	Interval: 5 * time.Second,
	Count:    4,
}

// Transport dials and listens on TCP. The zero value uses loopback addresses only. The
// methods may be called concurrently.
//
// Connections have no-delay on, so that a small message does not wait for the next one
// (TCP_NODELAY in tcp(7)). They also have keep-alive: after 15 s of silence a probe every
// 5 s, and after 4 probes without an answer the connection fails. A channel on a
// connection to another machine finds out sooner; see DeadAfter in [transport.Config].
type Transport struct {
	// ReusePort makes Listen set SO_REUSEPORT (socket(7)), so that several processes
	// can listen on one port. All of them must set it, and on Linux all must have the
	// same effective user. With port 0 the kernel chooses a free port, which others can
	// then share.
	//
	// Linux distributes the connections by a hash of both addresses and ports. Darwin
	// does not distribute them. On Windows Listen fails, and its error matches
	// errors.ErrUnsupported.
	ReusePort bool

	// AllowUnencrypted allows addresses other than loopback, and the wildcards 0.0.0.0
	// and ::. Anybody on the way can read and change what is sent. Without it such an
	// address gives a [*RemoteError].
	AllowUnencrypted bool
}

var _ transport.Network = Transport{}

// RemoteError reports an address outside of this machine, when AllowUnencrypted is not
// set. Nothing was sent.
type RemoteError struct {
	IP   netip.Addr // of the address
	addr transport.Addr
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("tcp: %s: %s is not a loopback address and plain TCP is not encrypted; "+
		"use package transport/tls, or set Transport.AllowUnencrypted to allow it", e.addr, e.IP)
}

// Dial connects to addr; the connection is a [*net.TCPConn].
//
// Dial resolves a host name once. If any of its addresses is not loopback, and
// AllowUnencrypted is not set, the error is a [*RemoteError]. Dial tries the addresses in
// turn, IPv4 first, each with its share of the time until ctx's deadline. The error is
// that of the first. "localhost" always means 127.0.0.1 and then ::1 (RFC 6761, 6.3).
//
// An address that is malformed or of another scheme gives a [*transport.AddrError]. Other
// errors have the [*net.OpError] in their chain, so on Unix they match
// syscall.ECONNREFUSED if nobody listens.
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

// dialOne dials the first of the remaining addresses, within its share of the time.
func dialOne(
	ctx context.Context, dialer *net.Dialer, target netip.AddrPort, remaining int,
) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok && remaining > 1 {
		// it is better to skip the last ones than to give none enough time
		const least = 2 * time.Second
		share := max(time.Until(deadline)/time.Duration(remaining), least)
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

// Listen listens at addr. It resolves a host name as Dial does, and uses the first
// address. The wildcard :: includes IPv4 if the system is set up so; 0.0.0.0 is IPv4
// only.
//
// The errors are those of Dial. If the port is taken they match syscall.EADDRINUSE on
// Unix, unless all who listen there set ReusePort. The listener accepts [*net.TCPConn]s.
// It also has the methods SetDeadline and SyscallConn of [net.TCPListener].
func (t Transport) Listen(ctx context.Context, addr transport.Addr) (net.Listener, error) {
	targets, err := t.resolve(ctx, addr)
	if err != nil {
		return nil, err
	}
	config := net.ListenConfig{KeepAliveConfig: keepAlive}
	config.SetMultipathTCP(false) // its options differ from kernel to kernel
	if t.ReusePort {
		// On Windows go-reuseport sets SO_REUSEADDR, which would take the port away from
		// its present owner.
		if runtime.GOOS == "windows" || !reuseport.Available() {
			return nil, fmt.Errorf("tcp: listen %s: no SO_REUSEPORT on this platform; "+
				"unset Transport.ReusePort and give each process a port of its own: %w",
				addr, errors.ErrUnsupported)
		}
		config.Control = reuseport.Control
	}
	network := "tcp"
	if targets[0].Addr().Is4() {
		network = "tcp4" // otherwise 0.0.0.0 would include IPv6
	}
	l, err := config.Listen(ctx, network, targets[0].String())
	if err != nil {
		return nil, fmt.Errorf("tcp: %w", err)
	}
	return &listener{l.(*net.TCPListener)}, nil
}

// listener sets no-delay on the connections that it accepts.
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

// setNoDelay sets what is also package net's default, because channels depend on it. It
// fails only on a broken connection, and the first read or write reports that.
func setNoDelay(conn *net.TCPConn) { _ = conn.SetNoDelay(true) }

// resolve looks addr's host up and checks all the addresses. Dial and Listen use the
// result, so they use what was checked. There is at least one address.
func (t Transport) resolve(ctx context.Context, addr transport.Addr) ([]netip.AddrPort, error) {
	if addr.Scheme != transport.SchemeTCP {
		return nil, &transport.AddrError{Input: addr.String(),
			Reason: "not TCP; want tcp://host:port"}
	}
	if _, err := transport.ParseAddr(addr.String()); err != nil {
		return nil, err // the caller may have made addr by hand
	}
	host, text, err := net.SplitHostPort(addr.Target)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("tcp: %s: %w", addr, err) // package net listens with any ctx
	}
	ips, err := lookup(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("tcp: %w", err)
	}
	targets := make([]netip.AddrPort, 0, len(ips))
	for _, ip := range ips {
		if !ip.IsLoopback() && !t.AllowUnencrypted {
			return nil, &RemoteError{IP: ip, addr: addr}
		}
		targets = append(targets, netip.AddrPortFrom(ip, uint16(port)))
	}
	return targets, nil
}

// lookup returns the addresses of host, IPv4 first.
func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip.Unmap()}, nil
	}
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		// without /etc/hosts, which a container may not have, and without DNS
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	return arrange(host, ips)
}

// arrange sorts the addresses of a resolver.
func arrange(host string, ips []netip.Addr) ([]netip.Addr, error) {
	if len(ips) == 0 {
		return nil, &net.DNSError{Err: "no address", Name: host, IsNotFound: true}
	}
	for i := range ips {
		ips[i] = ips[i].Unmap() // an IPv4 address may have the form of an IPv6 one
	}
	slices.SortStableFunc(ips, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return ips, nil
}
