package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/tcp"
	"github.com/spawnwire/spawnwire/transport/uds"
)

// networkOf returns the transport of an address.
func networkOf(addr transport.Addr, allowUnencrypted bool) (transport.Network, error) {
	switch addr.Scheme {
	case transport.SchemeUDS:
		return uds.Transport{}, nil
	case transport.SchemeTCP:
		return tcp.Transport{AllowUnencrypted: allowUnencrypted}, nil
	}
	return transport.Registered(addr.Scheme)
}

// dialer returns what dials a ticket's address.
//
// A child dials plain TCP wherever its ticket says, as its parent has decided: one that listens for other machines
// without TLS has Config.AllowUnencryptedTCP, by name, and one that does not makes tickets for the loopback alone. Whoever
// can give a child another ticket starts it, and can do worse.
func dialer(addr transport.Addr) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		network, err := networkOf(addr, true)
		if err != nil {
			return nil, err
		}
		conn, err := network.Dial(ctx, addr)
		return conn, explainScarcity(err)
	}
}

// listenAt listens at the address that the caller has chosen.
func (cfg *Config) listenAt(ctx context.Context) (net.Listener, error) {
	network, err := networkOf(cfg.Listen, cfg.AllowUnencryptedTCP)
	if err != nil {
		return nil, err
	}
	ln, err := network.Listen(ctx, cfg.Listen)
	var remote *tcp.RemoteError
	if errors.As(err, &remote) {
		return nil, unencrypted("Listen", cfg.Listen)
	}
	return ln, err
}

// checkAdvertise finds what is wrong with Advertise.
func (cfg *Config) checkAdvertise() error {
	addr := cfg.Advertise
	if addr.IsZero() {
		return nil
	}
	bad := func(format string, args ...any) error {
		return &ConfigError{"Advertise", fmt.Sprintf(format, args...)}
	}
	if _, err := addr.MarshalText(); err != nil {
		return bad("%v", err)
	}
	if addr.Network() != "tcp" || addr.Scheme != cfg.Listen.Scheme {
		return bad("%s, where Listen is %q; both must be tcp, or both tls", addr, cfg.Listen)
	}
	host, _, _ := net.SplitHostPort(addr.Target)
	ip, err := netip.ParseAddr(host)
	isIP := err == nil
	switch {
	case addr.IsPinned():
		return bad("%s has a pin; leave it out: the Spawner makes its certificate", addr)
	case isIP && ip.Unmap().IsUnspecified():
		return bad("%s is every address, and none to connect to", addr)
	case addr.Scheme == transport.SchemeTCP && !cfg.AllowUnencryptedTCP && !(isIP && ip.Unmap().IsLoopback()):
		return unencrypted("Advertise", addr)
	}
	return nil
}

// advertised returns where children are to connect to a socket that listens at an address.
func (cfg *Config) advertised(at transport.Addr) (transport.Addr, error) {
	bound, err := netip.ParseAddrPort(at.Target)
	if at.Network() != "tcp" || err != nil {
		return at, nil
	}
	if cfg.Advertise.IsZero() {
		if bound.Addr().Unmap().IsUnspecified() {
			return at, &ConfigError{"Advertise", fmt.Sprintf("not set, and Listen is %s, which is every address and none to connect to", cfg.Listen)}
		}
		return at, nil
	}
	host, port, _ := net.SplitHostPort(cfg.Advertise.Target)
	if port == "0" {
		port = strconv.Itoa(int(bound.Port()))
	}
	at.Target = net.JoinHostPort(host, port)
	return at, nil
}

// unencrypted says why an address cannot be had.
func unencrypted(field string, addr transport.Addr) error {
	return &ConfigError{field, fmt.Sprintf("%s is not a loopback address, and plain TCP is not encrypted; use tls://, or set AllowUnencryptedTCP", addr)}
}
