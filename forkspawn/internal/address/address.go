// Package address checks and resolves the addresses of a Spawner.
package address

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/spawnwire/spawnwire/internal/network"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/tcp"
	"github.com/spawnwire/spawnwire/transport/uds"
)

// Settings are the fields of forkspawn.Config about addresses. The errors of the
// methods are of type [*FieldError] if a field is invalid.
type Settings struct {
	Listen, Advertise   transport.Addr
	AllowUnencryptedTCP bool
}

// Network returns the transport of an address.
func Network(addr transport.Addr, allowUnencrypted bool) (transport.Network, error) {
	switch addr.Scheme {
	case transport.SchemeUDS:
		return uds.Transport{}, nil
	case transport.SchemeTCP:
		return tcp.Transport{AllowUnencrypted: allowUnencrypted}, nil
	}
	return network.Registered(addr)
}

// ListenAt listens at the address of Listen.
func (s *Settings) ListenAt(ctx context.Context) (net.Listener, error) {
	network, err := Network(s.Listen, s.AllowUnencryptedTCP)
	if err != nil {
		return nil, err
	}
	ln, err := network.Listen(ctx, s.Listen)
	var remote *tcp.RemoteError
	if errors.As(err, &remote) {
		return nil, unencrypted("Listen", s.Listen)
	}
	return ln, err
}

// Check checks Advertise.
func (s *Settings) Check() error {
	addr := s.Advertise
	if addr.IsZero() {
		return nil
	}
	bad := func(format string, args ...any) error {
		return invalid("Advertise", format, args...)
	}
	if _, err := addr.MarshalText(); err != nil {
		return bad("%v", err)
	}
	if addr.Network() != "tcp" || addr.Scheme != s.Listen.Scheme {
		return bad("%s, where Listen is %q; both must be tcp, or both tls", addr, s.Listen)
	}
	host, _, _ := net.SplitHostPort(addr.Target)
	ip, err := netip.ParseAddr(host)
	isIP := err == nil
	switch {
	case addr.IsPinned():
		return bad("%s has a pin; leave it out: the Spawner makes its certificate", addr)
	case isIP && ip.Unmap().IsUnspecified():
		return bad("%s is every address, and none to connect to", addr)
	case addr.Scheme == transport.SchemeTCP && !s.AllowUnencryptedTCP &&
		!(isIP && ip.Unmap().IsLoopback()):
		return unencrypted("Advertise", addr)
	}
	return nil
}

// Advertised returns the address for children to connect to, for a socket that
// listens at at.
func (s *Settings) Advertised(at transport.Addr) (transport.Addr, error) {
	bound, err := netip.ParseAddrPort(at.Target)
	if at.Network() != "tcp" || err != nil {
		return at, nil
	}
	if s.Advertise.IsZero() {
		if bound.Addr().Unmap().IsUnspecified() {
			return at, invalid("Advertise",
				"not set, and Listen is %s, which is every address and none to connect to",
				s.Listen)
		}
		return at, nil
	}
	host, port, _ := net.SplitHostPort(s.Advertise.Target)
	if port == "0" {
		port = strconv.Itoa(int(bound.Port()))
	}
	at.Target = net.JoinHostPort(host, port)
	return at, nil
}

// FieldError reports an invalid field of Settings.
type FieldError struct{ Field, Reason string }

func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }

func invalid(field, reason string, args ...any) error {
	return &FieldError{field, fmt.Sprintf(reason, args...)}
}

// unencrypted returns the error of an address without encryption.
func unencrypted(field string, addr transport.Addr) error {
	return invalid(field,
		"%s is not a loopback address, and plain TCP is not encrypted; use tls://, or set AllowUnencryptedTCP", addr)
}
