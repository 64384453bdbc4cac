package transport

import (
	"context"
	"fmt"
	"net"
	"sync"
)

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

// Network is a transport: it does both.
type Network interface {
	Dialer
	Listener
}

// networks are the transports of the schemes that a program has only if it imports them.
var networks = struct {
	sync.Mutex // guards what follows
	byScheme   map[string]Network
}{byScheme: make(map[string]Network)}

// Register makes n the transport of a scheme, for this whole program. A package that costs each program which links
// it does that in an init function: transport/tls, whose cryptography adds a tenth of a millisecond to the start of a process.
// It panics when the scheme has one.
func Register(scheme string, n Network) {
	networks.Lock()
	defer networks.Unlock()
	if networks.byScheme[scheme] != nil {
		panic("transport: Register of " + scheme + " a second time")
	}
	networks.byScheme[scheme] = n
}

// Registered returns the transport that was registered for a scheme. If there is none the error is a [*SchemeError].
func Registered(scheme string) (Network, error) {
	networks.Lock()
	defer networks.Unlock()
	if n := networks.byScheme[scheme]; n != nil {
		return n, nil
	}
	return nil, &SchemeError{scheme}
}

// SchemeError says that this program has no transport for a scheme, as it does not import it.
type SchemeError struct{ Scheme string }

func (e *SchemeError) Error() string {
	if e.Scheme == SchemeTLS {
		return `transport: this program is built without TLS; add to it: import _ "github.com/spawnwire/spawnwire/transport/tls"`
	}
	return fmt.Sprintf("transport: unknown scheme %q; want uds, tcp or tls", e.Scheme)
}
