package transport

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The schemes that an [Addr] can have.
const (
	SchemeUDS = "uds" // a Unix domain socket, with a path or an abstract name
	SchemeTCP = "tcp" // TCP over IPv4 or IPv6
	SchemeTLS = "tls" // TLS 1.3 over TCP; package transport/tls
)

// Addr is an address of a listener. It is a comparable value. The zero value is no
// address.
//
// [ParseAddr] reads its text form and [Addr.String] writes it:
//
//	uds:///run/user/1000/x.sock   a Unix socket at an absolute path
//	uds://@name                   a Unix socket with an abstract name (Linux only)
//	tcp://127.0.0.1:7000          an IPv4 address and a port
//	tcp://[::1]:0                 an IPv6 address; port 0 lets the kernel choose
//	tcp://localhost:7000          a host name
//	tls://192.0.2.7:7000          the same with TLS
//	tls://192.0.2.7:7000#01ab…    with the listener's certificate, as 64 hexadecimal digits
//
// Addr implements [net.Addr], [encoding.TextMarshaler] and [encoding.TextUnmarshaler].
type Addr struct {
	// Scheme is SchemeUDS, SchemeTCP or SchemeTLS.
	Scheme string
	// Target is the absolute path or "@name" of a Unix socket, or "host:port".
	Target string
	// Pin is the SHA-256 of the listener's certificate in DER, for SchemeTLS. Zero
	// leaves it open.
	Pin [32]byte
}

// AddrError reports an address that is malformed, or that the program cannot use.
type AddrError struct {
	Input  string // the text form
	Reason string // the fault, and how to write it right
}

func (e *AddrError) Error() string {
	return fmt.Sprintf("transport: address %q: %s", e.Input, e.Reason)
}

// ParseAddr parses the text form of an address. Its errors are [*AddrError]s. It does
// not look up paths or host names. Of an IPv6 address it checks only the characters.
func ParseAddr(s string) (Addr, error) {
	bad := func(format string, args ...any) (Addr, error) {
		return Addr{}, &AddrError{Input: s, Reason: fmt.Sprintf(format, args...)}
	}
	if s == "" {
		return bad("empty; want uds:///path, uds://@name, tcp://host:port or tls://host:port")
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return bad(`no "://"; want uds:///path, uds://@name, tcp://host:port or tls://host:port`)
	}
	switch scheme {
	case SchemeUDS:
		switch {
		case rest == "":
			return bad("no path after uds://")
		case strings.IndexByte(rest, 0) >= 0:
			return bad("it has a NUL byte")
		case rest == "@":
			return bad(`an abstract name needs at least one character after "@"`)
		case rest[0] != '@' && !filepath.IsAbs(rest):
			return bad("the path %q is not absolute; write uds:///dir/name", rest)
		}
		return Addr{Scheme: SchemeUDS, Target: rest}, nil
	case SchemeTCP:
		if reason := checkHostPort(scheme, rest); reason != "" {
			return bad("%s", reason)
		}
		return Addr{Scheme: SchemeTCP, Target: rest}, nil
	case SchemeTLS:
		target, text, pinned := strings.Cut(rest, "#")
		if reason := checkHostPort(scheme, target); reason != "" {
			return bad("%s", reason)
		}
		addr := Addr{Scheme: SchemeTLS, Target: target}
		if !pinned {
			return addr, nil
		}
		pin, err := hex.DecodeString(text)
		if err != nil || len(pin) != len(addr.Pin) {
			return bad(`%q after "#" is not 64 hexadecimal digits, which would be the certificate's SHA-256`, text)
		}
		if addr.Pin = [32]byte(pin); !addr.IsPinned() {
			return bad(`the digits after "#" are all 0; leave them out if any certificate will do`)
		}
		return addr, nil
	default:
		return bad("unknown scheme %q; want uds, tcp or tls", scheme)
	}
}

