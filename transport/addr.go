package transport

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The schemes that an [Addr] can have.
const (
	SchemeUDS = "uds" // a Unix domain socket, with a path or an abstract name
	SchemeTCP = "tcp" // TCP over IPv4 or IPv6
)

// Addr is where a peer listens. It is a comparable value; its zero value is no address.
//
// The text form, which [ParseAddr] reads and [Addr.String] writes, is one of
//
//	uds:///run/user/1000/x.sock   a Unix socket at an absolute path
//	uds://@name                   a Unix socket with an abstract name (Linux only)
//	tcp://127.0.0.1:7000          an IPv4 address and a port
//	tcp://[::1]:0                 an IPv6 address; port 0 lets the kernel choose
//	tcp://localhost:7000          a host name
//
// Addr implements [net.Addr], [encoding.TextMarshaler] and [encoding.TextUnmarshaler].
type Addr struct {
	// Scheme is SchemeUDS or SchemeTCP.
	Scheme string
	// Target is the absolute path or "@name" of a Unix socket, or the "host:port" of a TCP one.
	Target string
}

// AddrError says what is wrong with the text of an address.
type AddrError struct {
	Input  string // the text as it was given
	Reason string // what is wrong with it, and what would be right
}

func (e *AddrError) Error() string {
	return fmt.Sprintf("transport: address %q: %s", e.Input, e.Reason)
}

// ParseAddr reads the text form of an address. Every error is an [*AddrError].
// It looks nothing up: that a path exists or a host resolves shows at dial or listen.
func ParseAddr(s string) (Addr, error) {
	bad := func(format string, args ...any) (Addr, error) {
		return Addr{}, &AddrError{Input: s, Reason: fmt.Sprintf(format, args...)}
	}
	if s == "" {
		return bad("empty; want uds:///path, uds://@name or tcp://host:port")
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return bad(`no "://"; want uds:///path, uds://@name or tcp://host:port`)
	}
	switch scheme {
	case SchemeUDS:
		switch {
		case rest == "":
			return bad("no path after uds://")
		case strings.IndexByte(rest, 0) >= 0:
			return bad("the path has a NUL byte")
		case rest == "@":
			return bad(`an abstract name needs at least one character after "@"`)
		case rest[0] != '@' && !filepath.IsAbs(rest):
			return bad("the path %q is not absolute; write uds:///dir/name", rest)
		}
		return Addr{SchemeUDS, rest}, nil
	case SchemeTCP:
		host, port, err := net.SplitHostPort(rest)
		if err != nil {
			return bad("%q is not host:port; write tcp://127.0.0.1:7000 or tcp://[::1]:7000", rest)
		}
		if host == "" {
			return bad("no host before the port; write tcp://127.0.0.1:%s for this machine only", port)
		}
		if strings.Contains(host, ":") {
			if _, err := netip.ParseAddr(host); err != nil {
				return bad("host %q is not an IPv6 address", host)
			}
		} else if i := strings.IndexFunc(host, notInHostName); i >= 0 {
			r, _ := utf8.DecodeRuneInString(host[i:])
			return bad("host %q has the character %q", host, r)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
			return bad("port %q is not a number from 0 to 65535", port)
		}
		return Addr{SchemeTCP, rest}, nil
	default:
		return bad("unknown scheme %q; want uds or tcp", scheme)
	}
}

func notInHostName(r rune) bool {
	return !(r == '.' || r == '-' || r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
}

// AddrOf returns the Addr of a [net.Addr] of network "unix" or "tcp", such as a listener's.
// For any other it returns the zero Addr, and so it does for one that has no text form: an unnamed
// Unix socket (which is "@" or "" to package net) or one with a relative path.
func AddrOf(a net.Addr) Addr {
	var addr Addr
	switch a := a.(type) {
	case Addr:
		return a
	case *net.UnixAddr:
		if a != nil && a.Net == "unix" {
			addr = Addr{SchemeUDS, a.Name}
		}
	case *net.TCPAddr:
		addr = Addr{SchemeTCP, a.String()}
	}
	if _, err := ParseAddr(addr.String()); err != nil {
		return Addr{}
	}
	return addr
}

// IsZero tells whether a is no address.
func (a Addr) IsZero() bool { return a == Addr{} }

// Network returns the network's name as package net knows it: "unix", "tcp", or "" for no address.
func (a Addr) Network() string {
	switch a.Scheme {
	case SchemeUDS:
		return "unix"
	case SchemeTCP:
		return "tcp"
	}
	return ""
}

// String returns the text form, which ParseAddr reads back. It is empty for the zero Addr.
func (a Addr) String() string {
	if a.IsZero() {
		return ""
	}
	return a.Scheme + "://" + a.Target
}

// MarshalText returns the text form; a malformed Addr is an [*AddrError].
func (a Addr) MarshalText() ([]byte, error) {
	if a.IsZero() {
		return nil, nil
	}
	s := a.String()
	parsed, err := ParseAddr(s)
	if err != nil {
		return nil, err
	}
	if parsed != a {
		return nil, &AddrError{Input: s, Reason: fmt.Sprintf("unknown scheme %q; want uds or tcp", a.Scheme)}
	}
	return []byte(s), nil
}

// UnmarshalText reads the text form; empty text gives the zero Addr.
func (a *Addr) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*a = Addr{}
		return nil
	}
	parsed, err := ParseAddr(string(text))
	if err != nil {
		return err
	}
	*a = parsed
	return nil
}

// Dialer opens connections. A transport implements it; its Dial may be called concurrently.
// An address of another scheme than the transport's own is an [*AddrError].
type Dialer interface {
	Dial(ctx context.Context, addr Addr) (net.Conn, error)
}

// Listener opens listening sockets. A transport implements it; its Listen may be called
// concurrently. What it returns is the standard library's [net.Listener], whose Addr tells, through
// [AddrOf], the port that the kernel chose. An address of another scheme is an [*AddrError].
type Listener interface {
	Listen(ctx context.Context, addr Addr) (net.Listener, error)
}
