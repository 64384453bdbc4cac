package transport

import (
	"encoding/hex"
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
	SchemeTLS = "tls" // TLS 1.3 over TCP; package transport/tls
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
//	tls://192.0.2.7:7000          the same with TLS
//	tls://192.0.2.7:7000#01ab…    and the listener's certificate, by 64 hexadecimal digits
//
// Addr implements [net.Addr], [encoding.TextMarshaler] and [encoding.TextUnmarshaler].
type Addr struct {
	// Scheme is SchemeUDS, SchemeTCP or SchemeTLS.
	Scheme string
	// Target is the absolute path or "@name" of a Unix socket, or the "host:port" of the others.
	Target string
	// Pin is, with SchemeTLS, the SHA-256 of the listener's certificate in DER; zero does not say which it is.
	Pin [32]byte
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
			return bad("the path has a NUL byte")
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

// checkHostPort returns what is wrong with a host and a port, or "".
func checkHostPort(scheme, target string) string {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return fmt.Sprintf("%q is not host:port; write %s://127.0.0.1:7000 or %[2]s://[::1]:7000", target, scheme)
	}
	if host == "" {
		return fmt.Sprintf("no host before the port; write %s://127.0.0.1:%s for this machine only", scheme, port)
	}
	if strings.Contains(host, ":") {
		if _, err := netip.ParseAddr(host); err != nil {
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

// IsZero tells whether a is no address.
func (a Addr) IsZero() bool { return a == Addr{} }

// IsPinned tells whether a says which certificate the listener has.
func (a Addr) IsPinned() bool { return a.Pin != [32]byte{} }

// Network returns the network's name as package net knows it: "unix", "tcp", or "" for no address.
func (a Addr) Network() string {
	switch a.Scheme {
	case SchemeUDS:
		return "unix"
	case SchemeTCP, SchemeTLS:
		return "tcp"
	}
	return ""
}

// String returns the text form, which ParseAddr reads back. It is empty for the zero Addr.
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
		return nil, &AddrError{Input: s, Reason: fmt.Sprintf("scheme %q with target %q would be read back as another address", a.Scheme, a.Target)}
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