// checkHostPort returns the fault of a "host:port", or "".
func checkHostPort(scheme, target string) string {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return fmt.Sprintf("%q is not host:port; write %s://127.0.0.1:7000 or %[2]s://[::1]:7000",
			target, scheme)
	}
	if host == "" {
		return fmt.Sprintf("no host before the port; write %s://127.0.0.1:%s for this machine only",
			scheme, port)
	}
	if strings.HasPrefix(target, "[") {
		if !looksLikeIPv6(host) {
			return fmt.Sprintf("host %q is not an IPv6 address", host)
		}
	} else if i := strings.IndexFunc(host, notInHostName); i >= 0 {
		r, _ := utf8.DecodeRuneInString(host[i:])
		return fmt.Sprintf("host %q has the character %q", host, r)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return fmt.Sprintf("port %q is not a number from 0 to 65535", port)
	}
	return ""
}

// looksLikeIPv6 reports whether host has the characters of an IPv6 address, with a
// zone or without. Programs in other languages need no parser for this check.
func looksLikeIPv6(host string) bool {
	ip, zone, zoned := strings.Cut(host, "%")
	switch {
	case !strings.Contains(ip, ":") || strings.ContainsFunc(ip, notInIPv6):
		return false
	case zoned:
		return zone != "" && !strings.ContainsFunc(zone, notInHostName)
	}
	return true
}

func notInIPv6(r rune) bool {
	return !(r == ':' || r == '.' || '0' <= r && r <= '9' || 'a' <= r && r <= 'f' ||
		'A' <= r && r <= 'F')
}

func notInHostName(r rune) bool {
	return !(r == '.' || r == '-' || r == '_' || '0' <= r && r <= '9' || 'a' <= r &&
		r <= 'z' || 'A' <= r && r <= 'Z')
}

// AddrOf returns the Addr of a [net.Addr] of network "unix" or "tcp", such as a
// listener's. It returns the zero Addr for other networks, for unnamed Unix sockets
// ("@" or "" in package net), and for relative paths.
func AddrOf(a net.Addr) Addr {
	var addr Addr
	switch a := a.(type) {
	case Addr:
		return a
	case *net.UnixAddr:
		if a != nil && a.Net == "unix" {
			addr = Addr{Scheme: SchemeUDS, Target: a.Name}
		}
	case *net.TCPAddr:
		addr = Addr{Scheme: SchemeTCP, Target: a.String()}
	}
	if _, err := ParseAddr(addr.String()); err != nil {
		return Addr{}
	}
	return addr
}

// IsZero reports whether a is no address.
func (a Addr) IsZero() bool { return a == Addr{} }

// IsPinned reports whether a has a Pin.
func (a Addr) IsPinned() bool { return a.Pin != [32]byte{} }

// Network returns the name of the network in package net: "unix", "tcp", or "" for no
// address.
func (a Addr) Network() string {
	switch a.Scheme {
	case SchemeUDS:
		return "unix"
	case SchemeTCP, SchemeTLS:
		return "tcp"
	}
	return ""
}

// String returns the text form. It is empty for the zero Addr.
func (a Addr) String() string {
	if a.IsZero() {
		return ""
	}
	s := a.Scheme + "://" + a.Target
	if a.IsPinned() {
		s += "#" + hex.EncodeToString(a.Pin[:])
	}
	return s
}

// MarshalText returns the text form. If a is malformed, the error is an [*AddrError].
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
		reason := fmt.Sprintf("scheme %q with target %q would be read back as another address",
			a.Scheme, a.Target)
		return nil, &AddrError{Input: s, Reason: reason}
	}
	return []byte(s), nil
}

// UnmarshalText parses the text form. Empty text gives the zero Addr.
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

// Network is a transport: it opens connections and listening sockets. Its methods may
// be called concurrently. An address of another scheme is an [*AddrError].
type Network interface {
	Dial(ctx context.Context, addr Addr) (net.Conn, error)

	// Listen returns a listener. [AddrOf] its Addr has the port that the kernel chose.
	Listen(ctx context.Context, addr Addr) (net.Listener, error)
}
